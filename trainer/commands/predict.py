"""predict: rows in, one JSON line for each out, in the same order, as a stream."""

import itertools
import json
import logging
import sys
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import IO, Any

import tensorflow as tf

from trainer import assembly, feeding, files, inference
from trainer.cli import Options
from trainer.data.pipeline import serialized_examples
from trainer.data.records import encode_example
from trainer.data.sources import Rejected, Row, RowError, read_rows
from trainer.experiment import Experiment
from trainer.tasks.base import Task

log = logging.getLogger(__name__)
ROWS_AT_A_TIME = 4096


def run(options: Options) -> None:
    """Writes predictions/<name>.jsonl in the workdir, --output, or standard output for standard input."""
    workdir, source = options.required("workdir"), options.required("input")
    restored = assembly.restore(workdir, options.set)
    assembly.choose_inference_kernels(restored.assembled, restored.experiment.train)
    task = restored.assembled.task
    runner = inference.BatchRunner(restored.assembled.model, tf.distribute.get_strategy(), task.features(), task.predicted)
    if source == "-":
        if hasattr(sys.stdin, "reconfigure"):  # bytes that are not UTF-8 come as surrogates, and are told row by row
            sys.stdin.reconfigure(encoding="utf8", errors="surrogateescape")
        rows, default = _typed_rows(sys.stdin, task), "-"
    else:
        rows = _in_text_column(read_rows(source, "--input", restored.experiment.data.source_format()), task)
        name = source.rstrip("/").rpartition("/")[2].partition(".")[0].replace("*", "_").replace(":", "_") or "input"
        default = files.join(workdir, "predictions", f"{name}.jsonl")
    target = options.output or default

    refused = 0
    with _Output(target) as output:
        rows_at_a_time = 1 if source == "-" and sys.stdin.isatty() else ROWS_AT_A_TIME
        for chunk in iter(lambda: list(itertools.islice(rows, rows_at_a_time)), []):
            for line in _predict(chunk, task, runner, restored.experiment):
                refused += "error" in line
                output.write(json.dumps(line, ensure_ascii=False) + "\n")
    if refused:
        log.warning('%d row(s) could not be predicted; their lines say why under "error"', refused)
    if target != "-":
        print(f"predictions: {target}")


def _in_text_column(rows: Iterable[Row | Rejected], task: Task) -> Iterator[Row | Rejected]:
    """Gives the lines of a txt file, whose column is "text", the name that a single-text task reads."""
    columns = task.fields.text_columns
    for row in rows:
        if isinstance(row, Row) and set(row.values) == {"text"} and len(columns) == 1:
            row = Row({columns[0]: row.values["text"]}, row.path, row.line)
        yield row


def _typed_rows(lines: Iterable[str], task: Task) -> Iterator[Row | Rejected]:
    """Yields a row for each line: a JSON object with the text columns, or the plain text of a single-text task."""
    columns = task.fields.text_columns
    for number, line in enumerate(lines, start=1):
        text = line.rstrip("\r\n")
        if text.startswith("{"):
            try:
                yield Row(json.loads(text), "standard input", number)
                continue
            except json.JSONDecodeError as error:
                if len(columns) > 1:
                    yield Rejected("standard input", number, f"not valid JSON: {error.msg}", text)
                    continue
        if len(columns) > 1:
            reason = f"this task reads {len(columns)} texts: write a JSON object with {' and '.join(columns)}"
            yield Rejected("standard input", number, reason, text)
        else:
            yield Row({columns[0]: text}, "standard input", number)


def _predict(
    chunk: list[Row | Rejected], task: Task, runner: inference.BatchRunner, experiment: Experiment
) -> list[dict[str, Any]]:
    """Returns a JSON-able line for each row of a chunk, in order."""
    lines: dict[int, dict[str, Any]] = {}
    records, spec, longest = [], task.features(), 0
    for number, row in enumerate(chunk):
        if isinstance(row, Rejected):
            lines[number] = {"error": row.reason, "file": row.path, "line": row.line}
            continue
        try:
            examples = task.examples(row, labelled=False)
        except RowError as error:
            lines[number] = {"error": str(error), "file": row.path, "line": row.line}
            continue
        records += [encode_example({**example, "row_id": number}, spec) for example in examples]
        longest = max([longest, *(len(example["input_ids"]) for example in examples)])
    if records:
        batches = feeding.prediction_batches(serialized_examples(lambda: records), experiment, task, longest)
        outputs, labels = inference.collect(runner.run(batches))
        for number, prediction in zip(labels["row_id"].tolist(), task.decode(outputs), strict=True):
            texts = {column: chunk[number].values[column] for column in task.fields.text_columns}
            lines[number] = {**texts, **prediction}
    return [line for _, line in sorted(lines.items())]


class _Output:
    """Standard output, or a file that is whole or not there."""

    def __init__(self, target: str):
        self._target = target
        self._file: IO[bytes] | None = None

    def __enter__(self) -> "_Output":
        if self._target != "-":
            files.make_dirs(self._target.rpartition("/")[0] or ".")
            self._file = files.open_binary(f"{self._target}.partial", "wb")
        return self

    def write(self, text: str) -> None:
        """Writes text, at once where it goes to a person."""
        if self._file is None:
            sys.stdout.write(text)
            sys.stdout.flush()
        else:
            with files.explain_full_disk(self._target):
                self._file.write(text.encode())

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()
            if kind is None:
                files.rename(f"{self._target}.partial", self._target)
            else:
                files.remove_tree(f"{self._target}.partial")
