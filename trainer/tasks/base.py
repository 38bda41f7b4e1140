"""The task contract: all a task must say, in the order in which data meets it.

A task is one file with a `Config` (a frozen dataclass) and a `Task` that inherits from the one here. Preparation workers
import it, so TensorFlow is imported inside the methods that build graphs.
"""

from __future__ import annotations

import abc
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from trainer.config import check
from trainer.data.sources import Row, RowError
from trainer.features import Example, FeatureSpec
from trainer.text.sequences import pair_sequence, single_sequence
from trainer.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tensorflow as tf
    import tf_keras as keras

    from trainer.models.encoder import BertEncoder


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
      max_examples_per_row: examples in a packed row, K.
    """

    text_columns: tuple[str, ...]
    label_column: str
    max_seq_length: int
    max_examples_per_row: int


_SURROGATE = re.compile("[\ud800-\udfff]")
Predictions = list[dict[str, Any]]
Outputs = Mapping[str, np.ndarray]  # {name: float32 [rows, ...]}, one entry a row


class Task(abc.ABC):
    """One task.

    Args:
      config: the task's own Config.
      fields: how rows become examples.
      tokenizer: gives the ids.
    """

    best_score: ClassVar[str]  # the score that chooses the best checkpoint; higher is better

    def __init__(self, config: Any, fields: TextFields, tokenizer: Tokenizer):
        self.config, self.fields, self.tokenizer = config, fields, tokenizer

    @classmethod
    def learn(cls, config: Any, fields: TextFields, rows: Iterable[Row]) -> Any:
        """Returns the config completed by what the training rows tell (class names); by default unchanged."""
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

    @abc.abstractmethod
    def build_model(self, encoder: BertEncoder) -> keras.Model:
        """Returns a functional Keras model from packed inputs to {output name: float32 [batch, K, ...]}."""

    @abc.abstractmethod
    def loss(self, batch: Mapping[str, tf.Tensor], outputs: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns (unreduced losses, their weights), float32 of one shape; weight 0 means: not there."""

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

    @abc.abstractmethod
    def serving(self, outputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Turns the model's outputs, [batch, ...] without the K axis, into what a served request gets back."""

    def labels_asset(self) -> Sequence[str] | None:
        """Returns the lines of the export's labels file, if the task has labels."""
        return None

    def hugging_face_head(self, model: keras.Model) -> dict[str, np.ndarray]:
        """Returns the head's weights as BertForSequenceClassification names them; {} where it is no such head."""
        return {}

    def for_training(self, value_counts: Mapping[str, Mapping[str, int]]) -> Task:
        """Returns the task completed by the counts of the training examples' values; by default itself."""
        return self

    def copies(self, value_counts: Mapping[str, Mapping[str, int]]) -> Any:
        """Returns the sampling rule for `data.pipeline.training_stream`, or None to take every example once."""
        return None

    def example_of_texts(self, texts: Sequence[str]) -> dict[str, list[int]]:
        """Returns the token features of a text or a pair."""
        limit = self.fields.max_seq_length
        if len(texts) == 1:
            return {"input_ids": single_sequence(self.tokenizer.encode(texts[0], limit), self.tokenizer, limit)}
        # How a pair is cut depends on how long both texts are: they are tokenized whole.
        first, second = map(self.tokenizer.encode, texts)
        input_ids, types = pair_sequence(first, second, self.tokenizer, limit)
        return {"input_ids": input_ids, "token_type_ids": types}

    def texts(self, row: Row) -> list[str]:
        """Returns the row's texts, in the order of `data.text_columns`.

        Raises:
          RowError: a column is missing, or a text is empty or no string.
        """
        found = []
        for column in self.fields.text_columns:
            if column not in row.values:
                raise RowError(f"no column {column!r}; the row has {', '.join(map(repr, row.values)) or 'nothing'}")
            text = row.values[column]
            if not isinstance(text, str):
                raise RowError(f"column {column!r} holds a {type(text).__name__} where text belongs")
            if not text.isascii() and _SURROGATE.search(text):
                raise RowError(f"the text in column {column!r} is not valid Unicode: it holds half of a surrogate pair")
            if not text.strip():
                raise RowError(f"the text in column {column!r} is empty")
            found.append(text)
        return found
