"""The task contract: all a task must say, in the order in which data meets it.

A task is one file with a `Config` (a frozen dataclass) and a `Task` that inherits from the one here, or from `TextTask` where
it reads one text or a pair. Preparation workers import it, so TensorFlow is imported inside the methods that build graphs.
docs/adding-a-task.md builds one from scratch.

    row → examples (one, or several windows) → batch → build_model, loss
        → results, grouped by row → decode → prediction, score
    request's strings → windows → batch → results → reply         (the same in an export's graph)
"""

from __future__ import annotations

import abc
import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias

import numpy as np

from trainer.config import check
from trainer.data.row_values import text_in
from trainer.data.sources import Row, RowError
from trainer.data.table import Proposal, Table, UnrecognizedError
from trainer.errors import UserError
from trainer.features import TOKENS, Example, FeatureSpec
from trainer.text.cleaning import CleaningStep, cleaner
from trainer.text.graph_limits import problem_with
from trainer.text.sequences import pair_sequence, single_sequence
from trainer.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tensorflow as tf
    import tf_keras as keras
    from transformers import BertConfig

    from trainer.data.pipeline import BatchWork
    from trainer.data.sampling import Sampling
    from trainer.models.decoder import BertDecoder
    from trainer.models.encoder import BertEncoder
    from trainer.models.pooling import Pooling
    from trainer.serving.windows import Request, RequestWindows
    from trainer.text.in_graph_tokenizer import InGraphTokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """What every task's config has."""

    name: str
    """Which task: the name of a file in trainer/tasks."""

    def __post_init__(self):
        check(bool(self.name), "name", "a task's name is needed")


class Window(NamedTuple):
    """What became of one example of a row.

    Attributes:
      outputs: {name: float32 [...]}, what `Task.results` gives for it; [tokens, ...] of its own tokens for those that the task
        lists in `token_outputs`.
      features: {name: number} of its example-level features, labels among them.
    """

    outputs: Mapping[str, np.ndarray]
    features: Mapping[str, Any]


Prediction: TypeAlias = dict[str, Any]  # of one row, JSON-able
Losses: TypeAlias = "dict[str, tf.Tensor]"
Measures: TypeAlias = "dict[str, tuple[str, tf.Tensor]]"
Tensors: TypeAlias = "Mapping[str, tf.Tensor]"


def check_distinct(names: Sequence[str], field: str) -> None:
    """Raises FieldError where a name is listed twice."""
    twice = sorted({name for name in names if names.count(name) > 1})
    check(not twice, field, f"{twice and twice[0]!r} is listed twice")


def check_head_dropout(rate: float) -> None:
    """Raises FieldError where the head's dropout rate cannot be one."""
    check(0 <= rate < 1, "head_dropout_rate", f"must be in [0, 1), got {rate}")


def check_class_weights(weights: Mapping[str, float], balance: str, class_names: Sequence[str]) -> None:
    """Raises FieldError where weights are given and derived, too, or for a class that is not there."""
    check(
        not (weights and balance == "class_weights"),
        "class_weights",
        "given by hand, while task.balance=class_weights would derive them; keep one of the two",
    )
    unknown = [name for name in weights if class_names and name not in class_names]
    check(not unknown, "class_weights", f"{unknown and unknown[0]!r} is not one of task.class_names")


def head_weights(model: keras.Model, name: str = "classifier") -> dict[str, np.ndarray]:
    """Returns the weights of a model's dense head as PyTorch lays them out, by the name that transformers gives the head."""
    kernel, bias = (weight.numpy() for weight in model.get_layer("head").weights)
    return {f"{name}.weight": np.ascontiguousarray(kernel.T), f"{name}.bias": bias}


def counts_by_value(value_counts: Mapping[str, Mapping[str, int]], feature: str, values: int) -> np.ndarray:
    """Returns how many examples have each value of a feature: int [values].

    Args:
      value_counts: of a split, as its manifest has them: {feature: {value: examples}}.
      feature, values: an example-level one with values 0, 1, ..., values - 1.
    """
    return np.array([value_counts[feature].get(str(value), 0) for value in range(values)])


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the softmax over the last axis, float64."""
    shifted = np.exp(np.asarray(logits, np.float64) - np.max(logits, axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


class Task(abc.ABC):
    """One task.

    Args:
      config: the task's own Config.
      tokenizer: gives the ids.
      max_seq_length: tokens an example may have, special tokens included.
    """

    best_score: str  # the score that chooses the best checkpoint; higher is better
    txt_as: ClassVar[str] = "txt"  # how training text in .txt files is read: see data.sources.SourceFormat
    loads_head: ClassVar[bool] = False  # whether encoder.init_from gives the head its weights too, where it has them
    is_corpus: ClassVar[bool] = False  # rows are documents: prepared in chunks by size, in shards that outlive a kill
    has_windows: ClassVar[bool] = False  # a row longer than max_seq_length gives several examples; nothing is cut
    text_signatures: ClassVar[Mapping[str, int]] = {}  # {a signature for one text: which of a request's strings it is}
    request_features: ClassVar[tuple[str, ...]] = ()  # token-level ones of `request_windows` that `results` reads, besides ids
    compares_examples: ClassVar[bool] = False  # the loss compares examples: it needs the outputs of a whole batch at once
    problem_type: ClassVar[str | None] = None  # how transformers reads the logits of a classifier's head
    token_outputs: ClassVar[Mapping[str, str]] = {}  # {a token-level one of the results: the sequence whose tokens it has}

    def __init__(self, config: Any, tokenizer: Tokenizer, max_seq_length: int):
        self.config, self.tokenizer, self.max_seq_length = config, tokenizer, max_seq_length

    # What a source holds: before there is a tokenizer

    @classmethod
    def recognize(cls, table: Table) -> Proposal:
        """Returns what `init` writes for a file of this task's kind.

        Raises:
          UnrecognizedError: it is of another kind; the message says what is missing.
        """
        raise UnrecognizedError("nothing tells its rows from others")

    @classmethod
    def text_columns(cls, config: Any) -> tuple[str, ...]:
        """Returns the columns that say what a row is about: rows of equal ones are held out together, never on two sides."""
        return ("text",)

    @classmethod
    def class_column(cls, config: Any) -> str | None:
        """Returns the column of a row's class, where there are classes: a share of the rows is held out of each."""
        return None

    @classmethod
    def label_of(cls, config: Any, prediction: Prediction | None, confidence: float) -> dict[str, Any] | None:
        """Returns the label columns that a prediction gives a row without any: for `selftrain`.

        Args:
          config: the task's.
          prediction: of the row; None: only whether this task can do it is asked.
          confidence: from which probability on a label counts.

        Returns:
          {column: value}; None where the prediction is not as sure, or there was none.

        Raises:
          UserError: the task has no such labels.
        """
        raise UserError(f"selftrain is for classification and multi_label; task.name is {config.name}")

    @classmethod
    def examples_together(cls, config: Any) -> int:
        """Returns how many examples every row gives, where they are learned from together: in one batch, by one replica."""
        return 1

    @classmethod
    def to_learn(cls, config: Any) -> tuple[str, ...]:
        """Returns the fields of the config that the training rows must tell; by default none."""
        return ()

    @classmethod
    def learn(cls, config: Any, rows: Iterable[Row]) -> Any:
        """Returns the config with the fields of `to_learn` (class names) as the training rows tell them."""
        return config

    # Rows become examples

    @abc.abstractmethod
    def features(self) -> FeatureSpec:
        """Returns the features of an example."""

    @property
    def input_columns(self) -> tuple[str, ...]:
        """The columns that prediction reads: what a request holds, in this order."""
        return self.text_columns(self.config)

    @abc.abstractmethod
    def examples(self, row: Row, labelled: bool = True) -> list[Example]:
        """Turns one row into its examples: one, or several windows in order.

        Args:
          row: a raw row.
          labelled: False in prediction: the label may be absent, its features are then 0.

        Raises:
          RowError: the row cannot be used; the message says why.
        """

    def kept(self, row: Row) -> dict[str, Any] | None:
        """Returns what `decode` and `score` need of a row, JSON-able; None, the default, where features are enough.

        It is stored beside the records, so that a run which has only records can be validated.
        """
        return None

    def chunk_examples(
        self, rows: Sequence[Row], chunk: str, counts: collections.Counter
    ) -> Iterator[tuple[int, Example | RowError]]:
        """Yields (a row's number in the chunk, an example of it, or why it cannot be used).

        Args:
          rows: some that follow each other in their source.
          chunk: the chunk's name, of which randomness is to be a function.
          counts: takes the number of special cases by name, for the manifest.
        """
        for number, row in enumerate(rows):
            try:
                found = self.examples(row)
                if not found:
                    raise RowError("the row gives no example")
            except RowError as error:
                yield number, error
            else:
                counts.update(self.special_cases(row))
                for example in found:
                    yield number, example

    def special_cases(self, row: Row) -> Mapping[str, int]:
        """Returns how often what the manifest counts by name occurs in a row that gave examples; `remarks` tells of it."""
        return {}

    def untruncated_length(self, row: Row) -> int:
        """Returns the tokens of a row before it is cut to max_seq_length, special ones included; 0 where nothing is cut."""
        return 0

    def remarks(self, split: Mapping[str, Any]) -> list[str]:
        """Returns what its user should know of a prepared split (its part of the manifest), in addition to its numbers."""
        return []

    def made_from(self) -> dict[str, Any]:
        """Returns the parts of the config that decide an example, by key: records made from others are stale."""
        return {}

    def for_training(self, value_counts: Mapping[str, Mapping[str, int]]) -> Task:
        """Returns the task completed by the counts of the training examples' values; by default itself."""
        return self

    def sampling(self, value_counts: Mapping[str, Mapping[str, int]]) -> Sampling | None:
        """Returns how often an epoch of training takes which example; None: each once."""
        return None

    # Batches are learned from

    def batch_work(self) -> BatchWork | None:
        """Returns what the task does to batches in the input pipeline of training and evaluation; None for nothing."""
        return None

    @abc.abstractmethod
    def build_model(self, encoder: BertEncoder) -> keras.Model:
        """Returns a functional Keras model from packed inputs to {output name: [rows, K, ...] or [rows, length, ...]}."""

    def warm_start(self, model: keras.Model, encoder: BertEncoder, folder_of: Callable[[str], str]) -> list[str]:
        """Gives weights that are not the encoder's other first values than random ones; by default none.

        Args:
          model, encoder: the model, its encoder's weights loaded.
          folder_of: finds the folder that a path or Hub id names.

        Returns:
          What the log says of it, a line each.
        """
        return []

    @abc.abstractmethod
    def loss_weights(self, batch: Tensors) -> dict[str, tf.Tensor]:
        """Returns the weights of each part of the loss, by the part's name: float32; weight 0 means: not there.

        Each part is averaged by its weights over the whole global batch; the loss is the sum of these averages.
        """

    @abc.abstractmethod
    def loss(self, batch: Tensors, outputs: Tensors) -> tuple[Losses, Measures]:
        """Returns the unreduced losses of each part, float32 of the shape of its weights, and measures for the log.

        A measure is {name: (part, unreduced values)}, float32, averaged by the part's weights; {} where there is none.
        It runs in the replica's context: a loss that compares examples may gather them over the replicas.
        """

    def divergence(self, batch: Tensors, first: Tensors, second: Tensors) -> Losses:
        """Returns how far the outputs of two passes with other dropout are apart: for parts of the loss, of their shapes.

        R-Drop asks for it, see `models.regularization`.

        Raises:
          UserError: the task has none.
        """
        raise UserError(f"train.r_drop_alpha: there is no R-Drop for {self.config.name} as it is set up here; set it to 0")

    @property
    def logged(self) -> Sequence[str]:
        """Of the parts ("<part>_loss") and measures of the loss, those that a log line shows, too."""
        return ()

    def head_flops_per_token(self, bert_config: BertConfig) -> float:
        """Returns the model FLOPs of the head in a training step, per token, where they matter compared with the encoder's."""
        return 0.0

    # Outputs become a prediction a row, and scores

    def completed(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Adds to a packed batch what the model reads besides, in prediction and serving; by default nothing."""
        return batch

    def results(self, batch: Tensors, outputs: Tensors, labelled: bool) -> dict[str, tf.Tensor]:
        """Returns what `score` (labelled) or `decode` and `reply` need of a batch; by default the model's outputs.

        Returns:
          float32 [rows, K, ...], an entry for each example; [rows, length, ...] for those that `token_outputs` lists.
        """
        return dict(outputs)

    @abc.abstractmethod
    def decode(self, row: Row, windows: Sequence[Window]) -> Prediction:
        """Returns the prediction of one row.

        Args:
          row: the row; in evaluation what `kept` kept of it.
          windows: of its examples, in order.
        """

    @abc.abstractmethod
    def score(self, rows: Iterable[tuple[Row, Sequence[Window]]], tune: bool = False) -> dict[str, Any]:
        """Returns the final scores, JSON-able.

        Args:
          rows: as `decode` has them, as a stream: keep of each what the scores need.
          tune: the rows may choose fields of the config that it leaves open, as a threshold: they stand under "tuned", and the
            best checkpoint keeps them. True in the validations of a training only.
        """

    # An export replies to strings

    @property
    def request_names(self) -> tuple[str, ...]:
        """The names of a request's strings, one for each of `input_columns`."""
        return self.input_columns

    def request_windows(self, texts: Sequence[tf.Tensor], tokenize: InGraphTokenizer) -> RequestWindows:
        """Turns the strings of a request into windows, in the graph, as `examples` does; for tasks with windows.

        Args:
          texts: string [batch] for each of `request_names`.
          tokenize: the run's tokenizer.
        """
        raise NotImplementedError(f"{type(self).__name__} has windows, but none in the graph")

    def request_ids(self, texts: tf.Tensor, tokenize: InGraphTokenizer, number: int) -> tf.RaggedTensor:
        """Turns one of a request's strings into the tokens of its window, in the graph; for tasks with `text_signatures`.

        Such a signature takes `text`, and replies with the window's results.

        Args:
          texts: string [batch].
          tokenize: the run's tokenizer.
          number: which of `request_names` the strings are of.

        Returns:
          int32 [batch, (tokens)].
        """
        raise NotImplementedError(f"{type(self).__name__} has signatures for one text, but no tokens for it")

    @abc.abstractmethod
    def reply(self, request: Request) -> dict[str, tf.Tensor]:
        """Returns what a request gets back, in the graph: [batch, ...] each."""

    @abc.abstractmethod
    def as_reply(self, prediction: Prediction) -> dict[str, Any]:
        """Returns one row of `reply` for a prediction: an export is held to what `predict` says."""

    def request_examples(self, row: Row) -> list[Example]:
        """Returns the examples of a request, whatever its texts are: a server cannot refuse one of many."""
        return self.examples(row, labelled=False)

    def request_of(self, row: Row) -> list[str]:
        """Returns a row's texts as a request would hold them, one for each of `request_names`: an export is checked with some.

        Raises:
          RowError: the row cannot be used.
        """
        return [text_in(row, column) for column in self.input_columns]

    def graph_problem(self) -> str | None:
        """Returns why an export cannot take strings, only token ids; None where it can."""
        return problem_with(self.tokenizer)

    def is_tie(self, output: str, reply: Mapping[str, np.ndarray], tolerance: float) -> bool:
        """Returns whether another string or whole number than the reply's is right, too, because its numbers are this close.

        Args:
          output: the name of the output that differs.
          reply: one row of what `reply` returns.
          tolerance: how close numbers must be.
        """
        return False

    def labels_asset(self) -> Sequence[str] | None:
        """Returns the lines of the export's labels file, if the task has labels."""
        return None

    def hugging_face_head(self, model: keras.Model) -> tuple[str, dict[str, np.ndarray]]:
        """Returns the transformers class with such a head, and the head's weights by its names; BertModel for none."""
        return "BertModel", {}

    def hugging_face_decoder(self, model: keras.Model) -> BertDecoder | None:
        """Returns the decoder of a model that has one: the head is its head then."""
        return None

    def hugging_face_files(self, model: keras.Model) -> Mapping[str, Any]:
        """Returns {path: JSON} of further files for the Hugging Face folder; by default none."""
        return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextTaskConfig(TaskConfig):
    """What the config of every `TextTask` has."""

    text_columns: tuple[str, ...] = ("text",)
    """The column of the text, or two columns for pairs."""
    clean_texts: tuple[CleaningStep, ...] = ()
    """What is taken out of texts, also in prediction: html, urls, emails, stop_words; stem leaves words' stems. An export takes
    token ids then."""
    clean_language: str = "english"
    """The language of stop words and stems."""

    def __post_init__(self):
        super().__post_init__()
        check(1 <= len(self.text_columns) <= 2, "text_columns", f"one or two columns, got {len(self.text_columns)}")
        check_distinct(self.clean_texts, "clean_texts")


class TextTask(Task):
    """A task that reads one text or a pair of texts in one example, cut to max_seq_length."""

    config: TextTaskConfig

    def __init__(self, config: TextTaskConfig, tokenizer: Tokenizer, max_seq_length: int):
        super().__init__(config, tokenizer, max_seq_length)
        self._clean = cleaner(config.clean_texts, config.clean_language) if config.clean_texts else None

    def graph_problem(self) -> str | None:
        if self._clean is not None:
            return "task.clean_texts changes texts before they are tokenized, which a graph cannot do"
        return super().graph_problem()

    @classmethod
    def text_columns(cls, config: TextTaskConfig) -> tuple[str, ...]:
        return config.text_columns

    def texts(self, row: Row) -> list[str]:
        """Returns the row's texts; raises RowError as `text_in`."""
        return [text_in(row, column) for column in self.config.text_columns]

    def token_features(self) -> FeatureSpec:
        """Returns the features of `example_of_texts`."""
        return TOKENS if len(self.config.text_columns) == 2 else {"input_ids": TOKENS["input_ids"]}

    def example_of_texts(self, texts: Sequence[str]) -> dict[str, list[int]]:
        """Returns the token features of a text or a pair, cleaned."""
        limit, texts = self.max_seq_length, self._cleaned(texts)
        if len(texts) == 1:
            return {"input_ids": single_sequence(self.tokenizer.encode(texts[0], limit), self.tokenizer, limit)}
        # How a pair is cut depends on how long both texts are: they are tokenized whole.
        first, second = map(self.tokenizer.encode, texts)
        input_ids, types = pair_sequence(first, second, self.tokenizer, limit)
        return {"input_ids": input_ids, "token_type_ids": types}

    def _cleaned(self, texts: Sequence[str]) -> Sequence[str]:
        return texts if self._clean is None else [self._clean(text) for text in texts]

    def pooled_model(self, encoder: BertEncoder, pooling: Pooling, units: int, dropout_rate: float, output: str) -> keras.Model:
        """Returns the model of one dense head on a vector of each text: {output: float32 [rows, K, units]}."""
        from trainer.models.encoder import packed_inputs
        from trainer.models.heads import DenseHead
        from trainer.models.pooling import pooled_texts
        from trainer.models.task_model import TaskModel

        # Inputs
        inputs = packed_inputs()
        # Encoder
        pooled = pooled_texts(encoder, inputs, pooling)
        # Head
        head = DenseHead(units, dropout_rate)
        return TaskModel(inputs, {output: head(pooled)}, name=self.config.name)

    def untruncated_length(self, row: Row) -> int:
        texts = self._cleaned(self.texts(row))
        return sum(len(self.tokenizer.encode(text)) for text in texts) + len(texts) + 1

    def made_from(self) -> dict[str, Any]:
        """See `Task.made_from`."""
        config = self.config
        cleaned = {"task.clean_texts": list(config.clean_texts), "task.clean_language": config.clean_language}
        return {"task.text_columns": list(config.text_columns)} | (cleaned if config.clean_texts else {})

    def arrays(
        self, rows: Iterable[tuple[Row, Sequence[Window]]], output: str, features: Sequence[str]
    ) -> tuple[np.ndarray, ...]:
        """Returns an output of all rows, float32 [rows, ...], and each of the features, [rows]."""
        windows = [window for _, (window,) in rows]
        columns = ([window.features[name] for window in windows] for name in features)
        return np.array([window.outputs[output] for window in windows]), *map(np.array, columns)

    @property
    def request_names(self) -> tuple[str, ...]:
        return ("text", "text_pair")[: len(self.config.text_columns)]  # as Hugging Face's tokenizers name them

    def request_examples(self, row: Row) -> list[Example]:
        """Returns the one example of a row's texts, with 0 for a label."""
        none = {name: 0 for name, feature in self.features().items() if feature.per == "example" and name != "row_id"}
        texts = [row.values[column] for column in self.config.text_columns]
        return [{**self.example_of_texts(texts), **none}]
