"""The encoder layer: a TFBertModel with its weights and config, run on packed rows."""

from collections.abc import Sequence

import tensorflow as tf
import tf_keras as keras
from transformers import BertConfig, TFPreTrainedModel

from trainer.errors import UserError
from trainer.models import layers
from trainer.models.families import family_of, trainable_layers
from trainer.models.kernels import inference
from trainer.models.kernels.base import EncoderKernels, PackedIds
from trainer.models.kernels.xla import XlaKernels

PACKED_INPUTS = PackedIds._fields


class BertEncoder(keras.layers.Layer):
    """BERT, or an encoder of its family, on packed rows.

    Args:
      bert_config: transformers' BertConfig, or the config of another one of `families.FAMILIES`.
      precision: "float32", "bfloat16" or "float16": the type of the matrix products; weights stay float32.
      recompute: compute each layer again in the backward pass, to hold less memory.
      kernels: what computes the layers; XLA's where none are given.
      model: the TFBertModel, or TFRobertaModel and so on, whose weights are used; a new one, with random weights, for None.

    Call:
      inputs: {name: int32 [batch, length]} for each of PACKED_INPUTS.
      read_positions: int32 [batch, K], where the head reads these tokens only; it saves most of the last layer.

    Returns:
      precision [batch, length, hidden], or [batch, K, hidden]: the last layer's output.
    """

    def __init__(
        self,
        bert_config: BertConfig,
        precision: str = "float32",
        recompute: bool = False,
        kernels: EncoderKernels | None = None,
        model: TFPreTrainedModel | None = None,
        name: str = "encoder",
    ):
        super().__init__(name=name, dtype="float32")
        self.bert_config = bert_config
        self.compute, self.recompute = tf.as_dtype(precision), recompute
        self.kernels = kernels or XlaKernels()
        self.family = family_of(bert_config)
        self.model = model or self.family.build(bert_config)
        # What it names is part of the model already: kept out of this layer's tracking, so that weights are counted once.
        self._main = Untracked(self.family.main_layer(self.model))

    @property
    def bert(self):
        """transformers' TFBertMainLayer, or what has its names: embeddings, encoder, pooler."""
        return self._main.value

    def call(self, inputs: dict[str, tf.Tensor], read_positions: tf.Tensor | None = None, training: bool = False) -> tf.Tensor:
        ids = self._ids(inputs)
        if self.family.packs:
            return self.kernels.encode(self.bert, ids, self.compute, read_positions, training, self.recompute)
        hidden, _ = self._by_its_class(ids, training)
        return hidden if read_positions is None else tf.gather(hidden, read_positions, batch_dims=1)

    def _by_its_class(self, ids: PackedIds, training: bool) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        """Returns (the last layer's output, each layer's) of transformers' class, for rows of one text each."""
        mask = tf.cast(ids.segment_ids > 0, tf.int32)
        # MobileBERT reads the neighbours of a token: after the last one nothing, however long its row is.
        words = tf.gather(self.bert.embeddings.weight, ids.input_ids) * tf.cast(mask, tf.float32)[..., None]
        inputs = {"inputs_embeds": words, "attention_mask": mask, "token_type_ids": ids.token_type_ids}
        inputs["position_ids"] = ids.position_ids

        @tf.function  # DeBERTa compares lengths by Python's `if`, which AutoGraph makes a condition in the graph
        def run(inputs):
            found = self.model(inputs, training=training, output_hidden_states=True, return_dict=True)
            return found.last_hidden_state, found.hidden_states

        return run(inputs)

    def layer_outputs(self, inputs: dict[str, tf.Tensor], layers: Sequence[int]) -> tf.Tensor:
        """Returns the outputs of several layers, without dropout: precision [batch, length, len(layers), hidden].

        Args:
          inputs: as of a call.
          layers: ascending; 0 stands for the embeddings, 1 for the first layer.
        """
        if not self.family.packs:
            _, hidden = self._by_its_class(self._ids(inputs), training=False)
            return tf.stack([hidden[number] for number in layers], axis=2)
        return inference.layer_outputs(self.bert, self._ids(inputs), self.compute, layers)

    def _ids(self, inputs: dict[str, tf.Tensor]) -> PackedIds:
        """Returns the inputs as the weights number them."""
        ids = PackedIds(*(inputs[name] for name in PACKED_INPUTS))
        if not self.family.has_types:
            ids = ids._replace(token_type_ids=tf.zeros_like(ids.token_type_ids))
        first = self.family.first_position
        return ids._replace(position_ids=ids.position_ids + first) if first else ids

    def freeze(self, layers: int) -> list[str]:
        """Stops the training of the embeddings and the first `layers` layers; -1 freezes the whole encoder.

        Returns:
          The names of what is frozen.

        Raises:
          ValueError: more layers than there are.
        """
        count = len(self.bert.encoder.layer)
        if layers > count:
            raise ValueError(f"{layers} is more than the encoder has: {count}")
        embeddings, own = trainable_layers(self.bert)
        if layers > 0 and not own:
            raise ValueError("this encoder's layers share their weights; -1 freezes all of it")
        if layers < 0:
            self.model.trainable = False
            return ["the whole encoder"]
        if layers == 0:
            return []
        for layer in (embeddings, *own[:layers]):
            layer.trainable = False
        return ["embeddings"] + [f"layer {i}" for i in range(layers)]

    def reinitialize(self, layers: int) -> None:
        """Gives the top layers and the pooler new random weights, as a new model has them (Zhang et al. 2021, section 4.2).

        Raises:
          ValueError: more layers than there are, or layers that share their weights.
        """
        _, own = trainable_layers(self.bert)
        if not own:
            raise ValueError("this encoder's layers share their weights")
        if layers > len(own):
            raise ValueError(f"{layers} is more than the encoder has: {len(own)}")
        spread, pooler = self.bert_config.initializer_range, getattr(self.bert, "pooler", None)
        renewed = [weight for layer in own[len(own) - layers :] for weight in layer.weights]
        for variable in [*renewed, *(pooler.weights if pooler is not None else ())]:
            if "LayerNorm" in variable.name or "layer_norm" in variable.name:
                variable.assign(tf.ones_like(variable) if "gamma" in variable.name else tf.zeros_like(variable))
            elif "bias" in variable.name:
                variable.assign(tf.zeros_like(variable))
            else:
                variable.assign(keras.initializers.TruncatedNormal(stddev=spread)(variable.shape))

    def depth_of(self, variable_name: str) -> int:
        """Returns a variable's depth for layer-wise learning rates: 0 embeddings, 1 the first layer, ..., the rest last."""
        count = len(self.bert.encoder.layer)
        if "/embeddings/" in variable_name:
            return 0
        if "/layer_._" in variable_name:
            return int(variable_name.split("/layer_._")[1].split("/")[0]) + 1
        return count + 1


class Pooler(keras.layers.Layer):
    """BERT's pooler (dense, tanh) on first tokens, as in BertForSequenceClassification: [batch, K, hidden] to the same.

    Args:
      encoder: gives the pooler's dense layer.
    """

    def __init__(self, encoder: BertEncoder, name: str = "pooler"):
        super().__init__(name=name, dtype="float32")
        if not encoder.family.has_pooler:
            raise UserError(f"task.pooling: an encoder of type {encoder.bert_config.model_type} has no pooler; use mean or cls")
        # The encoder owns the pooler's weights: kept out of this layer's tracking, so that they are counted once.
        self._bert = Untracked(encoder.bert)

    def call(self, first: tf.Tensor) -> tf.Tensor:
        return layers.pool(self._bert.value, first)


class Untracked:
    """Holds an object that Keras must not track as a sub-layer."""

    def __init__(self, value):
        self.value = value


def packed_inputs() -> dict[str, keras.Input]:
    """Returns the inputs of a model over packed texts: int32 [rows, length], and [rows, K] for cls_positions."""
    return {name: keras.Input([None], dtype="int32", name=name) for name in (*PACKED_INPUTS, "cls_positions")}


def one_a_row(input_ids: tf.Tensor, attention_mask: tf.Tensor, token_type_ids: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
    """Returns the inputs of a model over texts that are not packed: as `packed_inputs`, with K = 1.

    Args:
      input_ids: int32 [batch, length], [CLS] first.
      attention_mask: 1 for tokens, 0 for padding.
      token_type_ids: None: all 0.
    """
    return {
        "input_ids": input_ids,
        "token_type_ids": tf.zeros_like(input_ids) if token_type_ids is None else token_type_ids,
        "position_ids": tf.broadcast_to(tf.range(tf.shape(input_ids)[1]), tf.shape(input_ids)),
        "segment_ids": attention_mask,
        "cls_positions": tf.zeros([tf.shape(input_ids)[0], 1], tf.int32),
    }


def check_layout(bert_config: BertConfig, max_examples_per_row: int, precision: str) -> str | None:
    """Returns why an encoder cannot run with so many texts in a row, or in a precision; None where it can."""
    kind = bert_config.model_type
    if family_of(bert_config).packs:
        return None
    if max_examples_per_row != 1:
        return (
            f"an encoder of type {kind} runs by transformers' own layers, which take a text a row: set "
            "data.max_examples_per_row=1, and data.length_buckets=true to pad little"
        )
    if precision not in ("float32", "auto"):
        return f"an encoder of type {kind} runs by transformers' own layers in float32; set train.precision=float32"
    return None


def check_fits(bert_config: BertConfig, vocabulary_size: int, max_seq_length: int, token_types: int) -> str | None:
    """Returns why an encoder does not go with a tokenizer, a sequence length and a number of token types, or None."""
    family = family_of(bert_config)
    if family.has_types and token_types > bert_config.type_vocab_size:
        return (
            f"the task tells two texts apart by token_type_ids 0 and 1, but the encoder's type_vocab_size is "
            f"{bert_config.type_vocab_size}; choose an encoder with 2, or one text column"
        )
    if vocabulary_size > bert_config.vocab_size:
        return (
            f"the tokenizer has {vocabulary_size} ids, the encoder embeddings for {bert_config.vocab_size}: this vocabulary "
            "is not the encoder's; give the folder that holds both, or the matching vocab.txt"
        )
    positions = family.positions(bert_config)
    if max_seq_length > positions:
        return (
            f"data.max_seq_length={max_seq_length} is over the encoder's {positions} positions; "
            f"set data.max_seq_length to {positions} or less"
        )
    return None
