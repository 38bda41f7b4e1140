"""Rows in chunks, each turned into records by this process or by several, in order, whatever the number of workers."""

from __future__ import annotations

import collections
import dataclasses
import gc
import itertools
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from trainer.data.records import KeptRows, encode_example
from trainer.data.sources import Rejected, Row, RowError
from trainer.errors import UserError
from trainer.features import check_example, token_counts
from trainer.tasks.base import Task

ROWS_PER_CHUNK = 2048
CHARACTERS_PER_CHUNK = 4_000_000  # of a corpus: about a million tokens, and as many documents as random segments come from
LARGEST_CHUNK = 4  # times as many, where they are all of one document
MAX_DISTINCT_VALUES = 10_000  # counted in the manifest: at least as many as a task may have classes

NumberedRow = tuple[int, Row | Rejected]
NamedChunk = tuple[str, list[NumberedRow]]


@dataclasses.dataclass
class Totals:
    """Counts of rows and of the examples made of them: of a chunk, a shard, a split.

    Attributes:
      rows, examples: how many there were.
      tokens, longest: of the examples.
      sequences: {sequence: [tokens, longest]} where examples have several.
      truncated, longest_text: texts that were cut at max_seq_length, and the tokens of the longest of them.
      rejected: the rows that could not be used.
      values: {example-level feature: how often each value stands there}.
      special_cases: {what: how often}.
    """

    rows: int = 0
    examples: int = 0
    tokens: int = 0
    longest: int = 0
    sequences: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    truncated: int = 0
    longest_text: int = 0
    rejected: list[Rejected] = dataclasses.field(default_factory=list)
    values: dict[str, collections.Counter] = dataclasses.field(default_factory=dict)
    special_cases: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def add(self, other: Totals) -> None:
        """Counts what `other` counted."""
        self.rows += other.rows
        self.examples += other.examples
        self.tokens += other.tokens
        self.longest = max(self.longest, other.longest)
        for sequence, (tokens, longest) in other.sequences.items():
            self.count(sequence, tokens, longest)
        self.truncated += other.truncated
        self.longest_text = max(self.longest_text, other.longest_text)
        self.rejected += other.rejected
        for name, counts in other.values.items():
            self.values.setdefault(name, collections.Counter()).update(counts)
        self.special_cases.update(other.special_cases)

    def count(self, sequence: str, tokens: int, longest: int) -> None:
        """Counts tokens of one sequence."""
        known, most = self.sequences.get(sequence, (0, 0))
        self.sequences[sequence] = [known + tokens, max(most, longest)]

    def to_json(self) -> dict[str, Any]:
        """Returns all of it, to be stored."""
        values = {name: list(counts.items()) for name, counts in self.values.items()}
        rejected = [dataclasses.asdict(row) for row in self.rejected]
        return {**vars(self), "rejected": rejected, "values": values, "special_cases": dict(self.special_cases)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Totals:
        """Returns what `to_json` stored."""
        rejected = [Rejected(**row) for row in stored["rejected"]]
        values = {name: collections.Counter(dict(counts)) for name, counts in stored["values"].items()}
        special_cases = collections.Counter(stored["special_cases"])
        return cls(**{**stored, "rejected": rejected, "values": values, "special_cases": special_cases})

    def summary(self) -> dict[str, Any]:
        """Returns what the manifest says of a split, but for its shards."""
        few = {name: counts for name, counts in self.values.items() if len(counts) <= MAX_DISTINCT_VALUES}
        values = {name: {str(value): count for value, count in sorted(counts.items())} for name, counts in few.items()}
        summary = {
            "examples": self.examples,
            "rows": self.rows,
            "rejected": len(self.rejected),
            "tokens": self.tokens,
            "longest": self.longest,
            "truncated": self.truncated,
            "longest_text": self.longest_text,
            "values": values,
        }
        if len(self.sequences) > 1:
            named = sorted(self.sequences.items())
            summary["sequences"] = {name: {"tokens": tokens, "longest": longest} for name, (tokens, longest) in named}
        return summary | ({"special_cases": dict(sorted(self.special_cases.items()))} if self.special_cases else {})


@dataclasses.dataclass
class Chunk:
    """What a worker made from some rows: serialized examples, lines of `KeptRows`, and their totals."""

    records: list[bytes]
    kept: list[str]
    totals: Totals


def named_chunks(split: str, rows: Iterable[Row | Rejected], is_corpus: bool) -> Iterator[NamedChunk]:
    """Yields a split's rows, numbered, in chunks with their names: a chunk's random choices are a function of its name."""
    for number, chunk in enumerate(chunked(enumerate(rows), is_corpus)):
        yield f"{split}/{number}", chunk


def chunked(rows: Iterable[NumberedRow], is_corpus: bool) -> Iterator[list[NumberedRow]]:
    """Yields rows in chunks: of ROWS_PER_CHUNK, or of a corpus by size."""
    if is_corpus:
        yield from _chunked_by_size(rows)
    else:
        iterator = iter(rows)
        yield from iter(lambda: list(itertools.islice(iterator, ROWS_PER_CHUNK)), [])


def _chunked_by_size(rows: Iterable[NumberedRow]) -> Iterator[list[NumberedRow]]:
    """Yields chunks of two documents at least, for each needs another for its random segments; a short rest joins the last.

    A document that is longer than the largest chunk is a chunk by itself.
    """
    complete: list[NumberedRow] = []
    chunk: list[NumberedRow] = []
    size = 0
    documents: set[tuple[str, int]] = set()
    for number, row in rows:
        chunk.append((number, row))
        if isinstance(row, Row):
            size += 1 + sum(len(value) for value in row.values.values() if isinstance(value, str | bytes | list))
            if len(documents) < 2:
                documents.add((row.path, row.line))
        else:
            size += 1 + len(row.content)
        if size >= CHARACTERS_PER_CHUNK and (len(documents) > 1 or size >= LARGEST_CHUNK * CHARACTERS_PER_CHUNK):
            if complete:
                yield complete
            complete, chunk, size, documents = chunk, [], 0, set()
    if complete and len(documents) > 1:
        yield complete
        complete = []
    if complete or chunk:
        yield complete + chunk


def prepared_chunks(chunks: Iterable[NamedChunk], task: Task, workers: int) -> Iterator[Chunk]:
    """Yields the named chunks' records in order, from this process or from several."""
    if workers == 1:
        yield from (prepare_chunk(task, name, chunk) for name, chunk in chunks)
        return
    # A forked worker starts at once, but a copy of a process with TensorFlow's threads in it can hang.
    is_alone = "tensorflow" not in sys.modules and threading.active_count() == 1 and hasattr(os, "fork")
    context = multiprocessing.get_context("fork" if is_alone else "spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (task,))
    waiting: collections.deque[Future[Chunk]] = collections.deque()
    try:
        for name, chunk in chunks:  # a bounded number under way, so that memory stays flat
            waiting.append(pool.submit(_work, name, chunk))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            "a process that prepares rows was killed, most likely because memory ran out; set data.workers to fewer than "
            f"{workers}, and run the same command again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_worker_task: list[Task] = []


def _start_worker(task: Task) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
    gc.disable()
    _worker_task.append(task)


def _work(name: str, chunk: list[NumberedRow]) -> Chunk:
    return prepare_chunk(_worker_task[-1], name, chunk)


def prepare_chunk(task: Task, name: str, chunk: list[NumberedRow]) -> Chunk:
    """Turns a chunk's rows into records; a function of the task, the name and the rows only."""
    spec = task.features()
    counted = [name for name, feature in spec.items() if feature.per == "example" and name != "row_id"]
    records: list[bytes] = []
    kept: dict[int, str] = {}
    totals = Totals(rows=len(chunk), values={name: collections.Counter() for name in counted})
    rejected = {row_id: row for row_id, row in chunk if isinstance(row, Rejected)}
    usable = [(row_id, row) for row_id, row in chunk if isinstance(row, Row)]
    for number, example in task.chunk_examples([row for _, row in usable], name, totals.special_cases):
        row_id, row = usable[number]
        if isinstance(example, RowError):
            rejected[row_id] = rejected_row(row, example)
            continue
        example = {**example, "row_id": row_id}
        check_example(example, spec, task.max_seq_length)
        records.append(encode_example(example, spec))
        if row_id not in kept and (needed := task.kept(row)) is not None:
            kept[row_id] = KeptRows.line(row_id, row, needed)
        lengths = token_counts(example, spec)
        length = max(lengths.values())
        totals.tokens += sum(lengths.values())
        if len(lengths) > 1:
            for sequence, tokens in lengths.items():
                totals.count(sequence, tokens, tokens)
        totals.longest = max(totals.longest, length)
        if length == task.max_seq_length and not task.is_corpus:  # a corpus counts what it cuts by itself
            whole = task.untruncated_length(row)
            totals.truncated += whole > length
            totals.longest_text = max(totals.longest_text, whole)
        for feature in counted:
            totals.values[feature][example[feature]] += 1
    totals.examples = len(records)
    totals.rejected += [row for _, row in sorted(rejected.items())]
    return Chunk(records, list(kept.values()), totals)


def rejected_row(row: Row, error: RowError) -> Rejected:
    """Returns a row as `rejected.jsonl` tells it."""
    return Rejected(row.path, row.line, str(error), json.dumps(row.values, ensure_ascii=False, default=str))
