"""Parity with TFBertModel is in test_xla.py, with the training pass."""

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import tiny_config
from trainer.models.encoder import PACKED_INPUTS, BertEncoder
from trainer.models.kernels import inference
from trainer.models.kernels.base import PackedIds
from trainer.models.kernels.native import NativeKernels
from trainer.models.kernels.xla import XlaKernels


@pytest.fixture
def encoder():
    return BertEncoder(tiny_config())


def graph_of(encoder, dtype=tf.float32, reads=False, kernels=None):
    specs = [tf.TensorSpec([None, None], tf.int32)] * (5 if reads else 4)
    kernels = kernels or XlaKernels()

    @tf.function(input_signature=specs, autograph=False)
    def run(*inputs):
        return kernels.encode(encoder.bert, PackedIds(*inputs[:4]), dtype, inputs[4] if reads else None)

    return run


def inputs_of(rows=3, length=9):
    ids = tf.random.stateless_uniform([rows, length], [1, 2], 5, 1000, tf.int32)
    positions = tf.broadcast_to(tf.range(length), [rows, length])
    segments = tf.broadcast_to(tf.constant([1] * 4 + [2] * 3 + [0] * 2), [rows, length])
    return [ids, tf.zeros_like(ids), positions, segments]


def held_graph(encoder, dtype=tf.float32, reads=False):
    """Returns an export's graph, traced, and the variables that it holds."""
    kernels = inference.ExportKernels()
    graph = graph_of(encoder, dtype, reads, kernels).get_concrete_function()
    return graph, kernels.held_variables()


@pytest.mark.parametrize("reads", [False, True], ids=["all tokens", "read tokens"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(tf.float32, 2e-6), (tf.bfloat16, 0.05)])
def test_native_operations_give_the_same(native, encoder, dtype, tolerance, reads):
    """Without dropout, though the encoder's config has some; with padding, which nobody reads."""
    assert encoder.bert_config.hidden_dropout_prob > 0
    inputs = inputs_of()
    read = tf.constant([[0, 4]] * 3) if reads else None
    plain, ours = (kernels.encode(encoder.bert, PackedIds(*inputs), dtype, read) for kernels in (XlaKernels(), NativeKernels()))
    assert ours.dtype == dtype and ours.shape == plain.shape
    is_read = tf.ones([3, 2], tf.bool) if reads else inputs[3] > 0
    differences = tf.boolean_mask(tf.cast(plain, tf.float32) - tf.cast(ours, tf.float32), is_read)
    assert 0 < np.abs(differences).max() <= tolerance, "computed in another way, to the same result"


@pytest.mark.parametrize("reads", [False, True], ids=["all tokens", "read tokens"])
@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_held_weights_give_the_same_and_no_longer_follow_the_variables(encoder, dtype, reads):
    inputs = inputs_of() + ([tf.constant([[0, 4]] * 3)] if reads else [])
    following = graph_of(encoder, dtype, reads)
    held, made = held_graph(encoder, dtype, reads)
    before = tf.cast(held(*inputs), tf.float32).numpy()
    assert before.shape == ((3, 2, 32) if reads else (3, 9, 32))
    assert np.abs(before - tf.cast(following(*inputs), tf.float32).numpy()).max() <= (1e-6 if dtype == tf.float32 else 0.05)
    embedding = encoder.bert.embeddings.weight
    others = [captured for captured in held.captured_inputs if captured is not embedding.handle]
    assert {id(captured) for captured in others} == {id(variable.handle) for variable in made}, "all else is in the graph"
    assert all(variable.dtype == tf.float32 and variable.shape.rank == 2 for variable in made)
    assert len(made) == 2 + (9 if dtype == tf.float32 and reads else 8 if dtype == tf.float32 else 0)
    for variable in encoder.model.weights:
        if variable is not embedding:
            variable.assign(tf.zeros_like(variable))
    assert np.array_equal(before, tf.cast(held(*inputs), tf.float32).numpy())
    assert not np.allclose(before, tf.cast(following(*inputs), tf.float32).numpy())


def test_products_are_joined_with_bias_and_activation(encoder, tmp_path):
    from tensorflow.python.util import _pywrap_util_port

    from trainer.runtime import profiling

    if not _pywrap_util_port.IsMklEnabled():
        pytest.skip("TensorFlow leaves oneDNN off on this processor, which has none of the instructions it asks for")
    held, _ = held_graph(encoder)
    inputs = inputs_of()
    held(*inputs)
    with profiling.trace(str(tmp_path)):
        held(*inputs).numpy()
    ran = {cost.operation for cost in profiling.costliest(str(tmp_path), 100)}
    joined = {name for name in ran if "Fused" in name and "MatMul" in name}
    assert joined, f"TensorFlow's graph optimizer joins products and biases no more; it ran {sorted(ran)}"
    assert not ran & {"BiasAdd", "Erf", "Tanh"}


def test_it_is_the_encoders_pass_outside_of_training(encoder):
    inputs = dict(zip(PACKED_INPUTS, inputs_of(), strict=True))
    ids = PackedIds(*inputs_of())
    direct = inference.encode(encoder.bert, ids, tf.float32, None, inference.read_weight)
    assert np.array_equal(encoder(inputs).numpy(), direct.numpy())


def test_outputs_of_several_layers_are_tfbertmodels(encoder):
    ids, types, positions, _ = inputs_of()
    mask = tf.ones_like(ids)
    found = inference.layer_outputs(encoder.bert, PackedIds(ids, types, positions, mask), tf.float32, [0, 2]).numpy()
    states = encoder.model(ids, attention_mask=mask, token_type_ids=types, output_hidden_states=True).hidden_states
    assert found.shape == (3, 9, 2, 32)
    assert np.allclose(found, np.stack([states[0], states[2]], axis=2), atol=1e-5)
