"""R-Drop, mixout and adversarial training do what their sources say: beside the rules written out, and over replicas."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.models.test_task_model import LENGTH, SPEC, assert_close, build, features_of, step
from trainer.data.packing import pack
from trainer.errors import UserError
from trainer.models.losses import binary_divergence, divergence, place_divergence
from trainer.models.regularization import Regularization
from trainer.runtime import distribution


@pytest.fixture(scope="module")
def batch(tokenizer, reviews):
    return pack(features_of(range(12), tokenizer, reviews), SPEC, LENGTH, 4, row_multiple=3)


def prepared(model, **regularization):
    """Prepares a model of `build` again, with a regularization; returns it."""
    table = model.get_layer("encoder").bert.embeddings.weight
    if "mixout_prob" in regularization:
        kernels = [v for v in model.get_layer("encoder").model.trainable_variables if v.name.endswith("kernel:0")]
        with model.distribute_strategy.scope():
            starts = [tf.Variable(tf.ones_like(v) * 0.01, trainable=False) for v in kernels]
        regularization["starts"] = list(zip(kernels, starts, strict=True))
    accumulation = model._accumulation_steps
    model.prepare_training(
        model._objective, 1, accumulation, regularization=Regularization(word_embeddings=table, **regularization)
    )
    return model


def loss_at(model, batch):
    """The mean loss of a batch, by the outputs, for GradientTape."""
    outputs = model(model._inputs_of(batch), training=False)
    weights = model._objective.loss_weights(batch)["label"]
    losses, _ = model._objective.loss(batch, outputs)
    return tf.reduce_sum(losses["label"] * weights) / tf.reduce_sum(weights)


def gradients_at(model, batch):
    with tf.GradientTape() as tape:
        loss = loss_at(model, batch)
    return [None if g is None else tf.convert_to_tensor(g).numpy() for g in tape.gradient(loss, model.trainable_variables)]


def after_descent(before, gradients, model):
    """What the weights are after a step of plain descent with rate 1."""
    moved = {id(v): g for v, g in zip(model.trainable_variables, gradients, strict=True) if g is not None}
    return [old - moved.get(id(v), 0.0) for v, old in zip(model.weights, before, strict=True)]


def test_adversarial_training_adds_the_gradient_at_the_moved_embeddings(tokenizer, batch):
    model = build(tokenizer)
    before = [weight.numpy() for weight in model.weights]
    table = model.get_layer("encoder").bert.embeddings.weight
    place = next(i for i, v in enumerate(model.trainable_variables) if v is table)
    first = gradients_at(model, batch)
    table.assign_add(0.5 * first[place] / np.linalg.norm(first[place]))
    second = gradients_at(model, batch)
    table.assign_sub(0.5 * first[place] / np.linalg.norm(first[place]))
    expected = [None if a is None else a + b for a, b in zip(first, second, strict=True)]
    assert np.abs(second[place] - first[place]).max() > 1e-4, "the gradient there is another"
    _, found = step(prepared(model, adversarial_epsilon=0.5), batch)
    assert_close(found, after_descent(before, expected, model), 5e-6)


def test_mixout_takes_the_gradient_at_mixed_weights_and_puts_them_back(tokenizer, batch):
    """Equation 5 of the paper, for the mask that the step drew: it shows in which elements have no gradient."""
    prob = 0.4
    model = prepared(build(tokenizer), mixout_prob=prob)
    before = [weight.numpy() for weight in model.weights]
    kernels = {id(variable): start.numpy() for variable, start in model._regularization.starts}
    _, found = step(model, batch)
    moved = [old - new for old, new in zip(before, found, strict=True)]
    masks = {}
    for variable, gradient in zip(model.weights, moved, strict=True):
        if id(variable) in kernels and np.abs(gradient).max() > 0:
            masks[id(variable)] = gradient == 0
    kept_shares = [1 - mask.mean() for mask in masks.values()]
    assert len(masks) > 6 and np.allclose(kept_shares, 1 - prob, atol=0.1)
    for variable, old in zip(model.weights, before, strict=True):
        start, mask = kernels.get(id(variable)), masks.get(id(variable))
        mixed = old if mask is None else (np.where(mask, start, old) - prob * start) / (1 - prob)
        variable.assign(mixed)
    expected = gradients_at(model, batch)
    for number, variable in enumerate(model.trainable_variables):
        if id(variable) in masks:
            expected[number] = expected[number] * ~masks[id(variable)] / (1 - prob)
    assert_close(found, after_descent(before, expected, model), 1e-5)


def test_r_drop_is_the_mean_loss_of_two_passes_and_their_divergence(tokenizer, batch):
    model = build(tokenizer, dropout=0.3)
    before = [weight.numpy() for weight in model.weights]

    def moved(alpha):
        for variable, old in zip(model.weights, before, strict=True):
            variable.assign(old)
        model.optimizer.iterations.assign(0)
        logs, found = step(prepared(model, r_drop_alpha=alpha), batch)
        return logs["loss"], [new - old for new, old in zip(found, before, strict=True)]

    # The gradient is (∇a + ∇b) / 2 + alpha ∇d: a straight line in alpha.
    (plain_loss, plain), (loss, low), (_, middle), (_, high) = (moved(alpha) for alpha in (0.0, 1e-9, 2.0, 4.0))
    assert_close([a + c for a, c in zip(low, high, strict=True)], [2 * b for b in middle], 1e-5)
    assert max(np.abs(a - b).max() for a, b in zip(low, middle, strict=True)) > 1e-4, "the passes differ"
    assert max(np.abs(a - b).max() for a, b in zip(low, plain, strict=True)) > 1e-4, "the second pass counts"
    assert loss == pytest.approx(plain_loss, abs=1e-6), "what is reported is the loss of the first pass"


def test_without_dropout_r_drop_changes_nothing(tokenizer, batch):
    _, expected = step(build(tokenizer), batch)
    _, found = step(prepared(build(tokenizer), r_drop_alpha=5.0), batch)
    assert_close(found, expected, 5e-6)


BOTH = {"adversarial_epsilon": 0.5, "mixout_prob": 0.3}


@pytest.fixture(scope="module")
def expected(tokenizer, batch):
    return step(prepared(build(tokenizer), **BOTH), batch)


def test_micro_batches_give_the_same_step(tokenizer, batch, expected):
    _, found = step(prepared(build(tokenizer, gradient_accumulation_steps=3), **BOTH), batch)
    assert_close(found, expected[1], 1e-5)


@pytest.mark.slow
def test_replicas_give_the_same_step(tokenizer, reviews, expected):
    strategy = distribution.choose("mirrored", cpu_devices=2).strategy
    halves = [pack(features_of(part, tokenizer, reviews), SPEC, LENGTH, 4, static_rows=12) for part in (range(9), range(9, 12))]
    logs, found = step(prepared(build(tokenizer, strategy), **BOTH), *halves)
    assert_close(found, expected[1], 1e-5)
    assert logs["loss"] == pytest.approx(expected[0]["loss"], abs=1e-6)


@pytest.mark.slow
def test_a_whole_program_gives_the_same_step(tokenizer, batch, expected):
    model = prepared(build(tokenizer, is_whole=True), **BOTH)
    tf.function(model.train_step, jit_compile=True)(batch)
    assert_close([weight.numpy() for weight in model.weights], expected[1], 5e-5)


def test_examples_that_are_compared_have_no_r_drop(tokenizer):
    model = build(tokenizer)
    objective = type("Objective", (), {"compares_examples": True, "logged": ()})()
    with pytest.raises(UserError, match="train.r_drop_alpha: R-Drop is for tasks that judge each example by itself"):
        model.prepare_training(objective, 1, regularization=Regularization(r_drop_alpha=1.0))


def test_divergences_are_those_of_their_definition():
    first, second = np.random.default_rng(0).normal(size=(2, 3, 5)).astype("float32")
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (first, second))
    expected = ((p * np.log(p / q)).sum(-1) + (q * np.log(q / p)).sum(-1)) / 2
    np.testing.assert_allclose(divergence(first, second), expected, rtol=1e-5)
    np.testing.assert_allclose(
        keras.losses.KLDivergence("none")(p, q) + keras.losses.KLDivergence("none")(q, p), 2 * expected, rtol=1e-4
    )
    both = np.stack([first, np.zeros_like(first)], -1), np.stack([second, np.zeros_like(second)], -1)
    np.testing.assert_allclose(binary_divergence(first, second), divergence(*both), rtol=1e-4)


def test_the_divergence_of_places_is_over_each_examples_own_tokens():
    batch = {"segment_ids": tf.constant([[1, 1, 1, 2, 2, 0]]), "cls_positions": tf.constant([[0, 3, 0]])}
    first, second = np.random.default_rng(1).normal(size=(2, 1, 6)).astype("float32")
    found = place_divergence(tf.constant(first), tf.constant(second), batch)
    expected = [divergence(first[0, a:b], second[0, a:b]).numpy() for a, b in ((0, 3), (3, 5))]
    np.testing.assert_allclose(found[0], [*expected, 0.0], rtol=1e-5, atol=1e-7)
