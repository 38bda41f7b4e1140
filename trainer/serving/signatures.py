"""What a served model takes: strings, token ids, or serialized tf.Examples; dynamic batch and length."""

import functools
from collections.abc import Mapping
from typing import Protocol

import tensorflow as tf

from trainer.models.kernels.base import EncoderKernels
from trainer.models.task_model import TaskModel
from trainer.serving.text_inputs import INPUTS, PIECE_TOKENS, GraphInputs, TextInputs
from trainer.text.tokenizer import Tokenizer

TEXT_INPUTS = ("text", "text_pair")  # as Hugging Face's tokenizers name them
TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
Tensors = Mapping[str, tf.Tensor]


class Served(Protocol):
    """What a task says of its serving; see `trainer.tasks.base.Task`."""

    def served(self, model: TaskModel, inputs: Tensors) -> dict[str, tf.Tensor]:
        """Returns a packed batch's outputs, float32 [rows, K, ...]."""

    def serving(self, outputs: Tensors) -> dict[str, tf.Tensor]:
        """Returns a reply from outputs, [batch, ...]."""


class ServingModule(tf.Module):
    """A task's model behind three signatures.

    Args:
      model: the task's model, built with kernels for an export.
      kernels: these kernels.
      task: runs it on packed rows, and turns its outputs into a reply.
      tokenizer: the run's.
      texts: 1, or 2 for pairs.
      max_seq_length: longer inputs are cut to this, as in training.
      inputs: turns strings into packed ids; None for an export that takes token ids only.
    """

    def __init__(
        self,
        model: TaskModel,
        kernels: EncoderKernels,
        task: Served,
        tokenizer: Tokenizer,
        texts: int,
        max_seq_length: int,
        inputs: type[TextInputs] | None = GraphInputs,
    ):
        super().__init__(name="serving")
        self._encode, self.weights = _traced(model, kernels, task)
        self._serve = task.serving
        self._inputs_of = inputs(tokenizer, max_seq_length) if inputs else None
        self._texts, self._max_seq_length = texts, max_seq_length

    def signatures(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """Returns {"serving_default": strings, "tokens": ids, "examples": serialized tf.Examples}; or the ids twice."""
        ids = [tf.TensorSpec([None, None], tf.int32, name) for name in TOKEN_INPUTS]
        from_tokens = tf.function(self._from_tokens).get_concrete_function(*ids)
        if self._inputs_of is None:
            return {"serving_default": from_tokens, "tokens": from_tokens}
        strings = [tf.TensorSpec([None], tf.string, name) for name in TEXT_INPUTS[: self._texts]]
        return {
            "serving_default": tf.function(self._from_strings).get_concrete_function(*strings),
            "tokens": from_tokens,
            "examples": tf.function(self._from_examples).get_concrete_function(tf.TensorSpec([None], tf.string, "examples")),
        }

    def _from_strings(self, text: tf.Tensor, text_pair: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """string [batch] (twice for pairs) → the reply."""
        assert self._inputs_of is not None
        packed, places = self._inputs_of(text) if text_pair is None else self._inputs_of(text, text_pair)
        outputs = self._encode_in_pieces(packed)
        return self._serve({name: tf.gather(value, places) for name, value in outputs.items()})

    def _encode_in_pieces(self, packed: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Runs the model on so many rows at a time that memory stays bounded, whatever the request's size.

        Returns:
          {output name: [rows · K, ...]}.
        """
        rows, row_length = tf.unstack(tf.shape(packed["input_ids"]))
        at_once = tf.maximum(PIECE_TOKENS // row_length, 1)
        wanted = self._encode.structured_outputs
        found = {name: tf.TensorArray(one.dtype, -(-rows // at_once), infer_shape=False) for name, one in wanted.items()}

        def run_piece(i, found):
            piece = {name: value[i * at_once : (i + 1) * at_once] for name, value in packed.items()}
            return i + 1, {name: found[name].write(i, value) for name, value in self._encode(piece).items()}

        _, found = tf.while_loop(lambda i, _: i * at_once < rows, run_piece, (0, found), parallel_iterations=1)
        joined = {name: pieces.concat() for name, pieces in found.items()}
        flat = {name: tf.reshape(value, tf.concat([[-1], tf.shape(value)[2:]], 0)) for name, value in joined.items()}
        return {name: tf.ensure_shape(value, [None, *wanted[name].shape[2:]]) for name, value in flat.items()}

    def _from_tokens(self, input_ids: tf.Tensor, attention_mask: tf.Tensor, token_type_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        """int32 [batch, length] each, [CLS] first; attention_mask 1 for tokens, 0 for padding → the reply."""
        input_ids, mask, types = (tensor[:, : self._max_seq_length] for tensor in (input_ids, attention_mask, token_type_ids))
        inputs = {
            "input_ids": input_ids,
            "token_type_ids": types,
            "position_ids": tf.broadcast_to(tf.range(tf.shape(input_ids)[1]), tf.shape(input_ids)),
            "segment_ids": mask,
            "cls_positions": tf.zeros([tf.shape(input_ids)[0], 1], tf.int32),
        }
        outputs = self._encode(inputs)
        return self._serve({name: value[:, 0] for name, value in outputs.items()})

    def _from_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """string [batch] of tf.Examples with the features "text" (and "text_pair") → the reply."""
        wanted = {name: tf.io.FixedLenFeature([], tf.string) for name in TEXT_INPUTS[: self._texts]}
        parsed = tf.io.parse_example(examples, wanted)
        return self._from_strings(*[parsed[name] for name in wanted])


def _traced(
    model: TaskModel, kernels: EncoderKernels, task: Served
) -> tuple[tf.types.experimental.ConcreteFunction, list[tf.Variable]]:
    """Returns the model as one function that all signatures call, and the variables that it still reads.

    (Keras' own export would trace every layer of TFBertModel as well.)
    """
    served = functools.partial(task.served, model)
    specs = {name: tf.TensorSpec([None, None], tf.int32, name) for name in INPUTS}
    traced = tf.function(served, autograph=False).get_concrete_function(specs)
    read = {id(captured) for captured in traced.captured_inputs}
    return traced, [variable for variable in (*model.weights, *kernels.held_variables()) if id(variable.handle) in read]
