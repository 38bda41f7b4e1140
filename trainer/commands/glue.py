"""glue: GLUE's tasks over several seeds, with their official scores, in one table; resumes where it was stopped.

Source of tasks and scores: Wang et al. 2018, "GLUE" (arXiv:1804.07461), table 1.
"""

import collections
import dataclasses
import json
import logging
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from trainer import files
from trainer.cli import Options
from trainer.errors import UserError, suggestion
from trainer.run.own_process import call, keep_flags, train_arguments

log = logging.getLogger(__name__)
CONFIG = "glue"  # the recipe whose rates and lengths count, unless another is named
TABLE_FILE, SCORES_FILE = "glue.md", "glue.json"


@dataclasses.dataclass(frozen=True)
class GlueTask:
    """One of GLUE's tasks.

    Attributes:
      scores: the official scores, by this project's names; the first chooses the best checkpoint. "F1" is the F1 of
        `positive`, or of `tfds_positive`.
      columns: of the texts in GLUE's own files.
      tfds_name, tfds_columns: of TensorFlow Datasets, where the texts' columns have other names.
      label: the column of the label in the files.
      column_names: of train and dev files without a header.
      dev, test: the files' names without .tsv: with the training domain first.
      task: "classification" or "regression".
    """

    scores: Mapping[str, str]
    columns: tuple[str, ...]
    tfds_name: str
    tfds_columns: tuple[str, ...] = ()
    label: str = "label"
    column_names: tuple[str, ...] = ()
    dev: tuple[str, ...] = ("dev",)
    test: tuple[str, ...] = ("test",)
    task: str = "classification"
    positive: str = "1"
    tfds_positive: str = "1"

    def official_scores(self, is_tfds: bool) -> dict[str, str]:
        """Returns {a score's name in this project: how GLUE calls it}."""
        positive = self.tfds_positive if is_tfds else self.positive
        return {f"per_class.{positive}.f1" if name == "f1" else name: shown for name, shown in self.scores.items()}


ACCURACY = {"accuracy": "accuracy"}
F1_AND_ACCURACY = {"f1": "F1", "accuracy": "accuracy"}
SENTENCES, MATCHED = ("sentence1", "sentence2"), ("matched", "mismatched")
TASKS = {
    "CoLA": GlueTask(
        {"matthews_correlation": "Matthews"}, ("sentence",), "cola", column_names=("source", "label", "mark", "sentence")
    ),
    "SST-2": GlueTask(ACCURACY, ("sentence",), "sst2"),
    "MRPC": GlueTask(F1_AND_ACCURACY, ("#1 String", "#2 String"), "mrpc", SENTENCES, "Quality", tfds_positive="equivalent"),
    "STS-B": GlueTask({"pearson": "Pearson", "spearman": "Spearman"}, SENTENCES, "stsb", label="score", task="regression"),
    "QQP": GlueTask(F1_AND_ACCURACY, ("question1", "question2"), "qqp", label="is_duplicate", tfds_positive="duplicate"),
    "MNLI": GlueTask(
        ACCURACY,
        SENTENCES,
        "mnli",
        ("premise", "hypothesis"),
        label="gold_label",
        dev=tuple(f"dev_{domain}" for domain in MATCHED),
        test=tuple(f"test_{domain}" for domain in MATCHED),
    ),
    "QNLI": GlueTask(ACCURACY, ("question", "sentence"), "qnli"),
    "RTE": GlueTask(ACCURACY, SENTENCES, "rte"),
    "WNLI": GlueTask(ACCURACY, SENTENCES, "wnli"),
}


def run(options: Options) -> int:
    """Trains what is not trained yet, writes the table and, where there are test files, what the leaderboard takes.

    Returns:
      The exit status: of a run that was stopped or failed, else 0.
    """
    workdir, data = options.required("workdir"), options.required("data")
    stored = files.join(workdir, SCORES_FILE)
    found: dict[str, dict[str, list[float]]] = files.read_json(stored) if files.exists(stored) else {}
    for name in _wanted(options.tasks):
        task = TASKS[name]
        missing = None if data == "tfds" else _missing(name, data)
        if missing:
            log.warning("%s is left out: %s", name, missing)
            continue
        scores: dict[str, list[float]] = {}
        for seed in range(1, options.seeds + 1):
            folder = files.join(workdir, name, f"seed-{seed}")
            status = _trained_and_scored(name, data, folder, seed, options)
            if status:
                log.warning("%s with seed %d ended with status %d; the same command goes on from there", name, seed, status)
                return status
            for number, domain in enumerate(task.dev):
                of_run = files.read_json(files.join(folder, "evaluation", f"{domain}.json"))
                for score, shown in task.official_scores(data == "tfds").items():
                    title = f"{shown} ({MATCHED[number]})" if len(task.dev) > 1 else shown
                    scores.setdefault(title, []).append(_at(of_run, score))
        found[name] = scores
        files.write_json(stored, found)
        files.write_text(files.join(workdir, TABLE_FILE), table(found))
        if data != "tfds":
            _write_submission(name, data, workdir, scores)
    if not found:
        raise UserError(f"--data: {data} has none of GLUE's folders {', '.join(TASKS)}, each with train.tsv and dev.tsv")
    print(table(found))
    print(f"table: {files.join(workdir, TABLE_FILE)}")
    return 0


def _wanted(tasks: str | None) -> list[str]:
    names = [name.strip() for name in tasks.split(",")] if tasks else list(TASKS)
    unknown = [name for name in names if name not in TASKS]
    if unknown:
        raise UserError(f"--tasks: {unknown[0]!r} is not one of {', '.join(TASKS)}{suggestion(unknown[0], TASKS)}")
    return names


def _missing(name: str, data: str) -> str | None:
    paths = [files.join(data, name, f"{split}.tsv") for split in ("train", *TASKS[name].dev)]
    return next((f"there is no {path}" for path in paths if not files.exists(path)), None)


def _trained_and_scored(name: str, data: str, folder: str, seed: int, options: Options) -> int:
    """Trains one run to its end and scores it on each dev file, each in a process of its own; returns the exit status."""
    task, keys = TASKS[name], _keys(name, data, seed, options)
    _check_same_keys(folder, [*keys, options.config or CONFIG])
    if not files.exists(files.join(folder, "evaluation", f"{task.dev[0]}.json")):
        status = call(train_arguments(options.config or CONFIG, folder, keys))
        if status:
            return status
    for domain in task.dev:
        path = files.join(folder, "evaluation", f"{domain}.json")
        if files.exists(path):
            continue
        source = _source(name, data, domain)
        status = call(["evaluate", f"--workdir={folder}", "--split=test", f"--set=data.test={source}"])
        if status:
            return status
        files.rename(files.join(folder, "evaluation", "test.json"), path)
    return 0


def _check_same_keys(folder: str, keys: list[str]) -> None:
    """Raises UserError where a finished or half-finished run was made with other keys."""

    def refused(kept: list[str]) -> str:
        changed = sorted(set(keys) ^ set(kept))
        return f"{folder} was run with other keys: {', '.join(changed)}; choose another --workdir, or remove that folder"

    keep_flags(folder, "glue-keys.json", keys, refused)


def _keys(name: str, data: str, seed: int, options: Options) -> list[str]:
    """Returns the config keys of one run."""
    task = TASKS[name]
    is_tfds = data == "tfds"
    columns = (task.tfds_columns or task.columns) if is_tfds else task.columns
    label = "label" if is_tfds else task.label
    keys = [f"task.name={task.task}", f"task.text_columns={json.dumps(list(columns))}", f"train.seed={seed}"]
    keys += [f"task.target_columns=[{label}]" if task.task == "regression" else f"task.label_column={label}"]
    keys += [f"data.train={_source(name, data, 'train')}", f"data.validation={_source(name, data, task.dev[0])}"]
    if task.task != "regression":
        keys += [f"train.best_score={next(iter(task.official_scores(is_tfds)))}"]
    if task.column_names and not is_tfds:
        keys += [f"data.column_names=[{', '.join(task.column_names)}]"]
    keys += [f"encoder.init_from={options.encoder}"] if options.encoder else []
    return [*keys, *options.set]


def _source(name: str, data: str, split: str) -> str:
    if data != "tfds":
        return files.join(data, name, f"{split}.tsv")
    return f"tfds:glue/{TASKS[name].tfds_name}:{split.replace('dev', 'validation')}"


def _at(scores: Mapping[str, Any], name: str) -> float:
    for part in name.split("."):
        scores = scores[part]
    return float(scores)  # type: ignore[arg-type]


def table(found: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Returns the scores as a Markdown table: the median over the seeds, and the spread where there are several."""
    lines = ["| task | score | median | lowest to highest | seeds |", "|---|---|---|---|---|"]
    medians = []
    for name, scores in found.items():
        for shown, values in scores.items():
            spread = f"{min(values):.4f} to {max(values):.4f}"
            lines.append(f"| {name} | {shown} | {statistics.median(values):.4f} | {spread} | {len(values)} |")
        medians.append(statistics.fmean(statistics.median(values) for values in scores.values()))
    lines.append(f"| mean of {len(medians)} tasks | | {statistics.fmean(medians):.4f} | | |")
    return "\n".join(lines) + "\n"


def _write_submission(name: str, data: str, workdir: str, scores: Mapping[str, Sequence[float]]) -> None:
    """Writes submission/<task>.tsv, with the run of the best seed, where the task's test file is there."""
    task = TASKS[name]
    first = next(iter(scores.values()))
    best = 1 + max(range(len(first)), key=lambda place: first[place])
    for number, split in enumerate(task.test):
        source = files.join(data, name, f"{split}.tsv")
        target = files.join(workdir, "submission", f"{name}{('-m', '-mm')[number] if len(task.test) > 1 else ''}.tsv")
        predictions = files.join(workdir, name, f"{split}-seed-{best}.jsonl")
        if not files.exists(source) or (files.exists(target) and files.exists(predictions)):
            continue
        arguments = ["predict", f"--workdir={files.join(workdir, name, f'seed-{best}')}", f"--input={source}"]
        # A test file has a header, also where the training file has none.
        if call([*arguments, f"--output={predictions}", "--set=data.column_names=[]"]):
            raise UserError(f"{source} could not be predicted; the messages above say why")
        rows = [json.loads(line) for line in files.read_text(predictions).splitlines()]
        values = [row.get("label", row.get("value")) for row in rows]
        usual = collections.Counter(value for value in values if value is not None).most_common(1)[0][0]
        refused = values.count(None)
        if refused:  # the leaderboard wants a line for each row
            log.warning("%s: %d row(s) could not be predicted and got %r, the most frequent prediction", source, refused, usual)
        lines = ["index\tprediction", *(f"{index}\t{usual if v is None else v}" for index, v in enumerate(values))]
        files.write_text(target, "\n".join(lines) + "\n")
        log.info("for the leaderboard: %s", target)
