"""Regression: one or more numbers for a text or a pair of texts, such as a rating or the likeness of two sentences."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trainer.config import check
from trainer.data.row_values import number_in, number_of
from trainer.data.sources import Row, RowError
from trainer.data.table import LABEL_NAMES, Proposal, Table, UnrecognizedError, listed
from trainer.errors import NothingToLearnError
from trainer.features import ROW_ID, Example, Feature, FeatureSpec
from trainer.metrics.regression import regression_scores
from trainer.metrics.statistics import mean_of_known
from trainer.tasks import base

if TYPE_CHECKING:
    import tensorflow as tf
    import tf_keras as keras

    from trainer.models.encoder import BertEncoder
    from trainer.serving.windows import Request

TARGET_NAMES = ("score", "rating", "similarity", "value", "stars", "price")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(base.TextTaskConfig):
    """The `task` section of a regression."""

    name: str = "regression"
    """Which task: the name of a file in trainer/tasks."""
    target_columns: tuple[str, ...] = ("label",)
    """The columns of the numbers to predict."""
    means: tuple[float, ...] = ()
    """The mean of each target. Empty: learned from data.train and saved with the run."""
    scales: tuple[float, ...] = ()
    """What each target less its mean is divided by for the loss. Empty: the standard deviation in data.train."""
    loss: Literal["squared", "huber"] = "squared"
    """The loss of a scaled target: the squared error; or Huber's, which counts errors above 1 linearly."""
    pooling: Literal["pooler", "cls", "mean"] = "pooler"
    """What the head reads: BERT's pooler (dense and tanh on [CLS]), [CLS] itself, or the mean of the tokens."""
    head_dropout_rate: float = 0.1
    """Dropout before the head's dense layer."""

    def __post_init__(self):
        super().__post_init__()
        check(len(self.target_columns) > 0, "target_columns", "one column or more")
        base.check_distinct(self.target_columns, "target_columns")
        base.check_head_dropout(self.head_dropout_rate)
        check(all(scale > 0 for scale in self.scales), "scales", f"must be over 0, got {list(self.scales)}")


class Task(base.TextTask):
    """See the module."""

    config: Config
    best_score = "pearson"
    problem_type = "regression"

    @classmethod
    def recognize(cls, table: Table) -> Proposal:
        def is_target(column):
            numbers = [number for value in table.values(column) if (number := number_of(value)) is not None]
            return len(numbers) > 0.95 * len(table.rows) and any(not number.is_integer() for number in numbers)

        found = [column for column in table.columns if is_target(column)]
        if not found:
            raise UnrecognizedError("no column holds numbers with a fraction; name one in task.target_columns")
        named = [column for column in found if column.lower() in (*LABEL_NAMES, *TARGET_NAMES)]
        targets = named or found
        texts = table.text_columns(without=targets)
        return Proposal(
            certainty=2 if named and not table.has_named_label(without=targets) else 0,
            summary=[f"text: {', '.join(texts)}", f"numbers: {', '.join(targets)}"],
            task={"text_columns": listed(texts), "target_columns": listed(targets)},
            token_lengths=table.token_lengths(texts),
        )

    @classmethod
    def to_learn(cls, config: Config) -> tuple[str, ...]:
        return tuple(field for field in ("means", "scales") if not getattr(config, field))

    @classmethod
    def learn(cls, config: Config, rows: Iterable[Row]) -> Config:
        columns = config.target_columns
        # Welford 1962: one pass, and exact for any number of rows
        count, means, squares = 0, np.zeros(len(columns)), np.zeros(len(columns))
        problem = ""
        for row in rows:
            try:
                numbers = np.array([number_in(row, column) for column in columns])
            except RowError as error:
                problem = problem or f"; the first row, {row.path}:{row.line}: {error}"
                continue
            count += 1
            gaps = numbers - means
            means += gaps / count
            squares += gaps * (numbers - means)
        if not count:
            raise NothingToLearnError(f"no row has a number in {', '.join(map(repr, columns))}{problem}")
        deviations = np.sqrt(squares / count)
        found = {"means": means, "scales": np.where(deviations > 0, deviations, 1.0)}
        learned: dict[str, Any] = {field: tuple(map(float, found[field])) for field in cls.to_learn(config)}
        return dataclasses.replace(config, **learned)

    def features(self) -> FeatureSpec:
        targets = {f"target_{number}": Feature("float32", "example") for number in range(len(self.config.target_columns))}
        return {**self.token_features(), **targets, **ROW_ID}

    def examples(self, row: Row, labelled: bool = True) -> list[Example]:
        numbers = [number_in(row, column) if labelled else 0.0 for column in self.config.target_columns]
        targets = {f"target_{number}": value for number, value in enumerate(numbers)}
        return [{**self.example_of_texts(self.texts(row)), **targets}]

    def made_from(self) -> dict[str, Any]:
        return super().made_from() | {"task.target_columns": list(self.config.target_columns)}

    def build_model(self, encoder: BertEncoder) -> keras.Model:
        config = self.config  # the output is in units of `scales`
        return self.pooled_model(encoder, config.pooling, len(config.target_columns), config.head_dropout_rate, "scaled")

    def loss_weights(self, batch: base.Tensors) -> dict[str, tf.Tensor]:
        return {"target": batch["example_weights"]}

    def loss(self, batch: base.Tensors, outputs: base.Tensors) -> tuple[base.Losses, base.Measures]:
        import tensorflow as tf

        targets = tf.stack([batch[f"target_{number}"] for number in range(len(self.config.target_columns))], axis=-1)
        errors = outputs["scaled"] - (targets - tf.constant(self.config.means)) / tf.constant(self.config.scales)
        size = tf.abs(errors)
        # Huber 1964, with its corner at 1
        losses = tf.square(errors) if self.config.loss == "squared" else tf.where(size < 1, tf.square(errors) / 2, size - 0.5)
        return {"target": tf.reduce_mean(losses, axis=-1)}, {}

    def divergence(self, batch: base.Tensors, first: base.Tensors, second: base.Tensors) -> base.Losses:
        import tensorflow as tf

        # The divergence of two normal distributions of variance 1
        return {"target": tf.reduce_mean(tf.square(first["scaled"] - second["scaled"]), axis=-1) / 2}

    def decode(self, row: Row, windows: Sequence[base.Window]) -> base.Prediction:
        (window,) = windows
        values = self._values(window.outputs["scaled"]).tolist()
        return (
            {"value": values[0]} if len(values) == 1 else {"values": dict(zip(self.config.target_columns, values, strict=True))}
        )

    def _values(self, scaled: np.ndarray) -> np.ndarray:
        """Returns outputs in the targets' own units: float64 [..., targets]."""
        return scaled.astype(np.float64) * self.config.scales + self.config.means

    def score(self, rows: Iterable[tuple[Row, Sequence[base.Window]]], tune: bool = False) -> dict[str, Any]:
        columns = self.config.target_columns
        scaled, *targets = self.arrays(rows, "scaled", [f"target_{number}" for number in range(len(columns))])
        values = self._values(scaled)
        each = {column: regression_scores(targets[number], values[:, number]) for number, column in enumerate(columns)}
        if len(each) == 1:
            return {"examples": len(values), **each[columns[0]]}
        means = {name: mean_of_known([scores[name] for scores in each.values()]) for name in each[columns[0]]}
        return {"examples": len(values), **means, "per_target": each}

    def reply(self, request: Request) -> dict[str, tf.Tensor]:
        import tensorflow as tf

        values = request.results["scaled"] * tf.constant(self.config.scales) + tf.constant(self.config.means)
        return {"value": values[:, 0]} if len(self.config.target_columns) == 1 else {"values": values}

    def as_reply(self, prediction: base.Prediction) -> dict[str, Any]:
        if "value" in prediction:
            return {"value": prediction["value"]}
        return {"values": list(prediction["values"].values())}

    def labels_asset(self) -> tuple[str, ...]:
        return self.config.target_columns

    def hugging_face_head(self, model: keras.Model) -> tuple[str, dict[str, np.ndarray]]:
        if self.config.pooling != "pooler":
            return super().hugging_face_head(model)
        kernel, bias = base.head_weights(model).values()
        # The scale is part of the weights there: its users read the logits as the numbers.
        scales, means = np.array(self.config.scales, np.float32), np.array(self.config.means, np.float32)
        head = {"classifier.weight": kernel * scales[:, None], "classifier.bias": bias * scales + means}
        return "BertForSequenceClassification", head
