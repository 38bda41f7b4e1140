"""Records: compact tf.train.Examples, and the manifest that says what a folder of them holds.

Examples are encoded here byte by byte: protobuf does not fix the order of a map's entries, and shards must be
byte-identical whatever process wrote them. No padding is stored.
"""

from __future__ import annotations

import array
import contextlib
import functools
import hashlib
import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from trainer import __version__, files
from trainer.data.sources import Row
from trainer.errors import UserError
from trainer.features import ID_TYPE, Example, FeatureSpec, spec_from_json, spec_to_json

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
MAX_BYTES_HASHED_ON_OPEN = 1 << 28  # larger sets are checked by size when opened, record by record (CRC) when read


def encode_example(example: Example, spec: FeatureSpec) -> bytes:
    """Returns the serialized tf.train.Example, features in alphabetical order, integers packed."""
    entries: list[bytes] = []
    for name in sorted(spec):
        feature = spec[name]
        values = example[name] if feature.per == "token" else (example[name],)
        packed = struct.pack(f"<{len(values)}f", *values) if feature.dtype == "float32" else _varints(values)
        entries += (_before(name, feature.dtype, len(packed)), packed)
    return proto_field(1, b"".join(entries))


def proto_field(number: int, content: bytes) -> bytes:
    """Returns a length-delimited protobuf field (wire type 2)."""
    return _head(number, len(content)) + content


def _head(number: int, size: int) -> bytes:
    return bytes([number << 3 | 2]) + _VARINTS[size]


@functools.lru_cache(maxsize=1 << 16)
def _before(name: str, dtype: str, size: int) -> bytes:
    """Returns what stands before a feature's packed values in a map entry: its key, the lengths of what encloses them."""
    values = _head(1, size)
    kind = _head(2 if dtype == "float32" else 3, len(values) + size)
    feature = _head(2, len(kind) + len(values) + size)
    key = proto_field(1, name.encode())
    return _head(1, len(key) + len(feature) + len(kind) + len(values) + size) + key + feature + kind + values


def _varints(values: Sequence[int]) -> bytes:
    """Returns the varints of integers, one after the other."""
    if isinstance(values, bytes) and values.isascii():  # each is its own
        return values
    if isinstance(values, array.array) and values.typecode == ID_TYPE:
        varints, sizes = _varint_table()
        numbers = np.frombuffer(values, np.uint32)
        with contextlib.suppress(IndexError):  # one is beyond the table
            return varints.take(numbers).view(np.uint8)[sizes.take(numbers).view(np.bool_)].tobytes()
    return b"".join(map(_VARINTS.__getitem__, values))


@functools.cache
def _varint_table() -> tuple[np.ndarray, np.ndarray]:
    """Returns the varints of 0 to 2^18 - 1, in the first bytes of a uint32 each, and which of its bytes these are."""
    numbers = np.arange(1 << 18)
    has_more = np.stack([numbers >= 1 << 7, numbers >= 1 << 14], axis=1)
    content = np.zeros([len(numbers), 4], np.uint8)
    content[:, :3] = numbers[:, None] >> np.array([0, 7, 14]) & 0x7F
    content[:, :2] |= has_more.astype(np.uint8) << 7
    is_there = np.zeros([len(numbers), 4], np.bool_)
    is_there[:, 0] = True
    is_there[:, 1:3] = has_more
    return content.view(np.uint32).ravel(), is_there.view(np.uint32).ravel()


class _Varints(dict):
    """{integer: its protobuf varint}, the small ones kept."""

    def __missing__(self, value: int) -> bytes:
        rest = int(value) & (1 << 64) - 1  # negative numbers take ten bytes, as protobuf has it
        out = bytearray()
        while rest >= 0x80:
            out.append(rest & 0x7F | 0x80)
            rest >>= 7
        out.append(rest)
        if 0 <= value < 1 << 17:  # token ids, lengths
            self[value] = bytes(out)
        return bytes(out)


_VARINTS = _Varints()


class Manifest:
    """What a records folder holds: feature spec, shards and counts of each split, and what it was made from.

    Attributes:
      spec: the features of every record.
      made_from: {what: value}, everything that decides the records; another value makes them stale.
      splits: {split: {"shards": [...], "kept": the file of its kept rows where there is one, "examples": int,
        "rows": int, "rejected": int, "tokens": int, "longest": int, "truncated": int, "longest_text": int, "values": {...}}};
        of several sequences "sequences": {sequence: {"tokens": int, "longest": int}}; see `preparation.chunks.Totals`.
      task: {field: value}, the task's config when the records were made.
    """

    def __init__(
        self,
        folder: str,
        spec: FeatureSpec,
        made_from: Mapping[str, Any],
        splits: Mapping[str, Any],
        task: Mapping[str, Any],
    ):
        self.folder, self.spec, self.made_from, self.splits = folder, dict(spec), dict(made_from), dict(splits)
        self.task = dict(task)

    @classmethod
    def load(cls, folder: str) -> Manifest | None:
        """Reads a folder's manifest; None if the folder has none, so nothing was prepared.

        Raises:
          UserError: it is damaged.
        """
        path = files.join(folder, MANIFEST)
        if not files.exists(path):
            return None
        stored = files.read_json_object(path)
        try:
            _check_splits(stored["splits"])
            spec = spec_from_json(stored["features"])
            return cls(folder, spec, dict(stored["made_from"]), stored["splits"], dict(stored.get("task", {})))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise UserError(
                f"{path} is no manifest of records ({reason}): it is damaged; remove {folder} and run prepare again"
            ) from None

    def save(self) -> None:
        """Writes the manifest; from this moment the records are there."""
        files.write_json(
            files.join(self.folder, MANIFEST),
            {
                "format": FORMAT_VERSION,
                "tool": f"bert-trainer {__version__}",
                "features": spec_to_json(self.spec),
                "made_from": self.made_from,
                "task": self.task,
                "splits": self.splits,
            },
        )

    def stale_because(self, made_from: Mapping[str, Any]) -> list[str]:
        """Returns why these records do not fit what is asked for, a line each; [] when they do."""
        reasons = []
        for key in {**self.made_from, **made_from}:
            before, now = self.made_from.get(key), made_from.get(key)
            if before != now:
                reasons.append(f"{key} was {_brief(before)}, is {_brief(now)}")
        return reasons

    def fingerprint(self, split: str) -> str:
        """Returns what tells a split's records from others: a hash of its shards' hashes."""
        return hashlib.sha256("".join(shard["sha256"] for shard in self.splits[split]["shards"]).encode()).hexdigest()[:16]

    def paths(self, split: str) -> list[str]:
        """Returns the paths of a split's shards, in order."""
        return [files.join(self.folder, shard["file"]) for shard in self.splits[split]["shards"]]

    def kept(self, split: str) -> KeptRows | None:
        """Returns what is kept of a split's rows beside their records; None where nothing is."""
        kept = self.splits[split].get("kept")
        return KeptRows(files.join(self.folder, kept["file"])) if kept else None

    def check(self, split: str) -> None:
        """Raises UserError where a shard, or the file of kept rows, is missing, cut short or altered."""
        kept = self.splits[split].get("kept")
        shards = [*self.splits[split]["shards"], *([kept] if kept else [])]
        hash_too = sum(shard["bytes"] for shard in shards) <= MAX_BYTES_HASHED_ON_OPEN
        for shard in shards:
            path = files.join(self.folder, shard["file"])
            if not files.exists(path):
                problem = "is missing"
            elif files.size(path) != shard["bytes"]:
                problem = f"has {files.size(path):,} bytes where the manifest says {shard['bytes']:,}: it was cut short"
            elif hash_too and files.sha256(path) != shard["sha256"]:
                problem = "is not what was written: its SHA-256 differs from the manifest's"
            else:
                continue
            raise UserError(f"{path} {problem}; remove {self.folder} and run prepare again")


COUNTS = ("examples", "rows", "rejected", "tokens", "longest")


def _check_splits(splits: Any) -> None:
    """Raises KeyError, TypeError or ValueError where a manifest's splits are not what was written."""
    for name, split in splits.items():
        kept = split.get("kept")
        for count in COUNTS:
            if not isinstance(split[count], int) or split[count] < 0:
                raise ValueError(f"{name}.{count} is {split[count]!r}")
        if not isinstance(split["values"], dict):
            raise ValueError(f"{name}.values is {_brief(split['values'])}")
        for shard in [*split["shards"], *([kept] if kept else [])]:
            file, size, digest = shard["file"], shard["bytes"], shard["sha256"]
            if not isinstance(size, int) or not isinstance(digest, str):
                raise ValueError(f"{name}: the size or hash of a shard is {_brief(size)}, {_brief(digest)}")
            is_inside = isinstance(file, str) and re.fullmatch(r"[\w.-]+", file) and not file.startswith(".")
            if not is_inside:
                raise ValueError(f"{name}: no shard can be called {_brief(file)}")


class KeptRows:
    """What a task keeps of a split's rows for its scores: a JSON line for each row that gave examples, in order.

    Args:
      path: of the file.
    """

    def __init__(self, path: str):
        self.path = path

    @staticmethod
    def line(row_id: int, row: Row, kept: Mapping[str, Any]) -> str:
        """Returns the line of one row."""
        place = {"row_id": row_id, "path": row.path, "line": row.line}
        return json.dumps({**place, "values": kept}, ensure_ascii=False) + "\n"

    def __iter__(self) -> Iterator[tuple[int, Row]]:
        """Yields (row_id, the row with what was kept as its values)."""
        with files.open_binary(self.path) as file:
            for line in file:
                stored = json.loads(line)
                yield stored["row_id"], Row(stored["values"], stored["path"], stored["line"])


def kept_name(split: str) -> str:
    """Returns the name of the file of a split's kept rows."""
    return f"{split}-rows.jsonl"


def mean_tokens(split: Mapping[str, Any], sequence: str | None = None) -> float:
    """Returns the tokens of an example of a manifest's split, on average, of one sequence or all; 0 where it has none."""
    tokens = split["tokens"] if sequence is None else split["sequences"][sequence]["tokens"]
    return tokens / max(split["examples"], 1)


def _brief(value: Any) -> str:
    text = "absent" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
