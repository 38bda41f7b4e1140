"""The Keras model of a task: functional, trained by `fit`, its step normalized over the whole global batch."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import tensorflow as tf
import tf_keras as keras

from trainer.errors import UserError
from trainer.models.optimizers import Gradient
from trainer.models.regularization import Regularization
from trainer.runtime.randomness import random_scope, step_seed
from trainer.runtime.replicas import replica_context, sums_gradients
from trainer.runtime.target import Target, machine_target, tracing_for

Batch = Mapping[str, tf.Tensor]
Tensors = Mapping[str, tf.Tensor]
NO_REPLICA = -1  # in the seed of what all replicas draw alike
COUNTS = ("examples", "tokens", "cells")  # of one step, over all replicas


class Objective(Protocol):
    """What a task says of its training; see `trainer.tasks.base.Task`."""

    compares_examples: ClassVar[bool]

    @property
    def logged(self) -> Sequence[str]:
        """Of the parts ("<part>_loss") and measures, those that are reported with the loss."""

    def loss_weights(self, batch: Batch) -> Tensors:
        """Returns the weights of each part's losses."""

    def loss(self, batch: Batch, outputs: Tensors) -> tuple[Tensors, Mapping[str, tuple[str, tf.Tensor]]]:
        """Returns each part's unreduced losses, and {measure: (the part whose weights it has, unreduced values)}."""

    def divergence(self, batch: Batch, first: Tensors, second: Tensors) -> Tensors:
        """Returns how far two passes' outputs are apart, for parts of the loss, shaped as these."""


class TaskModel(keras.Model):
    """A functional model whose train step sums weighted losses and divides once, by the global batch's weight.

    The gradient is ∇ Σ w·l / Σ w for each part of the loss, both sums over all examples of the step, whatever replica and
    micro-batch they lie in. So one replica equals two, and accumulation equals the large batch, exactly but for rounding.
    """

    train_function: Any  # Keras': None until it is made

    def prepare_training(
        self,
        objective: Objective,
        seed: int,
        gradient_accumulation_steps: int = 1,
        micro_rows: int | None = None,
        whole: bool = False,
        target: Target | None = None,
        regularization: Regularization | None = None,
    ) -> None:
        """Says how to train; call before `compile`.

        Args:
          objective: the task.
          seed: of dropout.
          gradient_accumulation_steps: micro-batches of a step; each batch's row count is a multiple of it.
          micro_rows: rows of a micro-batch where batches have one shape; micro-batches without an example are not computed.
            None: each batch is cut into gradient_accumulation_steps micro-batches.
          target: the kind of device that the step is traced for; None: this machine's.
          whole: XLA compiles the step as one program. The gradients of embeddings are dense then: to find the rows that are
            listed twice XLA needs a loop over the tokens, one after the other, while its scatter adds them up at once.
          regularization: what a step does besides; None: nothing.

        Raises:
          UserError: R-Drop for a task that compares examples with each other.
        """
        self._regularization = regularization or Regularization()
        if self._regularization.r_drop_alpha and objective.compares_examples:
            raise UserError("train.r_drop_alpha: R-Drop is for tasks that judge each example by itself; set it to 0")
        self._objective, self._seed, self._accumulation_steps, self._whole = objective, seed, gradient_accumulation_steps, whole
        self._target, self._micro_rows = target or machine_target(), micro_rows

    @property
    def step_means(self) -> tuple[str, ...]:
        """The names of the means that a step reports: the loss, and what else the task logs."""
        return ("loss", *self._objective.logged)

    def make_train_function(self, force: bool = False) -> Callable[[Iterator], dict[str, tf.Tensor]]:
        """Returns what `fit` calls: `steps_per_execution` steps on the batches of an iterator.

        Keras' own reports the last of the steps; this one adds them all up, and tells how long they waited for their data.

        Returns:
          A function to {name: the mean over the steps, for each of `step_means`; "examples", "tokens", "cells",
          "data_wait_seconds": sums}, float32 [] each.
        """
        if self.train_function is not None and not force:
            return self.train_function
        replica_step = self.train_step
        if self._jit_compile:
            replica_step = tf.function(replica_step, jit_compile=True, reduce_retracing=True)

        def step(iterator):
            begun = tf.timestamp()
            with tf.control_dependencies([begun]):
                batch = iterator.get_next()
            with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
                waited = tf.cast(tf.timestamp() - begun, tf.float32)
            logs = self.distribute_strategy.run(replica_step, (batch,))
            # The numbers are sums over all replicas already: any one's do.
            local = {name: self.distribute_strategy.experimental_local_results(value)[0] for name, value in logs.items()}
            return {**local, "data_wait_seconds": waited}

        def steps(iterator):
            count = self._steps_per_execution
            none = dict.fromkeys((*self.step_means, *COUNTS, "data_wait_seconds"), tf.zeros([]))
            _, summed = tf.while_loop(
                lambda i, _: i < count,
                lambda i, summed: (i + 1, {name: summed[name] + value for name, value in step(iterator).items()}),
                (tf.zeros([], count.dtype), none),
                parallel_iterations=1,
            )
            return summed | {name: summed[name] / tf.cast(count, tf.float32) for name in self.step_means}

        # Keras lowers the count for a shorter last call, and never raises it: 1 needs no loop.
        several = self._steps_per_execution.numpy() > 1
        self.train_function = tf.function(steps if several else step, reduce_retracing=True, autograph=False)
        return self.train_function

    def train_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        """Makes one optimizer update.

        Returns:
          {name: weighted mean, for each of `step_means`; "examples", "tokens", "cells": what the step saw}, over all replicas.
        """
        with tracing_for(self._target):
            return self._train_step(batch)

    def _train_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        replica = replica_context()
        weights = self._objective.loss_weights(batch)
        cut, used_parts = self._micro_batches(batch)
        computed = 1.0 if cut is None else tf.cast(used_parts, tf.float32) / cut["segment_ids"].shape[0]
        segments = [value for name, value in batch.items() if name.endswith("segment_ids")]  # of each sequence
        counts = [
            tf.math.count_nonzero(batch["example_weights"], dtype=tf.float32),
            tf.add_n([tf.math.count_nonzero(value, dtype=tf.float32) for value in segments]),
            tf.add_n([tf.cast(tf.size(value), tf.float32) for value in segments]) * computed,
        ]
        # One vector: a reduction each would cost a round trip between machines for each of these numbers.
        sums = [tf.reduce_sum(values) for values in weights.values()]
        totals = tf.unstack(replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.stack([*sums, *counts])))
        scales = {part: tf.math.divide_no_nan(1.0, total) for part, total in zip(weights, totals, strict=False)}

        gradients, means = self._regularization.gradients(
            lambda: self._gradients(batch, cut, used_parts, replica, scales),
            self.trainable_variables,
            self._step_seed(NO_REPLICA),
        )
        used = [(g, variable) for g, variable in zip(gradients, self.trainable_variables, strict=True) if g is not None]
        if sums_gradients():
            used = [(replica.all_reduce(tf.distribute.ReduceOp.SUM, g), variable) for g, variable in used]
        self.optimizer.apply_gradients(used)
        means = tf.unstack(replica.all_reduce(tf.distribute.ReduceOp.SUM, means), num=len(self.step_means))
        return dict(zip((*self.step_means, *COUNTS), (*means, *totals[len(weights) :]), strict=True))

    def _gradients(self, batch: Batch, cut, used_parts, replica, scales: Tensors) -> tuple[list[Gradient | None], tf.Tensor]:
        """Returns this replica's share of the gradients, and of the means that a step reports (float32 [means]).

        Args:
          batch: whole.
          cut, used_parts: of `_micro_batches`.
          replica: its number, and how many there are.
          scales: 1 / Σ w of each part over the global batch.
        """
        number = replica.replica_id_in_sync_group
        if cut is None:
            gradients, means = self._micro_batch_gradients(batch, number, 0, scales)
            # Several replicas' gradients are added up: dense, as lists of rows would only grow.
            return (_dense(gradients) if self._whole or replica.num_replicas_in_sync > 1 else gradients), means
        if self._objective.compares_examples:
            return self._cached_gradients(batch, cut, used_parts, number, scales)
        parts = cut

        def part_gradients(i):
            part = {name: part[i] for name, part in parts.items()}
            gradients, means = self._micro_batch_gradients(part, number, i, scales)
            return _dense(gradients), means

        # Traced once to see which variables have a gradient, and not run: the loop holds the only copy of the model.
        found = tf.function(lambda: part_gradients(0), autograph=False).get_concrete_function().structured_outputs[0]
        used = [gradient is not None for gradient in found]

        def add(i, summed, means):
            gradients, more = part_gradients(i)
            gradients = [gradient for gradient in gradients if gradient is not None]
            return i + 1, [a + b for a, b in zip(summed, gradients, strict=True)], means + more

        sums = [tf.zeros_like(v) for v, is_used in zip(self.trainable_variables, used, strict=True) if is_used]
        none = tf.zeros([len(self.step_means)])
        _, summed, means = tf.while_loop(lambda i, *_: i < used_parts, add, (0, sums, none), parallel_iterations=1)
        rest = iter(summed)
        return [next(rest) if is_used else None for is_used in used], means

    def _cached_gradients(
        self, batch: Batch, parts, used_parts, replica, scales: Tensors
    ) -> tuple[list[Gradient | None], tf.Tensor]:
        """`_gradients` of a loss that compares examples, which needs the outputs of the whole batch at once.

        Gao et al. 2021 (arXiv:2101.06983), section 3.2: the outputs are computed without gradients, the loss gives the
        gradient of each output, and every micro-batch is computed again to carry its own into the weights. Dropout is a
        function of the step and the micro-batch, so both times are the same. The first micro-batch is computed once only:
        where the others are empty, nothing is computed twice.
        """
        rest = {name: value[1:] for name, value in parts.items()}
        count = parts["segment_ids"].shape[0] - 1

        def outputs_of(i):
            with self._random_scope(replica, i + 1):
                return self(self._inputs_of({name: value[i] for name, value in rest.items()}), training=True)

        with tf.GradientTape() as tape:
            with self._random_scope(replica, 0):
                first = self(self._inputs_of({name: value[0] for name, value in parts.items()}), training=True)
            with tape.stop_recording():
                none = {name: tf.zeros(tf.concat([[count], tf.shape(value)], 0), value.dtype) for name, value in first.items()}
                _, others = tf.while_loop(
                    lambda i, _: i < used_parts - 1,
                    lambda i, found: (i + 1, {name: _with_part(found[name], i, one) for name, one in outputs_of(i).items()}),
                    (0, none),
                    parallel_iterations=1,
                )
            tape.watch(others)
            whole = {name: _joined(value, others[name]) for name, value in first.items()}
            objective, means = self._objective_of(batch, whole, scales)
            objective = self._scaled(objective)
        variables = self.trainable_variables
        gradients, of_others = tape.gradient(objective, (variables, others))
        gradients = _dense(gradients)
        used = [number for number, gradient in enumerate(gradients) if gradient is not None]

        def add(i, *summed):
            with tf.GradientTape() as again:
                outputs = outputs_of(i)
                share = tf.add_n([tf.reduce_sum(outputs[name] * g[i]) for name, g in of_others.items() if g is not None])
            more = again.gradient(share, [variables[number] for number in used])
            return i + 1, *[a + tf.convert_to_tensor(b) for a, b in zip(summed, more, strict=True)]

        begun = (0, *[gradients[number] for number in used])
        _, *summed = tf.while_loop(lambda i, *_: i < used_parts - 1, add, begun, parallel_iterations=1)
        for number, gradient in zip(used, summed, strict=True):
            gradients[number] = gradient
        return self._unscaled(gradients), means

    def _step_seed(self, replica, micro_batch=0) -> tf.Tensor:
        return step_seed(self._seed, self.optimizer.iterations, replica, micro_batch)

    def _random_scope(self, replica, micro_batch) -> contextlib.AbstractContextManager[None]:
        return random_scope(self._step_seed(replica, micro_batch), self._step_seed(NO_REPLICA))

    def _micro_batches(self, batch: Batch) -> tuple[dict[str, tf.Tensor] | None, int | tf.Tensor]:
        """Returns a batch cut into micro-batches, [parts, rows, ...], and how many of them to compute; None: it is one."""
        if self._micro_rows is None:
            count = self._accumulation_steps
            return (None, 1) if count == 1 else ({name: _in_parts(value, count) for name, value in batch.items()}, count)
        rows = batch["segment_ids"].shape[0]
        if rows == self._micro_rows:
            return None, 1
        parts = {name: _in_parts(value, rows // self._micro_rows) for name, value in batch.items()}
        # Packing fills rows from the first one on: the last part that holds a token decides.
        is_used = tf.reduce_any(parts["segment_ids"] > 0, axis=[1, 2])
        last = tf.reduce_max(tf.where(is_used, tf.range(1, rows // self._micro_rows + 1), 1))
        return parts, last

    def _micro_batch_gradients(self, batch: Batch, replica, number, scales: Tensors):
        """Returns (∇ of the sum over parts of Σ w·l · scale, the micro-batch's share of the means)."""
        with tf.GradientTape() as tape, self._random_scope(replica, number):
            inputs = self._inputs_of(batch)
            outputs = self(inputs, training=True)
            objective, means = self._objective_of(batch, outputs, scales)
            if self._regularization.r_drop_alpha:
                again = self(inputs, training=True)  # the scope's next draws: other elements are dropped
                objective = (objective + self._objective_of(batch, again, scales)[0]) / 2
                objective += self._regularization.r_drop_alpha * self._divergence_of(batch, outputs, again, scales)
            objective = self._scaled(objective)
        return self._unscaled(tape.gradient(objective, self.trainable_variables)), means

    def _objective_of(self, batch: Batch, outputs: Tensors, scales: Tensors) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns (the sum over parts of Σ w·l · scale, the batch's share of the means)."""
        weights = self._objective.loss_weights(batch)
        # The losses are scaled, not the gradients: one number instead of a pass over all of them.
        losses, measures = self._objective.loss(batch, outputs)
        parts = {part: tf.reduce_sum(values * weights[part]) * scales[part] for part, values in losses.items()}
        loss = tf.add_n(list(parts.values()))
        known = {"loss": loss} | {f"{part}_loss": value for part, value in parts.items()}
        known |= {name: tf.reduce_sum(values * weights[part]) * scales[part] for name, (part, values) in measures.items()}
        means = tf.stack([known[name] for name in self.step_means])
        return loss, means

    def _divergence_of(self, batch: Batch, first: Tensors, second: Tensors, scales: Tensors) -> tf.Tensor:
        weights = self._objective.loss_weights(batch)
        parts = self._objective.divergence(batch, first, second)
        return tf.add_n([tf.reduce_sum(values * weights[part]) * scales[part] for part, values in parts.items()])

    def _scaled(self, objective: tf.Tensor) -> tf.Tensor:
        """Returns an objective times float16's loss scale."""
        return self.optimizer.get_scaled_loss(objective) if self._scales_loss else objective

    @property
    def _scales_loss(self) -> bool:
        return isinstance(self.optimizer, keras.mixed_precision.LossScaleOptimizer)

    def _unscaled(self, gradients: list[Gradient | None]) -> list[Gradient | None]:
        return self.optimizer.get_unscaled_gradients(gradients) if self._scales_loss else gradients

    def outputs_for(self, batch: Batch) -> dict[str, tf.Tensor]:
        """Returns the outputs without dropout, float32."""
        return {name: tf.cast(value, tf.float32) for name, value in self(self._inputs_of(batch), training=False).items()}

    def _inputs_of(self, batch: Batch) -> dict[str, tf.Tensor]:
        return {name: batch[name] for name in self.input_names}


def _in_parts(values: tf.Tensor, count: int) -> tf.Tensor:
    """[rows, ...] → [count, rows / count, ...], whatever of it is known when the graph is built."""
    if values.shape.is_fully_defined():
        return tf.reshape(values, [count, values.shape[0] // count, *values.shape[1:]])
    cut = tf.reshape(values, tf.concat([[count, -1], tf.shape(values)[1:]], axis=0))
    return tf.ensure_shape(cut, [count, None, *values.shape[1:]])


def _with_part(found: tf.Tensor, place: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    """Returns `found`, [parts, ...], with a value at a place of it."""
    return tf.tensor_scatter_nd_update(found, tf.reshape(place, [1, 1]), value[None])


def _joined(first: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """[rows, ...] and [parts - 1, rows, ...] → [parts · rows, ...]."""
    joined = tf.concat([first[None], others], 0)
    rows = None if first.shape[0] is None else first.shape[0] * joined.shape[0]
    flat = tf.reshape(joined, tf.concat([[-1], tf.shape(first)[1:]], 0))
    return tf.ensure_shape(flat, [rows, *first.shape[1:]])


def _dense(gradients: list[Gradient | None]) -> list[tf.Tensor | None]:
    return [None if gradient is None else tf.convert_to_tensor(gradient) for gradient in gradients]
