"""The native decoder beside the plain one: hidden states step by step, likeliest tokens, the cache, refused shapes."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from transformers import BertConfig

from trainer.models.decoder import BertDecoder, StepwiseDecoder
from trainer.models.encoder import BertEncoder
from trainer.models.heads import PretrainingHeads
from trainer.models.kernels.native import NativeKernels

pytestmark = pytest.mark.usefixtures("native_decoding")
EXAMPLES, BEAMS, PLACES, SOURCES, VOCABULARY = 5, 3, 4, 7, 131
SIZES = {"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 50}


@pytest.fixture(scope="module")
def both():
    """The plain decoder and the native one over the same weights."""
    keras.utils.set_random_seed(2)
    config = BertConfig(vocab_size=VOCABULARY, max_position_embeddings=20, initializer_range=0.3, **SIZES)
    decoder = BertDecoder(BertEncoder(config), None, share_embeddings=True)
    head = PretrainingHeads(decoder, has_pairs=False)
    head(tf.zeros([1, 1, config.hidden_size]))
    for weight in (*decoder.model.weights, *head.weights):  # biases and the like begin as zeros
        if len(weight.shape) == 1:
            weight.assign_add(tf.random.normal(weight.shape, stddev=0.2))
    found = []
    for kind in (StepwiseDecoder, NativeKernels().stepwise_decoder()):
        found.append(kind(decoder, head, BEAMS, PLACES))
        found[-1].hold_weights()
    return found


def steps(decoder, is_open):
    """Returns what may follow at each place, for beams that descend from each other."""
    generator = np.random.default_rng(0)
    hidden = tf.constant(generator.normal(size=[EXAMPLES, SOURCES, SIZES["hidden_size"]]), tf.float32)
    lengths = generator.integers(1, SOURCES + 1, size=EXAMPLES)
    is_token = tf.constant(np.arange(SOURCES) < lengths[:, None])
    memory, cache = decoder.memory(hidden, is_token), decoder.empty_cache(EXAMPLES)
    ancestors = np.zeros([EXAMPLES, BEAMS, PLACES], np.int32)
    followings = []
    for place in range(PLACES):
        ancestors = np.take_along_axis(ancestors, generator.integers(0, BEAMS, size=[EXAMPLES, BEAMS, 1]), axis=1)
        ancestors[:, :, place] = np.arange(BEAMS)
        ids = tf.constant(generator.integers(0, VOCABULARY, size=[EXAMPLES, BEAMS]), tf.int32)
        following, cache = decoder.step(ids, tf.constant(place), tf.constant(is_open), tf.constant(ancestors), memory, cache)
        followings.append(following)
    return followings


@pytest.mark.parametrize("is_open", [[True] * EXAMPLES, [True, False, True, True, False], [False] * EXAMPLES], ids=str)
def test_it_says_what_the_plain_one_says(both, is_open):
    for expected, found in zip(*(steps(one, is_open) for one in both), strict=True):
        assert found.size == expected.size == VOCABULARY
        rows = np.flatnonzero(is_open)
        np.testing.assert_allclose(found.logits().numpy()[rows], expected.logits().numpy()[rows], rtol=1e-4, atol=1e-4)
        (values, ids), (expected_values, expected_ids) = found.top(6), expected.top(6)
        np.testing.assert_allclose(values.numpy()[rows], expected_values.numpy()[rows], rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(ids.numpy()[rows], expected_ids.numpy()[rows])
        assert not ids.numpy()[~np.array(is_open)].any() and np.isfinite(values.numpy()).all()


@pytest.mark.parametrize("tokens", [5, 64, 1000])
def test_the_likeliest_of_equal_ones_is_the_first(native_decoding, tokens):
    bias = np.random.default_rng(1).integers(0, 4, size=tokens).astype(np.float32)
    panels = tf.zeros([-(-tokens // 64) * 64 * 8])
    values, ids, totals = native_decoding.likeliest_tokens(tf.zeros([1, 2, 8]), [True], panels, bias, count=5)
    expected, places = tf.math.top_k(bias, 5)
    np.testing.assert_array_equal(values[0, 1], expected)
    np.testing.assert_array_equal(ids[0, 1], places)
    np.testing.assert_allclose(totals, np.full([1, 2], tf.reduce_logsumexp(bias)), rtol=1e-6)


def test_a_cache_that_is_read_elsewhere_is_not_changed(both):
    _, native = both
    memory, cache = native.memory(tf.ones([1, 2, 36]), tf.ones([1, 2], tf.bool)), native.empty_cache(1)
    ids, ancestors = tf.ones([1, BEAMS], tf.int32), tf.zeros([1, BEAMS, PLACES], tf.int32)
    _, after = native.step(ids, tf.constant(0), tf.constant([True]), ancestors, memory, cache)
    assert not cache.numpy().any() and after.numpy().any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"place": PLACES}, r"BertDecoderStep: place holds 4, which is not in \[0, 4\)"),
        ({"ids": [[0, 1, VOCABULARY]]}, r"BertDecoderStep: ids holds 131, which is not in \[0, 131\)"),
        ({"ancestors": np.full([1, BEAMS, PLACES], BEAMS)}, r"BertDecoderStep: ancestors holds 3, which is not in \[0, 3\)"),
        ({"lengths": [3]}, r"BertDecoderStep: source_lengths holds 3, which is not in \[0, 3\)"),
        ({"is_open": [True, True]}, r"BertDecoderStep: is_open has shape \[2\], expected \[1\]"),
        ({"cache": np.zeros([2, 2, 1, PLACES, BEAMS, 35])}, "BertDecoderStep: cache has shape"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_refused(both, change, message):
    _, native = both
    memory = native.memory(tf.ones([1, 2, 36]), tf.ones([1, 2], tf.bool))
    given = {"ids": [[0, 1, 2]], "place": 0, "is_open": [True], "ancestors": np.zeros([1, BEAMS, PLACES]), "lengths": [2]}
    given |= {"cache": native.empty_cache(1)} | change
    types = {"is_open": tf.bool, "cache": tf.float32}
    values = {name: tf.cast(tf.constant(value), types.get(name, tf.int32)) for name, value in given.items()}
    memory = memory._replace(lengths=values["lengths"])
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        native.step(values["ids"], values["place"], values["is_open"], values["ancestors"], memory, values["cache"])


def test_without_the_operations_the_plain_one_is_used(monkeypatch):
    from trainer.models.kernels import native
    from trainer.models.kernels.native_library import NativeLibrary

    monkeypatch.setattr(native, "library", lambda purpose: NativeLibrary(None, "no compiler"))
    assert NativeKernels().stepwise_decoder() is None
