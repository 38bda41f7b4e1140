"""Losses for each element, unreduced: the training step weighs and sums them over the whole global batch."""

import tensorflow as tf

from trainer.runtime.fusion import fused


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


def vocabulary_cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Cross entropy over a vocabulary, where the logits are by far the largest tensor: read once forward, once backward.

    Args:
      labels: int32 [...].
      logits: float32, bfloat16 or float16 [..., vocabulary].

    Returns:
      (losses, 1 where the label has the highest logit, a share of 1 where several have it): float32 [...].
    """
    flat = tf.reshape(logits, [-1, logits.shape[-1]])
    losses, correct = _row_losses(flat, tf.reshape(labels, [-1]))
    return tf.reshape(losses, tf.shape(labels)), tf.reshape(correct, tf.shape(labels))


@fused
def _row_losses(logits, labels):
    logits = tf.cast(logits, tf.float32)
    highest = tf.stop_gradient(tf.reduce_max(logits, axis=-1))
    log_total = highest + tf.math.log(tf.reduce_sum(tf.exp(logits - highest[:, None]), axis=-1))
    # A sum over a comparison, not a gather: it stays inside the loop, and its gradient scatters nothing.
    is_label = tf.range(logits.shape[-1])[None] == labels[:, None]
    of_label = tf.reduce_sum(tf.where(is_label, logits, 0.0), axis=-1)
    highest_count = tf.reduce_sum(tf.cast(logits >= highest[:, None], tf.float32), axis=-1)  # bfloat16 has many ties
    return log_total - of_label, tf.where(of_label >= highest, 1.0 / highest_count, 0.0)
