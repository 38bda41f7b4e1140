"""The Keras model of a task: functional, trained by `fit`, its step normalized over the whole global batch."""

from collections.abc import Callable, Mapping

import tensorflow as tf
import tf_keras as keras

from trainer.runtime.randomness import random_scope, step_seed

Batch = Mapping[str, tf.Tensor]
TaskLoss = Callable[[Batch, Mapping[str, tf.Tensor]], tuple[tf.Tensor, tf.Tensor]]


class TaskModel(keras.Model):
    """A functional model whose train step sums weighted losses and divides once, by the global batch's weight.

    The gradient is ∇ Σ w·l / Σ w, both sums over all examples of the step, whatever replica and micro-batch they lie in.
    So one replica equals two, and accumulation equals the large batch, exactly but for rounding.
    """

    def prepare_training(self, loss: TaskLoss, seed: int, accumulation_steps: int = 1) -> None:
        """Says how to train; call before `compile`.

        Args:
          loss: the task's.
          seed: of dropout.
          accumulation_steps: micro-batches of a step; each batch's row count is a multiple of it.
        """
        self._loss, self._seed, self._accumulation_steps = loss, seed, accumulation_steps
        # The step's numbers are sums over all replicas already: Keras must take one replica's, not add them up again.
        self.distribute_reduction_method = "first"

    def train_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        """Makes one optimizer update.

        Returns:
          {"loss": the weighted mean; "examples", "tokens", "cells": what the step saw}, over all replicas.
        """
        replica = tf.distribute.get_replica_context()
        gradients, loss, weight = self._summed_gradients(batch, replica.replica_id_in_sync_group)
        counts = [
            tf.math.count_nonzero(batch["example_weights"], dtype=tf.float32),
            tf.math.count_nonzero(batch["segment_ids"], dtype=tf.float32),
            tf.cast(tf.size(batch["segment_ids"]), tf.float32),
        ]
        # One vector: a reduction each would cost a round trip between machines for each of these numbers.
        totals = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.stack([loss, weight, *counts]))
        loss, weight, examples, tokens, cells = tf.unstack(totals)
        scale = tf.math.divide_no_nan(1.0, weight)
        used = [(g, variable) for g, variable in zip(gradients, self.trainable_variables, strict=True) if g is not None]
        self.optimizer.apply_gradients([(gradient * scale, variable) for gradient, variable in used])
        return {"loss": loss * scale, "examples": examples, "tokens": tokens, "cells": cells}

    def _summed_gradients(self, batch: Batch, replica) -> tuple[list[tf.Tensor | None], tf.Tensor, tf.Tensor]:
        """Returns (∇ Σ w·l, Σ w·l, Σ w) of this replica's part of the batch."""
        if self._accumulation_steps == 1:
            return self._micro_batch_gradients(batch, replica, 0)
        steps = self._accumulation_steps
        parts = {name: tf.reshape(value, [steps, -1, *value.shape[1:]]) for name, value in batch.items()}
        first, *totals = self._micro_batch_gradients({name: part[0] for name, part in parts.items()}, replica, 0)
        used = [gradient is not None for gradient in first]
        summed = [gradient for gradient in first if gradient is not None]

        def add(i, summed, totals):
            gradients, *more = self._micro_batch_gradients({name: part[i] for name, part in parts.items()}, replica, i)
            gradients = [gradient for gradient, is_used in zip(gradients, used, strict=True) if is_used]
            return i + 1, _added(summed, gradients), _added(totals, more)

        _, summed, totals = tf.while_loop(lambda i, *_: i < steps, add, (1, summed, totals), parallel_iterations=1)
        rest = iter(summed)
        return [next(rest) if is_used else None for is_used in used], *totals

    def _micro_batch_gradients(self, batch: Batch, replica, number):
        seed = step_seed(self._seed, self.optimizer.iterations, replica, number)
        scaled = isinstance(self.optimizer, keras.mixed_precision.LossScaleOptimizer)
        with tf.GradientTape() as tape, random_scope(seed):
            losses, weights = self._loss(batch, self(self._inputs_of(batch), training=True))
            loss = tf.reduce_sum(losses * weights)
            # float16: the mean, not the sum, times the loss scale, so that a large batch does not overflow.
            size = tf.cast(tf.size(losses), tf.float32) if scaled else 1.0
            objective = self.optimizer.get_scaled_loss(loss / size) if scaled else loss
        gradients = tape.gradient(objective, self.trainable_variables)
        if scaled:
            gradients = self.optimizer.get_unscaled_gradients(gradients)
        dense = [None if gradient is None else tf.convert_to_tensor(gradient) * size for gradient in gradients]
        return dense, loss, tf.reduce_sum(weights)

    def outputs_for(self, batch: Batch) -> dict[str, tf.Tensor]:
        """Returns the outputs without dropout, float32."""
        return {name: tf.cast(value, tf.float32) for name, value in self(self._inputs_of(batch), training=False).items()}

    def _inputs_of(self, batch: Batch) -> dict[str, tf.Tensor]:
        return {name: batch[name] for name in self.input_names}


def _added(left: list[tf.Tensor], right: list[tf.Tensor]) -> list[tf.Tensor]:
    return [a + b for a, b in zip(left, right, strict=True)]
