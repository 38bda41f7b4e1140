"""BERT's forward pass in training, over TFBertModel's own variables, on packed rows.

The letters: B rows, L tokens in a row, H hidden size, N attention heads, D = H / N, F intermediate size.
Attention stays inside a segment; a padding token (segment 0) attends to padding only, and nobody reads it.
Devlin et al. 2019 (arXiv:1810.04805), section 3; the operations and their order are google-research/bert's modeling.py.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from transformers.activations_tf import get_tf_activation

from trainer.models.kernels import inference
from trainer.models.kernels.base import EncoderKernels, PackedIds
from trainer.models.layers import MASKED, dense, layer_norm, matmul_2d, project
from trainer.runtime.fusion import OTHERWISE, OUTPUT, fused
from trainer.runtime.randomness import draw_seed, drop
from trainer.runtime.target import traced_target


class XlaKernels(EncoderKernels):
    """The device library's matrix products, and XLA's kernels for what lies between them.

    Without dropout, in evaluation and prediction, the plain operations of `kernels.inference` compute the layers.
    """

    name = "xla"

    def encode(
        self,
        bert: Any,
        ids: PackedIds,
        dtype: tf.DType,
        read_positions: tf.Tensor | None = None,
        training: bool = False,
        recompute: bool = False,
    ) -> tf.Tensor:
        if not training:
            return inference.encode(bert, ids, dtype, read_positions, inference.read_weight)
        config = bert.config
        hidden = project(bert, embed(bert.embeddings, config, ids, dtype))  # [B, L, H]
        *lower, last = bert.encoder.layer
        for layer in lower:
            hidden = _layer(layer, config, hidden, ids.segment_ids, None, recompute)
        return _layer(last, config, hidden, ids.segment_ids, read_positions, recompute)


def _layer(layer, config, hidden, segment_ids, read_positions, recompute):
    # Drawn outside: when a layer is computed again, its dropout is the same.
    seeds = [*attention_seeds(config), draw_seed(config.hidden_dropout_prob)]

    def run(hidden):
        readers, reading_segments = hidden, segment_ids
        if read_positions is not None:
            readers, reading_segments = (tf.gather(of, read_positions, batch_dims=1) for of in (hidden, segment_ids))
        attended = attend(layer.attention, config, readers, reading_segments, hidden, segment_ids, seeds[:2])
        return feed_forward(layer, config, attended, seeds[2])

    return tf.recompute_grad(run)(hidden) if recompute else run(hidden)


def attention_seeds(config: Any) -> list[tf.Tensor]:
    """Draws the seeds of an `attend`: int32 [2] each."""
    return [draw_seed(rate) for rate in (config.attention_probs_dropout_prob, config.hidden_dropout_prob)]


def embed(embeddings: Any, config: Any, ids: PackedIds, dtype: tf.DType) -> tf.Tensor:
    """Embeds tokens, with LayerNorm and dropout: dtype [B, L, E], E the embeddings' size."""
    words = tf.gather(embeddings.weight, ids.input_ids)
    positions = tf.gather(embeddings.position_embeddings, ids.position_ids)
    # A one-hot product is cheaper than a gather for two rows: its gradient is a product, no scatter over B·L rows.
    types = tf.one_hot(ids.token_type_ids, config.type_vocab_size) @ embeddings.token_type_embeddings
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


def attend(
    attention: Any,
    config: Any,
    readers: tf.Tensor,
    reading_segments: tf.Tensor,
    hidden: tf.Tensor,
    segment_ids: tf.Tensor,
    seeds: Sequence[tf.Tensor],
    causal: bool = False,
) -> tf.Tensor:
    """Attention inside segments, with its residual connection: dtype [B, P, H].

    Args:
      attention: a TFBertAttention.
      config: the BertConfig.
      readers, reading_segments: dtype [B, P, H], int32 [B, P], the tokens that attend.
      hidden, segment_ids: dtype [B, L, H], int32 [B, L], those that they attend to; `readers` itself for self-attention.
      seeds: of `attention_seeds`.
      causal: a token attends to itself and to those before it only.
    """
    heads = config.num_attention_heads
    query, key, value = attention.self_attention.query, attention.self_attention.key, attention.self_attention.value
    if readers is hidden:
        queries, keys, values = _project_heads([query, key, value], hidden, heads)
    else:
        (queries,) = _project_heads([query], readers, heads)
        keys, values = _project_heads([key, value], hidden, heads)
    scores = tf.matmul(queries, keys, transpose_b=True)  # [B, N, L or P, L]
    scale = (config.hidden_size // heads) ** -0.5
    rate = config.attention_probs_dropout_prob
    weights = _attention_weights(scores, reading_segments, segment_ids, seeds[0], scale=scale, rate=rate, causal=causal)
    context = tf.transpose(tf.matmul(weights, values), [0, 2, 1, 3])  # [B, L or P, N, D]
    return _project_and_add(attention.dense_output, config, tf.reshape(context, tf.shape(readers)), readers, seeds[1])


def _project_heads(parts, hidden, heads):
    """Returns several of query, key and value: dtype [B, L, H] → for each part, dtype [B, N, L, D]."""
    shape = tf.shape(hidden)
    if traced_target() == "tpu":
        # A product each: its compiler has them come out as attention reads them, where the parts of one are copied out of it.
        each = [dense(hidden, part.kernel, part.bias) for part in parts]
        split = [tf.reshape(one, [shape[0], shape[1], heads, hidden.shape[-1] // heads]) for one in each]
        return [tf.transpose(one, [0, 2, 1, 3]) for one in split]
    kernel = tf.concat([part.kernel for part in parts], axis=1)
    bias = tf.concat([part.bias for part in parts], axis=0)
    projected = dense(hidden, kernel, bias)
    split = tf.reshape(projected, [shape[0], shape[1], len(parts), heads, hidden.shape[-1] // heads])
    return tf.unstack(tf.transpose(split, [2, 0, 3, 1, 4]), num=len(parts))


def feed_forward(layer: Any, config: Any, hidden: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """The two dense layers with their residual connection: dtype [B, L, H] → [B, L, F] → [B, L, H]."""
    inner = layer.intermediate.dense
    activated = _bias_activation(matmul_2d(hidden, inner.kernel), inner.bias, activation=config.hidden_act)
    return _project_and_add(layer.bert_output, config, activated, hidden, seed)


def _project_and_add(output, config, inputs, residual, seed):
    rate = config.hidden_dropout_prob
    return _bias_drop_add_norm(
        matmul_2d(inputs, output.dense.kernel),
        output.dense.bias,
        residual,
        output.LayerNorm.gamma,
        output.LayerNorm.beta,
        seed,
        rate=rate,
        epsilon=output.LayerNorm.epsilon,
    )


@fused(gamma=OTHERWISE, beta=OTHERWISE)
def _sum_norm_drop(words, positions, types, gamma, beta, seed, *, rate, epsilon, dtype):
    return drop(tf.cast(layer_norm(words + types + positions, gamma, beta, epsilon), dtype), rate, seed)


@fused
def _attention_weights(scores, reading_segments, segment_ids, seed, *, scale, rate, causal):
    """Softmax inside each segment, with dropout: dtype [B, N, P, L], int32 [B, P] and [B, L] to dtype [B, N, P, L]."""
    same = reading_segments[:, None, :, None] == segment_ids[:, None, None, :]  # [B, 1, P, L]
    if causal:  # P is L
        cells = tf.range(tf.shape(segment_ids)[1])
        same &= cells[:, None] >= cells
    weights = _softmax(tf.where(same, tf.cast(scores, tf.float32) * scale, MASKED), scores.dtype)
    return drop(weights, rate, seed)


def _softmax(values, dtype):
    """Softmax over the last axis: float32 to dtype, whose gradient reads the result as it was rounded, half of the bytes."""

    @tf.custom_gradient
    def apply(values):
        rounded = tf.cast(tf.nn.softmax(values), dtype)

        def gradient(upstream):
            weights, upstream = tf.cast(rounded, tf.float32), tf.cast(upstream, tf.float32)
            return weights * (upstream - tf.reduce_sum(weights * upstream, axis=-1, keepdims=True))

        return rounded, gradient

    return apply(values)


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
    summed = output + tf.cast(residual, tf.float32)
    if traced_target() == "tpu":
        # Rounded as TFBertModel's is: the backward pass keeps it, and a TPU's step is bound by what it reads and writes.
        summed = tf.cast(tf.cast(summed, projected.dtype), tf.float32)
    return tf.cast(layer_norm(summed, gamma, beta, epsilon), projected.dtype)
