"""Task heads: what turns the encoder's outputs into logits."""

from typing import Any, Protocol

import tensorflow as tf
import tf_keras as keras
from transformers import BertConfig
from transformers.activations_tf import get_tf_activation

from trainer.models.encoder import Untracked
from trainer.models.layers import dense, layer_norm
from trainer.runtime.fusion import OTHERWISE, OUTPUT, fused
from trainer.runtime.randomness import dropout


class DenseHead(keras.layers.Layer):
    """Dropout and one dense layer, float32: [..., hidden] → float32 [..., units].

    Args:
      units: the size of the output.
      dropout_rate: on the input, in training.
      initializer_range: standard deviation of the kernel's truncated normal, as in google-research/bert's run_classifier.py.
    """

    def __init__(self, units: int, dropout_rate: float, initializer_range: float = 0.02, name: str = "head"):
        super().__init__(name=name, dtype="float32", autocast=False)
        self._dropout_rate = dropout_rate
        initializer = keras.initializers.TruncatedNormal(stddev=initializer_range)
        self._dense = keras.layers.Dense(units, kernel_initializer=initializer, dtype="float32", name="dense")

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self._dense(dropout(tf.cast(inputs, tf.float32), self._dropout_rate, training))


class HasEmbeddings(Protocol):
    """A BertEncoder or a BertDecoder."""

    bert_config: BertConfig

    @property
    def bert(self) -> Any:
        """transformers' TFBertMainLayer, or what has its names."""


class PretrainingHeads(keras.layers.Layer):
    """BERT's two heads: masked tokens, tied to the word embeddings, and how the two parts of a pair belong together.

    Source: google-research/bert's run_pretraining.py, `get_masked_lm_output` and `get_next_sentence_output`. The weights are
    named as in Google's checkpoints: cls/predictions/..., cls/seq_relationship/....

    Args:
      encoder: gives the embeddings and the sizes; a decoder for its own language model.
      has_pairs: whether there is a head for pairs.

    Call:
      masked: dtype [batch, P, hidden], the encoder's output at the masked tokens only.
      pooled: dtype [batch, K, hidden], the pooled outputs, where there are pairs.

    Returns:
      {"masked_lm_logits": dtype [batch, P, vocabulary]; "sentence_logits": float32 [batch, K, 2], where there are pairs}.
    """

    def __init__(self, encoder: HasEmbeddings, has_pairs: bool, name: str = "cls"):
        super().__init__(name=name, dtype="float32", autocast=False)
        # The encoder owns the embeddings: kept out of this layer's tracking, so that they are counted once.
        self._encoder, self._has_pairs = Untracked(encoder), has_pairs

    def build(self, _) -> None:
        """Makes the weights."""
        config = self._encoder.value.bert_config
        hidden, width = config.hidden_size, getattr(config, "embedding_size", config.hidden_size)

        def normal():
            return keras.initializers.TruncatedNormal(stddev=config.initializer_range)

        def weight(name, shape, initializer):
            return self.add_weight(name=name, shape=shape, initializer=initializer)

        self.kernel = weight("predictions/transform/dense/kernel", [hidden, width], normal())
        self.bias = weight("predictions/transform/dense/bias", [width], "zeros")
        self.gamma = weight("predictions/transform/LayerNorm/gamma", [width], "ones")
        self.beta = weight("predictions/transform/LayerNorm/beta", [width], "zeros")
        self.output_bias = weight("predictions/bias", [config.vocab_size], "zeros")
        if self._has_pairs:
            self.pair_kernel = weight("seq_relationship/kernel", [hidden, 2], normal())
            self.pair_bias = weight("seq_relationship/bias", [2], "zeros")
        self.built = True

    def call(self, masked: tf.Tensor, pooled: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        encoder, config = self._encoder.value, self._encoder.value.bert_config
        shape = tf.shape(masked)
        flat = tf.reshape(masked, [-1, config.hidden_size])
        product = tf.matmul(flat, tf.cast(self.kernel, flat.dtype))
        transformed = _activate_and_norm(
            product, self.bias, self.gamma, self.beta, activation=config.hidden_act, epsilon=config.layer_norm_eps
        )
        logits = dense(transformed, encoder.bert.embeddings.weight, self.output_bias, transpose_kernel=True)
        outputs = {"masked_lm_logits": tf.reshape(logits, [shape[0], shape[1], config.vocab_size])}
        if pooled is not None:
            outputs["sentence_logits"] = tf.matmul(tf.cast(pooled, tf.float32), self.pair_kernel) + self.pair_bias
        return outputs

    def transformed(self, hidden: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Returns what the vocabulary is multiplied with, by plain operations: dtype [rows, hidden] to dtype [rows, width].

        Args:
          hidden: of the tokens.
          kernel: this head's `kernel` in their type.
        """
        config = self._encoder.value.bert_config
        weights = self.bias, self.gamma, self.beta
        how = {"activation": config.hidden_act, "epsilon": config.layer_norm_eps}
        return _activated_and_normalized(tf.matmul(hidden, kernel), *weights, **how)


def _activated_and_normalized(product, bias, gamma, beta, *, activation, epsilon):
    outputs = get_tf_activation(activation)(tf.cast(product, tf.float32) + bias)
    return tf.cast(layer_norm(outputs, gamma, beta, epsilon), product.dtype)


_activate_and_norm = fused(_activated_and_normalized, bias="product", gamma=OTHERWISE, beta=OUTPUT)
