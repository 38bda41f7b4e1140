"""Randomness as a function of (seed, step, place): a resumed run draws what the undisturbed run would have drawn."""

import contextlib
import math
from collections.abc import Iterator

import tensorflow as tf

from trainer.data.hashing import mixed

_active: list["_Draws"] = []


class _Draws:
    """Numbers the draws in the order in which the graph is built, so that each place has a stream of its own."""

    def __init__(self, seed: tf.Tensor, shared: tf.Tensor):
        self._seed, self.shared = seed, shared
        self._count = 0

    def next_seed(self) -> tf.Tensor:
        self._count += 1
        return folded(self._seed, self._count)


@contextlib.contextmanager
def random_scope(seed: tf.Tensor, shared: tf.Tensor | None = None) -> Iterator[None]:
    """Makes `seed` the source of all dropout inside the scope.

    Args:
      seed: int32 [2], of the replica's micro-batch.
      shared: int32 [2], the step's own, the same on all replicas and for all micro-batches; by default `seed`.
    """
    _active.append(_Draws(seed, seed if shared is None else shared))
    try:
        yield
    finally:
        _active.pop()


def step_seed(seed: int, step: tf.Tensor, replica: tf.Tensor | int, micro_batch: tf.Tensor | int = 0) -> tf.Tensor:
    """Returns the int32 [2] seed of one replica's micro-batch of one step."""
    combined = tf.constant([seed, 0x5EED], tf.int32)
    for part in (step, replica, micro_batch):
        combined = folded(combined, part)
    return combined


def folded(seed: tf.Tensor, number: tf.Tensor | int) -> tf.Tensor:
    """Returns a seed made of another one (int32 [2]) and an integer.

    Not `tf.random.experimental.stateless_fold_in`: its 64-bit arithmetic gives other numbers in a program that XLA compiles.
    """
    first, second = tf.unstack(tf.bitcast(seed, tf.uint32))
    salt = mixed(tf.bitcast(tf.cast(number, tf.int32), tf.uint32) + tf.constant(0x9E3779B9, tf.uint32))
    first = mixed(tf.bitwise.bitwise_xor(first, salt))
    second = mixed(tf.bitwise.bitwise_xor(second + first, salt))
    return tf.bitcast(tf.stack([first, second]), tf.int32)


def draw_seed(rate: float) -> tf.Tensor:
    """Returns the int32 [2] seed of the active scope's next dropout; zeros where the rate is 0 and nothing is dropped.

    Raises:
      RuntimeError: a rate over 0 outside a `random_scope`; the draws would not be reproducible.
    """
    if rate == 0.0:
        return tf.zeros([2], tf.int32)
    if not _active:
        raise RuntimeError("dropout in training needs a random_scope around the model call")
    return _active[-1].next_seed()


def shared_seed() -> tf.Tensor:
    """Returns the int32 [2] seed of the active scope's step, for what is drawn by a hash of a token's text and place.

    Raises:
      RuntimeError: outside a `random_scope`.
    """
    if not _active:
        raise RuntimeError("draws in training need a random_scope around the model call")
    return _active[-1].shared


def random_bits(seed: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """Returns a hash of each element's number under a seed: uint32 of `shape`, evenly spread.

    A few integer operations an element, which fuse into the loop that uses them; one key before the mixing, another between
    its two rounds.

    Args:
      seed: int32 [2].
      shape: int32 [rank].
    """
    first, second = tf.unstack(tf.bitcast(seed, tf.uint32))
    # The numbers are made of one short range for each axis, and of a zero that is no constant: TensorFlow would work out
    # constants when it compiles, and the program would read them from memory, as many as there are elements.
    numbers = tf.bitwise.bitwise_and(first, tf.zeros([], tf.uint32))
    for size in tf.unstack(shape):
        numbers = numbers[..., None] * tf.cast(size, tf.uint32) + tf.bitcast(tf.range(size), tf.uint32)
    return mixed(tf.bitwise.bitwise_xor(mixed(tf.bitwise.bitwise_xor(numbers, first)), second))


def drawn_places(weights: tf.Tensor, bits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws from distributions by the inverse of their cumulative sums: one random number a draw.

    Args:
      weights: float32 [..., n], in proportion to the probabilities.
      bits: uint32 [...], evenly spread.

    Returns:
      (int32 [...], the place that was drawn; float32 [...], how far the draw was from another place's part).
    """
    totals = tf.cumsum(weights, axis=-1)
    uniform = tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24
    point = (uniform * totals[..., -1])[..., None]
    place = tf.minimum(tf.reduce_sum(tf.cast(totals <= point, tf.int32), axis=-1), weights.shape[-1] - 1)
    return place, tf.reduce_min(tf.abs(totals - point), axis=-1)


def drop(values: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
    """Drops values at `rate` and scales the rest by 1 / (1 - rate): a function of only the seed (int32 [2])."""
    if rate == 0.0:
        return values
    kept = random_bits(seed, tf.shape(values)) >= tf.constant(math.floor(rate * 2**32), tf.uint32)
    return tf.where(kept, values * tf.constant(1.0 / (1.0 - rate), values.dtype), tf.zeros([], values.dtype))


def dropout(values: tf.Tensor, rate: float, training: bool) -> tf.Tensor:
    """In training, drops values at `rate` and scales the rest, drawing from the active scope.

    Raises:
      RuntimeError: see `draw_seed`.
    """
    rate = rate if training else 0.0
    return drop(values, rate, draw_seed(rate))
