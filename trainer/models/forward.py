"""BERT's forward pass in training, over TFBertModel's own variables, on packed rows.

The letters: B rows, L tokens in a row, H hidden size, N attention heads, D = H / N, F intermediate size.
Attention stays inside a segment; a padding token (segment 0) attends to padding only, and nobody reads it.
Devlin et al. 2019 (arXiv:1810.04805), section 3; the operations and their order are google-research/bert's modeling.py.
"""

from typing import Any

import tensorflow as tf
from transformers.activations_tf import get_tf_activation

from trainer.models import native_forward
from trainer.runtime.fusion import OTHERWISE, OUTPUT, column_sums, fused
from trainer.runtime.randomness import draw_seed, drop

MASKED = -1e9  # the score of a pair that must not attend


def encode(
    bert: Any,
    input_ids: tf.Tensor,
    token_type_ids: tf.Tensor,
    position_ids: tf.Tensor,
    segment_ids: tf.Tensor,
    dtype: tf.DType,
    read_positions: tf.Tensor | None = None,
    recompute: bool = False,
    native: bool = False,
) -> tf.Tensor:
    """Runs embeddings and all layers of a TFBertMainLayer's variables, with the dropout of its config.

    Dropout is drawn from `runtime.randomness.random_scope`.

    Args:
      bert: transformers' TFBertMainLayer; its weights and config are used, its call is not.
      input_ids, token_type_ids, position_ids, segment_ids: int32 [B, L].
      dtype: float32, bfloat16 or float16, of the matrix products; LayerNorm and softmax stay float32.
      read_positions: int32 [B, P], the tokens that the head reads, where it does not read all: the last layer then
        computes keys and values for all tokens and everything else for these only.
      recompute: keep only each layer's input for the backward pass, and compute the layer again there (Chen et al. 2016,
        arXiv:1604.06174): a third more computing, a fraction of the memory.
      native: by operations of our own, see `native_forward`.

    Returns:
      dtype [B, L, H], or [B, P, H] of the tokens that are read.
    """
    if native:
        ids = (input_ids, token_type_ids, position_ids, segment_ids)
        return native_forward.encode(bert, *ids, dtype, read_positions, recompute)
    config = bert.config
    hidden = _embed(bert.embeddings, config, input_ids, token_type_ids, position_ids, dtype)  # [B, L, H]
    *lower, last = bert.encoder.layer
    for layer in lower:
        hidden = _layer(layer, config, hidden, segment_ids, None, recompute)
    return _layer(last, config, hidden, segment_ids, read_positions, recompute)


def _layer(layer, config, hidden, segment_ids, read_positions, recompute):
    # Drawn outside: when a layer is computed again, its dropout is the same.
    rates = (config.attention_probs_dropout_prob, config.hidden_dropout_prob, config.hidden_dropout_prob)
    seeds = [draw_seed(rate) for rate in rates]

    def run(hidden):
        attended = _attend(layer.attention, config, hidden, segment_ids, seeds[:2], read_positions)
        return _feed_forward(layer, config, attended, seeds[2])

    return tf.recompute_grad(run)(hidden) if recompute else run(hidden)


def _embed(embeddings, config, input_ids, token_type_ids, position_ids, dtype):
    words = tf.gather(embeddings.weight, input_ids)
    positions = tf.gather(embeddings.position_embeddings, position_ids)
    # A one-hot product is cheaper than a gather for two rows: its gradient is a product, no scatter over B·L rows.
    types = tf.one_hot(token_type_ids, config.type_vocab_size) @ embeddings.token_type_embeddings
    norm, rate = embeddings.LayerNorm, config.hidden_dropout_prob
    return _sum_norm_drop(
        words,
        positions,
        types,
        norm.gamma,
        norm.beta,
        draw_seed(rate),
        rate=rate,
        epsilon=norm.epsilon,
        dtype=dtype,
    )


def _attend(attention, config, hidden, segment_ids, seeds, read_positions):
    """Self-attention with its residual connection: dtype [B, L, H] to the same, or to [B, P, H]."""
    heads = config.num_attention_heads
    query, key, value = attention.self_attention.query, attention.self_attention.key, attention.self_attention.value
    readers, reading_segments = hidden, segment_ids
    if read_positions is None:
        queries, keys, values = _project_heads([query, key, value], hidden, heads)
    else:
        readers = tf.gather(hidden, read_positions, batch_dims=1)
        reading_segments = tf.gather(segment_ids, read_positions, batch_dims=1)
        (queries,) = _project_heads([query], readers, heads)
        keys, values = _project_heads([key, value], hidden, heads)
    scores = tf.matmul(queries, keys, transpose_b=True)  # [B, N, L or P, L]
    scale = (config.hidden_size // heads) ** -0.5
    rate = config.attention_probs_dropout_prob
    weights = _attention_weights(scores, reading_segments, segment_ids, seeds[0], scale=scale, rate=rate)
    context = tf.transpose(tf.matmul(weights, values), [0, 2, 1, 3])  # [B, L or P, N, D]
    return _project_and_add(attention.dense_output, config, tf.reshape(context, tf.shape(readers)), readers, seeds[1])


def _project_heads(parts, hidden, heads):
    """One product for several of query, key and value: dtype [B, L, H] → for each part, dtype [B, N, L, D]."""
    kernel = tf.concat([part.kernel for part in parts], axis=1)
    bias = tf.concat([part.bias for part in parts], axis=0)
    projected, shape = dense(hidden, kernel, bias), tf.shape(hidden)
    split = tf.reshape(projected, [shape[0], shape[1], len(parts), heads, hidden.shape[-1] // heads])
    return tf.unstack(tf.transpose(split, [2, 0, 3, 1, 4]), num=len(parts))


def _feed_forward(layer, config, hidden, seed):
    """The two dense layers with their residual connection: dtype [B, L, H] → [B, L, F] → [B, L, H]."""
    inner = layer.intermediate.dense
    activated = _bias_activation(_matmul_2d(hidden, inner.kernel), inner.bias, activation=config.hidden_act)
    return _project_and_add(layer.bert_output, config, activated, hidden, seed)


def _project_and_add(output, config, inputs, residual, seed):
    rate = config.hidden_dropout_prob
    return _bias_drop_add_norm(
        _matmul_2d(inputs, output.dense.kernel),
        output.dense.bias,
        residual,
        output.LayerNorm.gamma,
        output.LayerNorm.beta,
        seed,
        rate=rate,
        epsilon=output.LayerNorm.epsilon,
    )


def _matmul_2d(inputs, kernel):
    """[B, L, I] times float32 [I, O] as one product of B·L rows, which is a single call to the matrix library."""
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


@fused(gamma=OTHERWISE, beta=OTHERWISE)
def _sum_norm_drop(words, positions, types, gamma, beta, seed, *, rate, epsilon, dtype):
    return drop(tf.cast(layer_norm(words + types + positions, gamma, beta, epsilon), dtype), rate, seed)


@fused
def _attention_weights(scores, reading_segments, segment_ids, seed, *, scale, rate):
    """Softmax inside each segment, with dropout: dtype [B, N, P, L], int32 [B, P] and [B, L] to dtype [B, N, P, L]."""
    same = reading_segments[:, None, :, None] == segment_ids[:, None, None, :]  # [B, 1, P, L]
    weights = tf.nn.softmax(tf.where(same, tf.cast(scores, tf.float32) * scale, MASKED))
    return drop(tf.cast(weights, scores.dtype), rate, seed)


@fused(bias="projected")
def _bias_activation(projected, bias, *, activation):
    inputs = tf.cast(projected, tf.float32) + bias
    if activation == "gelu":
        # Hendrycks and Gimpel 2016 (arXiv:1606.08415), section 2; a product, where a quotient takes XLA longer.
        outputs = 0.5 * inputs * (1.0 + tf.math.erf(inputs * 0.5**0.5))
    else:
        outputs = get_tf_activation(activation)(inputs)
    return tf.cast(outputs, projected.dtype)


@fused(bias="projected", gamma=OTHERWISE, beta=OUTPUT)
def _bias_drop_add_norm(projected, bias, residual, gamma, beta, seed, *, rate, epsilon):
    output = drop(tf.cast(projected, tf.float32) + bias, rate, seed)
    return tf.cast(layer_norm(output + tf.cast(residual, tf.float32), gamma, beta, epsilon), projected.dtype)


def layer_norm(values: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float) -> tf.Tensor:
    """Layer normalization over the last axis, float32 (Ba et al. 2016, arXiv:1607.06450)."""
    mean = tf.reduce_mean(values, axis=-1, keepdims=True)
    centred = values - mean
    variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
    return centred * tf.math.rsqrt(variance + epsilon) * gamma + beta


def pool(bert: Any, first: tf.Tensor) -> tf.Tensor:
    """Returns BERT's pooled output of first tokens: dense, tanh; dtype [B, K, H] to the same."""
    layer = bert.pooler.dense
    return tf.tanh(_matmul_2d(first, layer.kernel) + tf.cast(layer.bias, first.dtype))
