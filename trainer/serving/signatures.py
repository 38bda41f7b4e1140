"""What a served model takes: strings, token ids, or serialized tf.Examples; dynamic batch and length."""

import functools
from collections.abc import Mapping
from typing import Protocol

import tensorflow as tf

from trainer.data.packing import pack_evenly
from trainer.features import ROW_ID, TOKENS
from trainer.models.encoder import PACKED_INPUTS
from trainer.models.inference_forward import trace_with_held_weights
from trainer.models.task_model import TaskModel
from trainer.text.in_graph_tokenizer import InGraphTokenizer
from trainer.text.tokenizer import Tokenizer

ROW_WIDTH = 64  # tokens of a packed row, about; longer where a text is
PIECE_TOKENS = 8192  # of a request, computed at a time
PACKED = {**TOKENS, **ROW_ID}
MAX_HELD_BYTES = 1 << 30  # a graph holds less than 2 GB
TEXT_INPUTS = ("text", "text_pair")  # as Hugging Face's tokenizers name them
Tensors = Mapping[str, tf.Tensor]
INPUTS = (*PACKED_INPUTS, "cls_positions")


class Served(Protocol):
    """What a task says of its serving; see `trainer.tasks.base.Task`."""

    def served(self, model: TaskModel, inputs: Tensors) -> dict[str, tf.Tensor]:
        """Returns a packed batch's outputs, float32 [rows, K, ...]."""

    def serving(self, outputs: Tensors) -> dict[str, tf.Tensor]:
        """Returns a reply from outputs, [batch, ...]."""


class ServingModule(tf.Module):
    """A task's model behind three signatures.

    Args:
      model: the task's model.
      task: runs it on packed rows, and turns its outputs into a reply.
      tokenizer: the run's.
      texts: 1, or 2 for pairs.
      max_seq_length: longer inputs are cut to this, as in training.
    """

    def __init__(self, model: TaskModel, task: Served, tokenizer: Tokenizer, texts: int, max_seq_length: int):
        super().__init__(name="serving")
        self._encode, self.weights = _traced(model, task)
        self._serve = task.serving
        self._tokenize = InGraphTokenizer(tokenizer)
        self._ids = (tokenizer.cls_id, tokenizer.sep_id)
        self._texts, self._max_seq_length = texts, max_seq_length

    def signatures(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """Returns {"serving_default": strings, "tokens": ids, "examples": serialized tf.Examples}."""
        names = TEXT_INPUTS[: self._texts]
        strings = [tf.TensorSpec([None], tf.string, name) for name in names]
        ids = [tf.TensorSpec([None, None], tf.int32, name) for name in ("input_ids", "attention_mask", "token_type_ids")]
        return {
            "serving_default": tf.function(self._from_strings).get_concrete_function(*strings),
            "tokens": tf.function(self._from_tokens).get_concrete_function(*ids),
            "examples": tf.function(self._from_examples).get_concrete_function(tf.TensorSpec([None], tf.string, "examples")),
        }

    def _from_strings(self, text: tf.Tensor, text_pair: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """string [batch] (twice for pairs) → the reply."""
        cls_id, sep_id = self._ids
        if text_pair is None:
            parts = [self._tokenize(text)[:, : self._max_seq_length - 2]]
        else:
            parts = cut_pairs(self._tokenize(text), self._tokenize(text_pair), self._max_seq_length - 3)
        batch = tf.shape(text)[0]
        sep = tf.fill([batch, 1], sep_id)
        pieces = [tf.concat([part, sep], axis=1) for part in parts]
        first = tf.concat([tf.fill([batch, 1], cls_id), pieces[0]], axis=1)
        rows = tf.concat([first, *pieces[1:]], axis=1)
        types = tf.concat([tf.zeros_like(first), *[tf.ones_like(piece) for piece in pieces[1:]]], axis=1)
        features = {"input_ids": rows, "token_type_ids": types, "row_id": tf.range(batch)}
        packed, places = pack_evenly(features, PACKED, ROW_WIDTH)
        outputs = self._encode_in_pieces({name: packed[name] for name in INPUTS})
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


def _traced(model: TaskModel, task: Served) -> tuple[tf.types.experimental.ConcreteFunction, list[tf.Variable]]:
    """Returns the model as one function that all signatures call, and the variables that it still reads.

    Its weights are held as suits serving; only a model that would not fit into a graph keeps reading all its variables. (Keras'
    own export would trace every layer of TFBertModel beside ours.)
    """
    served = functools.partial(task.served, model)
    specs = {name: tf.TensorSpec([None, None], tf.int32, name) for name in INPUTS}
    size = 4 * sum(variable.shape.num_elements() for variable in model.weights)
    held: list[tf.Variable] = []
    if size <= MAX_HELD_BYTES:
        traced, held = trace_with_held_weights(served, specs)
    else:
        traced = tf.function(served, autograph=False).get_concrete_function(specs)
    read = {id(captured) for captured in traced.captured_inputs}
    return traced, [variable for variable in (*model.weights, *held) if id(variable.handle) in read]


def cut_pairs(first: tf.RaggedTensor, second: tf.RaggedTensor, budget: int) -> list[tf.RaggedTensor]:
    """Cuts pairs of token rows to `budget` together, as `text.sequences.pair_lengths` does: int32 [batch, (tokens)] each."""
    lengths = [tf.cast(part.row_lengths(), tf.int32) for part in (first, second)]
    short = tf.minimum(*lengths)
    long = tf.maximum(short, budget - short)
    is_both = short + long > budget
    short = tf.where(is_both, budget // 2, short)
    long = tf.where(is_both, budget // 2 + budget % 2, long)
    first_is_longer = lengths[0] > lengths[1]
    kept = [tf.where(first_is_longer, long, short), tf.where(first_is_longer, short, long)]
    fits = lengths[0] + lengths[1] <= budget
    return [
        _keep(part[:, :budget], tf.where(fits, length, keep))
        for part, length, keep in zip((first, second), lengths, kept, strict=True)
    ]


def _keep(rows: tf.RaggedTensor, lengths: tf.Tensor) -> tf.RaggedTensor:
    """Keeps the first tokens of each row."""
    position = tf.ragged.range(tf.cast(rows.row_lengths(), tf.int32))
    limit = tf.gather(lengths, position.value_rowids())
    return tf.ragged.boolean_mask(rows, position.with_values(position.flat_values < limit))
