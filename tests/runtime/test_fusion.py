"""Fused kernels: the function and its gradient as they are, one compilation a shape."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from trainer.runtime.fusion import compiled, fused


@fused
def scaled_exponential(values, places, *, factor):
    return tf.exp(values) * factor * tf.cast(places, tf.float32)


@fused
def two_results(left, right):
    return [left * right, left + tf.sin(right)]


def test_value_and_gradient_are_the_functions_own():
    values, places = tf.constant([0.0, 1.0, 2.0]), tf.constant([1, 2, 3])
    with tf.GradientTape() as tape:
        tape.watch(values)
        found = scaled_exponential(values, places, factor=2.0)
    expected = np.exp([0.0, 1.0, 2.0]) * 2 * [1, 2, 3]
    assert np.allclose(found, expected) and np.allclose(tape.gradient(found, values), expected)


def test_several_results_and_inputs():
    left, right = tf.constant([2.0, 3.0]), tf.constant([0.5, 0.25])
    with tf.GradientTape() as tape:
        tape.watch([left, right])
        product, total = two_results(left, right)
        value = tf.reduce_sum(product) + 10.0 * tf.reduce_sum(total)
    gradients = tape.gradient(value, [left, right])
    assert np.allclose(gradients[0], right + 10.0) and np.allclose(gradients[1], left + 10.0 * np.cos(right))


def test_works_inside_graphs_of_unknown_shape_and_traces_once():
    traces = []

    @fused
    def counted(values):
        traces.append(values.shape)
        return values * 2.0

    @tf.function(input_signature=[tf.TensorSpec([None, 3])])
    def step(values):
        return counted(values)

    for rows in (1, 2, 5):
        assert np.array_equal(step(tf.ones([rows, 3])), np.full([rows, 3], 2.0))
    assert len(traces) == 1


def test_a_compiled_function_changes_variables():
    variable = tf.Variable([1.0, 2.0])

    @compiled
    def double(variable):
        variable.assign(2.0 * variable)

    double(variable)
    assert np.array_equal(variable, [2.0, 4.0])


def test_on_a_tpu_it_stays_part_of_the_whole_step(monkeypatch):
    eager = []

    @compiled
    def double(values):
        eager.append(tf.executing_eagerly())
        return 2.0 * values

    double(tf.ones([2]))
    monkeypatch.setattr(tf.distribute, "get_strategy", lambda: object.__new__(tf.distribute.TPUStrategy))
    assert np.array_equal(double(tf.ones([2])), [2.0, 2.0]) and eager == [False, True]


@pytest.mark.parametrize(("level", "says"), [("3", False), ("0", True)])
def test_xla_is_quiet_unless_verbose(level, says):
    code = (
        "import tensorflow as tf; from trainer.runtime.fusion import compiled, quieten;"
        "quieten(); compiled(tf.exp)(tf.zeros([2]))"
    )
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": level}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ("Compiled cluster" in done.stderr) == says
