import numpy as np
import pytest
import tensorflow as tf

from trainer.runtime.randomness import dropout, random_scope, step_seed


def test_seeds_differ_in_every_part():
    seeds = {
        tuple(step_seed(s, tf.constant(t), r, m).numpy())
        for s in range(3)
        for t in range(3)
        for r in range(3)
        for m in range(3)
    }
    assert len(seeds) == 81


def test_dropout_is_a_function_of_seed_and_place():
    values = tf.ones([1000])
    with random_scope(tf.constant([1, 2])):
        first, second = dropout(values, 0.25, True), dropout(values, 0.25, True)
    with random_scope(tf.constant([1, 2])):
        again = dropout(values, 0.25, True)
    assert np.array_equal(first, again) and not np.array_equal(first, second)
    assert np.allclose(sorted(set(first.numpy())), [0, 4 / 3])
    assert 0.2 < np.mean(first.numpy() == 0) < 0.3


def test_dropout_is_off_where_it_should_be():
    values = tf.ones([4])
    assert dropout(values, 0.5, False) is values and dropout(values, 0.0, True) is values
    with pytest.raises(RuntimeError, match="needs a random_scope"):
        dropout(values, 0.5, True)
