"""BERT without dropout as one C++ operation (`trainer/native/inference.h`), for exports.

For one short text the time goes into reading the weights, and then into the number of operations. Here the weights are stored
in the order in which they are read, and embeddings and layers are one operation, without padding. Letters and sources as in
`kernels.xla`.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from trainer.models.kernels.base import EncoderKernels, PackedIds
from trainer.models.kernels.inference import HeldValues
from trainer.models.kernels.native import unfit, weights_of
from trainer.models.kernels.native_library import library

PANEL = 64  # columns; kStored in trainer/native/panels.h


class NativeExportKernels(EncoderKernels):
    """The whole encoder as one operation, over weights that the graph holds in the operation's own layout."""

    name = "native export"

    def __init__(self):
        self._held = HeldValues()

    @classmethod
    def unfit(cls, bert_config: Any, precision: str) -> str | None:
        return unfit(bert_config, precision, "inference")

    def encode(
        self,
        bert: Any,
        ids: PackedIds,
        dtype: tf.DType,
        read_positions: tf.Tensor | None = None,
        training: bool = False,
        recompute: bool = False,
    ) -> tf.Tensor:
        vectors = self._held(("vectors", id(bert)), lambda: vectors_of(bert), as_variable=False)
        matrices = self._held(("matrices", id(bert)), lambda: matrices_of(bert, dtype), as_variable=True)
        return tf.cast(run(bert, ids, read_positions, vectors, matrices), dtype)

    def held_variables(self) -> Sequence[tf.Variable]:
        return self._held.variables()


def vectors_of(bert: Any) -> tf.Tensor:
    """Returns gamma and beta of the embeddings and all weights of the layers that are no matrices: float32 [numbers]."""
    norm = bert.embeddings.LayerNorm
    weights = [weight for layer in bert.encoder.layer for weight in weights_of(layer)]
    return tf.concat([norm.gamma, norm.beta, *(weight for weight in weights if len(weight.shape) == 1)], axis=0)


def matrices_of(bert: Any, dtype: tf.DType) -> tf.Tensor:
    """Returns the layers' matrices, each in panels, one after the other: dtype [numbers]."""
    weights = [weight for layer in bert.encoder.layer for weight in weights_of(layer)]
    matrices = [tf.cast(weight, dtype) for weight in weights if len(weight.shape) == 2]
    return tf.concat([tf.reshape(in_panels(matrix), [-1]) for matrix in matrices], axis=0)


def in_panels(matrix: tf.Tensor) -> tf.Tensor:
    """Lays out a matrix as trainer/native/panels.h has it.

    Args:
      matrix: float32 or bfloat16 [inner, columns]; in bfloat16 `inner` is even.

    Returns:
      The same type: [panels, inner, 64], in bfloat16 [panels, inner / 2, 64, 2].
    """
    inner, columns = matrix.shape
    padded = tf.pad(matrix, [[0, 0], [0, -columns % PANEL]])
    if matrix.dtype == tf.float32:
        return tf.transpose(tf.reshape(padded, [inner, -1, PANEL]), [1, 0, 2])
    return tf.transpose(tf.reshape(padded, [inner // 2, 2, -1, PANEL]), [2, 0, 3, 1])


def run(bert: Any, ids: PackedIds, read_positions: tf.Tensor | None, vectors: tf.Tensor, matrices: tf.Tensor) -> tf.Tensor:
    """Runs embeddings and layers of a TFBertMainLayer.

    Args:
      bert: transformers' TFBertMainLayer.
      ids: int32 [B, L] each; segment 0 is padding.
      read_positions: int32 [B, P], the tokens that the head reads; None for all.
      vectors, matrices: its `vectors_of` and `matrices_of`; in bfloat16, matrices are multiplied as floats all the same.

    Returns:
      float32 [B, P, H], or [B, L, H]; zeros for padding.
    """
    config, embeddings = bert.config, bert.embeddings
    return library("inference").operations.bert_encoder(
        *ids,
        tf.zeros([1, 0], tf.int32) if read_positions is None else read_positions,
        embeddings.weight,
        embeddings.position_embeddings,
        embeddings.token_type_embeddings,
        vectors,
        matrices,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        inner=config.intermediate_size,
        epsilon=config.layer_norm_eps,
    )
