"""predict: rows in, one JSON line for each out, in the same order, as a stream."""

import io
import itertools
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator

from trainer import files
from trainer.cli import Options
from trainer.data.json_records import parsed_json
from trainer.data.row_values import in_text_column
from trainer.data.sources import Rejected, Row, read_rows, without_ending
from trainer.data.text_lines import encoding_by_mark
from trainer.errors import UserError
from trainer.run import assembly, experiment, programs
from trainer.run.inference import Predictor
from trainer.run.text_output import TextOutput
from trainer.runtime import distribution
from trainer.tasks.base import Task

log = logging.getLogger(__name__)
ROWS_AT_A_TIME = 4096
SOURCES_FILE = ".bert-trainer-sources.json"  # {file of predictions: what it was made of}
BYTE_ORDER_MARK = "\ufeff"


def run(options: Options) -> int:
    """Writes predictions/<name>.jsonl in the workdir, --output, or standard output for standard input.

    Returns:
      The exit status: 1 where not one row could be predicted.
    """
    workdir, source = options.required("workdir"), options.required("input")
    runtime = experiment.load_workdir(workdir, options.set).runtime
    by_pjrt = distribution.for_one_process(runtime.distribution) == "pjrt"
    restored = assembly.restore(workdir, options.set, whole=by_pjrt)
    task, predictor = restored.assembled.task, _program_predictor(restored) if by_pjrt else Predictor(restored)
    if source == "-":
        if isinstance(sys.stdin, io.TextIOWrapper):
            # By a byte-order mark, else UTF-8; bytes that it does not have come as surrogates, and are refused row by row.
            head = sys.stdin.buffer.peek(4) if isinstance(sys.stdin.buffer, io.BufferedReader) else b""
            sys.stdin.reconfigure(encoding=encoding_by_mark(head) or "utf8", errors="surrogateescape")
        rows = _typed_rows(sys.stdin, task)
    else:
        rows = in_text_column(read_rows(source, "--input", restored.experiment.data.source_format()), task.input_columns)
    target = _target(options.output, workdir, source)
    _check_target(target, source)

    with TextOutput(target) as output:
        rows_at_a_time = 1 if source == "-" and sys.stdin.isatty() else ROWS_AT_A_TIME
        for chunk in iter(lambda: list(itertools.islice(rows, rows_at_a_time)), []):
            for line in predictor.predict(chunk):
                output.write(json.dumps(line, ensure_ascii=False) + "\n")
    predicted, refused = predictor.predicted, predictor.refused
    if target != "-":
        print(f"predictions: {target}")
    if refused:
        log.warning('%d row(s) could not be predicted; their lines give the reason under "error"', refused)
    if not predicted and not refused:
        raise UserError(f"--input: {'standard input' if source == '-' else source} has no rows")
    return 0 if predicted else 1


def _program_predictor(restored: assembly.Restored) -> Predictor:
    """Returns what predicts by PJRT."""
    placement = distribution.choose("pjrt", cpu_devices=restored.experiment.runtime.cpu_devices, join_cluster=False)
    runner = programs.runner_for(placement, restored.assembled.model, restored.assembled.task, labelled=False)
    return Predictor(restored, runner, one_shape=True)


def _target(output: str | None, workdir: str, source: str) -> str:
    """Returns where the predictions go; a folder gets a file that is named after the input."""
    if output == "-" or (output is None and source == "-"):
        return "-"
    if output is None:
        return _target_in(files.join(workdir, "predictions"), source)
    return _target_in(output, source) if output.endswith("/") or files.is_dir(output) else output


def _target_in(folder: str, source: str) -> str:
    """Returns a file of the folder that nothing else has: a/x.csv and b/x.csv get x.jsonl and x-2.jsonl, each time."""
    path, full = files.join(folder, SOURCES_FILE), files.absolute(source)
    source_of = files.read_json_object(path) if files.exists(path) else {}
    stem = file_stem(source)
    names = itertools.chain([f"{stem}.jsonl"], (f"{stem}-{number}.jsonl" for number in itertools.count(2)))

    def is_free(name: str) -> bool:
        return source_of[name] == full if name in source_of else not files.exists(files.join(folder, name))

    name = next(name for name in names if is_free(name))
    if name not in source_of:
        try:
            files.write_json(path, {**source_of, name: full})
        except OSError as error:
            raise UserError(
                f"{folder} cannot be written: {error.strerror or error}; choose another place with --output"
            ) from None
    return files.join(folder, name)


def _check_target(target: str, source: str) -> None:
    """Raises UserError where the predictions would replace their own input."""
    if target == "-" or source == "-" or source.startswith("tfds:") or files.is_remote(target):
        return
    if os.path.realpath(target) in map(os.path.realpath, files.expand(source, "--input")):
        raise UserError(f"--output: {target} is the input itself; choose another place for the predictions")


def file_stem(source: str) -> str:
    """Returns a name for what is made of a source: its own without the format's ending.

    >>> file_stem("data/reviews.2024.csv.gz"), file_stem("tfds:glue/sst2:test"), file_stem("-")
    ('reviews.2024', 'sst2_test', 'input')
    """
    name = without_ending(source.rstrip("/").rpartition("/")[2])
    for character in "*?:":
        name = name.replace(character, "_")
    return name if name.strip("-.") else "input"


def _typed_rows(lines: Iterable[str], task: Task) -> Iterator[Row | Rejected]:
    """Yields a row for each line: a JSON object with the input's columns, or the plain text of a single-text task."""
    columns = task.input_columns
    for number, line in enumerate(lines, start=1):
        text = line.rstrip("\r\n")
        if number == 1:
            text = text.removeprefix(BYTE_ORDER_MARK)
        if text.lstrip().startswith("{"):
            values, problem = parsed_json(text)
            if isinstance(values, dict):
                yield Row(values, "standard input", number)
                continue
            if len(columns) > 1:
                yield Rejected("standard input", number, problem or "no JSON object", text)
                continue
            log.warning("standard input:%d: it begins as JSON and is none (%s); taken as a text", number, problem)
        if len(columns) > 1:
            reason = f"this task reads {len(columns)} texts: write a JSON object with {' and '.join(columns)}"
            yield Rejected("standard input", number, reason, text)
        else:
            yield Row({columns[0]: text}, "standard input", number)
