"""One vector for each packed text, made of its tokens' vectors."""

from collections.abc import Mapping
from typing import Literal

import tensorflow as tf
import tf_keras as keras

from trainer.models.encoder import BertEncoder, Pooler

Pooling = Literal["cls", "mean", "max", "weighted_mean", "pooler"]


class PoolMean(keras.layers.Layer):
    """Means each packed example's tokens.

    Args:
      by_position: weighs the tokens by their place, 1, 2, 3, ... (Muennighoff 2022, arXiv:2202.08904, equation 2).

    Call: dtype [batch, length, hidden], int32 [batch, length] segments, int32 [batch, K] → float32 [batch, K, hidden].
    """

    def __init__(self, by_position: bool = False, name: str = "pool_mean"):
        super().__init__(name=name, dtype="float32")
        self._by_position = by_position

    def call(self, sequence: tf.Tensor, segment_ids: tf.Tensor, cls_positions: tf.Tensor) -> tf.Tensor:
        member = membership(segment_ids, tf.shape(cls_positions)[1])
        if self._by_position:
            place = tf.range(tf.shape(segment_ids)[1])[None, None] - cls_positions[:, :, None] + 1
            member *= tf.cast(place, tf.float32)
        total = tf.matmul(member, tf.cast(sequence, tf.float32))
        return total / tf.maximum(tf.reduce_sum(member, -1, keepdims=True), 1.0)


class PoolMax(keras.layers.Layer):
    """The highest value of each dimension over each packed example's tokens; 0 in empty slots. Called as PoolMean."""

    def __init__(self, name: str = "pool_max"):
        super().__init__(name=name, dtype="float32")

    def call(self, sequence: tf.Tensor, segment_ids: tf.Tensor, cls_positions: tf.Tensor) -> tf.Tensor:
        slots, sequence = tf.shape(cls_positions)[1], tf.cast(sequence, tf.float32)

        def of_slot(slot):  # one after the other: all at once would be K times as large as the sequence
            own = segment_ids == slot + 1
            highest = tf.reduce_max(tf.where(own[:, :, None], sequence, sequence.dtype.min), axis=1)
            return tf.where(tf.reduce_any(own, axis=1)[:, None], highest, 0.0)

        found = tf.map_fn(of_slot, tf.range(slots), fn_output_signature=tf.float32)  # [K, batch, hidden]
        return tf.ensure_shape(tf.transpose(found, [1, 0, 2]), [None, None, sequence.shape[-1]])


def membership(segment_ids: tf.Tensor, slots: int | tf.Tensor) -> tf.Tensor:
    """Returns 1 where a token is a slot's: int32 [batch, length] → float32 [batch, K, length]."""
    return tf.one_hot(segment_ids - 1, slots, dtype=tf.float32, axis=1)


def pooled_texts(encoder: BertEncoder, inputs: Mapping[str, tf.Tensor], pooling: Pooling) -> tf.Tensor:
    """Returns a vector for each packed text, [rows, K, hidden].

    Args:
      encoder: the run's.
      inputs: as `packed_inputs`.
      pooling: "pooler", BERT's dense and tanh on [CLS]; "cls", [CLS] itself; "mean" of the tokens, [CLS] and [SEP] among
        them; "max" of each dimension; "weighted_mean", by the place.
    """
    if pooling in ("mean", "weighted_mean", "max"):
        layer = PoolMax() if pooling == "max" else PoolMean(by_position=pooling == "weighted_mean")
        return layer(encoder(inputs), inputs["segment_ids"], inputs["cls_positions"])
    first = encoder(inputs, inputs["cls_positions"])
    return Pooler(encoder)(first) if pooling == "pooler" else first
