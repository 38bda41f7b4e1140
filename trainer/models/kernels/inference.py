"""BERT's forward pass without dropout, for graphs that run operation by operation: evaluation, prediction, exports.

An export runs where there may be no XLA. So the operations are those that TensorFlow's graph optimizer joins by itself (a
product with its bias and GELU, scores with their scale and mask), and the rest is kept to few operations: for one short text
their number decides the time. What is joined to a product is computed in the product's type, where training keeps float32.
Letters and sources as in `kernels.xla`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from transformers.activations_tf import get_tf_activation

from trainer.models.kernels.base import EncoderKernels, PackedIds
from trainer.models.layers import MASKED, layer_norm

_BITS = {2: tf.int16, 4: tf.int32}  # the integer types of as many bytes
Weight = Callable[[Sequence[Any], tf.DType], tf.Tensor]  # variables, joined along their last axis, in a type


def read_weight(variables: Sequence[Any], dtype: tf.DType) -> tf.Tensor:
    """Reads variables when the graph runs, joined along their last axis, in a type."""
    values = [tf.cast(tf.convert_to_tensor(variable), dtype) for variable in variables]
    return values[0] if len(values) == 1 else tf.concat(values, axis=-1)


class HeldValues:
    """Values that a graph holds, each computed once, from the weights as they are when it is first asked for."""

    def __init__(self):
        self._values: dict[tuple, tf.Variable | tf.Tensor] = {}

    def __call__(self, key: tuple, make: Callable[[], tf.Tensor], as_variable: bool) -> tf.Tensor:
        """Returns what `make` returned when `key` was asked for first."""
        if key not in self._values:
            with tf.init_scope():  # a graph that is being traced can make no variables
                value = make()
                self._values[key] = tf.Variable(value, trainable=False, name="held") if as_variable else value
        value = self._values[key]
        return tf.convert_to_tensor(value) if isinstance(value, tf.Variable) else tf.constant(value.numpy())

    def variables(self) -> list[tf.Variable]:
        """Returns the variables among the values."""
        return [value for value in self._values.values() if isinstance(value, tf.Variable)]


class ExportKernels(EncoderKernels):
    """TensorFlow's plain operations over weights that the graph itself holds: joined, and in the type of their use.

    Nothing is then cast or joined at a call, and the graph no longer follows the model's variables. Weights are constants,
    which oneDNN lays out once; but float32 matrices are variables. oneDNN's layout of a constant matrix depends on the number
    of rows it is multiplied with, and it keeps only one: requests of other sizes would have all weights laid out again
    (MiniLM: 5 of 10 ms for one text). Variables are read as they are.
    """

    name = "export"

    def __init__(self):
        self._held = HeldValues()

    def encode(
        self,
        bert: Any,
        ids: PackedIds,
        dtype: tf.DType,
        read_positions: tf.Tensor | None = None,
        training: bool = False,
        recompute: bool = False,
    ) -> tf.Tensor:
        return encode(bert, ids, dtype, read_positions, self._weight, _transpose_bits)

    def held_variables(self) -> Sequence[tf.Variable]:
        return self._held.variables()

    def _weight(self, variables: Sequence[Any], dtype: tf.DType) -> tf.Tensor:
        is_matrix = dtype == tf.float32 and len(variables[0].shape) == 2
        return self._held((dtype, *map(id, variables)), lambda: read_weight(variables, dtype), is_matrix)


def encode(
    bert: Any,
    ids: PackedIds,
    dtype: tf.DType,
    read_positions: tf.Tensor | None,
    weight: Weight,
    transpose: Callable[[tf.Tensor, list[int]], tf.Tensor] = tf.transpose,
) -> tf.Tensor:
    """Runs embeddings and all layers of a TFBertMainLayer's variables without dropout.

    Args:
      bert, ids, dtype, read_positions: as `EncoderKernels.encode`'s.
      weight: gives the weights.
      transpose: of [B, L, N, D] and the like.

    Returns:
      dtype [B, L, H], or [B, P, H] of the tokens that are read.
    """
    shape, segment_ids = tf.shape(ids.input_ids), ids.segment_ids
    layers = Layers(bert.config, weight, transpose)
    hidden, mask = layers.embed(bert, ids, dtype), _mask(segment_ids, segment_ids, dtype)
    *lower, last = bert.encoder.layer
    for layer in lower:
        hidden = layers.run(layer, hidden, hidden, shape, shape, mask)
    if read_positions is None:
        readers, read_shape = hidden, shape
    else:
        read_shape = tf.shape(read_positions)
        cells = tf.range(shape[0])[:, None] * shape[1] + read_positions
        readers = tf.gather(hidden, tf.reshape(cells, [-1]))
        mask = _mask(tf.gather(segment_ids, read_positions, batch_dims=1), segment_ids, dtype)
    hidden = layers.run(last, hidden, readers, shape, read_shape, mask)
    return tf.reshape(hidden, [read_shape[0], read_shape[1], bert.config.hidden_size])


def layer_outputs(bert: Any, ids: PackedIds, dtype: tf.DType, wanted: Sequence[int]) -> tf.Tensor:
    """Returns the outputs of several layers, for who reads more than the last one: dtype [B, L, len(wanted), H].

    Args:
      bert, ids, dtype: as `EncoderKernels.encode`'s.
      wanted: layers, ascending; 0 stands for the embeddings, 1 for the first layer.
    """
    shape, mask = tf.shape(ids.input_ids), _mask(ids.segment_ids, ids.segment_ids, dtype)
    layers = Layers(bert.config, read_weight, tf.transpose)
    hidden = [layers.embed(bert, ids, dtype)]
    for layer in bert.encoder.layer[: wanted[-1]]:
        hidden.append(layers.run(layer, hidden[-1], hidden[-1], shape, shape, mask))
    kept = tf.stack([hidden[number] for number in wanted], axis=1)
    return tf.reshape(kept, [shape[0], shape[1], len(wanted), bert.config.hidden_size])


def _mask(reading_segments, segment_ids, dtype):
    """0 where a token may attend, else far below every score: int32 [B, P], [B, L] → dtype [B, 1, P, L]."""
    same = reading_segments[:, None, :, None] == segment_ids[:, None, None, :]
    return tf.where(same, tf.zeros([], dtype), tf.constant(MASKED if dtype != tf.float16 else dtype.min, dtype))


def _transpose_bits(values, order):
    """Transposes the bits as integers: oneDNN's transpose of floats takes 40 µs however small the tensor is."""
    bits = tf.bitcast(values, _BITS[values.dtype.size])
    return tf.bitcast(tf.transpose(bits, order), values.dtype)


class Layers:
    """BERT's embeddings and layers on rows of tokens, over weights from one source."""

    def __init__(self, config, weight, transpose):
        self._config, self._weight, self._transpose = config, weight, transpose

    def embed(self, bert: Any, ids: PackedIds, dtype: tf.DType) -> tf.Tensor:
        """Embeds tokens: int32 [B, L] each to dtype [B·L, H]."""
        embeddings = bert.embeddings
        words = tf.gather(embeddings.weight, ids.input_ids)
        positions = tf.gather(self._weight([embeddings.position_embeddings], tf.float32), ids.position_ids)
        types = tf.gather(self._weight([embeddings.token_type_embeddings], tf.float32), ids.token_type_ids)
        summed = tf.reshape(words + types + positions, [-1, words.shape[-1]])
        embedded = self.normalize(summed, bert.embeddings.LayerNorm, dtype)
        narrow = getattr(bert, "embeddings_project", None)
        return embedded if narrow is None else self.dense(narrow, embedded)

    def run(self, layer, hidden, readers, shape, read_shape, mask):
        """One layer: dtype [B·L, H], of which [B·P, H] read, to [B·P, H]."""
        return self.feed_forward(layer, self._attend(layer.attention, hidden, readers, shape, read_shape, mask))

    def feed_forward(self, layer: Any, attended: tf.Tensor) -> tf.Tensor:
        """The two dense layers with their residual connection: dtype [rows, H] to the same."""
        activation = get_tf_activation(self._config.hidden_act)
        return self.project_and_add(layer.bert_output, activation(self.dense(layer.intermediate.dense, attended)), attended)

    def _attend(self, attention, hidden, readers, shape, read_shape, mask):
        """Self-attention with its residual connection: dtype [B·L, H], of which [B·P, H] read, to [B·P, H]."""
        part, size = attention.self_attention, self._config.hidden_size
        if readers is hidden:
            queries, keys, values = self.project_heads([part.query, part.key, part.value], hidden, shape)
        else:
            (queries,) = self.project_heads([part.query], readers, read_shape)
            keys, values = self.project_heads([part.key, part.value], hidden, shape)
        scale = tf.constant((size // self._config.num_attention_heads) ** -0.5, hidden.dtype)
        weights = tf.nn.softmax(tf.matmul(queries, keys, transpose_b=True) * scale + mask)  # [B, N, P, L]
        context = tf.reshape(self._transpose(tf.matmul(weights, values), [0, 2, 1, 3]), [-1, size])
        return self.project_and_add(attention.dense_output, context, readers)

    def project_heads(self, parts: Sequence[Any], hidden: tf.Tensor, shape: Sequence[Any]) -> list[tf.Tensor]:
        """One product for several of query, key and value: dtype [B·L, H] → for each part, dtype [B, N, L, D]."""
        size, heads = hidden.shape[-1], self._config.num_attention_heads
        kernel = self._weight([part.kernel for part in parts], hidden.dtype)
        bias = self._weight([part.bias for part in parts], hidden.dtype)
        projected = tf.nn.bias_add(tf.matmul(hidden, kernel), bias)
        split = tf.reshape(projected, [shape[0], shape[1], len(parts), heads, size // heads])
        return tf.unstack(self._transpose(split, [2, 0, 3, 1, 4]), num=len(parts))

    def project_and_add(self, output: Any, inputs: tf.Tensor, residual: tf.Tensor) -> tf.Tensor:
        """A dense layer, the residual connection and LayerNorm: dtype [rows, I], [rows, H] to [rows, H]."""
        return self.normalize(self.dense(output.dense, inputs) + residual, output.LayerNorm, residual.dtype)

    def dense(self, dense: Any, inputs: tf.Tensor) -> tf.Tensor:
        """A dense layer: dtype [rows, I] to [rows, O]."""
        kernel, bias = self._weight([dense.kernel], inputs.dtype), self._weight([dense.bias], inputs.dtype)
        return tf.nn.bias_add(tf.matmul(inputs, kernel), bias)

    def normalize(self, values: tf.Tensor, norm: Any, dtype: tf.DType) -> tf.Tensor:
        """LayerNorm in float32: [rows, H] to dtype [rows, H]."""
        gamma, beta = self._weight([norm.gamma], tf.float32), self._weight([norm.beta], tf.float32)
        return tf.cast(layer_norm(tf.cast(values, tf.float32), gamma, beta, norm.epsilon), dtype)
