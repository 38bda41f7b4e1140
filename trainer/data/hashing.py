"""A hash of integers as operations of a graph: random bits that are a function of their place only."""

import tensorflow as tf


def mixed(bits: tf.Tensor) -> tf.Tensor:
    """Returns uint32 values mixed so that each bit depends on all: Chris Wellons' `lowbias32`.

    Source: https://nullprogram.com/blog/2018/07/31/. A few integer operations an element; Philox and Threefry cost several
    times as much, and dropout and masks need no more than this.
    """
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        bits = tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, tf.constant(shift, tf.uint32)))
        bits *= tf.constant(factor, tf.uint32)
    return tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, tf.constant(16, tf.uint32)))
