"""BERT's forward pass without dropout, for graphs that run operation by operation: evaluation, prediction, exports.

An export goes where there may be no XLA. So the operations are those that TensorFlow's graph optimizer joins by itself (a
product with its bias and GELU, scores with their scale and mask), and all else is kept to few operations: for one short text
their number is what takes the time. (Evaluation and prediction may run by our own operations instead: `native`.)
What is joined to a product is computed in the product's type, where training keeps
float32 between. Letters and sources as in `forward`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf
from transformers.activations_tf import get_tf_activation

from trainer.models import native_forward, native_inference
from trainer.models.forward import MASKED, layer_norm

_BITS = {2: tf.int16, 4: tf.int32}  # the integers of as many bytes


@dataclasses.dataclass(frozen=True)
class _Held:
    """What a graph that is traced holds: {key: weights}, and whether it computes with our own operations."""

    native: bool
    weights: dict[tuple, tf.Variable | tf.Tensor] = dataclasses.field(default_factory=dict)


_holding: list[_Held] = []


def trace_with_held_weights(
    run: Callable[[Mapping[str, tf.Tensor]], Any], specs: Mapping[str, tf.TensorSpec], native: bool = False
) -> tuple[tf.types.experimental.ConcreteFunction, list[tf.Variable]]:
    """Traces what calls `encode`, with the weights held in the graph: joined, and in the type that they are used in.

    Nothing is then cast or joined at a call, and the graph does not follow the model's variables any more. Weights are
    constants, which oneDNN lays out once as suits it; but float32 matrices are variables of their own. oneDNN's layout of
    these depends on how many rows are multiplied with them and it keeps one: requests of other sizes would have all weights
    laid out again (MiniLM: 5 of 10 ms for one text). Variables are read as they lie.

    Args:
      run: of {name: tensor}.
      specs: the tensors' shapes, None where they vary, and types.
      native: `encode` is one operation of our own, see `native_inference`.

    Returns:
      The graph, and the variables that were made for it.
    """
    held = _Held(native)
    _holding.append(held)
    try:
        # Variables cannot be made while a graph is traced: this call makes them.
        run({name: tf.zeros([size or 1 for size in spec.shape], spec.dtype) for name, spec in specs.items()})
        traced = tf.function(run, autograph=False).get_concrete_function(dict(specs))
    finally:
        _holding.pop()
    return traced, [value for value in held.weights.values() if isinstance(value, tf.Variable)]


def _hold(key: tuple, make: Callable[[], tf.Tensor], as_variable: bool) -> tf.Tensor:
    """Returns what `make` returned when it was asked for `key` first."""
    weights = _holding[-1].weights
    if key not in weights:
        value = make()
        weights[key] = tf.Variable(value, trainable=False, name="held") if as_variable else value
    value = weights[key]
    return tf.convert_to_tensor(value) if isinstance(value, tf.Variable) else tf.constant(value.numpy())


def _weight(variables: Sequence[Any], dtype: tf.DType) -> tf.Tensor:
    """Returns variables joined along their last axis, in a type; what is held of them in `trace_with_held_weights`."""
    if not _holding:
        return _joined(variables, dtype)
    is_matrix = dtype == tf.float32 and len(variables[0].shape) == 2
    return _hold((dtype, *map(id, variables)), lambda: _joined(variables, dtype), is_matrix)


def _joined(variables: Sequence[Any], dtype: tf.DType) -> tf.Tensor:
    values = [tf.cast(tf.convert_to_tensor(variable), dtype) for variable in variables]
    return values[0] if len(values) == 1 else tf.concat(values, axis=-1)


def encode(
    bert: Any,
    input_ids: tf.Tensor,
    token_type_ids: tf.Tensor,
    position_ids: tf.Tensor,
    segment_ids: tf.Tensor,
    dtype: tf.DType,
    read_positions: tf.Tensor | None = None,
    native: bool = False,
) -> tf.Tensor:
    """Runs embeddings and all layers of a TFBertMainLayer's variables, as `forward.encode` does, without dropout.

    Args:
      bert, input_ids, token_type_ids, position_ids, segment_ids, dtype, read_positions: as `forward.encode`'s.
      native: by the operations that train it, see `native_forward`; not in a graph that holds its weights.

    Returns:
      dtype [B, L, H], or [B, P, H] of the tokens that are read.
    """
    ids = (input_ids, token_type_ids, position_ids, segment_ids)
    if native and not _holding:
        return native_forward.encode(bert, *ids, dtype, read_positions, drops=False)
    if _holding and _holding[-1].native:
        vectors = _hold(("vectors", id(bert)), lambda: native_inference.vectors_of(bert), as_variable=False)
        matrices = _hold(("matrices", id(bert)), lambda: native_inference.matrices_of(bert, dtype), as_variable=True)
        return tf.cast(native_inference.run(bert, ids, read_positions, vectors, matrices), dtype)
    config, embeddings = bert.config, bert.embeddings
    words = tf.gather(embeddings.weight, input_ids)
    positions = tf.gather(_weight([embeddings.position_embeddings], tf.float32), position_ids)
    types = tf.gather(_weight([embeddings.token_type_embeddings], tf.float32), token_type_ids)
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
    kernel = _weight([part.kernel for part in parts], hidden.dtype)
    bias = _weight([part.bias for part in parts], hidden.dtype)
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
    kernel, bias = _weight([dense.kernel], inputs.dtype), _weight([dense.bias], inputs.dtype)
    return tf.nn.bias_add(tf.matmul(inputs, kernel), bias)


def _normalize(values, norm, dtype):
    gamma, beta = _weight([norm.gamma], tf.float32), _weight([norm.beta], tf.float32)
    return tf.cast(layer_norm(tf.cast(values, tf.float32), gamma, beta, norm.epsilon), dtype)
