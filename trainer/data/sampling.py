"""Sampling by value: some examples several times an epoch, others in some epochs only, in numbers that can be computed.

The rates of a value's examples, one after the other, are a line that is cut into strata of length 1, and of each stratum the
example is taken that lies at a place drawn by chance: stratified sampling with one unit a stratum (Cochran 1977, Sampling
Techniques, section 8.2). Of n examples with rate r an epoch takes ⌊n·r⌋ or ⌈n·r⌉, and which of the two follows from the seed
and the epoch's number: where a run stood in the stream is worked out, nothing is read for it.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from trainer.data.hashing import mixed

UNIT = 2**20  # rates are whole numbers of 1 / UNIT: sums of them are exact
EPOCHS_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class Sampling:
    """How often an epoch takes an example, by its value of a feature.

    Attributes:
      feature: an example-level one with values 0, 1, ...
      counts: int [values], how many of the examples have each value.
      rates: float [values], for each how often: 2.0 twice, 0.5 every second time.
    """

    feature: str
    counts: np.ndarray
    rates: np.ndarray

    def sampled(self, records: tf.data.Dataset, seed: int, epoch: tf.Tensor) -> tf.data.Dataset:
        """Returns an epoch's examples: the records, in their order, each as often as it is its turn.

        Args:
          records: all of them; string [].
          seed: of the run.
          epoch: its number, int64 [].
        """
        rates = self._rates

        def take(seen, record):
            value = tf.io.parse_single_example(record, {self.feature: tf.io.FixedLenFeature([], tf.int64)})[self.feature]
            before = seen[value] * rates[value]
            copies = _taken(before + rates[value], value, seed, epoch) - _taken(before, value, seed, epoch)
            return tf.tensor_scatter_nd_add(seen, [[value]], [tf.ones([], tf.int64)]), (record, copies)

        numbered = records.scan(tf.zeros_like(rates), take)
        return numbered.flat_map(lambda record, copies: tf.data.Dataset.from_tensors(record).repeat(copies))

    def sizes(self, seed: int, epochs: tf.Tensor) -> tf.Tensor:
        """Returns how many examples the epochs of these numbers have: int64 [n] to int64 [n]."""
        lines = tf.constant(self.counts, tf.int64) * self._rates
        return tf.reduce_sum(_taken(lines, tf.range(len(self.counts), dtype=tf.int64), seed, epochs[:, None]), axis=1)

    def place(self, seed: int, first: int) -> tuple[int, int]:
        """Returns (the epoch that the stream's example number `first` lies in, how many examples of it come before)."""
        epoch = 0
        while True:
            ends = np.cumsum(self.sizes(seed, tf.range(epoch, epoch + EPOCHS_AT_ONCE, dtype=tf.int64)).numpy())
            if first < ends[-1]:
                within = int(np.searchsorted(ends, first, side="right"))
                return epoch + within, first - (int(ends[within - 1]) if within else 0)
            epoch, first = epoch + EPOCHS_AT_ONCE, first - int(ends[-1])

    @property
    def _rates(self) -> tf.Tensor:
        return tf.constant(np.rint(self.rates * UNIT), tf.int64)


def _taken(end: tf.Tensor, value: tf.Tensor, seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """Returns how many examples an epoch takes of a value's line up to a place: int64, as many as the arguments together.

    Args:
      end: the place, in units of 1 / UNIT.
      value, seed, epoch: whose line.
    """
    stratum, part = end // UNIT, end % UNIT
    drawn = tf.constant(seed * 0x9E3779B9 % 2**32, tf.uint32)
    for number in (epoch, value, stratum):
        drawn = mixed(tf.bitwise.bitwise_xor(drawn, tf.cast(number % 2**32, tf.uint32)) + tf.constant(0x9E3779B9, tf.uint32))
    return stratum + tf.cast(tf.cast(drawn, tf.int64) % UNIT < part, tf.int64)
