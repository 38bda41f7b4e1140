"""What a served model takes: strings, token ids, or serialized tf.Examples; dynamic batch and length."""

import functools
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import tensorflow as tf

from trainer.models.encoder import one_a_row
from trainer.models.kernels.base import EncoderKernels
from trainer.models.task_model import TaskModel
from trainer.serving.text_inputs import INPUTS, PIECE_TOKENS, ROW_WIDTH, GraphInputs, TextInputs, WindowInputs
from trainer.serving.windows import Request, RequestWindows
from trainer.text.graph_limits import is_byte_pairs
from trainer.text.in_graph_tokenizer import InGraphTokenizer, build_in_graph_tokenizer
from trainer.text.tokenizer import Tokenizer

TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
Tensors = Mapping[str, tf.Tensor]


class Served(Protocol):
    """What a task says of its serving; see `trainer.tasks.base.Task`."""

    has_windows: ClassVar[bool]
    token_outputs: ClassVar[Mapping[str, str]]
    text_signatures: ClassVar[Mapping[str, int]]
    request_features: ClassVar[tuple[str, ...]]
    tokenizer: Tokenizer
    max_seq_length: int

    @property
    def request_names(self) -> tuple[str, ...]:
        """The names of a request's strings."""

    def request_windows(self, texts: Sequence[tf.Tensor], tokenize: InGraphTokenizer) -> RequestWindows:
        """Returns the windows of a request."""

    def request_ids(self, texts: tf.Tensor, tokenize: InGraphTokenizer, number: int) -> tf.RaggedTensor:
        """Returns the tokens of one of a request's strings: int32 [batch, (tokens)]."""

    def completed(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Adds to a packed batch what the model reads besides."""

    def results(self, batch: Tensors, outputs: Tensors, labelled: bool) -> dict[str, tf.Tensor]:
        """Returns what `reply` needs: float32 [rows, K, ...], or [rows, length, ...]."""

    def reply(self, request: Request) -> dict[str, tf.Tensor]:
        """Returns a reply, [batch, ...]."""


class ServingModule(tf.Module):
    """A task's model behind three signatures, and the task's own for single texts.

    Args:
      model: the task's model, built with kernels for an export.
      kernels: these kernels.
      task: makes windows, and turns results into a reply.
      inputs: turns the strings of a task without windows into packed ids; None for an export that takes token ids only.
    """

    def __init__(
        self,
        model: TaskModel,
        kernels: EncoderKernels,
        task: Served,
        inputs: type[TextInputs] | None = GraphInputs,
    ):
        super().__init__(name="serving")
        self._encode, self.weights = _traced(model, kernels, task)
        self._task, self._takes_strings = task, inputs is not None
        has_windows = inputs is not None and task.has_windows
        self._windows_of: WindowInputs | None = None
        self._texts_of: dict[str, WindowInputs] = {}
        packs = model.get_layer("encoder").family.packs
        row_width = ROW_WIDTH if packs else 1
        if has_windows:
            tokenize = build_in_graph_tokenizer(task.tokenizer)
            self._windows_of = WindowInputs(tokenize, task.request_windows, task.request_features, row_width)
            single = {name: functools.partial(_one_text, task, number) for name, number in task.text_signatures.items()}
            self._texts_of = {name: WindowInputs(tokenize, windows_of, (), row_width) for name, windows_of in single.items()}
        self._inputs_of: TextInputs | None = None
        if inputs is not None and not has_windows:
            of_task = task.tokenizer, task.max_seq_length
            by_native = packs and not is_byte_pairs(task.tokenizer)  # the native operation is WordPiece's
            self._inputs_of = inputs(*of_task) if by_native else GraphInputs(*of_task, row_width)

    def signatures(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """Returns {"serving_default": strings, "tokens": ids, "examples": serialized tf.Examples}; or the ids twice."""
        names = (*TOKEN_INPUTS, *self._task.request_features)
        ids = {name: tf.TensorSpec([None, None], tf.int32, name) for name in names}
        from_tokens = tf.function(self._from_tokens).get_concrete_function(**ids)
        if not self._takes_strings:
            return {"serving_default": from_tokens, "tokens": from_tokens}
        strings = {name: tf.TensorSpec([None], tf.string, name) for name in self._task.request_names}
        return {
            "serving_default": tf.function(self._from_strings).get_concrete_function(**strings),
            "tokens": from_tokens,
            "examples": tf.function(self._from_examples).get_concrete_function(tf.TensorSpec([None], tf.string, "examples")),
            **{
                name: tf.function(functools.partial(self._from_text, windows_of)).get_concrete_function(
                    text=tf.TensorSpec([None], tf.string, "text")
                )
                for name, windows_of in self._texts_of.items()
            },
        }

    def _from_strings(self, **strings: tf.Tensor) -> dict[str, tf.Tensor]:
        """string [batch] for each of the task's names → the reply."""
        texts = tuple(strings[name] for name in self._task.request_names)
        if self._windows_of is None:
            assert self._inputs_of is not None
            packed, places = self._inputs_of(*texts)
            results = {name: tf.gather(value, places) for name, value in self._encode_in_pieces(packed).items()}
            return self._task.reply(Request(texts, results))
        packed, layout, windows = self._windows_of(*texts)
        ids = windows.features["input_ids"]
        results = {
            name: ids.with_flat_values(tf.gather(value, layout.cells(ids)))
            if name in self._task.token_outputs
            else tf.gather(value, layout.places)
            for name, value in self._encode_in_pieces(packed).items()
        }
        return self._task.reply(Request(texts, results, windows))

    def _from_text(self, windows_of: WindowInputs, text: tf.Tensor) -> dict[str, tf.Tensor]:
        """string [batch], one of a request's strings → the results of its window."""
        packed, layout, _ = windows_of(text)
        return {name: tf.gather(value, layout.places) for name, value in self._encode_in_pieces(packed).items()}

    def _encode_in_pieces(self, packed: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Runs the model on so many rows at a time that memory stays bounded, whatever the request's size.

        Returns:
          {name of a result: [rows · K, ...], or [rows · length, ...]}.
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

    def _from_tokens(self, **given: tf.Tensor) -> dict[str, tf.Tensor]:
        """int32 [batch, length] each, [CLS] first; attention_mask 1 for tokens, 0 for padding → the reply.

        Of a task with windows, whose texts these are not: what the model gives for each of them, [batch, ...], 0 at padding.
        """
        given = {name: ids[:, : self._task.max_seq_length] for name, ids in given.items()}
        mask = given["attention_mask"]
        others = {name: given[name] for name in self._task.request_features}
        results = self._encode({**one_a_row(*(given[name] for name in TOKEN_INPUTS)), **others})
        if not self._task.has_windows:
            return self._task.reply(Request((), {name: value[:, 0] for name, value in results.items()}))
        of_tokens = self._task.token_outputs
        is_token = tf.cast(mask, tf.float32)
        return {
            name: value * tf.reshape(is_token, tf.concat([tf.shape(mask), tf.ones([tf.rank(value) - 2], tf.int32)], 0))
            if name in of_tokens
            else value[:, 0]
            for name, value in results.items()
        }

    def _from_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """string [batch] of tf.Examples with the task's names as features → the reply."""
        wanted = {name: tf.io.FixedLenFeature([], tf.string) for name in self._task.request_names}
        return self._from_strings(**tf.io.parse_example(examples, wanted))


def _one_text(task: Served, number: int, texts: Sequence[tf.Tensor], tokenize: InGraphTokenizer) -> RequestWindows:
    """Returns the windows of one of a request's strings: one each."""
    (text,) = texts
    return RequestWindows({"input_ids": task.request_ids(text, tokenize, number)}, tf.range(tf.size(text)))


def _traced(
    model: TaskModel, kernels: EncoderKernels, task: Served
) -> tuple[tf.types.experimental.ConcreteFunction, list[tf.Variable]]:
    """Returns the model as one function that all signatures call, and the variables that it still reads.

    (Keras' own export would trace every layer of TFBertModel as well.)
    """

    def served(inputs):
        batch = task.completed(dict(inputs))
        return task.results(batch, model.outputs_for(batch), labelled=False)

    specs = {name: tf.TensorSpec([None, None], tf.int32, name) for name in (*INPUTS, *task.request_features)}
    traced = tf.function(served, autograph=False).get_concrete_function(specs)
    read = {id(captured) for captured in traced.captured_inputs}
    return traced, [variable for variable in (*model.weights, *kernels.held_variables()) if id(variable.handle) in read]
