"""selftrain: a run labels rows that have no label, and a new run learns from those it is sure of, too.

Self-training: Scudder 1965; with a fresh student for each round, as Xie et al. 2020 (arXiv:1911.04252, algorithm 1). Every
training is an ordinary run: <workdir>/teacher, <workdir>/round-1, ...; the last one is the result.
"""

import collections
import json
import logging
import statistics

from trainer import files
from trainer.cli import Options
from trainer.data.row_values import in_text_column
from trainer.data.sources import Row, read_rows
from trainer.errors import UserError
from trainer.run import experiment
from trainer.run.own_process import call, common_scores, keep_flags, train_arguments
from trainer.run.written_rows import AS_WRITTEN, line_of, read_lines, write_rows
from trainer.tasks import task_module

log = logging.getLogger(__name__)
KEYS_FILE, PREDICTIONS_FILE, TRAIN_FILE = "keys.json", "predictions.jsonl", "train.jsonl"
SHOWN_LABELS = 10


def run(options: Options) -> int:
    """Trains what is not trained yet.

    Returns:
      The exit status: of a run that was stopped or failed, else 0.
    """
    workdir = options.required("workdir")
    asked = experiment.load(options.config, options.set)
    if asked.data.unlabelled is None:
        raise UserError("data.unlabelled is not given: name the rows without labels, as --set data.unlabelled=more.csv")
    asked.data.require_rows()
    task_module(asked.task.name).Task.label_of(asked.task, None, options.confidence)
    keys = {"config": options.config, "set": list(options.set)}
    told = f"--workdir: {workdir} was run with another config or --set; choose another, or remove it"
    keep_flags(workdir, KEYS_FILE, keys, lambda _: told)
    sources = _write_labelled(asked, workdir)
    runs, train = [files.join(workdir, "teacher")], sources["train"]
    for number in range(options.rounds + 1):
        if number:
            runs.append(files.join(workdir, f"round-{number}"))
            train = files.join(runs[-1], TRAIN_FILE)
            status = _predicted(asked, runs[-2], files.join(runs[-1], PREDICTIONS_FILE))
            if status:
                return _stopped(status)
            _write_sure(asked, options.confidence, runs[-1], sources["train"])
        status = _trained(options, runs[-1], {**sources, "train": train})
        if status:
            return _stopped(status)
    if "validation" in sources:
        print(_table(runs, workdir))
    print(f"run: {runs[-1]}")
    return 0


def _stopped(status: int) -> int:
    log.warning("ended with status %d; rerun the same command to resume", status)
    return status


def _write_labelled(asked: experiment.Experiment, workdir: str) -> dict[str, str]:
    """Writes the rows of each split once, so that all runs have the same; returns {split: file}."""
    found = {}
    for split in asked.data.sources():
        found[split] = files.join(workdir, f"{split}.jsonl")
        if not files.exists(found[split]):
            written, refused = write_rows(found[split], asked.rows(split))
            log.info("%s %s row(s): %s", f"{written:,}", split, found[split])
            if refused:
                log.warning("%d row(s) of data.%s cannot be read and are left out", refused, split)
    return found


def _predicted(asked: experiment.Experiment, teacher: str, predictions: str) -> int:
    """Has a run predict the rows without labels, where it has not done so; returns the exit status."""
    if files.exists(predictions):
        return 0
    how = {name: getattr(asked.data, name) for name in ("format", "column_names", "delimiter", "quoting", "encoding")}
    sets = [f"--set=data.{name}={json.dumps(value)}" for name, value in how.items()]
    source = f"--input={asked.data.unlabelled}"
    return call(["predict", f"--workdir={teacher}", source, f"--output={predictions}", *sets])


def _write_sure(asked: experiment.Experiment, confidence: float, folder: str, labelled: str) -> None:
    """Writes the labelled rows, and after them those whose prediction is sure.

    Raises:
      UserError: none is, or the rows were written with another confidence.
    """
    train = files.join(folder, TRAIN_FILE)
    told = f"--confidence: {folder} was begun with another one; choose another --workdir, or remove {folder} and what follows"
    if files.exists(train):
        keep_flags(folder, KEYS_FILE, {"confidence": confidence}, lambda _: told)
        return
    task_class = task_module(asked.task.name).Task
    columns, counts = task_class.text_columns(asked.task), collections.Counter[str]()
    predictions = list(read_lines(files.join(folder, PREDICTIONS_FILE)))
    rows = in_text_column(read_rows(str(asked.data.unlabelled), "data.unlabelled", asked.data.source_format()), columns)
    sure = []
    # A row that cannot be read has a prediction, too: its error.
    for row, prediction in zip(rows, predictions, strict=True):
        label = None if "error" in prediction else task_class.label_of(asked.task, prediction, confidence)
        if label is not None and isinstance(row, Row):
            sure.append(line_of({column: row.values[column] for column in columns} | label))
            counts.update(map(str, label.values()))
    if not sure:
        probabilities = [prediction["probability"] for prediction in predictions if "probability" in prediction]
        half = f": half of them reach {statistics.median(probabilities):.2f}" if probabilities else ""
        raise UserError(
            f"--confidence={confidence}: none of {len(predictions):,} rows is predicted as surely{half}; ask for less"
        )
    shown = ", ".join(f"{name} {count:,}" for name, count in counts.most_common(SHOWN_LABELS))
    log.info("%s: %s of %s rows got a label (%s)", folder, f"{len(sure):,}", f"{len(predictions):,}", shown)
    keep_flags(folder, KEYS_FILE, {"confidence": confidence}, lambda _: told)
    files.write_text(train, files.read_text(labelled) + "".join(sure))


def _trained(options: Options, folder: str, sources: dict[str, str]) -> int:
    """Trains a run, as far as it is not trained yet, and scores it where there is a validation; returns the exit status."""
    if files.exists(files.join(folder, "evaluation", "validation.json")):
        return 0
    keys = (*options.set, *AS_WRITTEN, "data.unlabelled=null", *(f"data.{split}={path}" for split, path in sources.items()))
    status = call(train_arguments(options.config, folder, keys))
    if status or "validation" not in sources:
        return status
    return call(["evaluate", f"--workdir={folder}", "--split=validation"])


def _table(runs: list[str], workdir: str) -> str:
    """Returns the validation scores of all runs as a Markdown table."""
    scores = [files.read_json(files.join(folder, "evaluation", "validation.json")) for folder in runs]
    names = common_scores(scores)
    lines = [f"| run | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for folder, each in zip(runs, scores, strict=True):
        lines.append(f"| {folder.removeprefix(workdir).strip('/')} | {' | '.join(f'{each[name]:.4f}' for name in names)} |")
    return "\n".join(lines)
