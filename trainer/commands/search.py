"""search: queries in, the most similar texts of an index out; or, for pairs, similar texts that do not answer."""

import contextlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from trainer import files
from trainer.cli import Options
from trainer.commands.embed import encoder_of, rows_of, text_column
from trainer.data.row_values import text_in
from trainer.data.sources import Rejected, Row, RowError
from trainer.errors import UserError
from trainer.metrics.retrieval import top_k
from trainer.run.embedding import Asked, Embedder
from trainer.run.vector_index import VectorIndex

QUERIES_AT_A_TIME = 256
Line = dict[str, Any]


def run(options: Options) -> int:
    """Writes a JSON line for each query.

    Returns:
      The exit status: 1 where not one row could be used.
    """
    if options.negatives is not None:
        return _mine(options, options.negatives)
    index, source = VectorIndex.open(options.required("index")), options.input or "-"
    rows = _typed() if source == "-" else rows_of(options, source)
    embedder = index.embedder()
    at_a_time = 1 if source == "-" and sys.stdin.isatty() else QUERIES_AT_A_TIME
    count = 0
    with _lines(options.output) as write:
        for chunk in iter(lambda: list(itertools.islice(rows, at_a_time)), []):
            lines, texts = _usable(chunk, options.column)
            found = index.search(embedder.vectors(texts, as_queries=True), options.top, options.engine)
            for line in lines:
                if "error" not in line:
                    line["found"] = [{"similarity": value, **index.rows[number]} for number, value in next(found)]
                write(line)
            count += len(texts)
    return 0 if count else 1


def _typed() -> Iterator[Row]:
    """Yields a row for each line of standard input that holds a query."""
    for number, line in enumerate(sys.stdin, start=1):
        if line.strip():
            yield Row({"query": line.strip()}, "standard input", number)


def _usable(rows: list[Row | Rejected], column: str) -> tuple[list[Line], list[str]]:
    """Returns (the beginning of each row's line, the queries of those that can be used)."""
    lines: list[Line] = []
    texts: list[str] = []
    for row in rows:
        try:
            if isinstance(row, Rejected):
                raise RowError(row.reason)
            texts.append(text_in(row, text_column(row, column)))
            lines.append({"query": texts[-1]})
        except RowError as error:
            lines.append({"error": str(error), "file": row.path, "line": row.line})
    return lines, texts


def _mine(options: Options, negatives: int) -> int:
    """Writes each pair with the texts that are most like its query, and answer others."""
    pairs, refused = _pairs(options)
    index = VectorIndex.open(options.index) if options.index else None
    embedder = index.embedder() if index else Embedder(encoder_of(options), Asked(normalize=True), options.set)
    place = {text: number for number, text in enumerate(dict.fromkeys(pair.positive for pair in pairs))}
    of_positives = embedder.vectors(list(place))
    texts, vectors = ([_text_of(row) for row in index.rows], index.vectors) if index else (list(place), of_positives)
    answers: dict[str, set[str]] = {}
    for pair in pairs:
        answers.setdefault(pair.query, {pair.query}).add(pair.positive)
    # Answers, and what is over the margin, are passed over: a few more are looked at.
    depth = 4 * (negatives + max(map(len, answers.values())))
    with_some = 0
    with _lines(options.output) as write:
        for start in range(0, len(pairs), QUERIES_AT_A_TIME):
            chunk = pairs[start : start + QUERIES_AT_A_TIME]
            queries = embedder.vectors([pair.query for pair in chunk], as_queries=True)
            for pair, vector, ranked, similar in zip(chunk, queries, *top_k(queries, vectors, depth), strict=True):
                most = float(vector @ of_positives[place[pair.positive]]) - options.margin
                near = [texts[number] for number, value in zip(ranked, similar, strict=True) if value <= most]
                kept = [text for text in dict.fromkeys(near) if text not in answers[pair.query]][:negatives]
                with_some += bool(kept)
                write({**pair.values, "negatives": kept})
    told = f"{len(pairs):,} pairs, {with_some:,} of them with negatives"
    print(f"{told}; {len(refused)} rows were left out{_first_reason(refused)}" if refused else told, file=sys.stderr)
    return 0


class Pair(NamedTuple):
    """A row's query and what answers it."""

    values: dict[str, Any]
    query: str
    positive: str


def _pairs(options: Options) -> tuple[list[Pair], list[Line]]:
    """Returns (the pairs of the input, what is wrong with its other rows).

    Raises:
      UserError: there are none.
    """
    columns = (options.columns or "query,positive").split(",")
    if len(columns) != 2:
        raise UserError(f"--columns={options.columns}: two columns with a comma between, as query,positive")
    pairs: list[Pair] = []
    refused: list[Line] = []
    for row in rows_of(options, options.required("input")):
        try:
            if isinstance(row, Rejected):
                raise RowError(row.reason)
            pairs.append(Pair(row.values, text_in(row, columns[0]), text_in(row, columns[1])))
        except RowError as error:
            refused.append({"error": str(error), "file": row.path, "line": row.line})
    if not pairs:
        raise UserError(f"--input: {options.input} has no pair in {' and '.join(columns)}{_first_reason(refused)}")
    return pairs, refused


def _first_reason(refused: list[Line]) -> str:
    return f"; the first, {refused[0]['file']}:{refused[0]['line']}: {refused[0]['error']}" if refused else ""


def _text_of(row: dict[str, Any]) -> str:
    """Returns the text of an index' row."""
    return str(row[text_column(Row(row, "", 0), "text")]) if row else ""


@contextlib.contextmanager
def _lines(output: str | None) -> Iterator[Callable[[Line], None]]:
    """Gives what writes a JSON line to a file, whole or not at all, or to standard output at once."""
    if output is None or output == "-":
        yield lambda line: print(json.dumps(line, ensure_ascii=False), flush=True)
        return
    partial = f"{output}.partial"
    try:
        files.make_dirs(output.rpartition("/")[0] or ".")
        file = files.open_binary(partial, "wb")
    except OSError as error:
        raise UserError(f"--output: {output} cannot be written: {error.strerror or error}") from None

    def write(line: Line) -> None:
        file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())

    with file, files.explain_full_disk(output):
        yield write
    files.rename(partial, output)
