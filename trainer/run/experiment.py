"""A run's config: loaded from a file or a recipe, changed by `--set`, saved in the workdir, compared on resume."""

import dataclasses
import functools
import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer import __version__, config, files
from trainer.data.holdout import Holdout
from trainer.data.sources import Rejected, Row, read_rows
from trainer.errors import UserError, suggestion
from trainer.run import seals
from trainer.run.schema import (
    RENAMED,
    DataConfig,
    EncoderConfig,
    ExportConfig,
    RuntimeConfig,
    TrainConfig,
    is_share,
    schema,
)
from trainer.tasks import task_module
from trainer.tasks.base import Task
from trainer.text.tokenizer import Tokenizer

CONFIG_FILE = "config.yaml"
VERSIONS_FILE = "versions.json"
ROWS_KEYS = ("data.train", "data.validation", "data.test")
PATH_KEYS = (
    *ROWS_KEYS,
    "data.unlabelled",
    "data.records_dir",
    "data.augment_synonyms",
    "encoder.init_from",
    "encoder.config_path",
    "encoder.vocabulary_path",
)
FREE_KEYS = (
    # A resumed run may change these: they decide where and how fast it computes, not what.
    "runtime.",
    "export.",
    "data.workers",
    "data.records_dir",
    "train.steps_per_execution",
    "train.jit_compile",
    "train.kernels",
    "train.recompute_activations",
    "train.early_stopping_patience",
    "train.on_nan",
    "train.max_nan_retries",
)
IN_CHECKOUT = Path(__file__).parent.parent.parent / "configs"
IN_PACKAGE = Path(__file__).parent.parent / "configs"  # where setup.py puts them in an installed package


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A run's config, resolved."""

    task: Any
    encoder: EncoderConfig
    data: DataConfig
    train: TrainConfig
    runtime: RuntimeConfig
    export: ExportConfig

    def sections(self) -> dict[str, Any]:
        """Returns {section name: section}, in order."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def source_of(self, split: str) -> str:
        """Returns where a split's rows are: its own source, or data.train where it is a share of the training rows."""
        source = self.data.sources()[split]
        return str(self.data.train) if is_share(source) else source

    def rows(self, split: str) -> Iterator[Row | Rejected]:
        """Yields the rows of a split, in order: its source's, without the rows of data.train that other splits hold out."""
        shares = self.data.shares()
        key = "data.train" if split in shares else f"data.{split}"
        rows = read_rows(self.source_of(split), key, self.data.source_format(task_module(self.task.name).Task.txt_as))
        return self._holdout.rows_of(split, rows) if shares and split in {"train", *shares} else rows

    @functools.cached_property
    def _holdout(self) -> Holdout:
        task_class, by = task_module(self.task.name).Task, self.data.holdout_column
        rows = read_rows(str(self.data.train), "data.train", self.data.source_format(task_class.txt_as))
        columns = (by,) if by else task_class.text_columns(self.task)
        label = None if by else task_class.class_column(self.task)
        key = "data.holdout_column" if by else "task.text_columns"
        return Holdout.of(rows, self.data.shares(), columns, label, key, task_class.is_corpus)

    def with_tuned(self, tuned: Mapping[str, Any]) -> "Experiment":
        """Returns the experiment with the fields of its task that a validation chose, but for those that the config gives."""
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in tuned.items()}
        chosen = {name: value for name, value in values.items() if getattr(self.task, name) in (None, ())}
        return dataclasses.replace(self, task=dataclasses.replace(self.task, **chosen))

    def build_task(self, tokenizer: Tokenizer) -> Task:
        """Returns the task of this run."""
        return task_module(self.task.name).Task(self.task, tokenizer, self.data.max_seq_length)

    @property
    def examples_together(self) -> int:
        """See `Task.examples_together`."""
        return task_module(self.task.name).Task.examples_together(self.task)


def recipes() -> dict[str, Path]:
    """Returns {name: file} of the recipes that come with the project, as "pretraining/bert-mini"."""
    folder = IN_CHECKOUT if IN_CHECKOUT.is_dir() else IN_PACKAGE
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def find_config(config_path: str) -> str:
    """Returns the path of a config: the file itself, or the recipe of that name.

    Raises:
      UserError: neither is there.
    """
    if files.exists(config_path) and not files.is_dir(config_path):
        return config_path
    known = recipes()
    if config_path in known:
        return str(known[config_path])
    if files.is_dir(config_path):
        raise UserError(f"--config: {config_path} is a folder; name the YAML file in it")
    raise UserError(
        f"--config: no file {config_path}, and no recipe of that name{suggestion(config_path, known)}; "
        "`bert-trainer describe --recipes` lists the recipes"
    )


def load(config_path: str | None, overrides: Sequence[str] = (), tpu: str | None = None) -> Experiment:
    """Loads a config: dataclass defaults, then the file or recipe, then `--set`.

    A relative path in the file is looked up in the file's folder first, then in the current folder.

    Raises:
      UserError: no such file, or anything in it that cannot be.
    """
    leaves: dict[str, config.Leaf] = {}
    from_file: set[str] = set()
    if config_path is not None:
        path = find_config(config_path)
        leaves |= config.read_leaves(files.read_text(path), path)
        from_file = set(leaves)
    changes = config.read_overrides([*overrides, *([f"runtime.tpu={tpu}"] if tpu else [])])
    leaves |= changes
    name = leaves["task.name"].node.value if "task.name" in leaves else "classification"
    loaded = Experiment(**config.build(schema(name), leaves, RENAMED))
    folder = os.path.dirname(path) if config_path is not None else ""
    return _with_paths(loaded, lambda key, value: _found(value, folder if key in from_file - set(changes) else ""))


def _with_paths(experiment: Experiment, changed) -> Experiment:
    """Returns the experiment with every key of PATH_KEYS that is given replaced by `changed(key, value)`."""
    sections = experiment.sections()
    for key in PATH_KEYS:
        section, field = key.split(".")
        value = getattr(sections[section], field)
        if value is not None and changed(key, value) != value:
            sections[section] = dataclasses.replace(sections[section], **{field: changed(key, value)})
    return Experiment(**sections)


def _found(value: str, folder: str) -> str:
    """Returns a path to open: with the home folder for `~`, and in the config file's folder if it exists there."""
    value = files.expand_home(value)
    if not folder or files.is_remote(value) or is_share(value) or ":" in value or os.path.isabs(value):
        return value
    beside = files.join(folder, value)
    return beside if _is_there(beside) else value


def _absolute(key: str, value: str) -> str:
    """Returns a path that later commands find from any folder; what names no local file stays as it is."""
    is_path = key == "data.records_dir" or (not is_share(value) and _is_there(value))  # records may yet be made
    return files.absolute(value) if is_path else value


def _is_there(path: str) -> bool:
    """Returns whether a path names files, by itself, as a glob, or as the prefix of a checkpoint."""
    return files.matches(path) or files.exists(f"{path}.index")


def load_workdir(workdir: str, overrides: Sequence[str] = (), tpu: str | None = None) -> Experiment:
    """Loads the config that a run saved in its workdir, with `--set` changes for this command.

    Raises:
      UserError: nothing was trained or prepared there.
    """
    path = files.join(workdir, CONFIG_FILE)
    if not files.exists(path):
        parent = os.path.dirname(workdir.rstrip("/")) or "."
        near = suggestion(os.path.basename(workdir.rstrip("/")), files.list_dir(parent))
        what = f"{workdir} is a file" if files.exists(workdir) else f"there is no folder {workdir}{near}"
        what = f"{workdir} holds no {CONFIG_FILE}" if files.is_dir(workdir) else what
        raise UserError(f"--workdir: {what}; train there first, with --config and --workdir")
    return load(path, overrides, tpu)


def save(experiment: Experiment, workdir: str) -> None:
    """Writes config.yaml, local paths in it absolute, and versions.json into a workdir."""
    saved = _with_paths(experiment, _absolute)
    files.write_text(files.join(workdir, CONFIG_FILE), config.dump(saved.sections()))
    files.write_json(files.join(workdir, VERSIONS_FILE), versions())
    seals.seal(workdir, (CONFIG_FILE, VERSIONS_FILE))


def versions() -> dict[str, str]:
    """Returns the versions of all that a result may depend on."""
    found = {"bert-trainer": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in ("tensorflow", "tensorflow-text", "tf-keras", "transformers", "tokenizers", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def resume_differences(saved: Experiment, asked: Experiment) -> dict[str, tuple]:
    """Returns {key: (saved, asked)} of the keys that change what a resumed run computes (devices and logs may change).

    Rows may be named in one and records only in the other; `train` compares the records themselves.
    """
    both = (_with_paths(experiment, _absolute) for experiment in (saved, asked))
    changed = config.differences(*(experiment.sections() for experiment in both))
    is_without_rows = saved.data.names_records_only or asked.data.names_records_only
    free = (*FREE_KEYS, *(ROWS_KEYS if is_without_rows else ()))
    return {key: values for key, values in changed.items() if not key.startswith(free)}
