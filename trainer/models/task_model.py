"""The Keras model of a task: functional, trained by `fit`, its step normalized over the whole global batch."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf
import tf_keras as keras

from trainer.models.optimizers import Gradient
from trainer.runtime.randomness import random_scope, step_seed

Batch = Mapping[str, tf.Tensor]
STEP_NUMBERS = ("loss", "examples", "tokens", "cells")  # of one step, over all replicas
TaskLoss = Callable[[Batch, Mapping[str, tf.Tensor]], tuple[tf.Tensor, tf.Tensor]]


class TaskModel(keras.Model):
    """A functional model whose train step sums weighted losses and divides once, by the global batch's weight.

    The gradient is ∇ Σ w·l / Σ w, both sums over all examples of the step, whatever replica and micro-batch they lie in.
    So one replica equals two, and accumulation equals the large batch, exactly but for rounding.
    """

    train_function: Any  # Keras': None until it is made

    def prepare_training(self, loss: TaskLoss, seed: int, accumulation_steps: int = 1) -> None:
        """Says how to train; call before `compile`.

        Args:
          loss: the task's.
          seed: of dropout.
          accumulation_steps: micro-batches of a step; each batch's row count is a multiple of it.
        """
        self._loss, self._seed, self._accumulation_steps = loss, seed, accumulation_steps

    def make_train_function(self, force: bool = False) -> Callable[[Iterator], dict[str, tf.Tensor]]:
        """Returns what `fit` calls: `steps_per_execution` steps on the batches of an iterator.

        Keras' own reports the last of the steps; this one adds them all up, and tells how long they waited for their data.

        Returns:
          A function to {"loss": the mean of the steps' losses; "examples", "tokens", "cells", "data_wait_seconds": sums},
          float32 [] each.
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
            none = dict.fromkeys((*STEP_NUMBERS, "data_wait_seconds"), tf.zeros([]))
            _, summed = tf.while_loop(
                lambda i, _: i < count,
                lambda i, summed: (i + 1, {name: summed[name] + value for name, value in step(iterator).items()}),
                (tf.zeros([], count.dtype), none),
                parallel_iterations=1,
            )
            return {**summed, "loss": summed["loss"] / tf.cast(count, tf.float32)}

        # Keras lowers the count for a shorter last call, and never raises it: 1 needs no loop.
        several = self._steps_per_execution.numpy() > 1
        self.train_function = tf.function(steps if several else step, reduce_retracing=True, autograph=False)
        return self.train_function

    def train_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        """Makes one optimizer update.

        Returns:
          {"loss": the weighted mean; "examples", "tokens", "cells": what the step saw}, over all replicas.
        """
        replica = tf.distribute.get_replica_context()
        counts = [
            tf.math.count_nonzero(batch["example_weights"], dtype=tf.float32),
            tf.math.count_nonzero(batch["segment_ids"], dtype=tf.float32),
            tf.cast(tf.size(batch["segment_ids"]), tf.float32),
        ]
        totals: list[tf.Tensor] = []

        def scale_of(loss, weight):
            # One vector: a reduction each would cost a round trip between machines for each of these numbers.
            totals.extend(tf.unstack(replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.stack([loss, weight, *counts]))))
            return tf.math.divide_no_nan(1.0, totals[1])

        gradients = self._gradients(batch, replica, scale_of)
        used = [(g, variable) for g, variable in zip(gradients, self.trainable_variables, strict=True) if g is not None]
        self.optimizer.apply_gradients(used)
        loss, weight, examples, tokens, cells = totals
        return dict(zip(STEP_NUMBERS, (tf.math.divide_no_nan(loss, weight), examples, tokens, cells), strict=True))

    def _gradients(self, batch: Batch, replica, scale_of) -> list[Gradient | None]:
        """Returns ∇ Σ w·l · scale of this replica's part of the batch.

        Args:
          scale_of: gives the scale from this part's (Σ w·l, Σ w), once both are known.
        """
        number, steps = replica.replica_id_in_sync_group, self._accumulation_steps
        if steps == 1:
            gradients, _ = self._micro_batch_gradients(batch, number, 0, scale_of)
            # Several replicas' gradients are added up: dense, as lists of rows would only grow.
            return gradients if replica.num_replicas_in_sync == 1 else _dense(gradients)
        parts = {name: tf.reshape(value, [steps, -1, *value.shape[1:]]) for name, value in batch.items()}
        size = tf.cast(tf.size(batch["example_weights"]), tf.float32)  # near enough to Σ w that float16 does not overflow

        def part_gradients(i):
            part = {name: part[i] for name, part in parts.items()}
            gradients, totals = self._micro_batch_gradients(part, number, i, lambda loss, weight: 1.0 / size)
            return _dense(gradients), totals

        first, totals = part_gradients(0)
        used = [gradient is not None for gradient in first]

        def add(i, summed, totals):
            gradients, more = part_gradients(i)
            return i + 1, _added(summed, [gradient for gradient in gradients if gradient is not None]), _added(totals, more)

        summed = [gradient for gradient in first if gradient is not None]
        _, summed, totals = tf.while_loop(lambda i, *_: i < steps, add, (1, summed, totals), parallel_iterations=1)
        scale = scale_of(*totals) * size
        rest = iter(summed)
        return [next(rest) * scale if is_used else None for is_used in used]

    def _micro_batch_gradients(self, batch: Batch, replica, number, scale_of):
        """Returns (∇ Σ w·l · scale, [Σ w·l, Σ w])."""
        seed = step_seed(self._seed, self.optimizer.iterations, replica, number)
        scaled = isinstance(self.optimizer, keras.mixed_precision.LossScaleOptimizer)
        with tf.GradientTape() as tape, random_scope(seed):
            losses, weights = self._loss(batch, self(self._inputs_of(batch), training=True))
            loss, weight = tf.reduce_sum(losses * weights), tf.reduce_sum(weights)
            # The loss is scaled, not the gradients: one number instead of a pass over all of them.
            objective = loss * tf.stop_gradient(scale_of(loss, weight))
            objective = self.optimizer.get_scaled_loss(objective) if scaled else objective
        gradients = tape.gradient(objective, self.trainable_variables)
        return self.optimizer.get_unscaled_gradients(gradients) if scaled else gradients, [loss, weight]

    def outputs_for(self, batch: Batch) -> dict[str, tf.Tensor]:
        """Returns the outputs without dropout, float32."""
        return {name: tf.cast(value, tf.float32) for name, value in self(self._inputs_of(batch), training=False).items()}

    def _inputs_of(self, batch: Batch) -> dict[str, tf.Tensor]:
        return {name: batch[name] for name in self.input_names}


def _dense(gradients: list[Gradient | None]) -> list[tf.Tensor | None]:
    return [None if gradient is None else tf.convert_to_tensor(gradient) for gradient in gradients]


def _added(left: list[tf.Tensor], right: list[tf.Tensor]) -> list[tf.Tensor]:
    return [a + b for a, b in zip(left, right, strict=True)]
