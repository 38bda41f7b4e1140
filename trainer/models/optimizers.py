"""AdamW and LAMB as BERT is trained with them: no decay on biases and LayerNorm, clipping by global norm, rates by depth."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import tensorflow as tf
import tf_keras as keras

from trainer.runtime.fusion import compiled

Gradient: TypeAlias = tf.Tensor | tf.IndexedSlices


class AdamW(keras.optimizers.Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), bias-corrected.

    Args:
      learning_rate: float or schedule.
      weight_decay: multiplies matrices only; vectors (biases, LayerNorm) are exempt, as in google-research/bert.
      beta_1, beta_2, epsilon: Adam's.
      max_gradient_norm: gradients are scaled so that their norm over all variables is at most this; 0 for none.
      rate_of: gives each variable's multiple of the learning rate, for layer-wise decay.
      average_rate: where averages of the weights are kept: gives how far they go to the weights in an update, by the number
        of updates before it, int64 []; see `exponential_average` and `stochastic_average`.
      frozen_until: gives the number of updates before which a variable stays as it is.
      update_at_once: updates everything in one operation instead of the programs here, see `EncoderKernels.adamw_update`.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
        weight_decay: float = 0.01,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        max_gradient_norm: float = 1.0,
        rate_of: Callable[[tf.Variable], float] | None = None,
        average_rate: Callable[[tf.Tensor], tf.Tensor] | None = None,
        frozen_until: Callable[[tf.Variable], int] | None = None,
        update_at_once: Callable[..., None] | None = None,
    ):
        super().__init__(name="adamw", weight_decay=None, jit_compile=False)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.decay_rate = weight_decay  # Keras' own, `weight_decay`, would take a pass of its own
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.max_gradient_norm = max_gradient_norm
        self._average_rate, self._frozen_until = average_rate, frozen_until
        self._rate_of = rate_of or (lambda variable: 1.0)
        self._update_at_once = update_at_once

    def build(self, variables: Sequence[tf.Variable]) -> None:
        """Creates the moments (and averages) of the variables."""
        if getattr(self, "_built", False):
            return
        super().build(variables)
        self.first_moments = [self.add_variable_from_reference(v, "m") for v in variables]
        self.second_moments = [self.add_variable_from_reference(v, "v") for v in variables]
        self.variable_names = [variable.name.removesuffix(":0") for variable in variables]
        self.averages = []
        if self._average_rate is not None:
            self.averages = [self.add_variable_from_reference(v, "average", initial_value=v) for v in variables]
        self._built = True

    def _clip_gradients(self, grads: Sequence[Gradient]) -> Sequence[Gradient]:
        return grads  # the update clips: as a factor inside its first program, not as a pass over memory

    def _deduplicate_sparse_grad(self, grads: Sequence[Gradient]) -> list[Gradient]:
        # The gradient of a gather lists a row once for each use: summed first, so that norm and moments are the dense ones.
        return [_summed_rows(gradient) if isinstance(gradient, tf.IndexedSlices) else gradient for gradient in grads]

    def _distributed_apply_gradients_fn(self, distribution, grads_and_vars, **kwargs) -> None:
        """Updates all variables of a device in one call: the compiled programs take them together."""
        gradients, variables = zip(*grads_and_vars, strict=True)
        places = [self._index_dict[self._var_key(variable)] for variable in variables]
        slots = [[kind[place] for place in places] for kind in (self.first_moments, self.second_moments)]
        averages = [self.averages[place] for place in places] if self.averages else []
        multiples = [self._rate_of(variable) for variable in variables]
        begins = None if self._frozen_until is None else [self._frozen_until(variable) for variable in variables]

        def update(_, gradients, variables, first, second, averages):
            rates = tf.constant(multiples)
            if begins is not None:
                trains = tf.cast(self.iterations >= tf.constant(begins, self.iterations.dtype), tf.float32)
                gradients = [_times(gradient, one) for gradient, one in zip(gradients, tf.unstack(trains), strict=True)]
                rates *= trains
            if self._update_at_once is not None:
                self._update_at_once(self, gradients, variables, first, second, averages, rates)
                return
            self._update_moments(gradients, self._clipping_factor(gradients), first, second)
            self._update_weights(variables, first, second, rates)
            if averages:
                self._update_averages(variables, averages, self.average_rate())

        distribution.extended.update(variables[0], update, args=(gradients, variables, *slots, averages), group=False)
        self.iterations.assign_add(1)

    def _clipping_factor(self, gradients):
        if not self.max_gradient_norm:
            return tf.ones([])
        norm = tf.linalg.global_norm(gradients)
        return tf.math.divide_no_nan(self.max_gradient_norm, tf.maximum(norm, self.max_gradient_norm))

    # The moments are changed first, in a program of their own: in one with the weights XLA would read their old values, and
    # copy what it could change in place. The new weights are returned, not assigned inside: XLA does not vectorize a loop
    # that writes where it reads, and then the square root is slow (11.7 M weights: 13 ms assigned inside, 5 ms returned).

    def _update_moments(self, gradients, factor, first, second):
        is_dense = [isinstance(gradient, tf.Tensor) for gradient in gradients]
        dense = [gradient for gradient in gradients if isinstance(gradient, tf.Tensor)]
        self._decay_and_add(dense, factor, is_dense, first, second)
        for gradient, m, v in zip(gradients, first, second, strict=True):
            if isinstance(gradient, tf.IndexedSlices):
                # Rows without a gradient have decayed; the few others get the same sum as in the dense update.
                values = gradient.values * factor
                m.scatter_add(tf.IndexedSlices((1.0 - self.beta_1) * values, gradient.indices))
                v.scatter_add(tf.IndexedSlices((1.0 - self.beta_2) * tf.square(values), gradient.indices))

    @compiled
    def _decay_and_add(self, gradients, factor, is_dense, first, second):
        gradients = iter(gradients)
        for dense, m, v in zip(is_dense, first, second, strict=True):
            decayed_m, decayed_v = self.beta_1 * m, self.beta_2 * v
            if dense:
                gradient = next(gradients) * factor
                decayed_m += (1.0 - self.beta_1) * gradient
                decayed_v += (1.0 - self.beta_2) * tf.square(gradient)
            m.assign(decayed_m)
            v.assign(decayed_v)

    def _update_weights(self, variables, first, second, rates):
        moved = self._moved(variables, first, second, self.learning_rate, *self.corrections(), tf.unstack(rates))
        for variable, value in zip(variables, moved, strict=True):
            variable.assign(value)

    def corrections(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns a and e of m·a / (√v + e), which is m / c1 / (√(v / c2) + epsilon): the corrections out of the loop."""
        step = tf.cast(self.iterations + 1, tf.float32)
        correction_1, correction_2 = (1.0 - tf.pow(tf.constant(beta), step) for beta in (self.beta_1, self.beta_2))
        root = tf.sqrt(correction_2)
        return root / correction_1, self.epsilon * root

    @compiled
    def _moved(self, variables, first, second, learning_rate, correction, epsilon, rates):
        moved = []
        for variable, m, v, rate in zip(variables, first, second, rates, strict=True):
            direction = m / (tf.sqrt(v) + epsilon) * correction
            if self.decay_rate and variable.shape.rank > 1:
                direction += self.decay_rate * variable
            moved.append(variable - learning_rate * rate * self._trust_ratio(variable, direction) * direction)
        return moved

    def _trust_ratio(self, variable, direction):
        return 1.0

    @compiled
    def _update_averages(self, variables, averages, rate):
        for variable, average in zip(variables, averages, strict=True):
            average.assign(average + (variable - average) * rate)

    def average_rate(self) -> tf.Tensor:
        """Returns how far the averages go to the weights in this update, float32 []; 0 where none are kept."""
        return tf.zeros([]) if self._average_rate is None else self._average_rate(self.iterations)

    def named_slots(self) -> dict[str, tf.Variable]:
        """Returns {slot name: variable} of everything a checkpoint must hold; names follow the variables'."""
        slots = {"iterations": self.iterations}
        kinds = {"m": self.first_moments, "v": self.second_moments, "average": self.averages}
        for kind, variables in kinds.items():
            slots |= {f"{kind}/{name}": slot for name, slot in zip(self.variable_names, variables, strict=False)}
        return slots

    def rate_variables(self) -> list[tf.Variable]:
        """Returns the variables that `learning_rate` reads."""
        return [self.iterations, self._current_learning_rate] if hasattr(self, "_current_learning_rate") else [self.iterations]

    def swap_averages(self, variables: Sequence[tf.Variable]) -> None:
        """Exchanges weights and averages; a second call puts them back. Without averages it does nothing."""
        for variable, average in zip(variables, self.averages, strict=False):
            value = tf.identity(variable)
            variable.assign(average)
            average.assign(value)

    def get_config(self) -> dict:
        raise NotImplementedError("an optimizer is rebuilt from the run's config.yaml, not from its own")


class Lamb(AdamW):
    """Adam whose step for each matrix is as long as the matrix' norm says, for batches of tens of thousands.

    Source: You et al. 2020 (arXiv:1904.00962), algorithm 2, φ the identity. Biases and LayerNorm, which take no decay, keep
    Adam's step, as in google-research/albert's lamb_optimizer.py. Arguments as AdamW's.
    """

    def __init__(self, *args, update_at_once: Callable[..., None] | None = None, **keywords):
        super().__init__(*args, **keywords)  # a step's length needs the norms of whole matrices first: no single pass

    def _trust_ratio(self, variable, direction):
        if variable.shape.rank < 2:
            return 1.0
        size, step = tf.norm(variable), tf.norm(direction)
        return tf.where((size > 0.0) & (step > 0.0), tf.math.divide_no_nan(size, step), 1.0)


OPTIMIZERS = {"adamw": AdamW, "lamb": Lamb}


def _summed_rows(gradient: tf.IndexedSlices) -> tf.IndexedSlices:
    """Adds up the values of equal rows: [uses, width] → [rows that were used, width]."""
    rows, place = tf.unique(gradient.indices)
    summed = tf.math.unsorted_segment_sum(gradient.values, place, tf.size(rows))
    return tf.IndexedSlices(summed, rows, gradient.dense_shape)


def _times(gradient: Gradient, factor: tf.Tensor) -> Gradient:
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(gradient.values * factor, gradient.indices, gradient.dense_shape)
    return gradient * factor


def exponential_average(decay: float) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the rate of an exponential moving average, for `AdamW`."""
    return lambda _: tf.constant(1.0 - decay)


def stochastic_average(first: int, every: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the rate of the mean of the weights after `first` updates and after every `every` from there on, for `AdamW`.

    Source: SWA, Izmailov et al. 2018 (arXiv:1803.05407), algorithm 1. Before that the averages are the weights.
    """

    def rate(updates: tf.Tensor) -> tf.Tensor:
        past = tf.cast(updates, tf.int32) + 1 - first
        models = past // every + 1
        joins = tf.where(past % every == 0, 1.0 / tf.cast(tf.maximum(models, 1), tf.float32), 0.0)
        return tf.where(past <= 0, 1.0, joins)

    return rate


def gradual_unfreezing(depth_of: Callable[[str], int], depths: int, every: int) -> Callable[[tf.Variable], int]:
    """Returns the update at which each variable begins to train, for `AdamW`: the head at once, then a layer more at a time.

    Source: Howard and Ruder 2018 (arXiv:1801.06146), section 3.3.

    Args:
      depth_of: by the variable's name, 0 for the embeddings up to `depths` for the head.
      depths: of the head.
      every: updates from one layer to the next one below it.
    """
    return lambda variable: (depths - depth_of(variable.name)) * every


def layerwise_rates(depth_of: Callable[[str], int], depths: int, decay_rate: float) -> Callable[[tf.Variable], float] | None:
    """Returns each variable's multiple of the learning rate: decay_rate for each layer below the head.

    Source: ELECTRA's `optimization.py` (`_get_layer_lrs`); 1.0 switches it off.
    """
    if decay_rate == 1.0:
        return None
    return lambda variable: decay_rate ** (depths - depth_of(variable.name))
