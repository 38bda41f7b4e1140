"""ELECTRA's pre-training: the draws, shared embeddings, the losses beside transformers' class, packed and not."""

import numpy as np
import pytest
import tensorflow as tf
from transformers import ElectraConfig, TFElectraForPreTraining

from tests.conftest import tiny_config
from tests.tasks import test_pretraining as of_task
from trainer.models.encoder import BertEncoder
from trainer.models.replaced_tokens import build_generator, build_replaced_token_model, drawn_tokens, generator_config
from trainer.tasks import pretraining


def test_draws_have_the_probabilities_of_the_logits():
    logits = np.random.default_rng(0).normal(size=[1, 12]).astype("float32") * 2
    bits = tf.random.stateless_uniform([40000], [3, 4], None, None, tf.uint32)
    drawn = drawn_tokens(tf.broadcast_to(logits, [40000, 12]), bits).numpy()
    shares = np.bincount(drawn, minlength=12) / 40000
    np.testing.assert_allclose(shares, tf.nn.softmax(logits)[0], atol=0.012)
    highest = tf.constant([0xFFFFFFFF], tf.uint32)
    assert drawn_tokens(tf.constant([[0.0, -1e9]]), highest).numpy().tolist() == [0], "what has no probability is never drawn"


def electra_config(**changes):
    sizes = tiny_config(**changes).to_dict()
    del sizes["model_type"]
    return ElectraConfig(**sizes | {"embedding_size": 16})


@pytest.mark.parametrize("kind", ["bert", "electra"])
def test_generator_and_encoder_share_their_embeddings(kind):
    config = tiny_config() if kind == "bert" else electra_config()
    encoder = BertEncoder(config)
    generator = build_generator(encoder, 0.5)
    sizes = generator.bert_config
    assert sizes.hidden_size == config.hidden_size // 2 and sizes.embedding_size == (16 if kind == "electra" else 32)
    for name in ("weight", "position_embeddings", "token_type_embeddings"):
        assert getattr(generator.bert.embeddings, name) is getattr(encoder.bert.embeddings, name)
    weights = [*encoder.model.weights, *generator.model.weights]
    assert len({weight.name for weight in weights}) == len({id(weight) for weight in weights})


def test_a_generator_keeps_the_width_of_a_head():
    sizes = generator_config(tiny_config(hidden_size=96, num_attention_heads=6, intermediate_size=100), 0.25)
    assert (sizes.hidden_size, sizes.num_attention_heads, sizes.intermediate_size) == (32, 2, 24)


@pytest.fixture(scope="module")
def electra(tokenizer):
    """A task, a model and a batch."""
    task = pretraining.Task(pretraining.Config(**of_task.TestReplacedTokens.config), tokenizer, 32)
    config = electra_config(num_hidden_layers=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    (batch,) = of_task.TestReplacedTokens().batches(task)
    return task, build_replaced_token_model(BertEncoder(config), 0.5), batch


def test_what_is_replaced_is_known(electra):
    _, model, batch = electra
    outputs = model.outputs_for(batch)
    is_replaced, weights = outputs["is_replaced"].numpy(), batch["masked_lm_weights"].numpy()
    positions = batch["masked_positions"].numpy()
    for row in range(len(positions)):
        chosen = set(positions[row][weights[row] > 0].tolist())
        assert set(np.flatnonzero(is_replaced[row])) <= chosen
    assert 0 < is_replaced.sum() <= weights.sum(), "a generator that knows nothing is mostly wrong"


def test_losses_are_transformers(electra):
    """The encoder's, by transformers' class with the same weights on the same drawn tokens."""
    task, model, batch = electra
    outputs = model.outputs_for(batch)
    replacement, generator = model.get_layer("replacement"), model.get_layer("generator")
    inputs = model._inputs_of(batch)
    logits = model.get_layer("cls")(generator(inputs, inputs["masked_positions"]))["masked_lm_logits"]
    ids, is_replaced = replacement(inputs, logits)
    peer = TFElectraForPreTraining(model.get_layer("encoder").bert_config)
    peer.build_in_name_scope()
    for own, other in (
        (model.get_layer("encoder").model.electra, peer.electra),
        (model.get_layer("discriminator_predictions"), peer.discriminator_predictions),
    ):
        for variable, value in zip(other.weights, own.get_weights(), strict=True):
            variable.assign(value)
    segments, positions = batch["segment_ids"].numpy(), batch["position_ids"].numpy()
    own_loss = task.loss(batch, outputs)[0]["replaced"].numpy() / task.config.replaced_weight
    for row in range(len(segments)):
        for slot in range(1, segments[row].max() + 1):
            cells = np.flatnonzero(segments[row] == slot)
            assert positions[row, cells].tolist() == list(range(len(cells)))
            found = peer(input_ids=ids.numpy()[row, cells][None]).logits[0]
            np.testing.assert_allclose(outputs["replaced_logits"][row].numpy()[cells], found, atol=1e-5)
            expected = tf.nn.sigmoid_cross_entropy_with_logits(is_replaced.numpy()[row, cells], found)
            np.testing.assert_allclose(own_loss[row, cells], expected, atol=1e-5)


def test_the_generator_learns_from_masks_alone(electra):
    task, model, batch = electra
    with tf.GradientTape() as tape:
        outputs = model(model._inputs_of(batch), training=False)
        loss = tf.reduce_sum(task.loss(batch, outputs)[0]["replaced"])
    own = [v for v in model.get_layer("generator").model.trainable_variables if v.name.startswith("generator/")]
    assert own and all(gradient is None for gradient in tape.gradient(loss, own))
