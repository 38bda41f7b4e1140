"""Completes a task's config from the training rows, or from prepared records: class names, languages."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from trainer.config import FieldError
from trainer.data.sources import Rejected, Row
from trainer.errors import NothingToLearnError, UserError
from trainer.preparation.freshness import manifest_alone
from trainer.run.experiment import Experiment
from trainer.run.schema import DataConfig
from trainer.tasks import task_module


def learned(experiment: Experiment) -> Experiment:
    """Returns the experiment with its task config completed (class names): from the training rows, or by records only.

    Raises:
      UserError: the rows do not allow it, or the records do not state it.
    """
    task, data = experiment.task, experiment.data
    task_class = task_module(task.name).Task
    fields = task_class.to_learn(task)
    if not fields or (data.train is None and not data.names_records_only):
        return experiment
    try:
        if data.names_records_only:
            completed = dataclasses.replace(task, **_stated_by_records(data, fields))
        else:
            rows = _Usable(experiment.rows("train"))
            completed = task_class.learn(task, rows)
    except FieldError as error:  # what was learned contradicts what was given
        raise UserError(f"task.{error.field}: {error}") from None
    except NothingToLearnError as error:
        raise UserError(f"data.train: {error}{rows.first_refusal()}") from None
    return dataclasses.replace(experiment, task=completed)


class _Usable:
    """The rows that could be read; notes the first one that could not."""

    def __init__(self, rows: Iterable[Row | Rejected]):
        self._rows = rows
        self._count = self._refused = 0
        self._first: Rejected | None = None

    def __iter__(self):
        for row in self._rows:
            self._count += 1
            if isinstance(row, Row):
                yield row
            else:
                self._refused += 1
                self._first = self._first or row

    def first_refusal(self) -> str:
        """Returns what to add to a message: how many rows could not be read, and why the first one could not."""
        if not self._count:
            return "; the source has no rows"
        if self._first is None:
            return ""
        first = self._first
        return f". {self._refused} of {self._count} rows cannot be read; the first, {first.path}:{first.line}: {first.reason}"


def _stated_by_records(data: DataConfig, fields: Iterable[str]) -> dict[str, Any]:
    stored = manifest_alone(data).task
    for field in fields:
        if not stored.get(field):
            raise UserError(
                f"data.records_dir: the records in {data.records_dir} do not state task.{field}, and no rows are named to "
                "learn it from; run prepare with this config where the rows are"
            )
    return {field: tuple(value) if isinstance(value := stored[field], list) else value for field in fields}
