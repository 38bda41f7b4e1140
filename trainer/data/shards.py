"""Writers of TFRecord shards: whole or not there under their names."""

import hashlib
import itertools
import json
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import google_crc32c

from trainer import files


def shard_name(split: str, shard: int, shards: int) -> str:
    """Returns the file name of a shard: "train-00003-of-00016.tfrecord"."""
    return f"{split}-{shard:05d}-of-{shards:05d}.tfrecord"


def framed(record: bytes) -> bytes:
    """Returns a record as a TFRecord file holds it: its length, and checksums of both.

    Source: tensorflow/core/lib/io/record_writer.h. Written here, as TensorFlow takes longer to import than most data take to
    prepare.
    """
    length = struct.pack("<Q", len(record))
    return b"".join([length, _masked_crc(length), record, _masked_crc(record)])


def _masked_crc(content: bytes) -> bytes:
    crc = google_crc32c.value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


class ShardWriter:
    """Writes records round-robin into the shards of a split, under names that no reader looks for.

    Record i goes to shard i mod shards, so reading the shards in turn gives the records back in order.
    """

    def __init__(self, folder: str, split: str, shards: int):
        self._paths = [files.join(folder, shard_name(split, shard, shards)) for shard in range(shards)]
        self._writers = [files.open_binary(f"{path}.partial", "wb") for path in self._paths]
        self.records = 0

    def write(self, records: Iterable[bytes]) -> None:
        """Appends serialized examples."""
        for record in records:
            self._writers[self.records % len(self._writers)].write(framed(record))
            self.records += 1

    def finish(self) -> list[dict[str, Any]]:
        """Gives the shards their names; returns what the manifest says of each."""
        shards = []
        for number, (path, writer) in enumerate(zip(self._paths, self._writers, strict=True)):
            writer.close()
            files.rename(f"{path}.partial", path)
            shards.append(_described(path, len(range(number, self.records, len(self._paths)))))
        return shards

    def discard(self) -> None:
        """Removes what was written so far."""
        for path, writer in zip(self._paths, self._writers, strict=True):
            writer.close()
            files.remove_tree(f"{path}.partial")


def write_corpus_shard(
    folder: str, split: str, number: int, records: Iterable[bytes], totals: Callable[[], Mapping[str, Any]]
) -> dict[str, Any]:
    """Writes a corpus' shard whole, under the name that it has until all are there; returns its entry of `finished`.

    Args:
      folder, split, number: of the shard.
      records: serialized examples.
      totals: gives what is to be remembered of them, once all are written.
    """
    path = files.join(folder, f"{split}-{number:05d}.tfrecord")
    count = 0
    with files.open_binary(f"{path}.partial", "wb") as file:
        for record in records:
            file.write(framed(record))
            count += 1
    files.rename(f"{path}.partial", path)
    return {**_described(path, count), "totals": dict(totals())}


def progress_path(folder: str, split: str) -> str:
    """Returns the file that lists a corpus' finished shards until there is a manifest."""
    return files.join(folder, f"{split}-progress.json")


class CorpusShards:
    """Writes one shard after the other; those that are finished stay so when the program is killed.

    Until the last is finished nobody knows how many there are: they are called `train-00003.tfrecord`, and
    `train-progress.json` tells of them. `finish` gives them their names.

    Args:
      folder: of the records.
      split: "train".
      made_from: what decides the records; finished shards made from something else are written anew.

    Attributes:
      finished: {"file", "examples", "bytes", "sha256", "totals"} of each finished shard, in order.
    """

    def __init__(self, folder: str, split: str, made_from: Mapping[str, Any]):
        self.split = split
        self._folder, self._progress_path = folder, progress_path(folder, split)
        self._made_from = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
        self.finished: list[dict[str, Any]] = []
        if files.exists(self._progress_path):
            stored = files.read_json(self._progress_path)
            if stored["made_from"] == self._made_from:
                self.finished = list(itertools.takewhile(self._is_whole, stored["finished"]))

    def _is_whole(self, shard: Mapping[str, Any]) -> bool:
        path = self._path(shard)
        return files.exists(path) and files.size(path) == shard["bytes"]

    def _path(self, shard: Mapping[str, Any]) -> str:
        """Returns where a finished shard is: under its first name, or already under the one that `finish` gives."""
        first = files.join(self._folder, shard["file"])
        final = f"{shard['file'].removesuffix('.tfrecord')}-of-"
        names = [] if files.exists(first) else [name for name in files.list_dir(self._folder) if name.startswith(final)]
        return files.join(self._folder, names[0]) if len(names) == 1 else first

    def write_shard(self, records: Iterable[bytes], totals: Callable[[], Mapping[str, Any]]) -> None:
        """Writes the next shard, and only then counts it as finished; see `write_corpus_shard`."""
        self.finished.append(write_corpus_shard(self._folder, self.split, len(self.finished), records, totals))
        files.write_json(self._progress_path, {"made_from": self._made_from, "finished": self.finished})

    def finish(self) -> list[dict[str, Any]]:
        """Gives the shards their names; returns what the manifest says of each. May be interrupted and called again."""
        shards = []
        for number, shard in enumerate(self.finished):
            name = shard_name(self.split, number, len(self.finished))
            found = self._path(shard)
            if found != files.join(self._folder, name):
                files.rename(found, files.join(self._folder, name))
            shards.append({"file": name} | {key: shard[key] for key in ("examples", "bytes", "sha256")})
        return shards


def _described(path: str, examples: int) -> dict[str, Any]:
    return {
        "file": path.rpartition("/")[2],
        "examples": examples,
        "bytes": files.size(path),
        "sha256": files.sha256(path),
    }
