"""Fused kernels: the function and its gradient as they are, one compilation a shape."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.runtime import fusion
from trainer.runtime.fusion import OTHERWISE, OUTPUT, column_sums, compiled, fused
from trainer.runtime.target import tracing_for


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


@fused(bias="values", gain=OTHERWISE, shift=OUTPUT)
def affine(values, bias, gain, shift):
    return tf.cast(tf.tanh(tf.cast(values, tf.float32) + bias) * gain + shift, values.dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_vectors_have_the_gradients_of_the_plain_function(dtype, tolerance):
    generator = np.random.default_rng(1)
    values, upstream = (tf.cast(generator.normal(size=[7, 300, 5]), dtype) for _ in range(2))
    bias, gain, shift = (tf.constant(generator.normal(size=5), tf.float32) for _ in range(3))

    def gradients(function):
        with tf.GradientTape() as tape:
            tape.watch([values, bias, gain, shift])
            outputs = function(values, bias, gain, shift)
        return tape.gradient(outputs, [values, bias, gain, shift], upstream)

    for found, expected in zip(gradients(affine), gradients(affine.__wrapped__), strict=True):
        assert found.dtype == expected.dtype and found.shape == expected.shape
        largest = float(tf.reduce_max(tf.abs(tf.cast(expected, tf.float32))))
        assert float(tf.reduce_max(tf.abs(tf.cast(found - expected, tf.float32)))) < tolerance * largest


def test_a_vector_that_is_no_parameter_is_refused():
    with pytest.raises(TypeError, match="doubled has no parameter bias, inputs"):

        @fused(bias="inputs")
        def doubled(values):
            return 2.0 * values


def test_with_an_accelerator_the_kernel_sums_itself(monkeypatch):
    monkeypatch.setattr(fusion, "traced_target", lambda: "gpu")
    test_vectors_have_the_gradients_of_the_plain_function("float32", 1e-5)
    assert column_sums(tf.ones([1000, 2], tf.bfloat16)).numpy().tolist() == [1000.0, 1000.0]


def test_column_sums_in_float16_may_be_larger_than_it_holds():
    assert column_sums(tf.fill([1000, 1], tf.constant(100.0, tf.float16))).numpy().tolist() == [100_000.0]


def test_column_sums_are_added_up_in_float32():
    ones = tf.ones([3, 1000, 2], tf.bfloat16)  # added up in bfloat16 they would stay at 256
    assert column_sums(ones).dtype == tf.float32
    assert column_sums(ones).numpy().tolist() in ([3008.0, 3008.0], [2992.0, 2992.0])  # bfloat16 has nothing between them


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
    with tracing_for("tpu"):
        assert np.array_equal(double(tf.ones([2])), [2.0, 2.0]) and eager == [False, True]
