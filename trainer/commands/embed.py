"""embed: texts in, a vector for each out; no training is needed."""

import dataclasses
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from trainer import config, files
from trainer.cli import Options
from trainer.data.row_values import text_in
from trainer.data.sources import Rejected, Row, RowError, read_rows
from trainer.errors import UserError
from trainer.preparation.chunks import rejected_row
from trainer.run.embedding import Asked, Embedder, TokenEmbedder
from trainer.run.schema import RENAMED, DataConfig
from trainer.run.text_output import TextOutput
from trainer.run.vector_files import Values, token_vectors_line, vector_file
from trainer.run.vector_index import IndexWriter, text_column

log = logging.getLogger(__name__)
ROWS_AT_A_TIME = 4096


def run(options: Options) -> int:
    """Writes a file of vectors, or an index for search.

    Returns:
      The exit status: 1 where not one row has a text.
    """
    encoder, source, output = encoder_of(options), options.required("input"), options.required("output")
    if options.tokens:
        return _embed_tokens(options, encoder, source, output)
    rows_of_source = rows_of(options, source)
    embedder = Embedder(encoder, asked_of(options), options.set)
    is_index = output.endswith("/") or files.is_dir(output)
    target = IndexWriter(output, encoder, embedder, options.column) if is_index else vector_file(output, embedder.dimensions)
    refused: list[Rejected] = []
    count = 0
    with target:
        for rows in _chunks(rows_of_source):
            texts = [_text_of(row, options.column, refused) for row in rows]
            known = [text for text in texts if text is not None]
            vectors = np.zeros([len(rows), embedder.dimensions], np.float32)
            vectors[[text is not None for text in texts]] = embedder.vectors(known, options.as_queries)
            values: list[Values | None] = [
                row.values if isinstance(row, Row) and text is not None else None for row, text in zip(rows, texts, strict=True)
            ]
            target.write(values, vectors)
            count += len(known)
    return _told(count, refused, options, f"{output}: {count:,} vectors of {embedder.dimensions} numbers")


def _embed_tokens(options: Options, encoder: str, source: str, output: str) -> int:
    if not output.endswith(".jsonl"):
        raise UserError(f"--output: {output}: with --tokens it ends in .jsonl, the lines of Google's extract_features")
    try:
        layers = [int(layer) for layer in (options.layers or "-1").split(",")]
    except ValueError:
        raise UserError(f"--layers={options.layers}: numbers with commas between, as -1,-2,-3,-4") from None
    rows_of_source = rows_of(options, source)
    embedder = TokenEmbedder(encoder, layers, options.set)
    refused: list[Rejected] = []
    count = number = 0
    with TextOutput(output) as lines:
        for rows in _chunks(rows_of_source, ROWS_AT_A_TIME // 16):
            texts = [_text_of(row, options.column, refused) for row in rows]
            found = iter(embedder.tokens([text for text in texts if text is not None]))
            for text in texts:
                if text is not None:
                    lines.write(token_vectors_line(number, *next(found), layers))
                    count += 1
                number += 1
    return _told(count, refused, options, f"{output}: the token vectors of {count:,} texts")


def _told(count: int, refused: list[Rejected], options: Options, line: str) -> int:
    path = f"{options.required('output').rstrip('/')}.rejected.jsonl"
    if refused:
        files.write_json_lines(path, map(dataclasses.asdict, refused))
        log.warning("%d row(s) have no vector; %s lists them with their reasons", len(refused), path)
    elif not count:
        raise UserError(f"--input: {options.input} has no rows")
    elif files.exists(path):
        files.remove_tree(path)
    print(line)
    return 0 if count else 1


def encoder_of(options: Options) -> str:
    """Returns the encoder that the flags name: a run's, or another one.

    Raises:
      UserError: neither or both are named.
    """
    if bool(options.workdir) == bool(options.encoder):
        raise UserError("name one encoder: --workdir, of a run; or --encoder, a folder or Hub id")
    return str(options.workdir or options.encoder)


def asked_of(options: Options) -> Asked:
    """Returns what the flags ask of the vectors."""
    pooling = None if options.pooling == "auto" else options.pooling
    return Asked(pooling, options.layer, options.normalize, options.dimensions)  # type: ignore[arg-type]


def rows_of(options: Options, source: str) -> Iterator[Row | Rejected]:
    """Returns the rows of a source, as the `data` section of --set says.

    Raises:
      UserError: there is no such file.
    """
    if not source.startswith("tfds:"):
        files.expand(source, "--input")  # before the work, not after it
    leaves = config.read_overrides([change for change in options.set if change.startswith("data.")])
    section = config.build({"data": DataConfig}, leaves, RENAMED)["data"]
    return read_rows(source, "--input", section.source_format())


class Pair(NamedTuple):
    """Two texts of a row.

    Attributes:
      values: the whole row.
      first, second: the texts.
    """

    values: dict[str, Any]
    first: str
    second: str


@dataclasses.dataclass(frozen=True)
class PairRows:
    """The rows of a file of pairs, in order.

    Attributes:
      rows: the pair of each, or why it cannot be used: {"error", "file", "line"}.
    """

    rows: Sequence[Pair | dict[str, Any]]

    @property
    def pairs(self) -> list[Pair]:
        """Those that can be used."""
        return [row for row in self.rows if isinstance(row, Pair)]

    @property
    def refused(self) -> list[dict[str, Any]]:
        """Those that cannot."""
        return [row for row in self.rows if isinstance(row, dict)]

    @property
    def first_reason(self) -> str:
        """Where the first row is that cannot be used, and why; "" where all can."""
        return "; the first, {file}:{line}: {error}".format(**self.refused[0]) if self.refused else ""


def pairs_of(options: Options, usual: str) -> PairRows:
    """Returns the rows of --input as pairs.

    Args:
      options: --columns names the two columns, with a comma between.
      usual: the columns where it does not.

    Raises:
      UserError: the flag names no two columns; there are no pairs.
    """
    columns = (options.columns or usual).split(",")
    if len(columns) != 2:
        raise UserError(f"--columns={options.columns}: two columns with a comma between, as {usual}")
    read: list[Pair | dict[str, Any]] = []
    for row in rows_of(options, options.required("input")):
        try:
            if isinstance(row, Rejected):
                raise RowError(row.reason)
            read.append(Pair(row.values, text_in(row, columns[0]), text_in(row, columns[1])))
        except RowError as error:
            read.append({"error": str(error), "file": row.path, "line": row.line})
    found = PairRows(read)
    if not found.pairs:
        raise UserError(f"--input: {options.input} has no pair in {' and '.join(columns)}{found.first_reason}")
    return found


def _text_of(row: Row | Rejected, column: str, refused: list[Rejected]) -> str | None:
    if isinstance(row, Rejected):
        refused.append(row)
        return None
    try:
        return text_in(row, text_column(row.values, column))
    except RowError as error:
        refused.append(rejected_row(row, error))
        return None


def _chunks(rows: Iterable[Row | Rejected], size: int = ROWS_AT_A_TIME) -> Iterator[list[Row | Rejected]]:
    rows = iter(rows)
    return iter(lambda: list(itertools.islice(rows, size)), [])
