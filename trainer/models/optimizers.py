"""AdamW as BERT is trained with it: no decay on biases and LayerNorm, clipping by global norm, rates by depth."""

from collections.abc import Callable, Sequence

import tensorflow as tf
import tf_keras as keras


class AdamW(keras.optimizers.Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), bias-corrected.

    Args:
      learning_rate: float or schedule.
      weight_decay: multiplies matrices only; vectors (biases, LayerNorm) are exempt, as in google-research/bert.
      beta_1, beta_2, epsilon: Adam's.
      max_gradient_norm: gradients are scaled so that their norm over all variables is at most this; 0 for none.
      rate_of: gives each variable's multiple of the learning rate, for layer-wise decay.
      ema_decay_rate: over 0, an exponential moving average of the weights is kept.
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
        ema_decay_rate: float = 0.0,
    ):
        super().__init__(name="adamw", jit_compile=False)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.decay_rate = weight_decay  # Keras' own `weight_decay` would decay in a pass of its own
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.max_gradient_norm = max_gradient_norm
        self.ema_decay_rate = ema_decay_rate
        self._rate_of = rate_of or (lambda variable: 1.0)

    def build(self, variables: Sequence[tf.Variable]) -> None:
        """Creates the moments (and averages) of the variables."""
        if getattr(self, "_built", False):
            return
        super().build(variables)
        self.first_moments = [self.add_variable_from_reference(v, "m") for v in variables]
        self.second_moments = [self.add_variable_from_reference(v, "v") for v in variables]
        self.variable_names = [variable.name.removesuffix(":0") for variable in variables]
        self.averages = []
        if self.ema_decay_rate:
            self.averages = [self.add_variable_from_reference(v, "average", initial_value=v) for v in variables]
        self._built = True

    def _clip_gradients(self, grads: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        # The gradient of a gather lists a row once for each use: summed first, so that norm and moments are the dense ones.
        dense = [tf.convert_to_tensor(gradient) for gradient in grads]
        return tf.clip_by_global_norm(dense, self.max_gradient_norm)[0] if self.max_gradient_norm else dense

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """Updates one variable and its moments."""
        place = self._index_dict[self._var_key(variable)]
        first, second = self.first_moments[place], self.second_moments[place]
        step = tf.cast(self.iterations + 1, variable.dtype)
        rate = tf.cast(self.learning_rate, variable.dtype) * self._rate_of(variable)
        beta_2_power = tf.pow(tf.cast(self.beta_2, variable.dtype), step)
        if self.decay_rate and variable.shape.rank > 1:
            variable.assign_sub(rate * self.decay_rate * variable)
        # One kernel reads and writes everything once. It adds epsilon to sqrt(v) uncorrected, the algorithm to the
        # corrected one: epsilon takes the correction instead.
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=first.handle,
            v=second.handle,
            beta1_power=tf.pow(tf.cast(self.beta_1, variable.dtype), step),
            beta2_power=beta_2_power,
            lr=rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon * tf.sqrt(1.0 - beta_2_power),
            grad=gradient,
        )
        if self.averages:
            average = self.averages[place]
            average.assign_add((variable - average) * (1.0 - self.ema_decay_rate))

    def named_slots(self) -> dict[str, tf.Variable]:
        """Returns {slot name: variable} of everything a checkpoint must hold; names follow the variables'."""
        slots = {"iterations": self.iterations}
        kinds = {"m": self.first_moments, "v": self.second_moments, "average": self.averages}
        for kind, variables in kinds.items():
            slots |= {f"{kind}/{name}": slot for name, slot in zip(self.variable_names, variables, strict=False)}
        return slots

    def swap_averages(self, variables: Sequence[tf.Variable]) -> None:
        """Exchanges weights and averages; a second call puts them back. Without averages it does nothing."""
        for variable, average in zip(variables, self.averages, strict=False):
            value = tf.identity(variable)
            variable.assign(average)
            average.assign(value)

    def get_config(self) -> dict:
        raise NotImplementedError("an optimizer is rebuilt from the run's config.yaml, not from its own")


def layerwise_rates(depth_of: Callable[[str], int], depths: int, decay_rate: float) -> Callable[[tf.Variable], float] | None:
    """Returns each variable's multiple of the learning rate: decay_rate for each layer below the head.

    Source: ELECTRA's `optimization.py` (`_get_layer_lrs`); 1.0 switches it off.
    """
    if decay_rate == 1.0:
        return None
    return lambda variable: decay_rate ** (depths - depth_of(variable.name))
