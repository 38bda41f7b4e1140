"""ELECTRA's pre-training: a small generator fills masks, and the encoder tells which tokens are not the text's own.

Clark et al. 2020 (arXiv:2003.10555), section 2. Generator and encoder share their embeddings. The generator learns from the
masked tokens only: what is drawn from it has no gradient.
"""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras as keras
from transformers import ElectraConfig, TFElectraModel
from transformers.activations_tf import get_tf_activation

from trainer.data.hashing import mixed
from trainer.models.encoder import PACKED_INPUTS, BertEncoder
from trainer.models.heads import PretrainingHeads
from trainer.models.initialization import GENERATOR
from trainer.models.kernels.xla import XlaKernels
from trainer.models.task_model import TaskModel
from trainer.runtime.randomness import drawn_places, shared_seed

MASKS = ("masked_positions", "masked_lm_ids", "masked_lm_weights")  # what the model reads besides packed ids


def build_replaced_token_model(encoder: BertEncoder, generator_size: float) -> TaskModel:
    """Returns the model: packed ids and MASKS to {"masked_lm_logits", "replaced_logits", "is_replaced"}.

    Their shapes: dtype [rows, P, vocabulary], of the generator; float32 [rows, length], of the encoder: over 0 where a token
    seems replaced; float32 [rows, length], 1 where it is.

    Args:
      encoder: of type bert or electra.
      generator_size: the generator's sizes as a share of the encoder's (hidden, intermediate, heads).
    """
    # Inputs
    inputs = {name: keras.Input([None], dtype="int32", name=name) for name in (*PACKED_INPUTS, *MASKS[:2])}
    inputs[MASKS[2]] = keras.Input([None], dtype="float32", name=MASKS[2])
    # Generator: dtype [rows, P, vocabulary]
    generator = build_generator(encoder, generator_size)
    logits = PretrainingHeads(generator, has_pairs=False)(generator(inputs, inputs["masked_positions"]))["masked_lm_logits"]
    # Encoder, on the text with drawn tokens: float32 [rows, length]
    drawn, is_replaced = Replacement(name="replacement")(inputs, logits)
    replaced_logits = ReplacedTokenHead(encoder)(encoder({**inputs, "input_ids": drawn}))
    outputs = {"masked_lm_logits": logits, "replaced_logits": replaced_logits, "is_replaced": is_replaced}
    return TaskModel(inputs, outputs, name="pretraining")


def build_generator(encoder: BertEncoder, size: float) -> BertEncoder:
    """Returns a narrower encoder with the embeddings of another one."""
    config = generator_config(encoder.bert_config, size)
    model = TFElectraModel(config, name=GENERATOR)
    model.build_in_name_scope()
    own, shared = model.electra.embeddings, encoder.bert.embeddings
    for name in ("weight", "position_embeddings", "token_type_embeddings", "LayerNorm"):
        delattr(own, name)  # tracked until then: it would be saved and counted
        setattr(own, name, getattr(shared, name))
    kernels = encoder.kernels
    if type(kernels).unfit(config, encoder.compute.name) is not None:
        kernels = XlaKernels()
    return BertEncoder(config, encoder.compute.name, encoder.recompute, kernels, model, name="generator")


def generator_config(config: Any, size: float) -> Any:
    """Returns the ElectraConfig of a generator: as many layers, all else narrower; the width of a head stays."""
    width = config.hidden_size // config.num_attention_heads
    heads = max(round(config.num_attention_heads * size), 1)
    return ElectraConfig(
        vocab_size=config.vocab_size,
        embedding_size=getattr(config, "embedding_size", config.hidden_size),
        hidden_size=heads * width,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=heads,
        intermediate_size=max(round(config.intermediate_size * size / 2) * 2, 2),
        hidden_act=config.hidden_act,
        hidden_dropout_prob=config.hidden_dropout_prob,
        attention_probs_dropout_prob=config.attention_probs_dropout_prob,
        max_position_embeddings=config.max_position_embeddings,
        type_vocab_size=config.type_vocab_size,
        initializer_range=config.initializer_range,
        layer_norm_eps=config.layer_norm_eps,
        pad_token_id=config.pad_token_id,
    )


class Replacement(keras.layers.Layer):
    """Draws a token for each mask from the generator's distribution.

    By a hash of the token's place, of what stood there and of its neighbours, in training also of the step: the same text gets
    the same tokens however it is packed, on one replica or on several.

    Call:
      inputs: {"input_ids": int32 [rows, length], with masks; "position_ids"; MASKS: [rows, P]}.
      logits: dtype [rows, P, vocabulary].

    Returns:
      (int32 [rows, length], the ids; float32 [rows, length], 1 where a token is not the text's own).
    """

    def __init__(self, name: str):
        super().__init__(name=name, dtype="float32", autocast=False)

    def call(self, inputs: Mapping[str, tf.Tensor], logits: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        positions, true_ids, weights = (inputs[name] for name in MASKS)
        bits = tf.zeros_like(true_ids, tf.uint32)
        # Masks are never first or last in an example, so that their neighbours are the example's own.
        neighbours = [tf.gather(tf.roll(inputs["input_ids"], shift, axis=1), positions, batch_dims=1) for shift in (1, -1)]
        for values in (true_ids, *neighbours, tf.gather(inputs["position_ids"], positions, batch_dims=1)):
            bits = mixed(bits + tf.bitcast(values, tf.uint32))
        if training:
            for key in tf.unstack(tf.bitcast(shared_seed(), tf.uint32)):
                bits = mixed(tf.bitwise.bitwise_xor(bits, key))
        drawn = tf.where(
            weights > 0, drawn_tokens(tf.stop_gradient(logits), bits), tf.gather(inputs["input_ids"], positions, batch_dims=1)
        )
        is_other = tf.cast((drawn != true_ids) & (weights > 0), tf.float32)
        return _placed(inputs["input_ids"], positions, drawn), _placed(
            tf.zeros_like(inputs["input_ids"], tf.float32), positions, is_other
        )


def drawn_tokens(logits: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """Returns a token of each distribution: dtype [..., vocabulary], uint32 [...] evenly spread, to int32 [...].

    Gumbel noise, which ELECTRA's script adds, would take a random number for each logit instead of one for each token.
    """
    return drawn_places(tf.nn.softmax(tf.cast(logits, tf.float32)), bits)[0]


def _placed(values: tf.Tensor, positions: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
    """Returns [rows, length] with [rows, P] at positions. Positions that stand for none repeat one, with the value it has."""
    shape = tf.shape(positions)
    at = tf.stack([tf.broadcast_to(tf.range(shape[0])[:, None], shape), positions], axis=-1)
    return tf.tensor_scatter_nd_update(values, at, new)


class ReplacedTokenHead(keras.layers.Layer):
    """The encoder's head: dense, activation, one logit for each token, as transformers' ElectraDiscriminatorPredictions.

    Call:
      hidden: dtype [rows, length, hidden].

    Returns:
      float32 [rows, length].
    """

    def __init__(self, encoder: BertEncoder, name: str = "discriminator_predictions"):
        super().__init__(name=name, dtype="float32", autocast=False)
        config = encoder.bert_config
        dense, score = (keras.initializers.TruncatedNormal(stddev=config.initializer_range) for _ in range(2))
        activation = get_tf_activation(config.hidden_act)
        self._dense = keras.layers.Dense(
            config.hidden_size, activation, kernel_initializer=dense, dtype="float32", name="dense"
        )
        self._score = keras.layers.Dense(1, kernel_initializer=score, dtype="float32", name="dense_prediction")

    def call(self, hidden: tf.Tensor) -> tf.Tensor:
        return self._score(self._dense(tf.cast(hidden, tf.float32)))[..., 0]
