"""Runs a model over packed batches, every example exactly once, on any number of replicas; outputs come back by row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data.packing import ABSENT
from trainer.data.pipeline import serialized_examples
from trainer.data.records import encode_example
from trainer.data.sources import Rejected, Row, RowError
from trainer.features import FeatureSpec
from trainer.models.task_model import TaskModel
from trainer.run import feeding
from trainer.run.assembly import Restored

Arrays = dict[str, np.ndarray]
Tensors = Mapping[str, tf.Tensor]
Reduce = Callable[[Tensors, Tensors], dict[str, tf.Tensor]]


class BatchRunner:
    """Calls a model on packed batches, as many at a time as there are replicas.

    Args:
      model: the task's.
      strategy: the run's; with several workers each runs all of the batches on its own devices.
      spec: the task's features; its example-level ones are returned with the outputs.
      reduce: turns a batch and the model's outputs into what is handed back, [rows, K, ...]; None leaves them as they are.
    """

    def __init__(self, model: TaskModel, strategy: tf.distribute.Strategy, spec: FeatureSpec, reduce: Reduce | None = None):
        self._strategy = strategy
        self._is_alone = strategy.num_replicas_in_sync == 1 or isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        self._labels = [name for name, feature in spec.items() if feature.per == "example"]
        call = (lambda batch: reduce(batch, model.outputs_for(batch))) if reduce else model.outputs_for
        self._call = tf.function(call, reduce_retracing=True)

    def run(self, batches: Iterable[dict[str, tf.Tensor]]) -> Iterator[tuple[Arrays, Arrays]]:
        """Yields (outputs, labels) of each batch's real examples: float32 [n, ...]; int32 or float32 [n], row_id among them."""
        replicas = 1 if self._is_alone else self._strategy.num_replicas_in_sync
        waiting: list[dict[str, tf.Tensor]] = []
        for batch in batches:
            waiting.append(batch)
            if len(waiting) == replicas:
                yield from self._run_together(waiting)
                waiting = []
        if waiting:
            empty = {name: tf.zeros_like(value) for name, value in waiting[0].items()}
            empty["row_id"] += ABSENT
            yield from self._run_together(waiting + [empty] * (replicas - len(waiting)))

    def _run_together(self, batches: list[dict[str, tf.Tensor]]) -> Iterator[tuple[Arrays, Arrays]]:
        if len(batches) == 1:
            results = [self._call(batches[0])]
        else:
            values = self._strategy.experimental_distribute_values_from_function(
                lambda context: batches[context.replica_id_in_sync_group]
            )
            outputs = self._strategy.run(self._call, args=(values,))
            local = {name: self._strategy.experimental_local_results(value) for name, value in outputs.items()}
            results = [{name: value[i] for name, value in local.items()} for i in range(len(batches))]
        for batch, outputs in zip(batches, results, strict=True):
            is_real = batch["row_id"].numpy() != ABSENT
            labels = {name: batch[name].numpy()[is_real] for name in self._labels}
            yield {name: value.numpy()[is_real] for name, value in outputs.items()}, labels


def collect(results: Iterable[tuple[Arrays, Arrays]]) -> tuple[Arrays, Arrays]:
    """Returns all outputs and labels in the order of their rows."""
    results = list(results)
    outputs, labels = ({n: np.concatenate([r[i][n] for r in results]) for n in results[0][i]} for i in (0, 1))
    order = np.argsort(labels["row_id"], kind="stable")
    return {n: value[order] for n, value in outputs.items()}, {n: value[order] for n, value in labels.items()}


def evaluate(runner: BatchRunner, batches: Iterable[dict[str, tf.Tensor]], task: Any) -> dict[str, Any]:
    """Returns the task's scores over the batches."""
    outputs, labels = collect(runner.run(batches))
    return task.score(outputs, labels)


class Predictor:
    """Predicts rows with a restored model, many at a time.

    Args:
      restored: the run.

    Attributes:
      predicted, refused: how many rows so far.
    """

    def __init__(self, restored: Restored):
        self.predicted = self.refused = 0
        self._experiment, self._task = restored.experiment, restored.assembled.task
        strategy = tf.distribute.get_strategy()
        self._runner = BatchRunner(restored.assembled.model, strategy, self._task.features(), self._task.predicted)

    def predict(self, rows: Sequence[Row | Rejected]) -> list[dict[str, Any]]:
        """Returns a JSON-able prediction for each row, in order; a row that cannot be used has its reason under "error"."""
        lines: dict[int, dict[str, Any]] = {}
        records, spec, longest = [], self._task.features(), 0
        for number, row in enumerate(rows):
            if isinstance(row, Rejected):
                lines[number] = {"error": row.reason, "file": row.path, "line": row.line}
                continue
            try:
                examples = self._task.examples(row, labelled=False)
            except RowError as error:
                lines[number] = {"error": str(error), "file": row.path, "line": row.line}
                continue
            records += [encode_example({**example, "row_id": number}, spec) for example in examples]
            longest = max([longest, *(len(example["input_ids"]) for example in examples)])
        self.refused += len(lines)
        self.predicted += len(rows) - len(lines)
        if records:
            stored = serialized_examples(lambda: records)
            batches = feeding.prediction_batches(stored, self._experiment, self._task, longest)
            outputs, labels = collect(self._runner.run(batches))
            for number, prediction in zip(labels["row_id"].tolist(), self._task.decode(outputs), strict=True):
                row = rows[number]
                assert isinstance(row, Row)
                lines[number] = {**{column: row.values[column] for column in self._task.fields.text_columns}, **prediction}
        return [line for _, line in sorted(lines.items())]
