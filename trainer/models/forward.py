"""BERT's forward pass over TFBertModel's own variables, on packed rows.

The letters: B rows, L tokens in a row, H hidden size, N attention heads, D = H / N, F intermediate size.
Attention stays inside a segment; a padding token (segment 0) attends to padding only, and nobody reads it.
Devlin et al. 2019 (arXiv:1810.04805), section 3; the operations and their order are google-research/bert's modeling.py.
"""

from typing import Any

import tensorflow as tf
from transformers.activations_tf import get_tf_activation

from trainer.runtime.randomness import dropout

MASKED = -1e9  # added to the scores of pairs that must not attend; float16 gets its own lowest value


def segment_bias(segment_ids: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Returns the additive attention bias that keeps attention inside each segment.

    Args:
      segment_ids: int32 [B, L].
      dtype: the scores' type.

    Returns:
      dtype [B, 1, L, L]: 0 where both tokens are of one segment, else a number that softmax turns into 0.
    """
    same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]  # [B, 1, L, L]
    masked = -3e4 if dtype == tf.float16 else MASKED  # float16 ends at -65504
    return tf.where(same, tf.zeros([], dtype), tf.cast(masked, dtype))


def encode(
    bert: Any,
    input_ids: tf.Tensor,
    token_type_ids: tf.Tensor,
    position_ids: tf.Tensor,
    segment_ids: tf.Tensor,
    training: bool,
    dtype: tf.DType,
) -> tf.Tensor:
    """Runs embeddings and all layers of a TFBertMainLayer's variables.

    Args:
      bert: transformers' TFBertMainLayer; its weights and config are used, its call is not.
      input_ids, token_type_ids, position_ids, segment_ids: int32 [B, L].
      training: whether dropout is on; it draws from `runtime.randomness.random_scope`.
      dtype: float32, bfloat16 or float16, of the matrix products; LayerNorm and softmax stay float32.

    Returns:
      dtype [B, L, H].
    """
    config = bert.config
    hidden = _embed(bert.embeddings, config, input_ids, token_type_ids, position_ids, training, dtype)  # [B, L, H]
    bias = segment_bias(segment_ids, tf.float32)
    for layer in bert.encoder.layer:
        hidden = _attend(layer.attention, config, hidden, bias, training)
        hidden = _feed_forward(layer, config, hidden, training)
    return hidden


def _embed(embeddings, config, input_ids, token_type_ids, position_ids, training, dtype):
    words = tf.gather(embeddings.weight, input_ids)
    positions = tf.gather(embeddings.position_embeddings, position_ids)
    # A one-hot product is cheaper than a gather for two rows: its gradient is a product, no scatter over B·L rows.
    types = tf.one_hot(token_type_ids, config.type_vocab_size) @ embeddings.token_type_embeddings
    hidden = _layer_norm(words + types + positions, embeddings.LayerNorm)
    return dropout(tf.cast(hidden, dtype), config.hidden_dropout_prob, training)


def _attend(attention, config, hidden, bias, training):
    """Self-attention with its residual connection: dtype [B, L, H] to the same."""
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    query, key, value = _split_heads(_query_key_value(attention.self_attention, hidden), heads, size)  # [B, N, L, D]
    scores = tf.cast(tf.matmul(query, key, transpose_b=True), tf.float32) / size**0.5  # [B, N, L, L]
    weights = tf.cast(tf.nn.softmax(scores + bias), hidden.dtype)
    weights = dropout(weights, config.attention_probs_dropout_prob, training)
    context = tf.transpose(tf.matmul(weights, value), [0, 2, 1, 3])  # [B, L, N, D]
    context = tf.reshape(context, tf.shape(hidden))
    output = dropout(_dense(attention.dense_output.dense, context), config.hidden_dropout_prob, training)
    return _add_and_norm(output, hidden, attention.dense_output.LayerNorm)


def _query_key_value(attention, hidden):
    """One product for query, key and value: dtype [B, L, 3 H]."""
    parts = (attention.query, attention.key, attention.value)
    kernel = tf.cast(tf.concat([part.kernel for part in parts], axis=1), hidden.dtype)
    bias = tf.cast(tf.concat([part.bias for part in parts], axis=0), hidden.dtype)
    return _matmul_2d(hidden, kernel) + bias


def _split_heads(projected, heads, size):
    shape = tf.shape(projected)
    split = tf.reshape(projected, [shape[0], shape[1], 3, heads, size])
    return tf.unstack(tf.transpose(split, [2, 0, 3, 1, 4]), num=3)


def _feed_forward(layer, config, hidden, training):
    """The two dense layers with their residual connection: dtype [B, L, H] → [B, L, F] → [B, L, H]."""
    inner = get_tf_activation(config.hidden_act)(_dense(layer.intermediate.dense, hidden))
    output = dropout(_dense(layer.bert_output.dense, inner), config.hidden_dropout_prob, training)
    return _add_and_norm(output, hidden, layer.bert_output.LayerNorm)


def _dense(dense, inputs):
    return _matmul_2d(inputs, tf.cast(dense.kernel, inputs.dtype)) + tf.cast(dense.bias, inputs.dtype)


def _matmul_2d(inputs, kernel):
    """[B, L, I] times [I, O] as one product of B·L rows, which is a single call to the matrix library."""
    shape = tf.shape(inputs)
    flat = tf.matmul(tf.reshape(inputs, [-1, kernel.shape[0]]), kernel)
    return tf.reshape(flat, [shape[0], shape[1], kernel.shape[1]])


def _add_and_norm(output, residual, norm):
    total = tf.cast(output, tf.float32) + tf.cast(residual, tf.float32)
    return tf.cast(_layer_norm(total, norm), output.dtype)


def _layer_norm(values, norm):
    """Layer normalization over the last axis, float32 (Ba et al. 2016, arXiv:1607.06450)."""
    mean = tf.reduce_mean(values, axis=-1, keepdims=True)
    centred = values - mean
    variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
    return centred * tf.math.rsqrt(variance + norm.epsilon) * norm.gamma + norm.beta


def pool(bert: Any, sequence: tf.Tensor, cls_positions: tf.Tensor) -> tf.Tensor:
    """Returns BERT's pooled output for each example of each row: the first token, dense, tanh.

    Args:
      sequence: dtype [B, L, H].
      cls_positions: int32 [B, K].

    Returns:
      dtype [B, K, H].
    """
    first = tf.gather(sequence, cls_positions, batch_dims=1)
    return tf.tanh(_dense(bert.pooler.dense, first))
