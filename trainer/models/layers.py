"""The dense layer, LayerNorm and pooler of BERT, as kernels and heads share them."""

from typing import Any

import tensorflow as tf

from trainer.runtime.fusion import column_sums

MASKED = -1e9  # the score of a pair that must not attend


def matmul_2d(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Multiplies [..., I] by float32 [I, O] as one product of all rows, which is a single call to the matrix library."""
    return _by_rows(lambda flat: tf.matmul(flat, tf.cast(kernel, flat.dtype)), inputs, kernel.shape[1])


def dense(inputs: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, transpose_kernel: bool = False) -> tf.Tensor:
    """A product with a bias: dtype [..., I], float32 [I, O] ([O, I] if transposed) and float32 [O] to dtype [..., O].

    For training: its gradient is its own, see `column_sums`.
    """
    width = bias.shape[0]

    @tf.custom_gradient
    def apply(flat, kernel, bias):
        def gradient(upstream):
            of_inputs = tf.matmul(upstream, kernel, transpose_b=not transpose_kernel)
            left, right = (upstream, flat) if transpose_kernel else (flat, upstream)
            return of_inputs, tf.matmul(left, right, transpose_a=True), tf.cast(column_sums(upstream), bias.dtype)

        return tf.matmul(flat, kernel, transpose_b=transpose_kernel) + bias, gradient

    kernel, bias = tf.cast(kernel, inputs.dtype), tf.cast(bias, inputs.dtype)
    return _by_rows(lambda flat: apply(flat, kernel, bias), inputs, width)


def _by_rows(function, inputs, width):
    """Applies a function of rows, [n, I] → [n, width], to [..., I]."""
    outputs = function(tf.reshape(inputs, [-1, inputs.shape[-1]]))
    return tf.reshape(outputs, tf.concat([tf.shape(inputs)[:-1], [width]], axis=0))


def layer_norm(values: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float) -> tf.Tensor:
    """Layer normalization over the last axis, float32 (Ba et al. 2016, arXiv:1607.06450)."""
    mean = tf.reduce_mean(values, axis=-1, keepdims=True)
    centred = values - mean
    variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
    return centred * tf.math.rsqrt(variance + epsilon) * gamma + beta


def project(bert: Any, embedded: tf.Tensor) -> tf.Tensor:
    """Returns embeddings in the layers' size, where they are narrower (ELECTRA, ALBERT): dtype [..., E] → [..., H]."""
    layer = getattr(bert, "embeddings_project", None)
    return embedded if layer is None else dense(embedded, layer.kernel, layer.bias)


def pool(bert: Any, first: tf.Tensor) -> tf.Tensor:
    """Returns BERT's pooled output of first tokens: dense, tanh; dtype [B, K, H] to the same."""
    layer = bert.pooler.dense
    return tf.tanh(matmul_2d(first, layer.kernel) + tf.cast(layer.bias, first.dtype))
