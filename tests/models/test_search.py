"""The search alone, over scores that are given: n-gram bans, drawing beside TensorFlow's warpers of transformers, margins."""

import numpy as np
import pytest
import tensorflow as tf
from transformers import TFTemperatureLogitsWarper, TFTopKLogitsWarper, TFTopPLogitsWarper

from trainer.models.search import FromLogits, Search, _drawn, search

IDS = {"first_id": 1, "last_id": 2, "pad_id": 0}


def given(scores):
    """Returns a decoder whose logits depend on the place only: float32 [places, V]."""

    def step(ids, place, is_open, ancestors, state):
        logits = tf.broadcast_to(tf.gather(tf.constant(scores, tf.float32), place), [*ids.shape, len(scores[0])])
        return FromLogits(logits), state

    return step


@pytest.mark.parametrize("beams", [1, 2])
def test_a_near_tie_has_a_small_margin(beams):
    scores = np.log([[0.01, 0.01, 0.01, 0.485, 0.485 - 1e-5], [0.01, 0.01, 0.96, 0.01, 0.01]])
    found = search(
        given(scores), (), tf.constant([True]), tf.constant([1], tf.uint32), Search(**IDS, max_new_tokens=2, num_beams=beams)
    )
    assert found.sequences.numpy()[0, 0].tolist() == [3, 2] and float(found.margin[0]) < 1e-4
    clear = np.log([[0.01, 0.01, 0.01, 0.8, 0.17], [0.01, 0.01, 0.96, 0.01, 0.01]])
    found = search(given(clear), (), tf.constant([True]), tf.constant([1], tf.uint32), Search(**IDS, max_new_tokens=2))
    assert float(found.margin[0]) > 0.5


def test_an_example_that_is_not_there_ends_nothing():
    scores = np.log([[0.1, 0.1, 0.1, 0.7]] * 4)
    how = Search(**IDS, max_new_tokens=4, num_beams=2)
    found = search(given(scores), (), tf.constant([False, False]), tf.constant([1, 2], tf.uint32), how)
    assert not found.sequences.numpy().any()


def test_draws_have_the_warped_probabilities():
    logits = tf.constant(np.random.default_rng(0).normal(size=[1, 30]) * 2, tf.float32)
    how = Search(**IDS, max_new_tokens=8, do_sample=True, temperature=0.7, top_k=12, top_p=0.8)
    warped = logits
    for warper in (TFTemperatureLogitsWarper(0.7), TFTopKLogitsWarper(12), TFTopPLogitsWarper(0.8)):
        warped = warper(None, warped, 1)
    expected = tf.nn.softmax(warped)[0].numpy()
    keys = tf.range(20000)
    drawn, _ = _drawn(tf.broadcast_to(logits[:, None], [20000, 1, 30]), tf.bitcast(keys, tf.uint32), tf.constant(3), how)
    shares = np.bincount(drawn.numpy().ravel(), minlength=30) / 20000
    assert (shares[expected == 0] == 0).all()
    np.testing.assert_allclose(shares, expected, atol=0.015)
