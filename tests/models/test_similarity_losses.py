"""Losses by hand, and by the formulas of sentence-transformers written out in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.models import similarity_losses as losses
from trainer.models.similarity_losses import Groups

GROUPS, TEXTS, SIZE = 5, 4, 6


@pytest.fixture
def groups():
    draw = np.random.default_rng(0)
    is_there = np.ones([GROUPS, TEXTS], bool)
    is_there[1, 3] = is_there[2, 2:] = False
    hashes = np.arange(GROUPS * TEXTS * 2).reshape([GROUPS, TEXTS, 2])
    vectors = draw.normal(size=[GROUPS, TEXTS, SIZE]).astype(np.float32)
    return Groups(*map(tf.constant, (vectors, is_there, hashes.astype(np.int32), np.float32([1, 0.2, 0.5, 0.2, 0]))))


def units(groups):
    vectors = groups.vectors.numpy()
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def cosines(groups):
    return (units(groups)[:, 0] * units(groups)[:, 1]).sum(-1)


def test_multiple_negatives_are_all_other_texts(groups):
    vectors, is_there = units(groups), groups.is_there.numpy()
    candidates = [(row, text) for row in range(GROUPS) for text in range(1, TEXTS) if is_there[row, text]]
    loss, is_first = losses.multiple_negatives(groups, 20.0)
    for row in range(GROUPS):
        scores = {place: 20 * vectors[row, 0] @ vectors[place] for place in candidates}
        total = np.log(sum(np.exp(score) for score in scores.values()))
        assert float(loss[row]) == pytest.approx(total - scores[row, 1], rel=1e-4)
        assert float(is_first[row]) == float(max(scores, key=scores.get) == (row, 1))
    both, _ = losses.multiple_negatives(groups, 20.0, symmetric=True)
    back = 20 * vectors[:, 1] @ vectors[:, 0].T
    back = np.log(np.exp(back).sum(1)) - np.diag(back)
    assert np.allclose(both, (loss.numpy() + back) / 2, rtol=1e-4)


def test_what_equals_the_positive_or_has_its_query_is_no_negative(groups):
    """Row 3's positive is row 0's; row 4 has row 1's query; row 2's first negative is row 2's query."""
    hashes = groups.hashes.numpy()
    hashes[3, 1], hashes[4, 0], hashes[0, 2] = hashes[0, 1], hashes[1, 0], hashes[2, 0]
    groups = groups._replace(hashes=tf.constant(hashes))
    vectors, is_there = units(groups), groups.is_there.numpy()
    excluded = {0: {(3, 1)}, 3: {(0, 1)}, 1: {(4, 1)}, 4: {(1, 1)}, 2: {(0, 2)}}
    loss, _ = losses.multiple_negatives(groups, 20.0)
    for row in range(GROUPS):
        seen = [
            (other, text)
            for other in range(GROUPS)
            for text in range(1, TEXTS)
            if is_there[other, text] and (other, text) not in excluded[row]
        ]
        scores = [20 * vectors[row, 0] @ vectors[place] for place in seen]
        right = 20 * vectors[row, 0] @ vectors[row, 1]
        assert float(loss[row]) == pytest.approx(np.log(np.exp(scores).sum()) - right, rel=1e-4)


def test_scored_pairs(groups):
    cosine, target = cosines(groups), groups.targets.numpy()
    assert np.allclose(losses.cosine_mse(groups), (cosine - target) ** 2, atol=1e-6)
    apart = np.maximum(0.5 - (1 - cosine), 0) ** 2
    assert np.allclose(losses.contrastive(groups, 0.5), 0.5 * (target * (1 - cosine) ** 2 + (1 - target) * apart), atol=1e-6)
    differences = [
        20 * (cosine[a] - cosine[b]) for a in range(GROUPS) for b in range(GROUPS) if target[a] < target[b]
    ]  # rows 1 and 3 have equal scores: neither is to be over the other
    assert len(differences) == 9
    assert np.allclose(losses.cosent(groups, 20.0), np.log(1 + np.exp(differences).sum()), rtol=1e-5)


def test_triplets(groups):
    vectors, found = units(groups), losses.triplet(groups, 0.5).numpy()
    negatives = {0: [2, 3], 1: [2], 2: [], 3: [2, 3], 4: [2, 3]}
    for row, places in negatives.items():
        right = vectors[row, 0] @ vectors[row, 1]
        each = [max(vectors[row, 0] @ vectors[row, place] - right + 0.5, 0) for place in places]
        assert found[row] == pytest.approx(np.mean(each) if each else 0.0, abs=1e-6)


def test_groups_come_in_the_order_of_their_rows():
    """Two rows of two texts in packed rows, and empty slots; where all is static there are groups without a row."""
    batch = {
        "example_number": tf.constant([[7, 4], [6, -1], [5, -1], [-1, -1]]),
        "example_weights": tf.constant([[1.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]),
        "is_there": tf.constant([[1, 1], [1, 0], [0, 0], [0, 0]]),
        "hash_low": tf.constant([[17, 14], [16, 0], [15, 0], [0, 0]]),
        "hash_high": tf.zeros([4, 2], tf.int32),
        "target": tf.constant([[0.0, 0.25], [0.75, 0.0], [0.0, 0.0], [0.0, 0.0]]),
    }
    vectors = tf.cast(batch["example_number"], tf.float32)[..., None]

    def check(groups, weights):
        assert groups.vectors[:2, :, 0].numpy().tolist() == [[4, 5], [6, 7]]
        assert groups.hashes[:2, :, 0].numpy().tolist() == [[14, 15], [16, 17]]
        assert groups.is_there[:2].numpy().tolist() == [[True, False], [True, True]]
        assert groups.targets[:2].numpy().tolist() == [0.25, 0.75]
        assert weights[:2].numpy().tolist() == [1, 1] and weights[2:].numpy().sum() == 0

    check(losses.groups_of(batch, vectors, 2), losses.rows_of(batch, 2))
    spec = {name: tf.TensorSpec([None, None], value.dtype) for name, value in batch.items()}
    dynamic = tf.function(lambda batch, v: (*losses.groups_of(batch, v, 2), losses.rows_of(batch, 2)))
    *groups, weights = dynamic.get_concrete_function(spec, tf.TensorSpec([None, None, 1]))(batch, vectors)
    check(Groups(*groups), weights)
    assert len(weights) == 2
