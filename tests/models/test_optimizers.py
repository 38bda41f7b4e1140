"""AdamW against Keras' own, and each of its extras against hand-made arithmetic."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from trainer.models.kernels.native import adamw_update
from trainer.models.optimizers import AdamW, exponential_average, gradual_unfreezing, layerwise_rates, stochastic_average


def variables():
    generator = np.random.default_rng(0)
    kernel = tf.Variable(generator.normal(size=(5, 3)).astype("float32"), name="kernel")
    bias = tf.Variable(generator.normal(size=3).astype("float32"), name="bias")
    return [kernel, bias]


def gradients(step):
    generator = np.random.default_rng(100 + step)
    return [tf.constant(generator.normal(size=shape).astype("float32")) for shape in ((5, 3), (3,))]


@pytest.fixture(params=["compiled", "native"])
def adamw(request):
    """AdamW by XLA's programs, and by the native operation."""
    if request.param == "native":
        request.getfixturevalue("native")
    update = adamw_update if request.param == "native" else None
    return functools.partial(AdamW, update_at_once=update)


def run(optimizer, steps=5):
    weights = variables()
    for step in range(steps):
        optimizer.apply_gradients(zip(gradients(step), weights, strict=True))
    return [weight.numpy() for weight in weights]


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_equals_keras_adamw(adamw, clip):
    reference = keras.optimizers.AdamW(0.01, weight_decay=0.1, epsilon=1e-9, global_clipnorm=clip or None)
    reference.exclude_from_weight_decay(var_names=["bias"])
    expected = run(reference)
    # Keras adds epsilon to the uncorrected second moment; ours, as the paper has it, to the corrected one.
    found = run(adamw(0.01, weight_decay=0.1, epsilon=1e-9, max_gradient_norm=clip))
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


def test_equals_the_papers_algorithm(adamw):
    rate, decay, epsilon, beta_1, beta_2 = 0.02, 0.1, 1e-3, 0.9, 0.99
    optimizer = adamw(rate, decay, beta_1, beta_2, epsilon, max_gradient_norm=0.0)
    weights = [w.numpy().astype(np.float64) for w in variables()]
    first, second = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    for step in range(5):
        for i, gradient in enumerate(g.numpy().astype(np.float64) for g in gradients(step)):
            first[i] = beta_1 * first[i] + (1 - beta_1) * gradient
            second[i] = beta_2 * second[i] + (1 - beta_2) * gradient**2
            corrected = first[i] / (1 - beta_1 ** (step + 1)), second[i] / (1 - beta_2 ** (step + 1))
            decayed = decay * weights[i] if weights[i].ndim > 1 else 0.0
            weights[i] = weights[i] - rate * (corrected[0] / (np.sqrt(corrected[1]) + epsilon) + decayed)
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(run(optimizer), weights, strict=True))


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_gathers_gradient_counts_as_its_dense_sum(adamw, clip):
    """Rows used twice, and rows unused for steps whose moments go on: all as in the dense update."""
    start = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    dense_table, sparse_table = tf.Variable(start), tf.Variable(start)
    dense_optimizer, sparse_optimizer = (adamw(0.1, 0.05, max_gradient_norm=clip) for _ in range(2))
    for rows in ([1, 1, 3], [0, 1], [5, 5, 5], [3], [2, 4, 2]):
        values = np.random.default_rng(len(rows)).normal(size=(len(rows), 4)).astype("float32")
        slices = tf.IndexedSlices(tf.constant(values), tf.constant(rows), tf.constant([6, 4]))
        sparse_optimizer.apply_gradients([(slices, sparse_table)])
        dense_optimizer.apply_gradients([(tf.convert_to_tensor(slices), dense_table)])
    assert np.allclose(dense_table, sparse_table, rtol=0, atol=1e-7)
    assert not np.allclose(sparse_table, start, atol=0.1)


def test_variables_without_a_gradient_stay(adamw):
    used, unused = tf.Variable([[1.0]]), tf.Variable([[1.0]])
    optimizer = adamw(0.1, weight_decay=0.5)
    optimizer.build([used, unused])
    optimizer.apply_gradients([(tf.constant([[1.0]]), used), (None, unused)])
    assert unused.numpy() == 1.0 and used.numpy() != 1.0 and int(optimizer.iterations) == 1


def test_layerwise_rates_shrink_towards_the_embeddings(adamw):
    named = {"low:0": 0, "high:0": 3}
    rate_of = layerwise_rates(named.get, depths=3, decay_rate=0.5)
    low, high = tf.Variable([1.0], name="low"), tf.Variable([1.0], name="high")
    assert (rate_of(low), rate_of(high)) == (0.125, 1.0)
    optimizer = adamw(0.1, max_gradient_norm=0.0, epsilon=1e-12, rate_of=rate_of)
    optimizer.apply_gradients([(tf.ones(1), low), (tf.ones(1), high)])
    assert 1 - low.numpy()[0] == pytest.approx(0.0125, rel=1e-3) and 1 - high.numpy()[0] == pytest.approx(0.1, rel=1e-3)
    assert layerwise_rates(named.get, 3, 1.0) is None


def test_averages_follow_and_swap(adamw):
    optimizer = adamw(0.1, average_rate=exponential_average(0.5))
    weight = tf.Variable([[1.0]])
    expected, history = 1.0, []
    for _ in range(3):
        optimizer.apply_gradients([(tf.constant([[1.0]]), weight)])
        history.append(weight.numpy().item())
        expected = 0.5 * expected + 0.5 * history[-1]
    assert optimizer.averages[0].numpy().item() == pytest.approx(expected)
    optimizer.swap_averages([weight])
    assert weight.numpy().item() == pytest.approx(expected)
    optimizer.swap_averages([weight])
    assert weight.numpy().item() == pytest.approx(history[-1])


def test_stochastic_averages_are_the_mean_of_the_weights_after_some_updates(adamw):
    optimizer, weight = adamw(0.1, average_rate=stochastic_average(first=3, every=2)), tf.Variable([[1.0]])
    history, averages = [], []
    for number in range(8):
        optimizer.apply_gradients([(tf.constant([[1.0 + number]]), weight)])
        history.append(weight.numpy().item())
        averages.append(optimizer.averages[0].numpy().item())
    joined = [history[2], history[4], history[6]]  # after updates 3, 5 and 7
    assert averages[:3] == pytest.approx(history[:3])
    assert averages[3] == averages[2] and averages[7] == averages[6], "between them nothing changes"
    assert averages[4] == pytest.approx(np.mean(joined[:2])) and averages[6] == pytest.approx(np.mean(joined))


def test_layers_unfreeze_one_after_the_other(adamw):
    depths = {"head": 2, "layer": 1, "words": 0}
    until = gradual_unfreezing(lambda name: depths[name.removesuffix(":0")], depths=2, every=2)
    weights = [tf.Variable(np.ones([3, 2], np.float32), name=name) for name in depths]
    optimizer = adamw(0.1, weight_decay=0.5, frozen_until=until)
    optimizer.build(weights)
    rows = tf.IndexedSlices(tf.ones([1, 2]), tf.constant([1]), tf.constant([3, 2]))
    moved = []
    for _ in range(5):
        before = [weight.numpy() for weight in weights]
        optimizer.apply_gradients(zip([tf.ones([3, 2]), tf.ones([3, 2]), rows], weights, strict=True))
        moved.append([not np.array_equal(weight.numpy(), old) for weight, old in zip(weights, before, strict=True)])
        if len(moved) == 2:
            assert not optimizer.second_moments[1].numpy().any(), "what is frozen has no moments"
    assert moved == [[True, False, False]] * 2 + [[True, True, False]] * 2 + [[True, True, True]]


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_both_ways_are_one_over_many_large_variables(native, clip):
    """Parts for several threads, averages, rates by depth, and rows of a table beside dense gradients."""
    generator = np.random.default_rng(0)
    shapes = [(700, 64), (300, 200), (200,), (3, 50_000)]
    starts = [generator.normal(size=shape).astype("float32") for shape in shapes]
    ends = []
    for is_native in (False, True):
        optimizer = AdamW(
            0.01,
            0.1,
            max_gradient_norm=clip,
            average_rate=exponential_average(0.9),
            rate_of=lambda v: 1.0 / v.shape[0] ** 0.1,
            update_at_once=adamw_update if is_native else None,
        )
        weights = [tf.Variable(start, name=f"v{i}") for i, start in enumerate(starts)]
        for step in range(4):
            drawn = np.random.default_rng(step)
            rows = tf.constant(drawn.integers(0, 700, size=90), tf.int32)
            slices = tf.IndexedSlices(tf.constant(drawn.normal(size=(90, 64)), tf.float32), rows, tf.constant([700, 64]))
            dense = [tf.constant(drawn.normal(size=shape), tf.float32) for shape in shapes[1:]]
            optimizer.apply_gradients(zip([slices, *dense], weights, strict=True))
        ends.append([value.numpy() for value in (*weights, *optimizer.averages, *optimizer.named_slots().values())])
    assert all(np.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(*ends, strict=True))


def test_what_reads_a_variable_keeps_what_it_read(native):
    weight = tf.Variable([[1.0, 2.0]])
    before, other = weight.read_value(), tf.Variable([[0.0, 0.0]])
    other.assign(weight)
    optimizer = AdamW(0.1, update_at_once=adamw_update)
    optimizer.apply_gradients([(tf.ones([1, 2]), weight)])
    assert before.numpy().tolist() == other.numpy().tolist() == [[1.0, 2.0]] and weight.numpy()[0, 0] < 1.0


def test_a_gradient_that_is_no_number_is_not_hidden(adamw):
    weight = tf.Variable([[1.0]])
    adamw(0.1).apply_gradients([(tf.constant([[np.nan]]), weight)])
    assert np.isnan(weight.numpy()).all()


def test_named_slots_hold_everything():
    optimizer = AdamW(0.1, average_rate=exponential_average(0.9))
    optimizer.build(variables())
    assert set(optimizer.named_slots()) == {
        "iterations",
        *(f"{k}/{n}" for k in ("m", "v", "average") for n in ("kernel", "bias")),
    }
