"""crossvalidate: the rows in k parts; each part is scored by a run that was trained on the others."""

import logging
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainer import files
from trainer.cli import Options
from trainer.data.holdout import folds_of
from trainer.data.sources import Row, read_rows
from trainer.errors import UserError
from trainer.run import experiment
from trainer.run.own_process import call, common_scores, keep_flags, train_arguments
from trainer.run.written_rows import AS_WRITTEN, line_of, read_lines
from trainer.tasks import task_module

log = logging.getLogger(__name__)
KEYS_FILE, SCORES_FILE, TABLE_FILE, PREDICTIONS_FILE = "keys.json", "scores.json", "scores.md", "predictions.jsonl"


def run(options: Options) -> int:
    """Trains what is not trained yet, and writes scores and the predictions of all rows, each by the run that has not seen it.

    Returns:
      The exit status: of a run that was stopped or failed, else 0.
    """
    workdir, count = options.required("workdir"), options.folds
    asked = experiment.load(options.config, options.set)
    asked.data.require_rows()
    keys = {"config": options.config, "set": list(options.set), "folds": count}
    told = f"--workdir: {workdir} was run with another config, --set or --folds; choose another, or remove it"
    keep_flags(workdir, KEYS_FILE, keys, lambda _: told)
    fold_of_row = _write_parts(asked, workdir, count)
    scores: list[dict[str, Any]] = []
    for fold in range(count):
        folder = files.join(workdir, f"fold-{fold + 1}")
        status = _finished(options, folder)
        if status:
            log.warning("fold %d ended with status %d; rerun the same command to resume", fold + 1, status)
            return status
        scores.append(files.read_json(files.join(folder, "run", "evaluation", "validation.json")))
    found = summary(scores)
    files.write_json(files.join(workdir, SCORES_FILE), found)
    files.write_text(files.join(workdir, TABLE_FILE), table(found))
    files.write_json_lines(files.join(workdir, PREDICTIONS_FILE), _predictions(workdir, count, fold_of_row))
    print(table(found))
    print(f"predictions of all rows: {files.join(workdir, PREDICTIONS_FILE)}")
    return 0


def _write_parts(asked: experiment.Experiment, workdir: str, count: int) -> list[int]:
    """Writes train.jsonl and validation.jsonl of each fold; returns the fold of each row, in order."""
    task, by = task_module(asked.task.name).Task, asked.data.holdout_column
    if task.is_corpus:
        raise UserError(f"task.name={asked.task.name} learns from a corpus, which is not cross-validated")
    rows = list(read_rows(str(asked.data.train), "data.train", asked.data.source_format(task.txt_as)))
    label = None if by else task.class_column(asked.task)
    columns = (by,) if by else task.text_columns(asked.task)
    folds = folds_of(rows, columns, label, count, "data.holdout_column" if by else "task.text_columns")
    found = [(line_of(row.values), fold) for row in rows if isinstance(row, Row) and (fold := folds.of(row)) is not None]
    if len(found) < len(rows):
        log.warning("%d row(s) cannot be read, or have no text: they are in no fold", len(rows) - len(found))
    for fold in range(count):
        folder = files.join(workdir, f"fold-{fold + 1}")
        for name, is_own in (("validation", True), ("train", False)):
            path = files.join(folder, f"{name}.jsonl")
            if not files.exists(path):
                files.write_text(path, "".join(line for line, own in found if (own == fold) is is_own))
    return [fold for _, fold in found]


def _finished(options: Options, folder: str) -> int:
    """Trains, scores and predicts one fold, as far as it is not done; returns the exit status."""
    run_dir, validation = files.join(folder, "run"), files.join(folder, "validation.jsonl")
    sources = (f"data.train={files.join(folder, 'train.jsonl')}", f"data.validation={validation}")
    steps = {
        files.join(run_dir, "evaluation", "validation.json"): (
            train_arguments(options.config, run_dir, (*options.set, *AS_WRITTEN, *sources)),
            ["evaluate", f"--workdir={run_dir}", "--split=validation"],
        ),
        files.join(folder, PREDICTIONS_FILE): (
            ["predict", f"--workdir={run_dir}", f"--input={validation}", f"--output={files.join(folder, PREDICTIONS_FILE)}"],
        ),
    }
    for result, commands in steps.items():
        for arguments in () if files.exists(result) else commands:
            status = call(arguments)
            if status:
                return status
    return 0


def _predictions(workdir: str, count: int, fold_of_row: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yields the prediction of each row, in the rows' order."""
    paths = [files.join(workdir, f"fold-{fold + 1}", PREDICTIONS_FILE) for fold in range(count)]
    lines = [read_lines(path) for path in paths]
    for fold in fold_of_row:
        yield {"fold": fold + 1, **next(lines[fold])}


def summary(scores: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns {score: {"mean", "deviation", "folds": [...]}} of every score that is a number in all folds.

    >>> summary([{"f1": 0.5, "step": 3}, {"f1": 1.0, "step": 3}])
    {'f1': {'mean': 0.75, 'deviation': 0.3535533905932738, 'folds': [0.5, 1.0]}}
    """
    return {
        name: {
            "mean": statistics.fmean(each[name] for each in scores),
            "deviation": statistics.stdev(each[name] for each in scores),
            "folds": [each[name] for each in scores],
        }
        for name in common_scores(scores)
    }


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns a summary as a Markdown table."""
    lines = ["| score | mean | standard deviation | folds |", "|---|---|---|---|"]
    for name, values in found.items():
        folds = ", ".join(f"{value:.4f}" for value in values["folds"])
        lines.append(f"| {name} | {values['mean']:.4f} | {values['deviation']:.4f} | {folds} |")
    return "\n".join(lines) + "\n"
