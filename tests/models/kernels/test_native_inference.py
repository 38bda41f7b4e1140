import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import tiny_config
from trainer.models.encoder import PACKED_INPUTS, BertEncoder
from trainer.models.kernels import native_inference
from trainer.models.kernels.base import PackedIds
from trainer.models.kernels.native_inference import NativeExportKernels

SPECS = {name: tf.TensorSpec([None, None], tf.int32, name) for name in (*PACKED_INPUTS, "read")}


@pytest.fixture(autouse=True)
def needed(native_inference):
    """All of this is about the native operation."""


def both_of(encoder, reads):
    """Returns what runs an encoder by TensorFlow's operations, and the graph of a native export."""

    def run(encoder):
        def call(inputs):
            ids = {name: inputs[name] for name in PACKED_INPUTS}
            return encoder(ids, read_positions=inputs["read"] if reads else None)

        return call

    precision = encoder.compute.name
    native = BertEncoder(encoder.bert_config, precision, kernels=NativeExportKernels(), model=encoder.model)
    return run(encoder), tf.function(run(native), autograph=False).get_concrete_function(SPECS)


def inputs_of(rows, length, seed=0, examples=3):
    generator = np.random.default_rng(seed)
    segments = np.sort(generator.integers(0, examples + 1, (rows, length)))[:, ::-1]  # padding last
    arrays = {
        "input_ids": generator.integers(0, 1000, (rows, length)),
        "token_type_ids": generator.integers(0, 2, (rows, length)),
        "position_ids": generator.integers(0, 32, (rows, length)),
        "segment_ids": segments,
        "read": generator.integers(0, length, (rows, 3)),
    }
    return {name: tf.constant(array.copy(), tf.int32) for name, array in arrays.items()}


def gap(found, expected, inputs, reads):
    """Returns the largest difference where there is a token; elsewhere ours are zeros."""
    segments = inputs["segment_ids"].numpy()
    segments = np.where(segments.any(axis=1, keepdims=True), segments, 1)  # a row without a token is computed whole
    is_token = (np.take_along_axis(segments, inputs["read"].numpy(), 1) if reads else segments) > 0
    found, expected = (tf.cast(value, tf.float32).numpy() for value in (found, expected))
    assert found.shape == expected.shape and not found[~is_token].any()
    return np.abs(found - expected)[is_token].max(initial=0.0)


@settings(max_examples=12, deadline=None)
@given(
    sizes=st.sampled_from([(32, 64, 4), (24, 40, 3), (136, 200, 2)]),  # what panels and vectors leave over
    layers=st.integers(1, 2),
    rows=st.integers(1, 4),
    length=st.integers(1, 90),
    reads=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_is_the_forward_pass(sizes, layers, rows, length, reads, seed):
    hidden, inner, heads = sizes
    choices = {"hidden_size": hidden, "intermediate_size": inner, "num_attention_heads": heads, "num_hidden_layers": layers}
    plain, ours = both_of(BertEncoder(tiny_config(**choices)), reads)
    inputs = inputs_of(rows, length, seed)
    assert gap(ours(inputs), plain(inputs), inputs, reads) < 2e-5


def test_requests_of_many_tokens_are_computed_in_parts():
    plain, ours = both_of(BertEncoder(tiny_config()), False)
    inputs = inputs_of(40, 300, examples=12)  # 12,000 tokens; 4,096 at once
    assert gap(ours(inputs), plain(inputs), inputs, False) < 2e-5


def test_padding_may_lie_anywhere():
    plain, ours = both_of(BertEncoder(tiny_config()), False)
    inputs = inputs_of(1, 7) | {"segment_ids": tf.constant([[0, 1, 1, 0, 1, 0, 2]])}
    assert gap(ours(inputs), plain(inputs), inputs, False) < 2e-5


def test_bfloat16_rounds_the_matrices_and_nothing_else():
    encoder = BertEncoder(tiny_config(), precision="bfloat16")
    _, ours = both_of(encoder, False)
    inputs = inputs_of(3, 20)
    found = ours(inputs)
    assert found.dtype == tf.bfloat16
    rounded = BertEncoder(tiny_config())
    for to, weight in zip(rounded.model.weights, encoder.model.weights, strict=True):
        is_kernel = len(weight.shape) == 2 and "embeddings" not in weight.name
        to.assign(tf.cast(tf.cast(weight, tf.bfloat16), tf.float32) if is_kernel else weight)
    expected = tf.cast(rounded({name: inputs[name] for name in PACKED_INPUTS}), tf.bfloat16)
    assert gap(found, expected, inputs, False) <= 2**-6, "numbers up to 4, rounded to the one or the other neighbour"


def test_panels():
    matrix = tf.reshape(tf.range(4.0 * 70), [4, 70])
    panels = native_inference.in_panels(matrix).numpy()
    assert panels.shape == (2, 4, 64)
    assert np.array_equal(panels[0], matrix[:, :64]) and np.array_equal(panels[1, :, :6], matrix[:, 64:])
    assert not panels[1, :, 6:].any()
    pairs = native_inference.in_panels(tf.cast(matrix, tf.bfloat16))
    assert pairs.shape == [2, 2, 64, 2]
    assert pairs[1, 1, 5].numpy().tolist() == tf.cast(matrix[2:, 69], tf.bfloat16).numpy().tolist()


def test_the_graph_no_longer_follows_the_variables():
    encoder = BertEncoder(tiny_config())
    plain, ours = both_of(encoder, False)
    inputs = inputs_of(2, 9)
    before = ours(inputs).numpy()
    for weight in encoder.model.weights:
        if "embeddings" not in weight.name:
            weight.assign(tf.zeros_like(weight))
    assert np.array_equal(before, ours(inputs).numpy()) and not np.allclose(before, plain(inputs).numpy())


def test_a_row_without_a_token_is_computed_as_tensorflow_does():
    """A server pads a batch with such rows: their attention mask is all 0, and every token attends to every other."""
    plain, ours = both_of(BertEncoder(tiny_config()), True)
    inputs = inputs_of(3, 9) | {"segment_ids": tf.constant([[1] * 9, [0] * 9, [0, 1] + [0] * 7])}
    inputs["read"] = tf.constant([[0, 0, 0], [0, 3, 8], [1, 1, 1]])
    assert np.abs(ours(inputs) - plain(inputs)).max() < 2e-5
    assert np.abs(ours(inputs)[1]).max() > 0


@pytest.mark.parametrize(
    ("name", "number", "limit"),
    [("input_ids", 30522, 30522), ("token_type_ids", 2, 2), ("position_ids", -1, 128), ("read", 9, 9)],
)
def test_numbers_that_are_in_no_table_are_told(name, number, limit):
    _, ours = both_of(BertEncoder(tiny_config()), True)
    inputs = inputs_of(2, 9)
    inputs[name] = tf.fill(inputs[name].shape, number)
    known = {"read": "read_positions"}.get(name, name)
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"BertEncoder: {known} holds {number}, .* not in \[0, {limit}\)"):
        ours(inputs)


def test_inputs_of_different_shapes_are_told():
    _, ours = both_of(BertEncoder(tiny_config()), True)
    inputs = inputs_of(2, 9) | {"segment_ids": tf.ones([2, 8], tf.int32)}
    with pytest.raises(tf.errors.InvalidArgumentError, match="ids, types, positions and segments differ in shape"):
        ours(inputs)


def test_read_positions_of_other_rows_are_told():
    _, ours = both_of(BertEncoder(tiny_config()), True)
    inputs = inputs_of(2, 9) | {"read": tf.zeros([1, 3], tf.int32)}
    with pytest.raises(tf.errors.InvalidArgumentError, match="read_positions has other rows than input_ids"):
        ours(inputs)


@pytest.mark.parametrize("name", ["vectors", "matrices"])
def test_weights_of_another_model_are_told(name):
    encoder = BertEncoder(tiny_config())
    weights = {
        "vectors": native_inference.vectors_of(encoder.bert),
        "matrices": native_inference.matrices_of(encoder.bert, tf.float32),
    }
    weights[name] = weights[name][:-1]
    inputs = inputs_of(1, 5)
    ids = [inputs[one] for one in PACKED_INPUTS]
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"BertEncoder: {name} have another size"):
        native_inference.run(encoder.bert, PackedIds(*ids), None, **weights)
