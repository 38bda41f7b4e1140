"""BERT and AdamW by C++ operations of this project (`trainer/native/`): what `kernels.xla` computes, without padding.

One thing differs: dropout numbers the elements of tokens only, so where rows have padding it drops others than XLA's kernels.

Padding is removed before the first layer: all rows become one row of the tokens. Nothing is compiled for a shape here, so
every batch may have its own length. Letters and sources as in `kernels.xla`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from trainer.models.families import family_of
from trainer.models.kernels.base import EncoderKernels, PackedIds, without_dropout
from trainer.models.kernels.native_library import Purpose, library
from trainer.models.layers import project
from trainer.runtime.randomness import draw_seed

PRECISIONS = ("float32", "bfloat16")
ACTIVATION = "gelu"


class NativeKernels(EncoderKernels):
    """Layers, embeddings and AdamW as one C++ operation each, compiled for this machine's processor."""

    name = "native"

    @classmethod
    def unfit(cls, bert_config: Any, precision: str) -> str | None:
        return unfit(bert_config, precision, "training")

    @classmethod
    def multiply(cls, left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
        return library("training").operations.matrix_product(left, tf.cast(right, tf.float32))

    def encode(
        self,
        bert: Any,
        ids: PackedIds,
        dtype: tf.DType,
        read_positions: tf.Tensor | None = None,
        training: bool = False,
        recompute: bool = False,
    ) -> tf.Tensor:
        return encode(bert, ids, dtype, read_positions, recompute and training, drops=training)

    def adamw_update(self) -> Callable[..., None]:
        return adamw_update

    def stepwise_decoder(self) -> type | None:
        if library("decoding").operations is None:
            return None
        from trainer.models.kernels.native_decoder import NativeStepwiseDecoder

        return NativeStepwiseDecoder


def unfit(bert_config: Any, precision: str, purpose: Purpose) -> str | None:
    """Returns why the native operations cannot compute an encoder (BertConfig) in a precision on this machine, or None."""
    if precision not in PRECISIONS:
        return f"native kernels do not support {precision}"
    if not family_of(bert_config).packs:
        return f"native kernels do not compute {bert_config.model_type}"
    if bert_config.hidden_act != ACTIVATION:
        return f"native kernels do not support hidden_act={bert_config.hidden_act}"
    if purpose == "inference" and precision == "bfloat16" and (bert_config.hidden_size | bert_config.intermediate_size) % 2:
        return "native kernels in bfloat16 need an even hidden_size and intermediate_size"
    if purpose == "inference" and getattr(bert_config, "embedding_size", bert_config.hidden_size) != bert_config.hidden_size:
        return "native kernels for an export need embeddings of the layers' size"
    found = library(purpose)
    return None if found.operations else f"native kernels are not available: {found.reason}"


def encode(
    bert: Any,
    ids: PackedIds,
    dtype: tf.DType,
    read_positions: tf.Tensor | None = None,
    recompute: bool = False,
    drops: bool = True,
) -> tf.Tensor:
    """Runs embeddings and all layers of a TFBertMainLayer's variables.

    The tokens of a segment are neighbours in their row, as packing places them.

    Args:
      bert, ids, read_positions, recompute: as `EncoderKernels.encode`'s.
      dtype: float32 or bfloat16.
      drops: whether to apply the dropout of its config, as in training.

    Returns:
      dtype [B, P, H], or [B, L, H] with zeros for padding.
    """
    config, segment_ids = bert.config if drops else without_dropout(bert.config), ids.segment_ids
    rows, length = tf.unstack(tf.shape(segment_ids))
    flat_segments = tf.reshape(segment_ids, [-1])
    # The first cell always counts: a replica's share may have no example, and what is read must be there.
    is_token = (flat_segments > 0) | (tf.range(rows * length) == 0)
    cells = tf.cast(tf.where(is_token), tf.int32)  # [tokens, 1]

    def of_tokens(values):
        return tf.gather_nd(tf.reshape(values, [-1]), cells)

    token_ids = [of_tokens(values) for values in (ids.input_ids, ids.token_type_ids, ids.position_ids)]
    tokens = project(bert, _embed(bert.embeddings, config, token_ids, dtype)[None])  # [1, tokens, H]
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
    operations, norm, rate = library("training").operations, embeddings.LayerNorm, config.hidden_dropout_prob
    seed = draw_seed(rate)

    @tf.custom_gradient
    def apply(words, types, positions, gamma, beta):
        inputs = (*ids, words, types, positions, gamma, beta, seed)
        output, normalized, inverse = operations.bert_embeddings(*inputs, T=dtype, epsilon=norm.epsilon, rate=rate)
        output.set_shape([None, words.shape[-1]])

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
    seeds = tf.stack([draw_seed(rate) for rate in rates])  # drawn outside, see `kernels.xla`
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
    operations = library("training").operations
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


def adamw_update(
    optimizer: Any,
    gradients: Sequence[tf.Tensor | tf.IndexedSlices],
    variables: Sequence[tf.Variable],
    first: Sequence[tf.Variable],
    second: Sequence[tf.Variable],
    averages: Sequence[tf.Variable],
    rates: tf.Tensor,
) -> None:
    """Updates all weights of an AdamW in one operation, a single pass over memory.

    Args:
      optimizer: the AdamW; gives its hyperparameters.
      gradients: float32 tensors, or IndexedSlices whose rows are listed once each.
      variables, first, second, averages: the weights, their moments, their averages ([] without).
      rates: each variable's multiple of the learning rate, float32 [variables].
    """
    order = sorted(range(len(gradients)), key=lambda i: isinstance(gradients[i], tf.IndexedSlices))  # dense ones first
    gradients = [gradients[i] for i in order]
    variables = [variables[i] for i in order]
    first, second = [first[i] for i in order], [second[i] for i in order]
    averages = [averages[i] for i in order] if averages else []
    listed = [gradient for gradient in gradients if isinstance(gradient, tf.IndexedSlices)]
    correction, epsilon = optimizer.corrections()
    handles = [[variable.handle for variable in kind] for kind in (variables, first, second, averages)]
    library("training").operations.adam_w_update(
        tf.stack([optimizer.learning_rate, correction, epsilon, optimizer.average_rate()]),
        tf.gather(rates, order),
        *handles,
        [gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient for gradient in gradients],
        [tf.cast(gradient.indices, tf.int32) for gradient in listed],
        dense=len(gradients) - len(listed),
        beta_1=optimizer.beta_1,
        beta_2=optimizer.beta_2,
        max_gradient_norm=optimizer.max_gradient_norm,
        decay_rates=[optimizer.decay_rate if variable.shape.rank > 1 else 0.0 for variable in variables],
    )
