"""Losses for each element, unreduced: the training step weighs and sums them over the whole global batch."""

from collections.abc import Mapping

import tensorflow as tf

from trainer.runtime.fusion import compiled
from trainer.runtime.target import traced_target


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor, label_smoothing: float = 0.0, focal_gamma: float = 0.0) -> tf.Tensor:
    """Cross entropy of each element.

    Args:
      labels: int32 [...], class numbers; values below 0 give loss 0.
      logits: float32 [..., classes].
      label_smoothing: moves this share of the target evenly to all classes (Szegedy et al. 2016, section 7).
      focal_gamma: weighs by (1 - p)^gamma, p the probability of the true class (Lin et al. 2017, equation 4).

    Returns:
      float32 [...].

    >>> float(cross_entropy(tf.constant([1]), tf.constant([[0.0, 0.0]]))[0])
    0.6931471824645996
    """
    logits = tf.cast(logits, tf.float32)
    log_probabilities = tf.nn.log_softmax(logits)
    known = tf.cast(labels >= 0, tf.float32)
    log_true = tf.gather(log_probabilities, tf.maximum(labels, 0), batch_dims=labels.shape.rank, axis=-1)
    loss = -(1.0 - label_smoothing) * log_true - label_smoothing * tf.reduce_mean(log_probabilities, axis=-1)
    if focal_gamma:
        # 1 - p underflows to 0 near certainty, where its power has no gradient for gamma < 1: keep it off zero.
        loss *= tf.pow(tf.maximum(1.0 - tf.exp(log_true), 1e-7), focal_gamma)
    return loss * known


def divergence(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """How far two distributions are apart: the mean of the Kullback-Leibler divergences from each to the other.

    Args:
      first, second: float32 [..., classes], logits.

    Returns:
      float32 [...].
    """
    first, second = tf.nn.log_softmax(tf.cast(first, tf.float32)), tf.nn.log_softmax(tf.cast(second, tf.float32))
    return tf.reduce_sum((tf.exp(first) - tf.exp(second)) * (first - second), axis=-1) / 2


def binary_divergence(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """`divergence` of yes and no: float32 [...], the logits of yes, to float32 [...]."""
    first, second = tf.cast(first, tf.float32), tf.cast(second, tf.float32)
    return (tf.sigmoid(first) - tf.sigmoid(second)) * (first - second) / 2


def place_divergence(first: tf.Tensor, second: tf.Tensor, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """`divergence` over the tokens of each packed example: float32 [rows, length] to float32 [rows, K]; see below."""
    is_own = _own_tokens(batch)
    return divergence(tf.where(is_own, first[:, None], -1e9), tf.where(is_own, second[:, None], -1e9))


def place_cross_entropy(places: tf.Tensor, logits: tf.Tensor, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Cross entropy over the tokens of each packed example, as of an answer's first token.

    Args:
      places: int32 [rows, K], the true token of each example, counted from its first.
      logits: float32 [rows, length].
      batch: packed; its segment_ids and cls_positions tell the examples' tokens.

    Returns:
      float32 [rows, K].
    """
    totals = tf.reduce_logsumexp(tf.where(_own_tokens(batch), logits[:, None], -1e9), axis=-1)
    at = tf.minimum(batch["cls_positions"] + places, tf.shape(logits)[1] - 1)
    return totals - tf.gather(logits, at, batch_dims=1)


def _own_tokens(batch):
    """Returns which tokens of a row are each example's: bool [rows, K, length]."""
    slots = tf.range(1, tf.shape(batch["cls_positions"])[1] + 1)
    return batch["segment_ids"][:, None] == slots[None, :, None]


def vocabulary_cross_entropy(labels: tf.Tensor, logits: tf.Tensor, label_smoothing: float = 0.0) -> tuple[tf.Tensor, tf.Tensor]:
    """Cross entropy over a vocabulary, where the logits are by far the largest tensor: two passes forward, one backward.

    Args:
      labels: int32 [...], 0 to vocabulary - 1; where there is none, any such number, with weight 0.
      logits: float32, bfloat16 or float16 [..., vocabulary].
      label_smoothing: as of `cross_entropy`.

    Returns:
      (losses, 1 where the label has the highest logit, of equal ones the first, as argmax has it, else 0): float32 [...].
    """
    flat, flat_labels = tf.reshape(logits, [-1, logits.shape[-1]]), tf.reshape(labels, [-1])
    guess = (_first_highest if traced_target() == "cpu" else _first_highest_by_xla)(flat)
    losses = _row_losses(flat_labels, guess, flat, label_smoothing)
    return tf.reshape(losses, tf.shape(labels)), tf.reshape(tf.cast(guess == flat_labels, tf.float32), tf.shape(labels))


def _first_highest(logits):
    return tf.argmax(logits, axis=-1, output_type=tf.int32)


_first_highest_by_xla = compiled(_first_highest)  # slow on CPUs, as TensorFlow's own is on GPUs


def _row_losses(labels, guess, logits, label_smoothing):
    """Cross entropy of each row: int32 [rows], int32 [rows] (where the highest logit is), [rows, vocabulary] to float32 [rows].

    Its gradient is its own: derived from the losses, it would go through the logits once more for their total.
    """

    @tf.custom_gradient
    def apply(logits):
        log_totals = _log_totals(logits, tf.gather(logits, guess, batch_dims=1))
        wanted = tf.cast(tf.gather(logits, labels, batch_dims=1), tf.float32)
        if label_smoothing:
            wanted = (1.0 - label_smoothing) * wanted + label_smoothing * _means(logits)
        return log_totals - wanted, lambda upstream: _logit_gradient(
            logits, log_totals, labels, upstream, label_smoothing=label_smoothing
        )

    return apply(logits)


@compiled
def _log_totals(logits, highest):
    highest = tf.cast(highest, tf.float32)
    return highest + tf.math.log(tf.reduce_sum(tf.exp(tf.cast(logits, tf.float32) - highest[:, None]), axis=-1))


@compiled
def _means(logits):
    return tf.reduce_mean(tf.cast(logits, tf.float32), axis=-1)


@compiled
def _logit_gradient(logits, log_totals, labels, upstream, *, label_smoothing):
    probabilities = tf.exp(tf.cast(logits, tf.float32) - log_totals[:, None])
    is_label = tf.range(logits.shape[-1])[None] == labels[:, None]  # a comparison stays inside the loop, a scatter would not
    target = tf.cast(is_label, tf.float32)
    if label_smoothing:
        target = (1.0 - label_smoothing) * target + label_smoothing / logits.shape[-1]
    return tf.cast((probabilities - target) * upstream[:, None], logits.dtype)
