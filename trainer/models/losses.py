"""Losses for each element, unreduced: the training step weighs and sums them over the whole global batch."""

import tensorflow as tf


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
