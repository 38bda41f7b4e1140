"""The Python API, for notebooks and programs: `trainer.load(workdir)` and `trainer.train(config, workdir)`.

It calls the same functions as the commands, so it is on the layer of the command line.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trainer import files
from trainer.cli import set_up_logging
from trainer.commands import evaluate as evaluate_command
from trainer.commands import export as export_command
from trainer.commands import train as train_command
from trainer.data.sources import Row
from trainer.errors import UserError
from trainer.run import assembly, experiment
from trainer.run.embedding import Asked, Embedder
from trainer.run.inference import Predictor
from trainer.runtime import distribution
from trainer.runtime.logs import StartUp
from trainer.runtime.quiet import quieten

__all__ = ["Asked", "Embedder", "Run", "load", "train"]
Texts = str | Sequence[str] | Mapping[str, Any]


class Run:
    """A trained run, read from its workdir; the model is restored once.

    Args:
      workdir: of the run, local or remote.
      overrides: changes of config keys for this object, as ["data.test=other.csv"].

    Raises:
      UserError: no run there, no checkpoint yet, or a damaged one.
    """

    def __init__(self, workdir: str, overrides: Sequence[str] = ()):
        self.workdir, self._is_changed = files.expand_home(workdir), bool(overrides)
        self._placement = distribution.choose("auto", join_cluster=False)
        with self._placement.strategy.scope():
            self._restored = assembly.restore(self.workdir, tuple(overrides))
        self._predictor = Predictor(self._restored)

    def __repr__(self) -> str:
        return f"<run of {self.config.task.name} in {self.workdir}, step {self.step}>"

    @property
    def config(self) -> experiment.Experiment:
        """The run's config, resolved."""
        return self._restored.experiment

    @property
    def step(self) -> int:
        """The step of the model: the best one, or the latest where nothing was validated."""
        return self._restored.step

    def predict(self, rows: Iterable[Texts]) -> list[dict[str, Any]]:
        """Returns one prediction per row, in order: what the command `predict` writes.

        Args:
          rows: texts; for a task of two texts a sequence of two, or a mapping with their columns.

        A row that cannot be used, as a missing value, has its reason under "error".

        Raises:
          UserError: `rows` is one text or a whole table, or a row has too many or too few texts.
        """
        columns = self._restored.assembled.task.input_columns
        if isinstance(rows, (str, bytes)):
            raise UserError("predict takes a list of texts, as run.predict(['...'])")
        if isinstance(rows, Mapping) or hasattr(rows, "columns"):  # would go through the names of the columns
            how = f"table[{columns[0]!r}]" if len(columns) == 1 else f"table[{list(columns)}].to_dict('records')"
            raise UserError(f"predict takes a list of rows, not a table: run.predict({how})")
        return self._predictor.predict([_row(row, number, columns) for number, row in enumerate(rows, start=1)])

    def evaluate(self, split: str = "validation") -> dict[str, Any]:
        """Returns all scores of a split: "train", "validation" or "test".

        Raises:
          UserError: the run has no such split.
        """
        return evaluate_command.score(self._restored, self.workdir, split, self._placement, self._is_changed)

    def export(self) -> str:
        """Writes the next version of the SavedModel, checked in a clean process; returns its folder."""
        return export_command.export_saved_model(self._restored, self.workdir)

    def export_hugging_face(self) -> str:
        """Writes config, tokenizer and weights for transformers; returns their folder."""
        return export_command.export_hugging_face(self._restored, self.workdir)


def _start(overrides: Sequence[str]) -> None:
    """Shows the log as the commands do, unless the program has set up its own."""
    if isinstance(overrides, str):
        raise UserError(f"overrides: a list of strings, as [{overrides!r}], got one string")
    if not logging.getLogger("trainer").hasHandlers():
        set_up_logging()
    quieten()


def _row(row: Texts, number: int, columns: Sequence[str]) -> Row:
    if isinstance(row, Mapping):
        return Row(dict(row), "row", number)
    texts = list(row) if isinstance(row, (list, tuple)) else [row]
    if len(texts) != len(columns):
        raise UserError(f"row {number} has {len(texts)} texts; this run reads {len(columns)}: {', '.join(columns)}")
    return Row(dict(zip(columns, texts, strict=True)), "row", number)


def load(workdir: str, overrides: Sequence[str] = ()) -> Run:
    """Loads a trained run; see `Run`."""
    _start(overrides)
    return Run(workdir, overrides)


def train(config: str | None, workdir: str, overrides: Sequence[str] = ()) -> Run:
    """Trains, or resumes the run in the workdir; returns the trained run.

    Args:
      config: a YAML file or the name of a recipe; None takes only the overrides.
      workdir: the run's folder.
      overrides: changes of config keys, as ["train.epochs=1"].

    Raises:
      UserError: the config, the data or the workdir cannot be used; the message says what to change.
    """
    _start(overrides)
    workdir = files.expand_home(workdir)
    asked = experiment.load(files.expand_home(config) if config else None, overrides)
    status = train_command.train(asked, workdir, StartUp(time.monotonic()))
    if status:
        raise KeyboardInterrupt(f"the training was interrupted; the same call resumes the run in {workdir}")
    return Run(workdir)
