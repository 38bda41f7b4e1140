"""Randomness as a function of (seed, step, place): a resumed run draws what the undisturbed run would have drawn."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

_active: list["_Draws"] = []


class _Draws:
    """Numbers the draws in the order in which the graph is built, so that each place has a stream of its own."""

    def __init__(self, seed: tf.Tensor):
        self._seed = seed
        self._count = 0

    def next_seed(self) -> tf.Tensor:
        self._count += 1
        return tf.random.experimental.stateless_fold_in(self._seed, self._count)


@contextlib.contextmanager
def random_scope(seed: tf.Tensor) -> Iterator[None]:
    """Makes `seed` (int32 [2]) the source of all dropout inside the scope."""
    _active.append(_Draws(seed))
    try:
        yield
    finally:
        _active.pop()


def step_seed(seed: int, step: tf.Tensor, replica: tf.Tensor | int, micro_batch: tf.Tensor | int = 0) -> tf.Tensor:
    """Returns the int32 [2] seed of one replica's micro-batch of one step."""
    folded = tf.constant([seed, 0x5EED], tf.int32)
    for part in (step, replica, micro_batch):
        folded = tf.random.experimental.stateless_fold_in(folded, tf.cast(part, tf.int32))
    return folded


def dropout(values: tf.Tensor, rate: float, training: bool) -> tf.Tensor:
    """Drops values at `rate` and scales the rest by 1 / (1 - rate), drawing from the active scope.

    Raises:
      RuntimeError: training with a rate over 0 outside a `random_scope`; the draws would not be reproducible.
    """
    if not training or rate == 0.0:
        return values
    if not _active:
        raise RuntimeError("dropout in training needs a random_scope around the model call")
    return tf.nn.experimental.stateless_dropout(values, rate, seed=_active[-1].next_seed(), rng_alg="philox")
