"""BERT's forward pass without dropout, for graphs that run operation by operation: evaluation, prediction, exports.

An export goes where there may be no XLA. So the operations are those that TensorFlow's graph optimizer joins by itself (a
product with its bias and GELU, scores with their scale and mask), and all else is kept to few operations: for one short text
their number is what takes the time. What is joined to a product is computed in the product's type, where training keeps
float32 between. Letters and sources as in `forward`.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from transformers.activations_tf import get_tf_activation

from trainer.models.forward import MASKED, layer_norm

_BITS = {2: tf.int16, 4: tf.int32}  # the integers of as many bytes
_holding: list[bool] = []


@contextlib.contextmanager
def held_weights() -> Iterator[None]:
    """Puts the weights into the graphs that are traced inside, as constants, joined and in the type that they are used in.

    Nothing is then cast or joined at a call, and the matrix library lays the constants out once, as suits it. Such a graph
    does not follow the variables any more.
    """
    _holding.append(True)
    try:
        yield
    finally:
        _holding.pop()


def _weight(make: Callable[[], tf.Tensor]) -> tf.Tensor:
    """Returns what `make` computes from variables; a constant inside `held_weights`."""
    if not _holding:
        return make()
    with tf.init_scope():
        value = make().numpy()
    return tf.constant(value)


def encode(
    bert: Any,
    input_ids: tf.Tensor,
    token_type_ids: tf.Tensor,
    position_ids: tf.Tensor,
    segment_ids: tf.Tensor,
    dtype: tf.DType,
    read_positions: tf.Tensor | None = None,
) -> tf.Tensor:
    """Runs embeddings and all layers of a TFBertMainLayer's variables, as `forward.encode` does, without dropout.

    Returns:
      dtype [B, L, H], or [B, P, H] of the tokens that are read.
    """
    config, embeddings = bert.config, bert.embeddings
    words = tf.gather(embeddings.weight, input_ids)
    positions = tf.gather(_weight(lambda: tf.identity(embeddings.position_embeddings)), position_ids)
    types = tf.gather(_weight(lambda: tf.identity(embeddings.token_type_embeddings)), token_type_ids)
    hidden = _normalize(tf.reshape(words + types + positions, [-1, config.hidden_size]), embeddings.LayerNorm, dtype)
    shape = tf.shape(input_ids)
    mask = _mask(segment_ids, segment_ids, dtype)
    *lower, last = bert.encoder.layer
    for layer in lower:
        hidden = _feed_forward(layer, config, _attend(layer.attention, config, hidden, hidden, shape, shape, mask))
    if read_positions is None:
        readers, read_shape = hidden, shape
    else:
        read_shape = tf.shape(read_positions)
        cells = tf.range(shape[0])[:, None] * shape[1] + read_positions
        readers = tf.gather(hidden, tf.reshape(cells, [-1]))
        mask = _mask(tf.gather(segment_ids, read_positions, batch_dims=1), segment_ids, dtype)
    hidden = _feed_forward(last, config, _attend(last.attention, config, hidden, readers, shape, read_shape, mask))
    return tf.reshape(hidden, [read_shape[0], read_shape[1], config.hidden_size])


def _mask(reading_segments, segment_ids, dtype):
    """0 where a token may attend, else far below every score: int32 [B, P], [B, L] → dtype [B, 1, P, L]."""
    same = reading_segments[:, None, :, None] == segment_ids[:, None, None, :]
    return tf.where(same, tf.zeros([], dtype), tf.constant(MASKED if dtype != tf.float16 else dtype.min, dtype))


def _attend(attention, config, hidden, readers, shape, read_shape, mask):
    """Self-attention with its residual connection: dtype [B·L, H], of which [B·P, H] read, to [B·P, H]."""
    part, heads = attention.self_attention, config.num_attention_heads
    if readers is hidden:
        queries, keys, values = _project_heads([part.query, part.key, part.value], hidden, shape, heads)
    else:
        (queries,) = _project_heads([part.query], readers, read_shape, heads)
        keys, values = _project_heads([part.key, part.value], hidden, shape, heads)
    scale = tf.constant((config.hidden_size // heads) ** -0.5, hidden.dtype)
    weights = tf.nn.softmax(tf.matmul(queries, keys, transpose_b=True) * scale + mask)  # [B, N, P, L]
    context = tf.reshape(_transpose(tf.matmul(weights, values), [0, 2, 1, 3]), [-1, config.hidden_size])
    return _project_and_add(attention.dense_output, context, readers)


def _project_heads(parts, hidden, shape, heads):
    """One product for several of query, key and value: dtype [B·L, H] → for each part, dtype [B, N, L, D]."""
    size = hidden.shape[-1]
    kernel = _weight(lambda: tf.cast(tf.concat([part.kernel for part in parts], axis=1), hidden.dtype))
    bias = _weight(lambda: tf.cast(tf.concat([part.bias for part in parts], axis=0), hidden.dtype))
    projected = tf.nn.bias_add(tf.matmul(hidden, kernel), bias)
    split = tf.reshape(projected, [shape[0], shape[1], len(parts), heads, size // heads])
    return tf.unstack(_transpose(split, [2, 0, 3, 1, 4]), num=len(parts))


def _transpose(values, order):
    """`tf.transpose`; in an export on the bits as integers, for oneDNN's takes 40 µs however small the numbers' tensor is."""
    if not _holding:
        return tf.transpose(values, order)
    bits = tf.bitcast(values, _BITS[values.dtype.size])
    return tf.bitcast(tf.transpose(bits, order), values.dtype)


def _feed_forward(layer, config, hidden):
    """The two dense layers with their residual connection: dtype [B·L, H] → [B·L, F] → [B·L, H]."""
    activation = get_tf_activation(config.hidden_act)
    return _project_and_add(layer.bert_output, activation(_dense(layer.intermediate.dense, hidden)), hidden)


def _project_and_add(output, inputs, residual):
    return _normalize(_dense(output.dense, inputs) + residual, output.LayerNorm, residual.dtype)


def _dense(dense, inputs):
    kernel = _weight(lambda: tf.cast(dense.kernel, inputs.dtype))
    return tf.nn.bias_add(tf.matmul(inputs, kernel), _weight(lambda: tf.cast(dense.bias, inputs.dtype)))


def _normalize(values, norm, dtype):
    gamma, beta = _weight(lambda: tf.identity(norm.gamma)), _weight(lambda: tf.identity(norm.beta))
    return tf.cast(layer_norm(tf.cast(values, tf.float32), gamma, beta, norm.epsilon), dtype)
