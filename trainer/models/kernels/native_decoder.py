"""BERT as a decoder, token by token, as C++ operations (`trainer/native/decoder.h`): in place of `decoder.StepwiseDecoder`.

Three things take time there that none of its operations can leave out: all beams are computed though most examples have ended,
the cache is copied at each step, and the logits of the whole vocabulary are written and read several times. Here only open
examples are computed, the cache is changed in place, and of the logits only the highest leave the operation.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from trainer.models.kernels.native import weights_of
from trainer.models.kernels.native_inference import in_panels
from trainer.models.kernels.native_library import library


class SourceMemory(NamedTuple):
    """What all steps read of the sources.

    Attributes:
      keys_and_values: float32 [layers, 2, E, S, H].
      lengths: int32 [E], tokens of each source.
    """

    keys_and_values: tf.Tensor
    lengths: tf.Tensor


class LikeliestTokens(NamedTuple):
    """What may follow, as `models.search.NextTokens`: from the head's last layer but the vocabulary.

    Attributes:
      transformed: float32 [E, B, H].
      is_open: bool [E].
      vocabulary: [H, V] in panels; words: float32 [V, H]; bias: float32 [V].
    """

    transformed: tf.Tensor
    is_open: tf.Tensor
    vocabulary: tf.Tensor
    words: tf.Tensor
    bias: tf.Tensor

    @property
    def size(self) -> int:
        """V."""
        return self.words.shape[0]

    def logits(self) -> tf.Tensor:
        """Returns float32 [E, B, V]."""
        return tf.einsum("ebh,vh->ebv", self.transformed, self.words) + self.bias

    def top(self, count: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the log probabilities of the likeliest tokens, and these: float32 and int32 [E, B, count]."""
        values, ids, log_totals = library("decoding").operations.likeliest_tokens(
            self.transformed, self.is_open, self.vocabulary, self.bias, count=count
        )
        return values - log_totals[..., None], ids


class NativeStepwiseDecoder:
    """See the module; arguments and methods as `models.decoder.StepwiseDecoder`'s, all in float32."""

    def __init__(self, decoder: Any, head: Any, beams: int, tokens: int):
        self._bert, self._config, self._head = decoder.bert, decoder.bert_config, head
        self._beams, self._tokens = beams, tokens

    def hold_weights(self) -> None:
        """Lays out the weights as the operations read them; call where the loop is built."""
        bert, layers = self._bert, self._bert.encoder.layer
        norm = bert.embeddings.LayerNorm
        vectors, matrices = [norm.gamma, norm.beta], []
        for layer in layers:
            cross, output = layer.crossattention.self_attention.query, layer.crossattention.dense_output
            weights = weights_of(layer)
            matrices += [weight for weight in weights if len(weight.shape) == 2] + [cross.kernel, output.dense.kernel]
            vectors += [weight for weight in weights if len(weight.shape) == 1]
            vectors += [cross.bias, output.dense.bias, output.LayerNorm.gamma, output.LayerNorm.beta]
        self._vectors = tf.concat([tf.convert_to_tensor(vector) for vector in vectors], axis=0)
        self._matrices = tf.concat([tf.reshape(in_panels(tf.convert_to_tensor(matrix)), [-1]) for matrix in matrices], axis=0)
        self._words = tf.convert_to_tensor(bert.embeddings.weight)
        self._vocabulary = tf.reshape(in_panels(tf.transpose(self._words)), [-1])

    def memory(self, hidden: tf.Tensor, is_token: tf.Tensor) -> SourceMemory:
        """Returns what all steps read of the sources: [E, S, hidden], bool [E, S]."""
        size, layers = self._config.hidden_size, self._bert.encoder.layer
        parts = [getattr(layer.crossattention.self_attention, name) for layer in layers for name in ("key", "value")]
        kernel = tf.concat([tf.convert_to_tensor(part.kernel) for part in parts], axis=1)
        bias = tf.concat([tf.convert_to_tensor(part.bias) for part in parts], axis=0)
        shape = tf.shape(hidden)
        projected = tf.matmul(tf.reshape(tf.cast(hidden, tf.float32), [-1, size]), kernel) + bias
        split = tf.reshape(projected, [shape[0], shape[1], len(layers), 2, size])
        return SourceMemory(tf.transpose(split, [2, 3, 0, 1, 4]), tf.math.count_nonzero(is_token, axis=1, dtype=tf.int32))

    def empty_cache(self, examples: tf.Tensor | int) -> tf.Tensor:
        """Returns the cache before the first token: float32 [layers, 2, E, N, B, H]."""
        config = self._config
        return tf.zeros([config.num_hidden_layers, 2, examples, self._tokens, self._beams, config.hidden_size])

    def step(
        self,
        ids: tf.Tensor,
        place: tf.Tensor,
        is_open: tf.Tensor,
        ancestors: tf.Tensor,
        memory: SourceMemory,
        cache: tf.Tensor,
    ) -> tuple[LikeliestTokens, tf.Tensor]:
        """Reads one token of each beam of the open examples."""
        config, embeddings = self._config, self._bert.embeddings
        hidden, cache = library("decoding").operations.bert_decoder_step(
            ids,
            place,
            is_open,
            ancestors,
            memory.lengths,
            memory.keys_and_values,
            cache,
            embeddings.weight,
            embeddings.position_embeddings,
            embeddings.token_type_embeddings,
            self._vectors,
            self._matrices,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            inner=config.intermediate_size,
            epsilon=config.layer_norm_eps,
        )
        return self._following(hidden, is_open), cache

    def _following(self, hidden, is_open):
        head, size = self._head, self._config.hidden_size
        transformed = head.transformed(tf.reshape(hidden, [-1, size]), tf.convert_to_tensor(head.kernel))
        transformed = tf.reshape(transformed, tf.shape(hidden))
        return LikeliestTokens(transformed, is_open, self._vocabulary, self._words, tf.convert_to_tensor(head.output_bias))
