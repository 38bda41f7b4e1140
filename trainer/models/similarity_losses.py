"""Losses that learn vectors whose cosine says how alike two texts are. Each gives a value for each group of texts of a row.

Letters: G groups of this replica, T texts of a group (a query, its positive, its negatives), D dimensions. Losses that compare
groups see those of all replicas, in the same order on each: two replicas equal one with twice the batch.
"""

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from trainer.runtime.replicas import gathered, replica_context

BELOW_ALL = -1e9  # a score that no softmax sees


class Groups(NamedTuple):
    """The texts of a replica's batch, by the row that they came from.

    Attributes:
      vectors: float32 [G, T, D].
      is_there: bool [G, T]; False where a row lacks a text, and in groups without a row.
      hashes: int32 [G, T, 2], equal for equal texts.
      targets: float32 [G], how alike the first two texts are, 0 to 1.
    """

    vectors: tf.Tensor
    is_there: tf.Tensor
    hashes: tf.Tensor
    targets: tf.Tensor

    def cut(self, dimensions: int) -> "Groups":
        """Returns the same with only the first of the dimensions."""
        return self._replace(vectors=self.vectors[..., :dimensions])


def groups_of(batch: Mapping[str, tf.Tensor], vectors: tf.Tensor, texts: int) -> Groups:
    """Sorts what is known of a packed batch's texts by example number, so that a row's texts follow each other.

    Args:
      batch: packed; "is_there", "hash_low", "hash_high" and "target" are features of its examples.
      vectors: float32 [rows, K, D].
      texts: T, of every row.
    """
    of = _sorting(batch, texts)
    is_there = of(tf.cast(batch["is_there"], tf.float32) * batch["example_weights"]) > 0
    hashes = tf.stack([of(batch["hash_low"]), of(batch["hash_high"])], axis=-1)
    return Groups(of(tf.cast(vectors, tf.float32)), is_there, hashes, of(batch["target"])[:, 0])


def rows_of(batch: Mapping[str, tf.Tensor], texts: int) -> tf.Tensor:
    """Returns 1 for the groups that are rows, 0 for those that fill the batch up: float32 [G]."""
    return _sorting(batch, texts)(batch["example_weights"])[:, 0]


def _sorting(batch, texts):
    """Returns what takes values of a batch's examples, [rows, K, ...], to [G, T, ...]."""
    weights = batch["example_weights"]
    numbers = tf.where(weights > 0, batch["example_number"], tf.int32.max)
    if weights.shape.is_fully_defined():
        # With one shape for all batches there are as many rows as examples, or more: see `feeding.BatchShape`.
        count = weights.shape[0] // texts * texts
        tf.debugging.assert_less_equal(
            tf.math.count_nonzero(weights, dtype=tf.int32), count, "a batch of more examples than rows"
        )
    else:
        count = tf.math.count_nonzero(weights, dtype=tf.int32) // texts * texts
    order = tf.argsort(tf.reshape(numbers, [-1]), stable=True)[:count]

    def of(values):
        inner = values.shape[2:]
        found = tf.gather(tf.reshape(values, [-1, *inner]), order)
        return tf.reshape(found, [-1, texts, *inner])

    return of


def multiple_negatives(groups: Groups, scale: float, symmetric: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
    """Cross entropy of a query's positive among all texts of the whole batch that are no queries.

    Henderson et al. 2017 (arXiv:1705.00652), section 4.4, with cosine times a scale, as sentence-transformers'
    MultipleNegativesRankingLoss. A text that equals the positive or the query, and the positive of another row with the same
    query, is no negative.

    Args:
      groups: of this replica.
      scale: of the cosine; one over the temperature.
      symmetric: the mean with the cross entropy of a positive's query among all queries.

    Returns:
      float32 [G] each: the loss; 1 where the positive has the highest score, else 0.
    """
    everyone = _everyone(groups._replace(vectors=_units(groups.vectors)))
    own = _units(groups.vectors)
    number = tf.range(tf.shape(own)[0]) + _first_of_replica(tf.shape(own)[0])
    texts = own.shape[1]
    dimensions = own.shape[-1]
    candidates = tf.reshape(everyone.vectors[:, 1:], [-1, dimensions])  # [C, D], C all groups times T - 1
    is_there = tf.reshape(everyone.is_there[:, 1:], [-1])
    hashes = tf.reshape(everyone.hashes[:, 1:], [-1, 2])
    row = tf.repeat(tf.range(tf.shape(everyone.vectors)[0]), texts - 1)
    is_positive = tf.tile(tf.range(texts - 1) == 0, [tf.shape(everyone.vectors)[0]])
    query, positive = groups.hashes[:, 0], groups.hashes[:, 1]
    same_query = _same(query, tf.gather(everyone.hashes[:, 0], row)) & is_positive
    is_right = (row == number[:, None]) & is_positive
    is_excluded = (_same(positive, hashes) | _same(query, hashes) | same_query) & ~is_right
    scores = tf.matmul(own[:, 0], candidates, transpose_b=True) * scale
    scores = tf.where(is_there & ~is_excluded, scores, BELOW_ALL)
    of_right = tf.reduce_sum(own[:, 0] * own[:, 1], axis=-1) * scale
    loss = tf.reduce_logsumexp(scores, axis=1) - of_right
    is_first = tf.cast(of_right >= tf.reduce_max(scores, axis=1), tf.float32)
    if symmetric:
        is_other = (_same(query, everyone.hashes[:, 0]) | _same(positive, everyone.hashes[:, 1])) & (
            tf.range(tf.shape(everyone.vectors)[0]) != number[:, None]
        )
        back = tf.matmul(own[:, 1], everyone.vectors[:, 0], transpose_b=True) * scale
        back = tf.where(everyone.is_there[:, 0] & ~is_other, back, BELOW_ALL)
        loss = 0.5 * (loss + tf.reduce_logsumexp(back, axis=1) - of_right)
    return loss, is_first


def cosine_mse(groups: Groups) -> tf.Tensor:
    """Squared difference of the first two texts' cosine and their target, float32 [G].

    Reimers and Gurevych 2019 (arXiv:1908.10084), section 3, "regression objective function".
    """
    return tf.square(_cosine(groups) - groups.targets)


def contrastive(groups: Groups, margin: float) -> tf.Tensor:
    """Half of target · d² + (1 - target) · max(margin - d, 0)², d the cosine distance, float32 [G].

    Hadsell et al. 2006, equation 4, with target 1 for texts that are alike, as sentence-transformers' ContrastiveLoss.
    """
    distance = 1.0 - _cosine(groups)
    apart = tf.square(tf.nn.relu(margin - distance))
    return 0.5 * (groups.targets * tf.square(distance) + (1.0 - groups.targets) * apart)


def triplet(groups: Groups, margin: float) -> tf.Tensor:
    """max(d(query, positive) - d(query, negative) + margin, 0), d the cosine distance, a mean over the negatives: float32 [G].

    Schroff et al. 2015 (arXiv:1503.03832), equation 3.
    """
    units = _units(groups.vectors)
    cosines = tf.reduce_sum(units[:, :1] * units[:, 1:], axis=-1)  # [G, T - 1]
    is_there = tf.cast(groups.is_there[:, 2:], tf.float32)
    losses = tf.nn.relu(cosines[:, 1:] - cosines[:, :1] + margin) * is_there
    return tf.math.divide_no_nan(tf.reduce_sum(losses, axis=1), tf.reduce_sum(is_there, axis=1))


def cosent(groups: Groups, scale: float) -> tf.Tensor:
    """log(1 + Σ exp(scale · (a pair's cosine - that of a pair with a higher target))) over the whole batch, for each of it.

    Su 2022 (https://kexue.fm/archives/8847), equation 3, as sentence-transformers' CoSENTLoss. It ranks, as Spearman's
    correlation does.
    """
    everyone = _everyone(groups)
    cosines, targets, is_row = _cosine(everyone) * scale, everyone.targets, everyone.is_there[:, 0]
    is_lower = (targets[:, None] < targets) & is_row[:, None] & is_row
    differences = tf.where(is_lower, cosines[:, None] - cosines, BELOW_ALL)
    total = tf.reduce_logsumexp(tf.concat([[0.0], tf.reshape(differences, [-1])], 0))
    return tf.fill(tf.shape(groups.targets), total)


def _cosine(groups: Groups) -> tf.Tensor:
    """Of the first two texts of each group: float32 [G]."""
    units = _units(groups.vectors[:, :2])
    return tf.reduce_sum(units[:, 0] * units[:, 1], axis=-1)


def _units(vectors: tf.Tensor) -> tf.Tensor:
    return tf.math.l2_normalize(vectors, axis=-1, epsilon=1e-12)


def _same(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """int32 [a, 2], [b, 2] → bool [a, b]."""
    return tf.reduce_all(one[:, None] == other[None], axis=-1)


def _everyone(groups: Groups) -> Groups:
    """Returns the groups of all replicas."""
    found = [gathered(tf.cast(part, tf.int32) if part.dtype == tf.bool else part) for part in groups]
    dimensions = groups.vectors.shape
    return Groups(tf.ensure_shape(found[0], [None, *dimensions[1:]]), found[1] > 0, found[2], found[3])


def _first_of_replica(count: tf.Tensor) -> tf.Tensor:
    """Returns the number of this replica's first group among those of all."""
    return tf.cast(replica_context().replica_id_in_sync_group, tf.int32) * count
