"""search: queries in, the most similar texts of an index out; or, for pairs, similar texts that do not answer."""

import itertools
import json
import sys
from collections.abc import Iterator
from typing import Any

from trainer.cli import Options
from trainer.commands.embed import encoder_of, pairs_of, rows_of
from trainer.data.row_values import text_in
from trainer.data.sources import Rejected, Row, RowError
from trainer.metrics.retrieval import top_k
from trainer.run.embedding import Asked, Embedder
from trainer.run.text_output import TextOutput
from trainer.run.vector_index import VectorIndex, text_column

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
    with TextOutput(options.output or "-") as output:
        for chunk in iter(lambda: list(itertools.islice(rows, at_a_time)), []):
            lines, texts = _usable(chunk, options.column)
            found = index.search(embedder.vectors(texts, as_queries=True), options.top, options.engine)
            for line in lines:
                if "error" not in line:
                    line["found"] = [{"similarity": value, **index.rows[number]} for number, value in next(found)]
                output.write(_as_line(line))
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
            texts.append(text_in(row, text_column(row.values, column)))
            lines.append({"query": texts[-1]})
        except RowError as error:
            lines.append({"error": str(error), "file": row.path, "line": row.line})
    return lines, texts


def _as_line(line: Line) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"


def _mine(options: Options, negatives: int) -> int:
    """Writes each pair with the texts that are most like its query, and answer others."""
    read = pairs_of(options, "query,positive")
    pairs = read.pairs
    index = VectorIndex.open(options.index) if options.index else None
    embedder = index.embedder() if index else Embedder(encoder_of(options), Asked(normalize=True), options.set)
    place = {text: number for number, text in enumerate(dict.fromkeys(pair.second for pair in pairs))}
    of_positives = embedder.vectors(list(place))
    texts, vectors = (index.texts(), index.vectors) if index else (list(place), of_positives)
    answers: dict[str, set[str]] = {}
    for pair in pairs:
        answers.setdefault(pair.first, {pair.first}).add(pair.second)
    # Answers, and what is over the margin, are passed over: a few more are looked at.
    depth = 4 * (negatives + max(map(len, answers.values())))
    with_some = 0
    with TextOutput(options.output or "-") as output:
        for start in range(0, len(pairs), QUERIES_AT_A_TIME):
            chunk = pairs[start : start + QUERIES_AT_A_TIME]
            queries = embedder.vectors([pair.first for pair in chunk], as_queries=True)
            for pair, vector, ranked, similar in zip(chunk, queries, *top_k(queries, vectors, depth), strict=True):
                most = float(vector @ of_positives[place[pair.second]]) - options.margin
                near = [texts[number] for number, value in zip(ranked, similar, strict=True) if value <= most]
                kept = [text for text in dict.fromkeys(near) if text not in answers[pair.first]][:negatives]
                with_some += bool(kept)
                output.write(_as_line({**pair.values, "negatives": kept}))
    told = f"{len(pairs):,} pairs, {with_some:,} of them with negatives"
    left_out = f"; {len(read.refused)} rows were left out{read.first_reason}" if read.refused else ""
    print(f"{told}{left_out}", file=sys.stderr)
    return 0
