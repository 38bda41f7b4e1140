"""The task contract: all a task must say, in the order in which data meets it.

A task is one file with a `Config` (a frozen dataclass) and a `Task` that inherits from the one here. Preparation workers
import it, so TensorFlow is imported inside the methods that build graphs.
"""

from __future__ import annotations

import abc
import collections
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np

from trainer.config import check
from trainer.data.sources import Row, RowError
from trainer.features import TOKENS, Example, FeatureSpec
from trainer.text.sequences import pair_sequence, single_sequence
from trainer.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tensorflow as tf
    import tf_keras as keras
    from transformers import BertConfig

    from trainer.data.pipeline import BatchWork
    from trainer.models.encoder import BertEncoder
    from trainer.models.task_model import TaskModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """What every task's config has."""

    name: str
    """Which task: the name of a file in trainer/tasks."""

    def __post_init__(self):
        check(bool(self.name), "name", "a task's name is needed")


@dataclasses.dataclass(frozen=True)
class TextFields:
    """How rows become examples, from the `data` section.

    Attributes:
      text_columns: one column, or two for pairs.
      label_column: the column of the label.
      max_seq_length: tokens an example may have, special tokens included.
    """

    text_columns: tuple[str, ...]
    label_column: str
    max_seq_length: int


_SURROGATE = re.compile("[\ud800-\udfff]")
Predictions = list[dict[str, Any]]
Outputs = Mapping[str, np.ndarray]  # {name: float32 [rows, ...]}, one entry a row
Losses: TypeAlias = "dict[str, tf.Tensor]"
Measures: TypeAlias = "dict[str, tuple[str, tf.Tensor]]"


def value_in(row: Row, column: str) -> Any:
    """Returns a row's value in a column; raises RowError where the row has no such column."""
    if column not in row.values:
        raise RowError(f"no column {column!r}; the row has {', '.join(map(repr, row.values)) or 'nothing'}")
    return row.values[column]


def has_half_a_surrogate_pair(text: str) -> bool:
    """Returns whether a text holds what is no character and cannot be stored as UTF-8."""
    return not text.isascii() and _SURROGATE.search(text) is not None


def copies_by_value(feature: str, rates: np.ndarray) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Returns the rule for `Task.copies` that takes an example as often as its value of a feature says, by chance.

    Args:
      feature: an example-level one with values 0, 1, ...
      rates: float [values], for each how often: 2.0 twice, 0.5 every second time.
    """

    def copies(record: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """string [], int64 [2] → int64 []."""
        import tensorflow as tf

        value = tf.io.parse_single_example(record, {feature: tf.io.FixedLenFeature([], tf.int64)})[feature]
        rate = tf.gather(tf.constant(rates, tf.float32), value)
        return tf.cast(tf.floor(rate + tf.random.stateless_uniform([], seed)), tf.int64)

    return copies


class Task(abc.ABC):
    """One task.

    Args:
      config: the task's own Config.
      fields: how rows become examples.
      tokenizer: gives the ids.
    """

    best_score: ClassVar[str]  # the score that chooses the best checkpoint; higher is better
    txt_as: ClassVar[str] = "txt"  # how training text in .txt files is read: see data.sources.SourceFormat
    loads_head: ClassVar[bool] = False  # whether encoder.init_from gives the head its weights too, where it has them
    has_classes: ClassVar[bool] = False  # the label column holds classes: a share of the rows is held out of each
    is_corpus: ClassVar[bool] = False  # rows are documents: prepared in chunks by size, in shards that outlive a kill

    def __init__(self, config: Any, fields: TextFields, tokenizer: Tokenizer):
        self.config, self.fields, self.tokenizer = config, fields, tokenizer

    @property
    def logged(self) -> Sequence[str]:
        """Of the parts ("<part>_loss") and measures of the loss, those that a log line shows, too."""
        return ()

    @classmethod
    def to_learn(cls, config: Any) -> tuple[str, ...]:
        """Returns the fields of the config that the training rows must tell; by default none."""
        return ()

    @classmethod
    def learn(cls, config: Any, fields: TextFields, rows: Iterable[Row]) -> Any:
        """Returns the config with the fields of `to_learn` (class names) as the training rows tell them."""
        return config

    @abc.abstractmethod
    def features(self) -> FeatureSpec:
        """Returns the features of an example."""

    @abc.abstractmethod
    def examples(self, row: Row, labelled: bool = True) -> list[Example]:
        """Turns one row into its examples.

        Args:
          row: a raw row.
          labelled: False in prediction: the label may be absent, its features are then 0.

        Raises:
          RowError: the row cannot be used; the message says why.
        """

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
            except RowError as error:
                yield number, error
            else:
                for example in found:
                    yield number, example

    def remarks(self, split: Mapping[str, Any]) -> list[str]:
        """Returns what its user should know of a prepared split (its part of the manifest), in addition to its numbers."""
        return []

    def made_from(self) -> dict[str, Any]:
        """Returns the parts of the config that decide an example, by key: records made from others are stale."""
        return {}

    @abc.abstractmethod
    def build_model(self, encoder: BertEncoder) -> keras.Model:
        """Returns a functional Keras model from packed inputs to {output name: [batch, ...]}.

        The outputs are [batch, K, ...], one entry an example, unless `evaluated` and `predicted` make them so.
        """

    @abc.abstractmethod
    def loss_weights(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the weights of each part of the loss, by the part's name: float32; weight 0 means: not there.

        Each part is averaged by its weights over the whole global batch; the loss is the sum of these averages.
        """

    @abc.abstractmethod
    def loss(self, batch: Mapping[str, tf.Tensor], outputs: Mapping[str, tf.Tensor]) -> tuple[Losses, Measures]:
        """Returns the unreduced losses of each part, float32 of the shape of its weights, and measures for the log.

        A measure is {name: (part, unreduced values)}, float32, averaged by the part's weights; {} where there is none.
        """

    def batch_work(self) -> BatchWork | None:
        """Returns what the task does to batches in the input pipeline of training and evaluation; None for nothing."""
        return None

    def prediction_work(self) -> BatchWork | None:
        """Returns what the task does to batches in the input pipeline of prediction; None for nothing."""
        return None

    def evaluated(self, batch: Mapping[str, tf.Tensor], outputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns what `score` needs of a batch: float32 [rows, K, ...]; by default the outputs."""
        return dict(outputs)

    def predicted(self, batch: Mapping[str, tf.Tensor], outputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns what `decode` needs of a batch: float32 [rows, K, ...]; by default the outputs."""
        return dict(outputs)

    @abc.abstractmethod
    def decode(self, outputs: Outputs) -> Predictions:
        """Turns outputs into JSON-able predictions, one a row."""

    @abc.abstractmethod
    def score(self, outputs: Outputs, labels: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Returns the final scores.

        Args:
          outputs: float32 [rows, ...] each.
          labels: the example-level features of the same rows.
        """

    def served(self, model: TaskModel, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns what `serving` needs of packed texts: float32 [rows, K, ...]; by default the model's outputs.

        Args:
          model: the task's.
          inputs: int32 [rows, length] for each of PACKED_INPUTS, [rows, K] cls_positions.
        """
        return model.outputs_for({name: inputs[name] for name in model.input_names})

    def texts_to_compare(self, row: Row) -> list[str]:
        """Returns a row's texts as a request would hold them: an export is checked with some."""
        return self.texts(row)

    @abc.abstractmethod
    def serving(self, outputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Turns the model's outputs, [batch, ...] without the K axis, into what a served request gets back."""

    def is_tie(self, output: str, reply: Mapping[str, np.ndarray], tolerance: float) -> bool:
        """Returns whether another string than the reply's is right, too, because its numbers are this close.

        Args:
          output: the string output.
          reply: one row of what `serving` returns.
          tolerance: how close numbers must be.
        """
        return False

    def head_flops_per_token(self, bert_config: BertConfig) -> float:
        """Returns the model FLOPs of the head in a training step, per token, where they matter compared with the encoder's."""
        return 0.0

    def labels_asset(self) -> Sequence[str] | None:
        """Returns the lines of the export's labels file, if the task has labels."""
        return None

    def hugging_face_head(self, model: keras.Model) -> tuple[str, dict[str, np.ndarray]]:
        """Returns the transformers class with such a head, and the head's weights by its names; BertModel for none."""
        return "BertModel", {}

    def for_training(self, value_counts: Mapping[str, Mapping[str, int]]) -> Task:
        """Returns the task completed by the counts of the training examples' values; by default itself."""
        return self

    def copies(self, value_counts: Mapping[str, Mapping[str, int]]) -> Any:
        """Returns the sampling rule for `data.pipeline.training_stream`, or None to take every example once."""
        return None

    def token_features(self) -> FeatureSpec:
        """Returns the features of `example_of_texts`."""
        return TOKENS if len(self.fields.text_columns) == 2 else {"input_ids": TOKENS["input_ids"]}

    def example_of_texts(self, texts: Sequence[str]) -> dict[str, list[int]]:
        """Returns the token features of a text or a pair."""
        limit = self.fields.max_seq_length
        if len(texts) == 1:
            return {"input_ids": single_sequence(self.tokenizer.encode(texts[0], limit), self.tokenizer, limit)}
        # How a pair is cut depends on how long both texts are: they are tokenized whole.
        first, second = map(self.tokenizer.encode, texts)
        input_ids, types = pair_sequence(first, second, self.tokenizer, limit)
        return {"input_ids": input_ids, "token_type_ids": types}

    def untruncated_length(self, row: Row) -> int:
        """Returns the tokens that a row's texts have before they are cut to max_seq_length, [CLS] and [SEP] included."""
        texts = self.texts(row)
        return sum(len(self.tokenizer.encode(text)) for text in texts) + len(texts) + 1

    def texts(self, row: Row) -> list[str]:
        """Returns the row's texts, in the order of `data.text_columns`.

        Raises:
          RowError: a column is missing, or a text is empty or no string.
        """
        found = []
        for column in self.fields.text_columns:
            text = value_in(row, column)
            if not isinstance(text, str):
                raise RowError(f"column {column!r} holds a {type(text).__name__} where text belongs")
            if has_half_a_surrogate_pair(text):
                raise RowError(f"the text in column {column!r} is not valid Unicode: it holds half of a surrogate pair")
            if not text.strip():
                raise RowError(f"the text in column {column!r} is empty")
            found.append(text)
        return found
