import numpy as np
import tensorflow as tf

from trainer.data.hashing import mixed


def test_equals_lowbias32_as_published():
    def reference(x):
        x ^= x >> 16
        x = x * 0x7FEB352D & 0xFFFFFFFF
        x ^= x >> 15
        x = x * 0x846CA68B & 0xFFFFFFFF
        return x ^ x >> 16

    values = [0, 1, 2, 12345, 2**31, 2**32 - 1]
    assert mixed(tf.constant(values, tf.uint32)).numpy().tolist() == [reference(value) for value in values]


def test_neighbours_are_spread_evenly():
    drawn = mixed(tf.cast(tf.range(100_000), tf.uint32)).numpy()
    shares = np.bincount(drawn >> 28, minlength=16) / len(drawn)
    assert np.abs(shares - 1 / 16).max() < 0.003
