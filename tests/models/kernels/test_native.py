"""Native layers against the layers that TensorFlow computes: values and gradients, dropout included.

`test_xla.py` holds them to TFBertModel, `test_task_model.py` the whole step.
"""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.conftest import tiny_config
from trainer.models.encoder import BertEncoder
from trainer.models.kernels import native as native_kernels
from trainer.models.kernels import xla
from trainer.models.kernels.base import PackedIds
from trainer.models.kernels.native_library import NativeLibrary
from trainer.runtime.randomness import random_scope, step_seed

LENGTH = 70
# Two segments and padding; one segment that fills the row; many, the last of one token.
SEGMENTS = [[1] * 33 + [2] * 20 + [0] * 17, [1] * LENGTH, [1] * 5 + [2] * 12 + [3] * 40 + [4] + [0] * 12]
READ = [[0, 33, 33], [69, 0, 0], [57, 17, 0]]  # a token may be read twice


def layer_of(rate, hidden=96, heads=3, inner=200):
    keras.utils.set_random_seed(1)
    config = tiny_config(
        hidden_size=hidden, num_attention_heads=heads, intermediate_size=inner, num_hidden_layers=1,
        hidden_dropout_prob=rate, attention_probs_dropout_prob=rate,
    )  # fmt: skip
    layer = BertEncoder(config).bert.encoder.layer[0]
    for weight in layer.weights:  # biases, gammas and betas that do something
        weight.assign(weight + tf.random.stateless_normal(weight.shape, [2, len(weight.shape)], stddev=0.1))
    return layer, config


def gradients_of(function, inputs, mask):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        output = function(*inputs)
        direction = tf.cos(tf.reshape(tf.range(tf.size(output), dtype=tf.float32), tf.shape(output))) * mask
        value = tf.reduce_sum(tf.cast(output, tf.float32) * direction)
    return tf.cast(output, tf.float32) * mask, tape.gradient(value, inputs)


def ids_of(segments):
    """Returns ids of words, types and positions."""
    words = tf.random.stateless_uniform(tf.shape(segments), [3, 4], 5, 1000, tf.int32)
    return words, words % 2, tf.random.stateless_uniform(tf.shape(segments), [5, 6], 0, 64, tf.int32)


def both(layer, config, dtype, reads):
    """Returns (output, gradients) by TensorFlow's operations and by ours, of what somebody reads."""
    segments, seeds = tf.constant(SEGMENTS), tf.constant([[11, 22], [33, 44], [55, 66]])
    read = tf.constant(READ) if reads else None
    mask = 1.0 if reads else tf.cast(segments > 0, tf.float32)[..., None]
    hidden = tf.cast(tf.random.stateless_normal([3, LENGTH, config.hidden_size], [5, 6]), dtype)
    weights = [tf.convert_to_tensor(weight) for weight in native_kernels.weights_of(layer)]

    def theirs(hidden):
        readers, reading = hidden, segments
        if read is not None:
            readers, reading = (tf.gather(of, read, batch_dims=1) for of in (hidden, segments))
        attended = xla.attend(layer.attention, config, readers, reading, hidden, segments, seeds[:2])
        return xla.feed_forward(layer, config, attended, seeds[2])

    with tf.GradientTape() as tape:
        tape.watch(hidden)
        output = theirs(hidden)
        direction = tf.cos(tf.reshape(tf.range(tf.size(output), dtype=tf.float32), tf.shape(output))) * mask
        value = tf.reduce_sum(tf.cast(output, tf.float32) * direction)
    expected = tape.gradient(value, [hidden, *native_kernels.weights_of(layer)])
    ours = gradients_of(
        lambda hidden, *weights: native_kernels.apply_layer(hidden, segments, read, seeds, list(weights), config),
        [hidden, *weights], mask,
    )  # fmt: skip
    return (tf.cast(output, tf.float32) * mask, expected), ours


@pytest.mark.parametrize("reads", [False, True], ids=["all tokens", "some tokens"])
@pytest.mark.parametrize("rate", [0.0, 0.3], ids=["plain", "dropout"])
@pytest.mark.parametrize("sizes", [(96, 3, 200), (60, 5, 33)], ids=["round sizes", "odd sizes"])
def test_values_and_gradients_are_tensorflows(native, sizes, rate, reads):
    (expected, expected_gradients), (output, gradients) = both(*layer_of(rate, *sizes), tf.float32, reads)
    assert np.abs(output - expected).max() < 1e-5
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        assert np.abs(ours - theirs).max() <= 1e-5 * max(1.0, np.abs(theirs).max()), ours.shape


@pytest.mark.parametrize("reads", [False, True], ids=["all tokens", "some tokens"])
@pytest.mark.parametrize("sizes", [(96, 3, 200), (60, 5, 33)], ids=["round sizes", "odd sizes"])
def test_bfloat16_differs_by_its_rounding_only(native, sizes, reads):
    layer, config = layer_of(0.1, *sizes)
    (_, _), (exact, exact_gradients) = both(layer, config, tf.float32, reads)
    (theirs, their_gradients), (ours, our_gradients) = both(layer, config, tf.bfloat16, reads)
    gaps = [float(tf.norm(tf.cast(found, tf.float32) - exact) / tf.norm(exact)) for found in (ours, theirs)]
    assert gaps[0] < 0.01 and gaps[0] < 1.2 * gaps[1], "as near to float32 as TensorFlow's"
    for found, other, wanted in zip(our_gradients, their_gradients, exact_gradients, strict=True):
        if tf.norm(wanted) > 1e-3:  # the key's bias has none
            gaps = [float(tf.norm(tf.cast(one, tf.float32) - wanted) / tf.norm(wanted)) for one in (found, other)]
            assert gaps[0] < 0.2 and gaps[0] < 1.2 * gaps[1] + 1e-3, (found.shape, gaps)


@pytest.mark.parametrize("rate", [0.0, 0.3], ids=["plain", "dropout"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(tf.float32, 1e-5), (tf.bfloat16, 0.05)])
@pytest.mark.parametrize("hidden", [96, 60])
def test_embeddings_and_their_gradients_are_tensorflows(native, hidden, dtype, tolerance, rate):
    _, config = layer_of(rate, hidden)
    embeddings = BertEncoder(config).bert.embeddings
    for weight in embeddings.weights:  # gamma and beta that do something
        weight.assign(weight + tf.random.stateless_normal(weight.shape, [2, 1], stddev=0.1))
    ids = [tf.reshape(values, [-1]) for values in ids_of(tf.ones([3, LENGTH]))]
    ids = [tf.concat([values, values[:40]], 0) for values in ids]  # words, types and positions that come again

    def run(function, *arguments):
        with tf.GradientTape() as tape, random_scope(step_seed(1, 0, 0)):
            output = tf.reshape(function(*arguments), [-1, hidden])
            direction = tf.cos(tf.reshape(tf.range(250.0 * hidden), [250, hidden]))
            value = tf.reduce_sum(tf.cast(output, tf.float32) * direction)
        return tf.cast(output, tf.float32), [tf.convert_to_tensor(one) for one in tape.gradient(value, embeddings.weights)]

    words, types, positions = ids
    ours = run(native_kernels._embed, embeddings, config, ids, dtype)
    theirs = run(xla.embed, embeddings, config, PackedIds(words[None], types[None], positions[None], None), dtype)
    assert np.abs(ours[0] - theirs[0]).max() <= tolerance
    assert rate == 0 or 0.2 < np.mean(ours[0] == 0) < 0.4
    for found, wanted in zip(ours[1], theirs[1], strict=True):
        assert np.abs(found - wanted).max() <= tolerance * max(1.0, np.abs(wanted).max()), found.shape


def test_ids_beyond_their_tables_are_told(native):
    bert = BertEncoder(layer_of(0.0)[1]).bert
    one, sizes = tf.ones([1, 1], tf.int32), {"word_ids": bert.config.vocab_size, "type_ids": 2, "position_ids": 128}
    for place, (name, size) in enumerate(sizes.items()):
        for wrong in (size, -1):
            ids = [one * wrong if i == place else one for i in range(3)]
            with pytest.raises(tf.errors.InvalidArgumentError, match=rf"{name} holds {wrong}, which is not in \[0, {size}\)"):
                native_kernels.encode(bert, PackedIds(*ids, one), tf.float32)


@pytest.mark.parametrize("reads", [False, True], ids=["all tokens", "some tokens"])
def test_the_layers_see_tokens_only(native, reads):
    """Without dropout, what padding holds and how much of it there is changes nothing, not a bit."""
    layer, config = layer_of(0.0)
    bert = BertEncoder(config).bert
    segments = tf.constant(SEGMENTS)
    ids = ids_of(segments)
    read = tf.constant(READ) if reads else None
    before = native_kernels.encode(bert, PackedIds(*ids, segments), tf.float32, read)
    real = (segments > 0).numpy()
    noisy = [tf.where(real, values, 1) for values in ids]
    wider = [tf.pad(values, [[0, 1], [0, 9]]) for values in (*noisy, segments)]
    after = native_kernels.encode(bert, PackedIds(*wider), tf.float32, tf.pad(read, [[0, 1], [0, 0]]) if reads else None)
    if reads:
        assert np.array_equal(after[:3], before)
    else:
        assert np.array_equal(after.numpy()[:3, :LENGTH][real], before.numpy()[real])
        assert not np.any(before.numpy()[~real])


@pytest.mark.parametrize("rows", [0, 2])
@pytest.mark.parametrize("reads", [False, True], ids=["all tokens", "some tokens"])
def test_a_share_without_examples_gives_gradients_of_nothing(native, rows, reads):
    layer, config = layer_of(0.1)
    bert = BertEncoder(config).bert
    ids, read = tf.zeros([rows, 8], tf.int32), tf.zeros([rows, 3], tf.int32)
    with tf.GradientTape() as tape, random_scope(step_seed(1, 0, 0)):
        output = native_kernels.encode(bert, PackedIds(ids, ids, ids, ids), tf.float32, read if reads else None)
        value = tf.reduce_sum(output * 0.0)
    assert output.shape == (rows, 3 if reads else 8, config.hidden_size) and np.isfinite(output).all()
    weights = [*native_kernels.weights_of(bert.encoder.layer[0]), *bert.embeddings.weights]
    assert not any(np.any(tf.convert_to_tensor(gradient)) for gradient in tape.gradient(value, weights))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_no_number_is_not_hidden(native, dtype):
    """A run whose loss is none must see it."""
    layer, config = layer_of(0.0)
    hidden = tf.cast(tf.where(tf.range(LENGTH)[None, :, None] == 40, np.nan, tf.ones([3, LENGTH, config.hidden_size])), dtype)
    weights = [tf.convert_to_tensor(weight) for weight in native_kernels.weights_of(layer)]
    output = native_kernels.apply_layer(hidden, tf.constant(SEGMENTS), None, tf.zeros([3, 2], tf.int32), weights, config)
    found = np.isnan(tf.cast(output, tf.float32).numpy()).all(axis=-1)
    same_segment = np.array(SEGMENTS) == np.array(SEGMENTS)[:, 40:41]
    assert np.array_equal(found, same_segment & (np.array(SEGMENTS) > 0)), "and it stays in its segment"


def test_an_encoder_that_does_not_fit_says_why(monkeypatch):
    config, unfit = tiny_config(), native_kernels.NativeKernels.unfit
    assert unfit(config, "float16") == "native kernels do not support float16"
    assert unfit(tiny_config(hidden_act="relu"), "float32") == "native kernels do not support hidden_act=relu"
    odd = native_kernels.unfit(tiny_config(intermediate_size=65), "bfloat16", "inference")
    assert odd == "native kernels in bfloat16 need an even hidden_size and intermediate_size"
    monkeypatch.setattr(native_kernels, "library", lambda _: NativeLibrary(None, "no C++ compiler here"))
    assert unfit(config, "float32") == "native kernels are not available: no C++ compiler here"
    monkeypatch.setattr(native_kernels, "library", lambda _: NativeLibrary(object(), ""))
    assert unfit(config, "bfloat16") is None
