"""Runs a model over packed batches, every example exactly once, on any number of replicas; outputs come back by row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trainer.data.packing import ABSENT
from trainer.data.pipeline import serialized_examples
from trainer.data.records import KeptRows, encode_example
from trainer.data.sources import Rejected, Row, RowError
from trainer.features import Example, in_sequence, token_counts
from trainer.models.task_model import TaskModel
from trainer.run import feeding
from trainer.run.assembly import Restored
from trainer.tasks.base import Task, Window

Arrays = dict[str, np.ndarray]
NOTHING_KEPT = Row({}, "", 0)  # of a task whose features say all that its scores need


class Numbered(NamedTuple):
    """A window, the number of its example in the stream, and its row's id."""

    number: int
    row_id: int
    window: Window


class BatchRunner:
    """Calls a model on packed batches, as many at a time as there are replicas.

    Args:
      model: the task's.
      strategy: the run's; with several workers each runs all of the batches on its own devices.
      task: says what of the outputs is handed back.
      labelled: whether the batches have labels: in evaluation, not in prediction.
    """

    def __init__(self, model: TaskModel, strategy: tf.distribute.Strategy, task: Task, labelled: bool):
        self._strategy, self._task = strategy, task
        is_alone = strategy.num_replicas_in_sync == 1 or isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        self._replicas = 1 if is_alone else strategy.num_replicas_in_sync
        self._features = [name for name, feature in task.features().items() if feature.per == "example"]

        self._function = results_of(model, task, labelled)
        self._call = tf.function(self._function, reduce_retracing=True)

    def run(self, batches: Iterable[dict[str, tf.Tensor]]) -> Iterator[tuple[int, list[Window]]]:
        """Yields (row_id, the row's windows in order) of each row, in order."""
        return grouped(window for together in self._together(batches) for window in self._run_together(together))

    def _together(self, batches: Iterable[dict[str, tf.Tensor]]) -> Iterator[list[dict[str, tf.Tensor]]]:
        """Yields as many batches as there are replicas, the last ones empty where there are too few."""
        waiting: list[dict[str, tf.Tensor]] = []
        for batch in batches:
            waiting.append(batch)
            if len(waiting) == self._replicas:
                yield waiting
                waiting = []
        if waiting:
            empty = {name: tf.zeros_like(value) for name, value in waiting[0].items()}
            empty["row_id"] += ABSENT
            yield waiting + [empty] * (self._replicas - len(waiting))

    def _run_together(self, batches: list[dict[str, tf.Tensor]]) -> Iterator[Numbered]:
        for batch, outputs in zip(batches, self._outputs_of(batches), strict=True):
            yield from self._windows(batch, {name: np.asarray(value) for name, value in outputs.items()})

    def _outputs_of(self, batches: list[dict[str, tf.Tensor]]) -> list[dict[str, Any]]:
        """Returns what the model gives for as many batches as there are replicas."""
        if len(batches) == 1:
            return [self._call(batches[0])]
        values = self._strategy.experimental_distribute_values_from_function(
            lambda context: batches[context.replica_id_in_sync_group]
        )
        outputs = self._strategy.run(self._call, args=(values,))
        local = {name: self._strategy.experimental_local_results(value) for name, value in outputs.items()}
        return [{name: value[i] for name, value in local.items()} for i in range(len(batches))]

    def _windows(self, batch: Mapping[str, tf.Tensor], outputs: Arrays) -> Iterator[Numbered]:
        """Yields a batch's real examples, in no order."""
        row_ids, numbers = batch["row_id"].numpy(), batch["example_number"].numpy()
        sequence_of = self._task.token_outputs
        spans = {sequence: self._token_spans(batch, sequence) for sequence in set(sequence_of.values())}
        labels = {name: batch[name].numpy() for name in self._features}
        for place in zip(*np.nonzero(row_ids != ABSENT), strict=True):
            found = {}
            for name, value in outputs.items():
                if name in sequence_of:
                    row, start, end = (edges[place] for edges in spans[sequence_of[name]])
                    found[name] = value[row, start:end]
                else:
                    found[name] = value[place]
            features = {name: value[place].item() for name, value in labels.items()}
            yield Numbered(int(numbers[place]), int(row_ids[place]), Window(found, features))

    def _token_spans(self, batch: Mapping[str, tf.Tensor], sequence: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns where each example's tokens are: the row, the first and the one after the last, int [rows, K] each."""
        start, segments = (batch[in_sequence(sequence, name)].numpy() for name in ("cls_positions", "segment_ids"))
        slots = np.arange(1, start.shape[1] + 1)
        length = (segments[:, None] == slots[None, :, None]).sum(axis=-1)
        row = np.broadcast_to(np.arange(len(start))[:, None], start.shape)
        places = f"{sequence}_places"
        if places in batch:  # not the first sequence: its examples lie elsewhere than their own values
            at = batch[places].numpy()
            row, start, length = (values.reshape(-1)[at] for values in (row, start, length))
        return row, start, start + length


def results_of(model: TaskModel, task: Task, labelled: bool) -> Callable[[Mapping[str, tf.Tensor]], dict[str, tf.Tensor]]:
    """Returns the function from a packed batch to what is handed back of the model's outputs; see BatchRunner."""

    def results(batch):
        batch = batch if labelled else task.completed(dict(batch))
        return task.results(batch, model.outputs_for(batch), labelled)

    return results


def grouped(windows: Iterable[Numbered]) -> Iterator[tuple[int, list[Window]]]:
    """Yields (row_id, its windows in order), rows in order; few windows wait, whatever the number of rows.

    Args:
      windows: numbered from 0 without a gap, about in order; a row's windows follow each other.
    """
    waiting: dict[int, Numbered] = {}
    following, row_id = 0, ABSENT
    together: list[Window] = []
    for numbered in windows:
        waiting[numbered.number] = numbered
        while following in waiting:
            found = waiting.pop(following)
            following += 1
            if together and found.row_id != row_id:
                yield row_id, together
                together = []
            row_id = found.row_id
            together.append(found.window)
    if waiting:
        raise RuntimeError(f"example {following} is missing among the outputs")
    if together:
        yield row_id, together


def evaluate(
    runner: BatchRunner,
    batches: Iterable[dict[str, tf.Tensor]],
    task: Task,
    kept: KeptRows | None = None,
    tune: bool = False,
) -> dict[str, Any]:
    """Returns the task's scores over the batches.

    Args:
      runner: of labelled batches.
      batches: of a split, in order.
      task: scores.
      kept: what the records keep of the split's rows; None where the task needs nothing of them.
      tune: whether the rows may choose fields of the config.
    """
    return task.score(with_rows(runner.run(batches), kept), tune)


def with_rows(windows: Iterable[tuple[int, list[Window]]], kept: KeptRows | None) -> Iterator[tuple[Row, Sequence[Window]]]:
    """Yields each row as the records keep it, with its windows."""
    rows = iter(kept) if kept else iter(())
    for row_id, found in windows:
        if kept is None:
            yield NOTHING_KEPT, found
            continue
        yield next(row for number, row in rows if number == row_id), found


class Predictor:
    """Predicts rows with a restored model, many at a time.

    Args:
      restored: the run.
      runner: of batches without labels; None: TensorFlow on this machine's device.
      one_shape: all batches have the same shape, for XLA.

    Attributes:
      predicted, refused: how many rows so far.
    """

    def __init__(self, restored: Restored, runner: BatchRunner | None = None, one_shape: bool = False):
        self.predicted = self.refused = 0
        self._experiment, self._task = restored.experiment, restored.assembled.task
        strategy = tf.distribute.get_strategy()
        self._runner = runner or BatchRunner(restored.assembled.model, strategy, self._task, labelled=False)
        self._one_shape = one_shape

    def predict(self, rows: Sequence[Row | Rejected]) -> list[dict[str, Any]]:
        """Returns a JSON-able prediction for each row, in order; a row that cannot be used has its reason under "error"."""
        lines: list[dict[str, Any]] = []
        usable: list[tuple[Row, list[Example]]] = []
        for row in rows:
            if isinstance(row, Rejected):
                lines.append({"error": row.reason, "file": row.path, "line": row.line})
                continue
            try:
                examples = self._task.examples(row, labelled=False)
                if not examples:
                    raise RowError("the row gives no example")
            except RowError as error:
                lines.append({"error": str(error), "file": row.path, "line": row.line})
            else:
                usable.append((row, examples))
                lines.append({column: row.values[column] for column in self._task.input_columns if column in row.values})
        self.predicted += len(usable)
        self.refused += len(rows) - len(usable)
        predictions = (self._task.decode(row, windows) for row, windows in self.windows_of(usable))
        return [line if "error" in line else {**line, **next(predictions)} for line in lines]

    def windows_of(self, rows: Sequence[tuple[Row, Sequence[Example]]]) -> Iterator[tuple[Row, list[Window]]]:
        """Yields each row, given with its examples, with what became of these."""
        spec = self._task.features()
        examples = [{**example, "row_id": number} for number, (_, found) in enumerate(rows) for example in found]
        if not examples:
            return
        records = [encode_example(example, spec) for example in examples]
        longest = max(max(token_counts(example, spec).values()) for example in examples)
        stored = serialized_examples(lambda: records)
        batches = feeding.prediction_batches(stored, self._experiment, self._task, longest, self._one_shape)
        for row_id, windows in self._runner.run(batches):
            yield rows[row_id][0], windows
