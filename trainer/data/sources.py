"""Sources of rows: csv, tsv, json, jsonl, parquet, CoNLL, txt, documents, `tfds:name/config:split`; a path or glob, local or gs://;
or text files that are read line by line together, `train.{de,en}`.

A row that cannot be read comes out as a `Rejected`, with its file, line and reason: no row is lost silently.
"""

import csv
import dataclasses
import functools
import io
import itertools
import json
import logging
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from trainer import files
from trainer.data import json_records
from trainer.data.text_lines import HEAD_BYTES, bad_byte, read_lines, shown
from trainer.errors import UserError, suggestion

log = logging.getLogger(__name__)
csv.field_size_limit(1 << 30)
MAX_LINES_PER_CSV_ROW = 1000  # a quote that stays open longer was never meant to be one
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*$', re.IGNORECASE)  # Excel's first line, which names the delimiter
FORMATS = ("csv", "tsv", "json", "jsonl", "parquet", "conll", "txt", "documents", "tfrecord")
CONLL_ENDINGS = ("conll", "conllu", "bio", "iob", "iob2")
MAX_BYTES_KEPT = 8 << 20  # of a source whose rows are kept until they are read once more
MAX_DOCUMENT_CHARACTERS = 1 << 20  # a longer document comes in several rows, so that memory stays bounded


@dataclasses.dataclass(frozen=True)
class SourceFormat:
    """How to read a source.

    Attributes:
      format: one of FORMATS, or "auto": by the file's ending (`.gz` is unpacked).
      column_names: the columns of a csv or tsv file that has no header line, or of a CoNLL file.
      delimiter: between the columns of a csv or tsv file; "" for the usual one.
      txt_as: with "auto", how a file that ends in .txt is read: "txt", a row a line, or "documents", a row for each block of
        lines between blank ones, as google-research/bert's pre-training text.
      quoting: "auto" (csv: standard double quotes; tsv: none, as GLUE's files), "standard" or "none".
      encoding: of text files, see `text_lines.read_lines`.
    """

    format: str = "auto"
    column_names: tuple[str, ...] = ()
    quoting: str = "auto"
    delimiter: str = ""
    txt_as: str = "txt"
    encoding: str = "auto"


class Row(NamedTuple):
    """One row as its source gave it.

    Attributes:
      values: {column: value}.
      path, line: where it came from; the line is the row number in parquet and tfds sources. Both count from 1.
    """

    values: dict[str, Any]
    path: str
    line: int


_kept: dict[Any, list] = {}  # {files and format: rows} of the small source that was read last, until it is read again


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A row that is left out: where it stands, why, and what it was."""

    path: str
    line: int
    reason: str
    content: str


class RowError(ValueError):
    """What is wrong with one row; its message becomes the reason in `rejected.jsonl`."""


def read_rows(source: str, key: str, source_format: SourceFormat = SourceFormat()) -> Iterator[Row | Rejected]:
    """Yields the rows of a source in order.

    Args:
      source: a path, a glob or `tfds:name/config:split`; or with names in braces, as `train.{de,en}.gz`: a row for each line of
        these text files, with the names as its columns.
      key: the config key that named it, for messages: "data.train".
      source_format: see SourceFormat.

    Raises:
      UserError: no such file, an unknown ending, a header that cannot be used.
    """
    if source.startswith("tfds:"):
        yield from _read_tfds(source, key)
        return
    paths, columns = files.expand(source, key), list(files.alternatives(source))
    if columns:
        read = [functools.partial(_read_parallel, columns, paths, source_format)]
    else:
        read = [functools.partial(_reader(path, key, source_format), path, source_format) for path in paths]
    sizes = [files.size(path) for path in paths]
    if sum(sizes) == 0:
        raise UserError(f"{key}: {source} is empty")
    if sum(sizes) > MAX_BYTES_KEPT:
        for rows_of in read:
            yield from rows_of()
        return
    # Class names are learned from the rows before they are prepared: of a small source, what was read first serves for both.
    identity = (tuple(columns), tuple(zip(paths, sizes, map(files.modified, paths), strict=True)), source_format)
    rows = _kept.pop(identity, None)
    if rows is not None:
        yield from rows
        return
    rows = []
    for rows_of in read:
        for row in rows_of():
            rows.append(row)
            yield row
    _kept.clear()
    _kept[identity] = rows


def format_of(path: str) -> str:
    """Returns a file's ending without `.gz`: "csv"."""
    return path.removesuffix(".gz").rpartition(".")[2].lower()


def without_ending(name: str) -> str:
    """Returns a file's name without `.gz` and the ending of a format: "x.2024" of "x.2024.csv.gz"."""
    name = name.removesuffix(".gz")
    return name.rpartition(".")[0] if "." in name and format_of(name) in (*FORMATS, *CONLL_ENDINGS) else name


def _reader(path: str, key: str, source_format: SourceFormat):
    readers = {
        "csv": _read_csv,
        "tsv": _read_csv,
        "json": _read_json,
        "jsonl": _read_jsonl,
        "parquet": _read_parquet,
        "conll": _read_conll,
        "txt": _read_txt,
        "documents": _read_documents,
        "tfrecord": _read_google_records,
    }
    name = source_format.format
    if name == "auto":
        name = format_of(path)
        name = source_format.txt_as if name == "txt" else "conll" if name in CONLL_ENDINGS else name
    if name not in readers:
        raise UserError(
            f"{key}: cannot tell the format of {path} by its ending; set data.format to one of {', '.join(FORMATS)}"
            f"{suggestion(name, FORMATS)}"
        )
    return readers[name]


def _read_csv(path: str, source_format: SourceFormat) -> Iterator[Row | Rejected]:
    is_tsv = (source_format.format == "tsv") or (source_format.format == "auto" and format_of(path) == "tsv")
    quoting = source_format.quoting
    quoted = quoting == "standard" or (quoting == "auto" and not is_tsv)
    lines = enumerate(read_lines(path, source_format.encoding), start=1)
    first = next(lines, None)
    separator = _SEPARATOR_LINE.match(first[1]) if first else None
    if first and not separator:
        lines = itertools.chain([first], lines)
    delimiter = source_format.delimiter or (separator[1] if separator else "\t" if is_tsv else ",")
    records = _quoted_records(lines, delimiter) if quoted else _unquoted_records(lines, delimiter)
    columns = list(source_format.column_names)
    for line, content, fields in records:
        if isinstance(fields, str):
            yield Rejected(path, line, fields, content)
        elif not columns and not content.strip():
            continue  # a blank line before the header
        elif not columns:
            columns = _header(path, line, fields)
            other = next((mark for mark in ";\t|," if len(columns) == 1 and mark in columns[0]), None)
            if other:
                log.warning("%s: one column only, %r; if %r separates columns, set data.delimiter", path, columns[0], other)
        elif fields == [] or fields == [""] and len(columns) > 1:
            continue  # a blank line holds no row
        elif problem := bad_byte(content):
            yield Rejected(path, line, problem, shown(content))
        elif len(fields) != len(columns):
            yield Rejected(path, line, f"{len(fields)} columns where {len(columns)} belong ({columns})", content)
        else:
            yield Row(dict(zip(columns, fields, strict=True)), path, line)


def _header(path: str, line: int, fields: list[str]) -> list[str]:
    """Returns the columns' names; one without a name, as pandas writes its index, gets one."""
    names = [name.strip() or f"unnamed {number}" for number, name in enumerate(fields, start=1)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    problem = bad_byte("".join(fields)) or (f"the header has column {repeated[0]!r} twice" if repeated else None)
    if problem:
        raise UserError(f"{path}:{line}: {problem}; if the file has no header, name the columns in data.column_names")
    return names


def _unquoted_records(lines: Iterator[tuple[int, str]], delimiter: str) -> Iterator[tuple[int, str, list[str]]]:
    for number, text in lines:
        text = text.rstrip("\r\n")
        yield number, text, text.split(delimiter)


def _quoted_records(numbered: Iterator[tuple[int, str]], delimiter: str) -> Iterator[tuple[int, str, list[str] | str]]:
    """Yields (first line, raw text, fields or what is wrong); an unclosed quote costs its own line, not the rest."""
    waiting: deque[tuple[int, str]] = deque()
    taken: list[tuple[int, str]] = []

    def feed():
        while line := waiting.popleft() if waiting else next(numbered, None):
            taken.append(line)
            if len(taken) > MAX_LINES_PER_CSV_ROW:
                raise csv.Error("too many lines in one row")
            yield line[1]

    reader = csv.reader(feed(), delimiter=delimiter, strict=True)
    while True:
        line = waiting.popleft() if waiting else next(numbered, None)
        if line is None:
            return
        if '"' not in line[1]:  # most lines: what the reader would do for them, in less time
            text = line[1].rstrip("\r\n")
            yield line[0], text, text.split(delimiter) if text else []
            continue
        waiting.appendleft(line)
        try:
            fields = next(reader)
        except csv.Error as error:
            number, text = taken[0]
            is_open = len(taken) > 1 or "unexpected end" in str(error)
            reason = "a double quote opens here and never closes" if is_open else f"not valid csv: {error}"
            if '\\"' in text:
                reason += '; a double quote inside a field is written twice (""), not with a backslash'
            yield number, shown(text), reason
            waiting.extendleft(reversed(taken[1:]))
            reader = csv.reader(feed(), delimiter=delimiter, strict=True)
        else:
            yield taken[0][0], "".join(text for _, text in taken).rstrip("\r\n"), fields
        taken.clear()


def _read_json(path: str, source_format: SourceFormat) -> Iterator[Row | Rejected]:
    return _rows_of_json(path, json_records.read_json(path, source_format.encoding))


def _read_jsonl(path: str, source_format: SourceFormat) -> Iterator[Row | Rejected]:
    return _rows_of_json(path, json_records.read_json_lines(path, source_format.encoding))


def _rows_of_json(path: str, records: Iterator[json_records.Record]) -> Iterator[Row | Rejected]:
    for number, found, text in records:
        yield Row(found, path, number) if isinstance(found, dict) else Rejected(path, number, found, shown(text))


def _read_txt(path: str, source_format: SourceFormat) -> Iterator[Row | Rejected]:
    for number, text in enumerate(read_lines(path, source_format.encoding), start=1):
        text = text.rstrip("\r\n")
        if problem := bad_byte(text):
            yield Rejected(path, number, problem, shown(text))
        elif text.strip():
            yield Row({"text": text}, path, number)


def _read_parallel(columns: Sequence[str], paths: Sequence[str], source_format: SourceFormat) -> Iterator[Row | Rejected]:
    """Yields a row for each line number of several text files; where all of them are blank there it yields none."""
    sides = [read_lines(path, source_format.encoding) for path in paths]
    for number, lines in enumerate(itertools.zip_longest(*sides), start=1):
        if None in lines:
            short = paths[lines.index(None)]
            long = next(path for path, line in zip(paths, lines, strict=True) if line is not None)
            raise UserError(f"{short} ends after {number - 1:,} lines, {long} goes on: lines of the two belong together")
        texts = [line.rstrip("\r\n") for line in lines]
        problem = next((found for text in texts if (found := bad_byte(text))), None)
        if problem:
            yield Rejected(paths[0], number, problem, shown("\t".join(texts)))
        elif any(text.strip() for text in texts):
            yield Row(dict(zip(columns, texts, strict=True)), paths[0], number)


def _read_documents(path: str, source_format: SourceFormat) -> Iterator[Row | Rejected]:
    """Yields a row for each block of lines, its line the block's first; parts of a very long one have the same line."""
    lines: list[str] = []
    begun = size = 0
    for number, text in enumerate(read_lines(path, source_format.encoding), start=1):
        text = text.strip()
        if problem := bad_byte(text):
            yield Rejected(path, number, problem, shown(text))
        elif text:
            begun = begun or number
            lines.append(text)
            size += len(text)
        if lines and (not text or size >= MAX_DOCUMENT_CHARACTERS):
            yield Row({"text": "\n".join(lines)}, path, begun)
            lines, size = [], 0
        if not text:
            begun = 0
    if lines:
        yield Row({"text": "\n".join(lines)}, path, begun)


def _read_conll(path: str, source_format: SourceFormat) -> Iterator[Row | Rejected]:
    """Yields a row for each sentence, its columns as lists (see `conll`)."""
    from trainer.data.conll import read_conll

    return read_conll(path, source_format.encoding, source_format.column_names)


def _read_google_records(path: str, _: SourceFormat) -> Iterator[Row]:
    """Yields google-research/bert's pre-training records, padded lists of numbers by name (see `google_records`)."""
    from trainer.data.google_records import read_google_records

    return read_google_records(path)


def _read_parquet(path: str, _: SourceFormat) -> Iterator[Row | Rejected]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    with files.open_binary(path) as file:
        files.check_no_pointer(path, file.read(HEAD_BYTES))
    try:
        with files.open_binary(path) as file:
            # pyarrow wants a real file object; a remote file is read whole, a local one by row groups.
            table = pyarrow.parquet.ParquetFile(io.BytesIO(file.read()) if files.is_remote(path) else file)
            names = table.schema_arrow.names
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise UserError(f"{path}: the table has column {repeated[0]!r} twice; give each column a name of its own")
            class_names = _hugging_face_names(table.schema_arrow.metadata or {})
            for batch in table.iter_batches():
                for row in _rows_of(batch):
                    number += 1
                    if isinstance(row, str):
                        yield Rejected(path, number, row, "")
                        continue
                    for column in class_names.keys() & row.keys():
                        row[column] = _named(row[column], class_names[column])
                    yield Row(row, path, number)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: no parquet file, or one that is cut short or damaged: {reason}") from None


def _hugging_face_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Returns {column: what its numbers stand for} of the ClassLabel features that Hugging Face's datasets wrote down."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        found = {}
        for column, feature in features.items():
            while isinstance(feature, dict) and isinstance(inner := feature.get("feature"), dict):
                feature = inner  # a list of them
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
                found[column] = list(map(str, feature["names"]))
        return found
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # no such file, or another version's: numbers stay numbers


def _named(value: Any, names: Sequence[str]) -> Any:
    """Returns numbers, or lists of them, by their names; "" for -1, which stands for no class."""
    if isinstance(value, list):
        return [_named(entry, names) for entry in value]
    if isinstance(value, int) and -1 <= value < len(names):
        return names[value] if value >= 0 else ""
    return value


def _rows_of(batch: Any) -> Iterator[dict[str, Any] | str]:
    """Yields each row of a pyarrow RecordBatch, or what is wrong with it: a value that Python cannot hold."""
    try:
        yield from batch.to_pylist()
        return
    except (ValueError, OverflowError):  # text that is not UTF-8, a time in nanoseconds, a date after the year 9999
        pass
    for number in range(batch.num_rows):
        row: dict[str, Any] = {}
        problem = None
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                row[name] = column[number].as_py()
            except UnicodeError as error:
                problem = f"column {name!r}: not UTF-8: {error}"
            except (ValueError, OverflowError):
                row[name] = column[number].cast("string").as_py()
        yield problem or row


def _read_tfds(source: str, key: str) -> Iterator[Row]:
    name, _, split = source.removeprefix("tfds:").rpartition(":")
    if not name or not split:
        raise UserError(f"{key}: {source} needs a split: tfds:name/config:split, as tfds:glue/sst2:train")
    import tensorflow_datasets as tfds

    try:
        dataset, info = tfds.load(name, split=split, with_info=True)
    except Exception as error:  # tfds raises its own and TensorFlow's errors; the message needs one line of them
        raise UserError(f"{key}: {source} could not be loaded: {str(error).strip().splitlines()[0]}") from error
    names = {key: feature.int2str for key, feature in info.features.items() if hasattr(feature, "int2str")}
    for number, example in enumerate(tfds.as_numpy(dataset), start=1):
        values = {column: value.decode() if isinstance(value, bytes) else value for column, value in example.items()}
        for column, int2str in names.items():
            values[column] = int2str(int(values[column])) if int(values[column]) >= 0 else ""
        yield Row(values, source, number)
