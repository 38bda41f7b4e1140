"""Files of vectors: .npy, .parquet, .tfrecord and .jsonl, written as a stream and whole or not at all."""

from __future__ import annotations

import abc
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import numpy as np

from trainer import files
from trainer.errors import UserError

COLUMN = "embedding"
Values = Mapping[str, Any]  # a row's


class VectorFile(abc.ABC):
    """Takes rows with their vectors; the file has its name once it is closed without an error.

    Args:
      path: local or remote.
      dimensions: of a vector.
    """

    def __init__(self, path: str, dimensions: int):
        self._path, self._dimensions = path, dimensions
        self._partial = f"{path}.partial"
        try:
            files.make_dirs(path.rpartition("/")[0] or ".")
            self._open()
        except OSError as error:  # before the work, not after it
            raise UserError(f"{path} cannot be written: {error.strerror or error}; choose another --output") from None

    def __enter__(self) -> VectorFile:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        self._close(kind is None)
        if kind is None:
            files.rename(self._partial, self._path)
        elif files.exists(self._partial):
            files.remove_tree(self._partial)

    @abc.abstractmethod
    def _open(self) -> None: ...

    @abc.abstractmethod
    def write(self, rows: Sequence[Values | None], vectors: np.ndarray) -> None:
        """Writes rows, None for one that was refused, with their vectors: float32 [rows, dimensions]."""

    @abc.abstractmethod
    def _close(self, is_whole: bool) -> None: ...


class NumpyFile(VectorFile):
    """An array of float32 [rows, dimensions], without the rows; a refused row is NaN: row numbers are those of the input."""

    def _open(self) -> None:
        # The header tells the number of rows, which the end decides; and remote files are written from the first byte on.
        self._body: IO[bytes] = tempfile.TemporaryFile()
        self._count = 0

    def write(self, rows: Sequence[Values | None], vectors: np.ndarray) -> None:
        """See VectorFile."""
        is_refused = np.array([row is None for row in rows])
        self._body.write(np.where(is_refused[:, None], np.float32("nan"), vectors).astype("<f4").tobytes())
        self._count += len(rows)

    def _close(self, is_whole: bool) -> None:
        if is_whole:
            shape = (self._count, self._dimensions)
            self._body.seek(0)
            with files.explain_full_disk(self._path), files.open_binary(self._partial, "wb") as file:
                header: Any = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                shutil.copyfileobj(self._body, file)
        self._body.close()


class _OpenFile(VectorFile):
    """A file that is written row after row."""

    def _open(self) -> None:
        self._file: Any = files.open_binary(self._partial, "wb")

    def write(self, rows: Sequence[Values | None], vectors: np.ndarray) -> None:
        """See VectorFile."""
        with files.explain_full_disk(self._path):
            for row, vector in zip(rows, vectors, strict=True):
                if row is not None:
                    self._write_row(row, vector)

    def _write_row(self, row: Values, vector: np.ndarray) -> None:
        raise NotImplementedError

    def _close(self, is_whole: bool) -> None:
        self._file.close()


class JsonLinesFile(_OpenFile):
    """A JSON object a row, its vector under "embedding"."""

    def _write_row(self, row: Values, vector: np.ndarray) -> None:
        self._file.write((json.dumps({**row, COLUMN: vector.tolist()}, ensure_ascii=False) + "\n").encode())


class RecordFile(_OpenFile):
    """Serialized tf.Examples: the row's columns as bytes, its vector as floats."""

    def _open(self) -> None:
        import tensorflow as tf

        self._file = tf.io.TFRecordWriter(self._partial)

    def _write_row(self, row: Values, vector: np.ndarray) -> None:
        import tensorflow as tf

        features = {name: _bytes_feature([as_text(value)]) for name, value in row.items()}
        features[COLUMN] = tf.train.Feature(float_list=tf.train.FloatList(value=vector))
        self._file.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


class ParquetFile(VectorFile):
    """A table: the row's columns as text, its vector as a list of floats."""

    def _open(self) -> None:
        import pyarrow.parquet  # noqa: F401  missing: told before the work

        self._file, self._writer = files.open_binary(self._partial, "wb"), None

    def write(self, rows: Sequence[Values | None], vectors: np.ndarray) -> None:
        """See VectorFile."""
        import pyarrow
        import pyarrow.parquet

        known = [(row, vector) for row, vector in zip(rows, vectors, strict=True) if row is not None]
        if not known:
            return
        if self._writer is None:
            self._names = list(known[0][0])
            fields = [(name, pyarrow.string()) for name in self._names]
            schema = pyarrow.schema([*fields, (COLUMN, pyarrow.list_(pyarrow.float32(), self._dimensions))])
            self._writer = pyarrow.parquet.ParquetWriter(self._file, schema)
        assert self._writer is not None
        columns = [[None if row.get(name) is None else as_text(row[name]) for row, _ in known] for name in self._names]
        flat = pyarrow.array(np.concatenate([vector for _, vector in known]))
        arrays = [pyarrow.array(column, pyarrow.string()) for column in columns]
        arrays.append(pyarrow.FixedSizeListArray.from_arrays(flat, self._dimensions))
        with files.explain_full_disk(self._path):
            self._writer.write_table(pyarrow.Table.from_arrays(arrays, schema=self._writer.schema))

    def _close(self, is_whole: bool) -> None:
        if self._writer is not None:
            self._writer.close()
        self._file.close()


FORMATS: dict[str, Callable[[str, int], VectorFile]] = {
    ".npy": NumpyFile,
    ".parquet": ParquetFile,
    ".tfrecord": RecordFile,
    ".jsonl": JsonLinesFile,
}


def vector_file(path: str, dimensions: int) -> VectorFile:
    """Returns what writes vectors to a path, by its ending.

    Raises:
      UserError: an ending that is none of them, or no place to write to.
    """
    ending = next((ending for ending in FORMATS if path.endswith(ending)), None)
    if ending is None:
        raise UserError(
            f"--output: {path} ends in none of {', '.join(FORMATS)}; a folder ending in / takes an index for search"
        )
    return FORMATS[ending](path, dimensions)


def token_vectors_line(number: int, tokens: Sequence[str], vectors: np.ndarray, layers: Sequence[int]) -> str:
    """Returns a text's token vectors as a line of google-research/bert's extract_features.py (its "linex_index" included).

    Args:
      number: of the text.
      tokens: its tokens.
      vectors: float32 [tokens, layers, hidden].
      layers: as they were asked for.
    """
    features = [
        {
            "token": token,
            "layers": [
                {"index": layer, "values": [round(float(x), 6) for x in values]}
                for layer, values in zip(layers, of_token, strict=True)
            ],
        }
        for token, of_token in zip(tokens, vectors, strict=True)
    ]
    return json.dumps({"linex_index": number, "features": features}, ensure_ascii=False) + "\n"


def as_text(value: Any) -> str:
    """Returns a row's value as text: a text itself, else JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _bytes_feature(values: Sequence[str]) -> Any:
    import tensorflow as tf

    encoded = [value.encode("utf8", "backslashreplace") for value in values]
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=encoded))
