import numpy as np
import pytest
import tensorflow as tf
from transformers import TFBertForPreTraining

from tests.conftest import tiny_config
from trainer.models.encoder import BertEncoder, Pooler
from trainer.models.heads import DenseHead, PretrainingHeads
from trainer.runtime.randomness import random_scope


def test_head_is_float32_dense_with_seeded_dropout():
    head = DenseHead(3, dropout_rate=0.5)
    inputs = tf.ones([2, 4, 8], tf.bfloat16)
    logits = head(inputs)
    assert logits.dtype == tf.float32 and logits.shape == [2, 4, 3]
    kernel, bias = head.trainable_variables
    assert np.allclose(logits[0, 0], kernel.numpy().sum(0) + bias.numpy(), atol=1e-6)
    assert 0.01 < kernel.numpy().std() < 0.03 and not bias.numpy().any()
    with random_scope(tf.constant([1, 2])):
        assert not np.allclose(head(inputs, training=True), logits)
    assert [v.name for v in head.trainable_variables] == ["head/dense/kernel:0", "head/dense/bias:0"], "checkpoints need these"


def test_pretraining_heads_equal_transformers():
    """The same weights by name, the same logits, from the encoder's own outputs; the embeddings are tied."""
    config = tiny_config(vocab_size=60)
    encoder = BertEncoder(config)
    heads = PretrainingHeads(encoder, has_pairs=True)
    reference = TFBertForPreTraining(config)
    ids = tf.random.stateless_uniform([2, 7], [1, 2], 0, 60, tf.int32)
    reference(ids)
    reference.bert.set_weights(encoder.bert.get_weights())
    sequence = encoder.model(ids).last_hidden_state
    found = heads(sequence, Pooler(encoder)(sequence[:, :1]))
    names = [variable.name for variable in heads.weights]
    assert names == [
        f"cls/{name}:0"
        for name in (
            "predictions/transform/dense/kernel",
            "predictions/transform/dense/bias",
            "predictions/transform/LayerNorm/gamma",
            "predictions/transform/LayerNorm/beta",
            "predictions/bias",
            "seq_relationship/kernel",
            "seq_relationship/bias",
        )
    ]
    generator = np.random.default_rng(1)
    for variable in heads.weights:
        variable.assign(generator.normal(size=variable.shape, scale=0.2))
    theirs = {v.name.partition("cls/")[2]: v for v in [*reference.mlm.weights, *reference.nsp.weights] if "cls/" in v.name}
    for variable in heads.weights:
        theirs[variable.name.removeprefix("cls/")].assign(variable)
    found, expected = heads(sequence, Pooler(encoder)(sequence[:, :1])), reference(ids)
    assert np.allclose(found["masked_lm_logits"], expected.prediction_logits, atol=1e-5)
    assert np.allclose(found["sentence_logits"][:, 0], expected.seq_relationship_logits, atol=1e-5)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(heads(sequence)["masked_lm_logits"])
    assert tape.gradient(loss, encoder.bert.embeddings.weight) is not None


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_logits_come_in_the_type_of_the_products(dtype):
    heads = PretrainingHeads(BertEncoder(tiny_config(vocab_size=60), dtype), has_pairs=False)
    outputs = heads(tf.ones([2, 3, 32], dtype))
    assert outputs["masked_lm_logits"].dtype == dtype and set(outputs) == {"masked_lm_logits"}
