"""The model of an encoder and a decoder: trained on whole targets, packed; in inference it generates."""

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from trainer.data.hashing import mixed
from trainer.models.decoder import TARGET, BertDecoder, StepwiseDecoder
from trainer.models.encoder import BertEncoder, Untracked
from trainer.models.heads import PretrainingHeads
from trainer.models.kernels.base import EncoderKernels
from trainer.models.losses import vocabulary_cross_entropy
from trainer.models.pooling import membership
from trainer.models.search import Found, Search, search
from trainer.models.task_model import TaskModel

EXAMPLES_AT_A_TIME = 32  # that are searched together: those of like length, as they end at about the same time


class _Parts(NamedTuple):
    encoder: BertEncoder
    decoder: BertDecoder
    head: PretrainingHeads
    how: Search


class GenerationModel(TaskModel):
    """A functional model from packed sources and targets to {"target_logits": dtype [rows, N, vocabulary]}.

    `outputs_for`, what inference reads, gives other outputs: the sequences that a search finds for each source; and where the
    batch has targets, how likely these are.
    """

    def generate_with(self, encoder: BertEncoder, decoder: BertDecoder, head: PretrainingHeads, how: Search) -> None:
        """Says how to generate; call before `outputs_for`.

        Args:
          encoder, decoder, head: the layers that the model is made of.
          how: what is searched for.
        """
        self._parts = Untracked(_Parts(encoder, decoder, head, how))  # layers of the model already

    def outputs_for(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns what is generated for a packed batch, without dropout.

        Returns:
          {"sequences": [rows, K, n, tokens], ids, padded; "scores": [rows, K, n]; "margin": [rows, K], see `search.Found`;
          where there are targets, "target_loss" and "target_tokens": [rows, K], the sum of the losses of a target's tokens,
          and their number}: float32 each.
        """
        encoder, decoder, head, how = self._parts.value
        memory = encoder(batch)
        found = _in_slots(_generated(memory, batch, encoder.kernels, decoder, head, how), batch, how)
        if f"{TARGET}_input_ids" not in batch:
            return found
        segments = batch[f"{TARGET}_segment_ids"]
        logits = head(decoder(batch, memory, batch["segment_ids"]))["masked_lm_logits"]
        losses, _ = vocabulary_cross_entropy(batch[f"{TARGET}_labels"], logits)
        slots = tf.shape(batch["cls_positions"])[1]
        is_own = membership(segments, slots)  # [rows, K, N]
        return found | {
            "target_loss": tf.linalg.matvec(is_own, losses),
            "target_tokens": tf.reduce_sum(is_own, axis=-1),
        }


def _generated(
    memory: tf.Tensor,
    batch: Mapping[str, tf.Tensor],
    kernels: EncoderKernels,
    decoder: BertDecoder,
    head: PretrainingHeads,
    how: Search,
) -> tuple[Found, tf.Tensor]:
    """Returns what is found for the examples of a batch, and which slots they are in, counted over rows · K: int32 [E]."""
    segments, starts = batch["segment_ids"], batch["cls_positions"]
    rows, length = tf.unstack(tf.shape(segments))
    slots = tf.shape(starts)[1]
    lengths = tf.reshape(tf.cast(tf.reduce_sum(membership(segments, slots), axis=-1), tf.int32), [-1])
    firsts = tf.reshape(tf.range(rows)[:, None] * length + starts, [-1])
    flat_ids, flat = tf.reshape(batch["input_ids"], [-1]), tf.reshape(memory, [-1, memory.shape[-1]])

    # Programs that XLA compiles take all slots of the one shape; else only examples are computed, the longest first.
    is_static = segments.shape.is_fully_defined() and starts.shape.is_fully_defined()
    order = tf.argsort(lengths, direction="DESCENDING", stable=True)
    if is_static:
        count = starts.shape[0] * starts.shape[1]
        groups: int | tf.Tensor = -(-count // EXAMPLES_AT_A_TIME)
        order = tf.pad(order, [[0, groups * EXAMPLES_AT_A_TIME - count]])
    else:
        order = order[: tf.math.count_nonzero(lengths, dtype=tf.int32)]
        groups = -(-tf.size(order) // EXAMPLES_AT_A_TIME)
    steps = (kernels.stepwise_decoder() or StepwiseDecoder)(decoder, head, how.beams, how.max_new_tokens)
    steps.hold_weights()

    def generate(number, *arrays):
        begun = number * EXAMPLES_AT_A_TIME
        chosen = order[begun : begun + EXAMPLES_AT_A_TIME]
        if is_static:
            chosen = tf.ensure_shape(tf.gather(order, begun + tf.range(EXAMPLES_AT_A_TIME)), [EXAMPLES_AT_A_TIME])
        tokens = tf.gather(lengths, chosen)
        longest = segments.shape[1] if is_static else tf.reduce_max(tokens)
        places = tf.range(longest)
        cells = tf.minimum(tf.gather(firsts, chosen)[:, None] + places, tf.size(flat_ids) - 1)
        is_token = places < tokens[:, None]
        ids = tf.where(is_token, tf.gather(flat_ids, cells), 0)
        sources = steps.memory(tf.gather(flat, cells), is_token)
        found = search(
            lambda ids, place, is_open, ancestors, cache: steps.step(ids, place, is_open, ancestors, sources, cache),
            steps.empty_cache(tf.size(chosen)),
            tokens > 0,
            _keys(ids),
            how,
        )
        return number + 1, *(array.write(number, values) for array, values in zip(arrays, found, strict=True))

    arrays = [tf.TensorArray(dtype, groups, infer_shape=False) for dtype in (tf.int32, tf.float32, tf.float32)]
    if not is_static:  # an empty batch has no group, and no shape for what is found
        shapes = ([0, how.num_return_sequences, how.max_new_tokens], [0, how.num_return_sequences], [0])
        arrays = [tf.TensorArray(array.dtype, groups + 1, infer_shape=False) for array in arrays]
        arrays = [array.write(groups, tf.zeros(shape, array.dtype)) for array, shape in zip(arrays, shapes, strict=True)]
    _, *arrays = tf.while_loop(lambda number, *_: number < groups, generate, (0, *arrays), parallel_iterations=1)
    return Found(*(array.concat() for array in arrays)), order


def _keys(ids):
    """Returns a number of each source that depends on its tokens only: int32 [E, S], 0 at padding, to uint32 [E].

    What is drawn for a text is the same then, whatever other texts are in its batch.
    """
    places = tf.cast(tf.range(tf.shape(ids)[1]), tf.uint32)
    hashed = mixed(tf.bitwise.bitwise_xor(tf.cast(ids, tf.uint32), mixed(places + tf.constant(1, tf.uint32))))
    return mixed(tf.reduce_sum(tf.where(ids > 0, hashed, tf.zeros([], tf.uint32)), axis=1))


def _in_slots(generated: tuple[Found, tf.Tensor], batch: Mapping[str, tf.Tensor], how: Search) -> dict[str, tf.Tensor]:
    """Returns what was found for each example in its slot: float32 [rows, K, ...]."""
    found, order = generated
    places = batch["cls_positions"]
    wanted = how.num_return_sequences
    shapes = Found([wanted, how.max_new_tokens], [wanted], [])
    placed = {}
    for name, values, shape in zip(Found._fields, found, shapes, strict=True):
        cells = tf.zeros([tf.size(places), *shape])
        cells = tf.tensor_scatter_nd_update(cells, order[:, None], tf.cast(values, tf.float32))
        in_rows = tf.reshape(cells, tf.concat([tf.shape(places), tf.constant(shape, tf.int32)], 0))
        placed[name] = tf.ensure_shape(in_rows, [*places.shape, *shape])
    return placed
