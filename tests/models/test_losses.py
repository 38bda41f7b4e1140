import math

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from trainer.models.losses import cross_entropy, vocabulary_cross_entropy

LABELS = tf.constant([0, 2, 1, 1])
LOGITS = tf.constant([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [1.0, 3.0, -2.0], [-4.0, 0.1, 0.2]])


def test_hand_computed():
    # softmax([ln 3, 0]) = [3/4, 1/4]
    loss = cross_entropy(tf.constant([1]), tf.constant([[math.log(3), 0.0]]))
    assert float(loss[0]) == pytest.approx(math.log(4))
    focal = cross_entropy(tf.constant([1]), tf.constant([[math.log(3), 0.0]]), focal_gamma=2.0)
    assert float(focal[0]) == pytest.approx(0.75**2 * math.log(4))
    smooth = cross_entropy(tf.constant([1]), tf.constant([[math.log(3), 0.0]]), label_smoothing=0.2)
    assert float(smooth[0]) == pytest.approx(0.9 * math.log(4) + 0.1 * math.log(4 / 3))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_keras(smoothing):
    expected = keras.losses.categorical_crossentropy(tf.one_hot(LABELS, 3), LOGITS, from_logits=True, label_smoothing=smoothing)
    assert np.allclose(cross_entropy(LABELS, LOGITS, smoothing), expected, atol=1e-6)


def test_negative_labels_cost_nothing_and_have_no_gradient():
    with tf.GradientTape() as tape:
        tape.watch(LOGITS)
        loss = tf.reduce_sum(cross_entropy(tf.constant([-100, -1, -1, -1]), LOGITS))
    assert float(loss) == 0.0 and not np.any(tape.gradient(loss, LOGITS))


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_gradient_is_finite_at_certainty(gamma):
    logits = tf.constant([[100.0, -100.0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = cross_entropy(tf.constant([0]), logits, focal_gamma=gamma)
    assert np.isfinite(tape.gradient(loss, logits)).all()


def test_packed_labels_have_their_own_losses():
    packed = cross_entropy(tf.reshape(LABELS, [2, 2]), tf.reshape(LOGITS, [2, 2, 3]))
    assert np.allclose(tf.reshape(packed, [-1]), cross_entropy(LABELS, LOGITS))


def test_vocabulary_cross_entropy_equals_kerass_with_its_gradient():
    generator = np.random.default_rng(2)
    logits = tf.constant(generator.normal(size=(3, 4, 50), scale=3).astype("float32"))
    labels = tf.constant(generator.integers(0, 50, (3, 4)), tf.int32)
    weights = tf.constant(generator.random((3, 4)).astype("float32"))

    def both(function):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            losses = function()
            total = tf.reduce_sum(losses * weights)
        return losses, tape.gradient(total, logits)

    found = both(lambda: vocabulary_cross_entropy(labels, logits)[0])
    expected = both(lambda: keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True))
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))
    _, correct = vocabulary_cross_entropy(labels, logits)
    assert np.array_equal(correct, np.argmax(logits, -1) == labels.numpy())
    _, first = vocabulary_cross_entropy(tf.constant([1, 2]), tf.constant([[0.0, 2.0, 2.0, 1.0], [0.0, 2.0, 2.0, 1.0]]))
    assert first.numpy().tolist() == [1.0, 0.0]
    certain, _ = vocabulary_cross_entropy(tf.constant([0, 1]), tf.constant([[3e38, -3e38], [1e4, 0.0]]))
    assert certain.numpy().tolist() == [0.0, 1e4]
    low, _ = vocabulary_cross_entropy(labels, tf.cast(logits, tf.bfloat16))
    assert low.dtype == tf.float32 and np.allclose(low, found[0], atol=0.1)
