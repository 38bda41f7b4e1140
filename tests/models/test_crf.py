"""The CRF against all paths, written out."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from trainer.models.crf import Transitions, best_tags, chain_of, crf_losses, tag_probabilities

TAGS, LENGTH = 3, 9
# Two rows: examples of 3 and 2 words with pieces between; one of 4 words; words are where a 1 stands
STARTS = np.array([[0, 1, 0, 1, 1, 0, 1, 1, 0], [0, 1, 1, 0, 1, 1, 0, 0, 0]], np.int32)
SEGMENTS = np.array([[1, 1, 1, 1, 1, 2, 2, 2, 2], [1, 1, 1, 1, 1, 1, 1, 0, 0]], np.int32)
EXAMPLES = [(0, [1, 3, 4]), (0, [6, 7]), (1, [1, 2, 4, 5])]


@pytest.fixture
def numbers():
    draw = np.random.default_rng(5)
    logits = draw.normal(size=(2, LENGTH, TAGS)).astype(np.float32)
    transitions = 2 * draw.normal(size=(TAGS + 2, TAGS)).astype(np.float32)
    return logits, transitions, draw.integers(TAGS, size=(2, LENGTH)).astype(np.int32)


def path_score(logits, transitions, path):
    score = transitions[TAGS, path[0]] + transitions[TAGS + 1, path[-1]]
    score += sum(logits[place, tag] for place, tag in enumerate(path))
    return score + sum(transitions[a, b] for a, b in itertools.pairwise(path))


def test_losses_are_those_of_all_paths(numbers):
    logits, transitions, tags = numbers
    chain = chain_of(STARTS, SEGMENTS)
    losses = tf.function(crf_losses)(logits, tags, transitions, chain).numpy()
    assert losses[0, 5:].tolist() == [0] * 4 and losses[1, 4:].tolist() == [0] * 5
    found = [losses[0, :3].sum(), losses[0, 3:5].sum(), losses[1, :4].sum()]
    for loss, (row, places) in zip(found, EXAMPLES, strict=True):
        scores = [path_score(logits[row, places], transitions, p) for p in itertools.product(range(TAGS), repeat=len(places))]
        true = path_score(logits[row, places], transitions, tags[row, places])
        assert loss == pytest.approx(np.logaddexp.reduce(scores) - true, abs=1e-4)


def test_viterbi_finds_the_best_of_all_paths(numbers):
    logits, transitions, _ = numbers
    found = tf.function(best_tags)(logits, transitions, chain_of(STARTS, SEGMENTS)).numpy()
    for row, places in EXAMPLES:
        paths = itertools.product(range(TAGS), repeat=len(places))
        best = max(paths, key=lambda path: path_score(logits[row, places], transitions, path))
        assert found[row, places].tolist() == list(best)
    assert not found[STARTS == 0].any()


def test_probabilities_are_those_of_all_paths(numbers):
    logits, transitions, _ = numbers
    found = tf.function(tag_probabilities)(logits, transitions, chain_of(STARTS, SEGMENTS)).numpy()
    for row, places in EXAMPLES:
        paths = list(itertools.product(range(TAGS), repeat=len(places)))
        shares = np.exp([path_score(logits[row, places], transitions, path) for path in paths])
        shares /= shares.sum()
        expected = [[shares[[path[i] == tag for path in paths]].sum() for tag in range(TAGS)] for i in range(len(places))]
        assert np.allclose(found[row, places], expected, atol=1e-5)


def test_gradients_reach_the_transitions(numbers):
    logits, _, tags = numbers
    layer = Transitions(TAGS)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(crf_losses(logits, tags, layer(tf.constant(logits)), chain_of(STARTS, SEGMENTS)))
    gradient = tape.gradient(loss, layer.scores)
    # Each row of the expected counts less the true ones sums to 0 over the tags at the start, and at the end
    assert gradient.numpy()[TAGS:].sum(axis=1) == pytest.approx([0, 0], abs=1e-5) and abs(gradient.numpy()).max() > 0.1


def test_a_batch_without_words_has_no_loss(numbers):
    logits, transitions, tags = numbers
    chain = chain_of(np.zeros_like(STARTS), SEGMENTS)
    assert not crf_losses(logits, tags, transitions, chain).numpy().any()
    assert not best_tags(logits, transitions, chain).numpy().any()
