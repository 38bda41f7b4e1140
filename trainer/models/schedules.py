"""Learning-rate schedules: linear warm-up, then decay."""

import math
from typing import Literal

import tensorflow as tf
import tf_keras as keras

Decay = Literal["linear", "cosine", "polynomial", "constant"]


class WarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to the peak, then a decay that reaches 0 behind the last step ("constant" stays at the peak).

    With "linear" this is transformers' `get_linear_schedule_with_warmup`, one step ahead in the warm-up: its first step takes
    1/warmup_steps of the peak, not 0, so no step is without effect. google-research/bert's optimization.py differs: there the
    decay counts from step 0, so that the learning rate jumps down at the end of the warm-up.

    Args:
      peak: the peak learning rate.
      warmup_steps, total_steps: step counts.
      decay: "linear"; "cosine" (Loshchilov and Hutter 2017, half a period); "polynomial" (linear to the power); "constant".
      power: of the polynomial.
    """

    def __init__(self, peak: float, warmup_steps: int, total_steps: int, decay: Decay = "linear", power: float = 2.0):
        self.peak, self.warmup_steps, self.total_steps = peak, warmup_steps, total_steps
        self.decay, self.power = decay, power

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the rate, float32 [], of the update that follows `step` earlier ones."""
        step = tf.cast(step, tf.float32)
        progress = (step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1)
        progress = tf.clip_by_value(progress, 0.0, 1.0)
        remaining = {
            "linear": lambda: 1.0 - progress,
            "cosine": lambda: 0.5 * (1.0 + tf.cos(math.pi * progress)),
            "polynomial": lambda: (1.0 - progress) ** self.power,
            "constant": lambda: tf.ones_like(progress),
        }[self.decay]()
        decayed = self.peak * remaining
        warming = self.peak * (step + 1.0) / max(self.warmup_steps, 1)
        return tf.where(step < self.warmup_steps, warming, decayed)

    def get_config(self) -> dict:
        return dict(vars(self))
