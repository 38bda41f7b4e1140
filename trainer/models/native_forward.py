"""BERT by operations of our own (`trainer/native/layer.h`, `embeddings.h`): what `forward` computes, on tokens alone.

Padding is left out before the first layer: all rows become one, as long as there are tokens, which need no common shape
here, since nothing is compiled for it. Letters and sources as in `forward`.
"""

import copy
from typing import Any

import tensorflow as tf

from trainer.runtime.native import Purpose, kernels
from trainer.runtime.randomness import draw_seed

PRECISIONS = ("float32", "bfloat16")
ACTIVATION = "gelu"
FAST_ENOUGH = 0.5  # of the speed of the library's products; with AMX these are far ahead, elsewhere about equal


def unfit(config: Any, precision: str, purpose: Purpose = "training") -> str | None:
    """Returns why our operations cannot run an encoder (transformers' BertConfig) in a precision here; None if they can."""
    if precision not in PRECISIONS:
        return f"none of our own in {precision}"
    if config.hidden_act != ACTIVATION:
        return f"none of our own with hidden_act={config.hidden_act}"
    if purpose == "inference" and precision == "bfloat16" and (config.hidden_size | config.intermediate_size) % 2:
        return "none of our own in bfloat16 with an odd hidden_size or intermediate_size"
    found = kernels(purpose)
    return None if found.operations else f"none of our own: {found.reason}"


def encode(
    bert: Any,
    input_ids: tf.Tensor,
    token_type_ids: tf.Tensor,
    position_ids: tf.Tensor,
    segment_ids: tf.Tensor,
    dtype: tf.DType,
    read_positions: tf.Tensor | None = None,
    recompute: bool = False,
    drops: bool = True,
) -> tf.Tensor:
    """Runs embeddings and all layers of a TFBertMainLayer's variables, as `forward.encode` does.

    The tokens of a segment lie side by side in their row, as packing lays them.

    Args:
      bert, input_ids, token_type_ids, position_ids, segment_ids, read_positions, recompute: as `forward.encode`'s.
      dtype: float32 or bfloat16.
      drops: whether with the dropout of its config, as in training.

    Returns:
      dtype [B, P, H], or [B, L, H] with zeros for padding.
    """
    config = bert.config
    if not drops:
        config = copy.copy(config)
        config.attention_probs_dropout_prob = config.hidden_dropout_prob = 0.0
    rows, length = tf.unstack(tf.shape(segment_ids))
    flat_segments = tf.reshape(segment_ids, [-1])
    # The first cell always counts: a replica's share may have no example, and what is read must be there.
    is_token = (flat_segments > 0) | (tf.range(rows * length) == 0)
    cells = tf.cast(tf.where(is_token), tf.int32)  # [tokens, 1]

    def of_tokens(values):
        return tf.gather_nd(tf.reshape(values, [-1]), cells)

    ids = [of_tokens(values) for values in (input_ids, token_type_ids, position_ids)]
    tokens = _embed(bert.embeddings, config, ids, dtype)[None]  # [1, tokens, H]
    row_starts = tf.range(rows)[:, None]
    of_row = tf.where(segment_ids > 0, row_starts * (tf.reduce_max(segment_ids) + 1) + segment_ids, 0)
    segments = of_tokens(of_row)[None]
    read = slots = None
    if read_positions is not None:
        token_of = tf.cumsum(tf.cast(is_token, tf.int32)) - 1  # a slot without an example may point at padding: any token does
        asked = tf.reshape(tf.gather(token_of, row_starts * length + read_positions), [-1])
        once, slots = tf.unique(asked)  # such slots point at the same token as others: it is computed once
        read = once[None]
    *lower, last = bert.encoder.layer
    for layer in lower:
        tokens = _layer(layer, config, tokens, segments, None, recompute)
    tokens = _layer(last, config, tokens, segments, read, recompute)
    size = config.hidden_size
    if slots is not None:
        return tf.reshape(tf.gather(tokens[0], slots), [rows, tf.shape(read_positions)[1], size])
    return tf.reshape(tf.scatter_nd(cells, tokens[0], [rows * length, size]), [rows, length, size])


def _embed(embeddings, config, ids, dtype):
    """Embeds tokens, with dropout: int32 [tokens] of words, types and positions → dtype [tokens, H]."""
    operations, norm, rate = kernels("training").operations, embeddings.LayerNorm, config.hidden_dropout_prob
    seed = draw_seed(rate)

    @tf.custom_gradient
    def apply(words, types, positions, gamma, beta):
        inputs = (*ids, words, types, positions, gamma, beta, seed)
        output, normalized, inverse = operations.bert_embeddings(*inputs, T=dtype, epsilon=norm.epsilon, rate=rate)
        output.set_shape([None, config.hidden_size])

        def gradient(upstream):
            saved = (ids[1], ids[2], gamma, normalized, inverse, seed)
            sizes = {"types": types.shape[0], "positions": positions.shape[0]}
            found = operations.bert_embeddings_grad(upstream, *saved, **sizes, rate=rate)
            of_words = tf.IndexedSlices(found.of_sum, ids[0], tf.constant(words.shape.as_list()))
            return of_words, found.of_types, found.of_positions, found.of_gamma, found.of_beta

        return output, gradient

    tables = (embeddings.weight, embeddings.token_type_embeddings, embeddings.position_embeddings)
    return apply(*map(tf.convert_to_tensor, (*tables, norm.gamma, norm.beta)))


def _layer(layer, config, hidden, segment_ids, read_positions, recompute):
    rates = (config.attention_probs_dropout_prob, config.hidden_dropout_prob, config.hidden_dropout_prob)
    seeds = tf.stack([draw_seed(rate) for rate in rates])  # drawn outside, see `forward`
    weights = [tf.convert_to_tensor(weight) for weight in weights_of(layer)]

    def run(hidden, *weights):
        return apply_layer(hidden, segment_ids, read_positions, seeds, list(weights), config)

    return (tf.recompute_grad(run) if recompute else run)(hidden, *weights)


def weights_of(layer: Any) -> list[tf.Variable]:
    """Returns the weights of a TFBertLayer in the order of `Weight` in trainer/native/arrays.h."""
    attention, output, inner = layer.attention.self_attention, layer.attention.dense_output, layer.intermediate.dense
    denses = [attention.query, attention.key, attention.value, output.dense]
    vectors = [output.LayerNorm.gamma, output.LayerNorm.beta]
    outer, norm = layer.bert_output.dense, layer.bert_output.LayerNorm
    pairs = [value for dense in denses for value in (dense.kernel, dense.bias)]
    return [*pairs, *vectors, inner.kernel, inner.bias, outer.kernel, outer.bias, norm.gamma, norm.beta]


def apply_layer(
    hidden: tf.Tensor,
    segment_ids: tf.Tensor,
    read_positions: tf.Tensor | None,
    seeds: tf.Tensor,
    weights: list[tf.Tensor],
    config: Any,
) -> tf.Tensor:
    """Applies one layer: [B, L, H] to [B, L, H], or [B, P, H] of the tokens that are read.

    Args:
      hidden: float32 or bfloat16 [B, L, H].
      segment_ids: int32 [B, L].
      read_positions: int32 [B, P] or None.
      seeds: int32 [3, 2], of the dropouts of attention and of both sublayers.
      weights: 16 tensors, float32.
      config: transformers' BertConfig.
    """
    operations = kernels("training").operations
    read = tf.zeros([1, 0], tf.int32) if read_positions is None else read_positions
    attributes = {
        "heads": config.num_attention_heads,
        "epsilon": config.layer_norm_eps,
        "attention_rate": config.attention_probs_dropout_prob,
        "hidden_rate": config.hidden_dropout_prob,
    }

    @tf.custom_gradient
    def apply(hidden, *weights):
        inputs = (hidden, segment_ids, read, seeds, list(weights))
        output, *saved = operations.bert_layer(*inputs, **attributes)
        output.set_shape([None, None, hidden.shape[-1]])

        def gradient(upstream):
            found = operations.bert_layer_grad(upstream, *inputs, *saved, **attributes)
            found.of_hidden.set_shape(hidden.shape)
            for of_weight, weight in zip(found.of_weights, weights, strict=True):
                of_weight.set_shape(weight.shape)
            return [found.of_hidden, *found.of_weights]

        return output, gradient

    return apply(hidden, *weights)
