"""The decoder: what it takes from an encoder, what it shares, recomputed layers, what it refuses. Its outputs: test_generation."""

import numpy as np
import pytest
import tensorflow as tf
from transformers import RobertaConfig

from tests.conftest import tiny_config
from tests.models.test_generation import batch_of, model_of
from trainer.errors import UserError
from trainer.models.decoder import BertDecoder
from trainer.models.encoder import BertEncoder


@pytest.mark.parametrize("shared", [True, False])
def test_embeddings_are_shared_or_not(shared):
    encoder = BertEncoder(tiny_config(num_hidden_layers=2))
    decoder = BertDecoder(encoder, 1, share_embeddings=shared)
    words = [weight for weight in decoder.model.weights if weight.shape == encoder.bert.embeddings.weight.shape]
    assert len(words) == 1 and (words[0] is encoder.bert.embeddings.weight) == shared
    assert len({weight.name for weight in (*encoder.model.weights, *decoder.model.weights)}) == len(
        {id(weight) for weight in (*encoder.model.weights, *decoder.model.weights)}
    )


def test_it_starts_from_the_encoder():
    encoder = BertEncoder(tiny_config(num_hidden_layers=2))
    decoder = BertDecoder(encoder, 1, share_embeddings=False)
    crossed = [weight for weight in decoder.model.weights if "crossattention" in weight.name]
    before = [weight.numpy() for weight in crossed]
    assert decoder.start_from(encoder) == len(decoder.model.weights) - len(crossed)
    np.testing.assert_array_equal(decoder.bert.embeddings.weight, encoder.bert.embeddings.weight)
    kernel = encoder.bert.encoder.layer[0].intermediate.dense.kernel
    np.testing.assert_array_equal(decoder.bert.encoder.layer[0].intermediate.dense.kernel, kernel)
    assert all(np.array_equal(one, other) for one, other in zip(before, crossed, strict=True))


def test_recomputed_layers_have_the_same_gradients():
    model, batch = model_of(), batch_of()
    inputs = {name: batch[name] for name in model.input_names}

    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(inputs, training=True)["target_logits"] ** 2)
        return [tf.convert_to_tensor(one) for one in tape.gradient(loss, model.trainable_variables) if one is not None]

    kept = gradients()
    model.get_layer("decoder")._recompute = True
    for one, other in zip(kept, gradients(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-2)


def test_a_past_that_is_longer_changes_nothing_before_it():
    """Causal: the logits of a target's first tokens do not depend on what follows."""
    model, batch = model_of(), batch_of(1)
    inputs = {name: batch[name] for name in model.input_names}
    first = model(inputs, training=False)["target_logits"].numpy()
    changed = inputs | {"target_input_ids": tf.where(tf.range(16) == 3, 50, inputs["target_input_ids"])}
    np.testing.assert_allclose(model(changed, training=False)["target_logits"][:, :3], first[:, :3], atol=1e-5)


def test_another_encoder_is_refused():
    config = RobertaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    with pytest.raises(UserError, match="type roberta; generation has a decoder for BERT only"):
        BertDecoder(BertEncoder(config), None, True)
