"""BERT as a decoder: causal attention, cross-attention to an encoder's output, a language model's head (BERT2BERT).

Rothe, Narayan and Severyn 2020 (arXiv:1907.12461). A TFBertModel owns the weights. There are two ways through them: whole
targets at once, packed beside their sources, for training; and token by token with a cache, for generation.
The letters: E examples, B beams of each, N tokens of a target, S tokens of a source, A attention heads, D numbers of a head.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
import tf_keras as keras
from transformers import BertConfig, TFBertModel

from trainer.errors import UserError
from trainer.models.encoder import BertEncoder, Untracked
from trainer.models.heads import PretrainingHeads
from trainer.models.initialization import DECODER, variable_key
from trainer.models.kernels.base import PackedIds, without_dropout
from trainer.models.kernels.inference import Layers, read_weight
from trainer.models.kernels.xla import attend, attention_seeds, embed, feed_forward
from trainer.models.layers import MASKED
from trainer.models.search import FromLogits
from trainer.runtime.randomness import draw_seed

TARGET = "target"  # the sequence that is generated
CROSS_ATTENTION = "*/crossattention/*"  # weights that no encoder has


class BertDecoder(keras.layers.Layer):
    """A BERT that reads its own sequence from left to right, and another encoder's output.

    Args:
      encoder: gives the sizes, the precision and, if they are shared, the word embeddings.
      layers: of the decoder; None: as many as the encoder has.
      share_embeddings: encoder and decoder have the same word embeddings; the head's are always the decoder's.

    Call:
      inputs: {"target_input_ids", "target_position_ids", "target_segment_ids": int32 [rows, N]}.
      memory, memory_segments: dtype [rows, S, hidden], int32 [rows, S], the encoder's output and its segments: a target reads
        the source in the same slot of the same row.

    Returns:
      dtype [rows, N, hidden].
    """

    def __init__(self, encoder: BertEncoder, layers: int | None, share_embeddings: bool, name: str = "decoder"):
        super().__init__(name=name, dtype="float32", autocast=False)
        if encoder.bert_config.model_type != "bert":
            kind = encoder.bert_config.model_type
            raise UserError(f"encoder.init_from: an encoder of type {kind}; generation has a decoder for BERT only")
        self.compute, self._recompute = encoder.compute, encoder.recompute
        self.bert_config = decoder_config(encoder.bert_config, layers)
        self.model = TFBertModel(self.bert_config, add_pooling_layer=False, name=DECODER)
        self.model.build_in_name_scope()
        if share_embeddings:
            embeddings = self.model.bert.embeddings
            del embeddings.weight  # tracked until then: it would be saved and counted
            embeddings.weight = encoder.bert.embeddings.weight
        self._bert = Untracked(self.model.bert)

    @property
    def bert(self):
        """transformers' TFBertMainLayer: embeddings, encoder."""
        return self._bert.value

    def call(
        self, inputs: Mapping[str, tf.Tensor], memory: tf.Tensor, memory_segments: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        config = self.bert_config if training else without_dropout(self.bert_config)
        names = ("input_ids", "position_ids", "segment_ids")
        input_ids, position_ids, segment_ids = (inputs[f"{TARGET}_{name}"] for name in names)
        ids = PackedIds(input_ids, tf.zeros_like(input_ids), position_ids, segment_ids)
        hidden = embed(self.bert.embeddings, config, ids, self.compute)
        for layer in self.bert.encoder.layer:
            hidden = self._layer(layer, config, hidden, segment_ids, memory, memory_segments, training)
        return hidden

    def _layer(self, layer, config, hidden, segment_ids, memory, memory_segments, training):
        # Drawn outside: when a layer is computed again, its dropout is the same.
        seeds, cross_seeds = attention_seeds(config), attention_seeds(config)
        last_seed = draw_seed(config.hidden_dropout_prob)

        def run(hidden, memory):
            read = attend(layer.attention, config, hidden, segment_ids, hidden, segment_ids, seeds, causal=True)
            crossed = attend(layer.crossattention, config, read, segment_ids, memory, memory_segments, cross_seeds)
            return feed_forward(layer, config, crossed, last_seed)

        return tf.recompute_grad(run)(hidden, memory) if self._recompute and training else run(hidden, memory)

    def start_from(self, encoder: BertEncoder) -> int:
        """Takes the encoder's weights for all that both have: embeddings, and the first layers; returns how many variables."""
        of_encoder = {variable_key(variable.name): variable for variable in encoder.model.weights}
        taken = 0
        for variable in self.model.weights:
            source = of_encoder.get(variable_key(variable.name))
            if source is not None:
                variable.assign(source)
                taken += 1
        return taken


def decoder_config(encoder_config: BertConfig, layers: int | None) -> BertConfig:
    """Returns the config of a decoder for an encoder."""
    config = BertConfig.from_dict(encoder_config.to_dict())
    config.is_decoder = config.add_cross_attention = True
    config.num_hidden_layers = layers or encoder_config.num_hidden_layers
    return config


class Memory(NamedTuple):
    """What the decoder reads of its sources, computed once for all steps.

    Attributes:
      keys, values: of each layer, dtype [E, A, S, D].
      mask: dtype [E, 1, 1, S], 0 at tokens, else far below every score.
    """

    keys: Sequence[tf.Tensor]
    values: Sequence[tf.Tensor]
    mask: tf.Tensor


class StepwiseDecoder:
    """The decoder token by token, by plain operations: what they need of earlier tokens is kept in a cache.

    A beam never moves in the cache: the token at place n of beam b stays in slot n · B + b, and a mask tells each beam which
    slots its own past is in. So no step copies the cache, where most programs sort all of it anew at every step.

    Args:
      decoder, head: the layers of the model.
      beams: B.
      tokens: N, the most that are generated.
    """

    def __init__(self, decoder: BertDecoder, head: PretrainingHeads, beams: int, tokens: int):
        self._decoder, self._head, self._beams, self._tokens = decoder, head, beams, tokens
        self._config, self._dtype = decoder.bert_config, decoder.compute
        self._held: dict[tuple, tf.Tensor] = {}
        self._layers = Layers(self._config, self._weight, tf.transpose)

    def hold_weights(self) -> None:
        """Reads the weights; call where the loop is built, that it does not join and cast them at every step."""
        bert, head = self._decoder.bert, self._head
        for layer in bert.encoder.layer:
            own, cross = layer.attention, layer.crossattention
            parts = own.self_attention, cross.self_attention
            together = [[one.query, one.key, one.value] for one in parts[:1]] + [[parts[1].query]]
            denses = [own.dense_output.dense, cross.dense_output.dense, layer.intermediate.dense, layer.bert_output.dense]
            for group in [*together, *([one] for one in denses)]:
                for name in ("kernel", "bias"):
                    self._hold([getattr(one, name) for one in group], self._dtype)
        for variable in (head.kernel, head.bias, head.output_bias):
            self._hold([variable], self._dtype)
        # Turned once: a product with few rows takes up to twice as long with the table as it is.
        self._vocabulary = tf.transpose(read_weight([bert.embeddings.weight], self._dtype))

    def _hold(self, variables: Sequence[Any], dtype: tf.DType) -> None:
        self._held[(dtype, *map(id, variables))] = read_weight(variables, dtype)

    def _weight(self, variables: Sequence[Any], dtype: tf.DType) -> tf.Tensor:
        held = self._held.get((dtype, *map(id, variables)))
        return read_weight(variables, dtype) if held is None else held

    def memory(self, hidden: tf.Tensor, is_token: tf.Tensor) -> Memory:
        """Returns what all steps read of the sources.

        Args:
          hidden: dtype [E, S, hidden], the encoder's output.
          is_token: bool [E, S].
        """
        shape = tf.shape(hidden)
        flat = tf.reshape(hidden, [-1, hidden.shape[-1]])
        keys, values = [], []
        for layer in self._decoder.bert.encoder.layer:
            part = layer.crossattention.self_attention
            key, value = self._layers.project_heads([part.key, part.value], flat, [shape[0], shape[1]])
            keys.append(key)
            values.append(value)
        return Memory(keys, values, self._mask(is_token)[:, None, None, :])

    def _mask(self, is_read: tf.Tensor) -> tf.Tensor:
        """Returns 0 where a token is read, else far below every score."""
        lowest = tf.constant(MASKED if self._dtype != tf.float16 else self._dtype.min, self._dtype)
        return tf.where(is_read, tf.zeros([], self._dtype), lowest)

    def empty_cache(self, examples: tf.Tensor | int) -> list[tf.Tensor]:
        """Returns the cache before the first token: for each layer its keys, and its values, [E, A, N · B, D]."""
        heads = self._config.num_attention_heads
        shape = [examples, heads, self._tokens * self._beams, self._config.hidden_size // heads]
        return [tf.zeros(shape, self._dtype) for _ in range(2 * self._config.num_hidden_layers)]

    def step(
        self,
        ids: tf.Tensor,
        place: tf.Tensor,
        is_open: tf.Tensor,
        ancestors: tf.Tensor,
        memory: Memory,
        cache: list[tf.Tensor],
    ) -> tuple[FromLogits, list[tf.Tensor]]:
        """Reads one token of each beam.

        Args:
          ids: int32 [E, B].
          place: int32 [], its place in the target.
          is_open: bool [E], where what follows is asked for; all are computed here.
          ancestors: int32 [E, B, N], the slot in which each token of a beam's past is, its own at `place`.
          memory, cache: as `memory` and `empty_cache` give them.

        Returns:
          (what may follow; the cache).
        """
        bert, layers, beams = self._decoder.bert, self._layers, self._beams
        examples = tf.shape(ids)[0]
        places = tf.fill(tf.shape(ids), place)
        hidden = layers.embed(bert, PackedIds(ids, tf.zeros_like(ids), places, ids), self._dtype)  # [E · B, hidden]
        is_past = tf.range(self._tokens) <= place
        is_own = tf.cast(tf.one_hot(ancestors, beams, on_value=True, off_value=False), tf.bool) & is_past[:, None]
        mask = self._mask(tf.reshape(is_own, [examples, 1, beams, -1]))
        cache = list(cache)
        for number, layer in enumerate(bert.encoder.layer):
            part, shape = layer.attention.self_attention, [examples, beams]
            queries, *new = layers.project_heads([part.query, part.key, part.value], hidden, shape)
            for which, values in enumerate(new):
                cache[2 * number + which] = self._with_step(cache[2 * number + which], place, values)
            read = self._read(queries, cache[2 * number], cache[2 * number + 1], mask)
            hidden = layers.project_and_add(layer.attention.dense_output, read, hidden)
            (queries,) = layers.project_heads([layer.crossattention.self_attention.query], hidden, shape)
            read = self._read(queries, memory.keys[number], memory.values[number], memory.mask)
            hidden = layers.project_and_add(layer.crossattention.dense_output, read, hidden)
            hidden = layers.feed_forward(layer, hidden)
        return FromLogits(tf.reshape(self._logits(hidden), [examples, beams, self._config.vocab_size])), cache

    def _with_step(self, cache, place, values):
        """Writes one token's keys or values, [E, A, B, D], into a cache: a few rows of it, in place."""
        rows = tf.size(values) // (values.shape[2] * values.shape[3])
        flat = tf.reshape(cache, [-1, values.shape[2] * values.shape[3]])  # [E · A · N, B · D]
        at = tf.range(rows) * self._tokens + place
        flat = tf.tensor_scatter_nd_update(flat, at[:, None], tf.reshape(values, [rows, -1]))
        return tf.reshape(flat, tf.shape(cache))

    def _read(self, queries, keys, values, mask):
        """Attention: dtype [E, A, B, D] over [E, A, n, D] to [E · B, hidden]."""
        scale = tf.constant(queries.shape[-1] ** -0.5, queries.dtype)
        weights = tf.nn.softmax(tf.matmul(queries, keys, transpose_b=True) * scale + mask)
        context = tf.transpose(tf.matmul(weights, values), [0, 2, 1, 3])
        return tf.reshape(context, [-1, self._config.hidden_size])

    def _logits(self, hidden):
        """The head by plain operations: dtype [rows, hidden] to float32 [rows, vocabulary]."""
        head = self._head
        transformed = head.transformed(hidden, self._weight([head.kernel], self._dtype))
        logits = tf.matmul(transformed, self._vocabulary) + self._weight([head.output_bias], self._dtype)
        return tf.cast(logits, tf.float32)
