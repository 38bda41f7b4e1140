"""Multi-label classification: any number of labels for a text or a pair, each by a sigmoid of its own."""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trainer.config import check
from trainer.data.labels import class_order, label_text
from trainer.data.row_values import value_in
from trainer.data.sources import Row, RowError
from trainer.data.table import Proposal, Table, UnrecognizedError, listed, quoted
from trainer.errors import NothingToLearnError, UserError
from trainer.features import ROW_ID, Example, Feature, FeatureSpec
from trainer.metrics.multi_label import best_thresholds, multi_label_scores
from trainer.tasks import base

if TYPE_CHECKING:
    import tensorflow as tf
    import tf_keras as keras

    from trainer.models.encoder import BertEncoder
    from trainer.serving.windows import Request

MAX_LABELS = 500  # each is a number of every example
YES, NO = ("1", "true"), ("0", "false")  # how `label_text` tells what stands in a column of one label


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(base.TextTaskConfig):
    """The `task` section of a multi-label classification."""

    name: str = "multi_label"
    """Which task: the name of a file in trainer/tasks."""
    labels_column: str = "labels"
    """The column of the labels: a list, a JSON list as text, or texts with task.label_separator between."""
    label_separator: str = ","
    """Between the labels of a text."""
    label_columns: tuple[str, ...] = ()
    """Instead of labels_column: a column for each label, with 1 or 0, true or false."""
    class_names: tuple[str, ...] = ()
    """The labels, in the order of their numbers; a file may have either. Empty: learned from data.train (sorted)."""
    balance: Literal["none", "class_weights"] = "none"
    """Against rare labels: weigh a label's rows by the number of the others over theirs."""
    class_weights: dict[str, float] = dataclasses.field(default_factory=dict)
    """Loss weights of the rows that have a label, by its name, as {grief: 5.0}; labels not named have 1.0."""
    tune_thresholds: Literal["per_label", "global", "none"] = "global"
    """Thresholds of the best F1 on data.validation: one for each label, one for all, or 0.5; the best checkpoint keeps them."""
    thresholds: tuple[float, ...] = ()
    """A label is predicted where its probability reaches this: one number for each, or one for all. Empty: tuned."""
    pooling: Literal["pooler", "cls", "mean"] = "pooler"
    """What the head reads: BERT's pooler (dense and tanh on [CLS]), [CLS] itself, or the mean of the tokens."""
    head_dropout_rate: float = 0.1
    """Dropout before the head's dense layer."""

    def __post_init__(self):
        super().__post_init__()
        base.check_distinct(self.class_names, "class_names")
        check(bool(self.label_separator), "label_separator", "one character or more")
        base.check_head_dropout(self.head_dropout_rate)
        check(
            all(0 <= threshold <= 1 for threshold in self.thresholds),
            "thresholds",
            f"must be in [0, 1], got {list(self.thresholds)}",
        )
        fits = len(self.thresholds) <= 1 or not self.class_names or len(self.thresholds) == len(self.class_names)
        check(fits, "thresholds", f"one, or one for each of the {len(self.class_names)} labels, got {len(self.thresholds)}")
        base.check_class_weights(self.class_weights, self.balance, self.class_names)


class Task(base.TextTask):
    """See the module."""

    config: Config
    best_score = "micro.f1"
    problem_type = "multi_label_classification"

    @classmethod
    def recognize(cls, table: Table) -> Proposal:
        columns = [column for column in table.columns if table.holds(column, list)]
        lists = [column for column in columns if all(isinstance(v, str | int) for v in _first_values(table.values(column)))]
        flags = [column for column in table.columns if {label_text(value) for value in table.values(column)} <= {*YES, *NO}]
        if len(lists) > 1 and all(len(a or []) == len(b or []) for a, b in zip(*map(table.values, lists[:2]), strict=True)):
            raise UnrecognizedError(f"columns {lists[0]!r} and {lists[1]!r} have equally long lists, as words and tags have")
        if lists and "tokens" not in table.columns:
            how = {"labels_column": quoted(lists[0])}
        elif len(flags) >= 3:
            how = {"label_columns": listed(flags)}
        else:
            raise UnrecognizedError("neither a column with lists of labels nor three columns or more of 0 and 1")
        texts = table.text_columns(without=[*lists, *flags])
        config = Config(labels_column=(lists or ["labels"])[0], label_columns=() if lists else tuple(flags))
        counts: collections.Counter[str] = collections.Counter()
        for number, values in enumerate(table.rows, start=1):
            counts.update(_labels_in(Row(values, table.source, number), config))
        shown = [f"  {name}: {count:,} ({count / len(table.rows):.1%})" for name, count in counts.most_common(8)]
        return Proposal(
            certainty=3 if lists else 0 if table.has_named_label(without=flags) else 2,
            summary=[f"text: {', '.join(texts)}", f"labels: {', '.join(lists[:1] or flags)}, {len(counts)} different", *shown],
            task={"text_columns": listed(texts), **how, "tune_thresholds": "global  # or per_label, none"},
            token_lengths=table.token_lengths(texts),
        )

    @classmethod
    def to_learn(cls, config: Config) -> tuple[str, ...]:
        return () if config.class_names else ("class_names",)

    @classmethod
    def learn(cls, config: Config, rows: Iterable[Row]) -> Config:
        if config.label_columns:
            return dataclasses.replace(config, class_names=config.label_columns)
        found: set[str] = set()
        problem = ""
        for row in rows:
            try:
                found.update(_labels_in(row, config))
            except RowError as error:
                problem = problem or f"; the first row, {row.path}:{row.line}: {error}"
            if len(found) > MAX_LABELS:
                raise UserError(
                    f"task.labels_column: {config.labels_column!r} has over {MAX_LABELS:,} different labels; is it the labels' "
                    f"column, and task.label_separator={config.label_separator!r} what stands between them?"
                )
        if not found:
            raise NothingToLearnError(f"no row has a label in column {config.labels_column!r}{problem}")
        return dataclasses.replace(config, class_names=tuple(sorted(found, key=class_order)))

    @classmethod
    def label_of(cls, config: Config, prediction: base.Prediction | None, confidence: float) -> dict[str, Any] | None:
        if prediction is None or any(1 - confidence < value < confidence for value in prediction["probabilities"].values()):
            return None
        labels = [name for name, value in prediction["probabilities"].items() if value >= confidence]
        if config.label_columns:
            return {name: int(name in labels) for name in config.label_columns}
        return {config.labels_column: labels}

    def features(self) -> FeatureSpec:
        labels = {name: Feature("int32", "example") for name in self._label_features}
        return {**self.token_features(), **labels, **ROW_ID}

    @functools.cached_property
    def _label_features(self) -> list[str]:
        return [f"label_{number}" for number in range(len(self.config.class_names))]

    def examples(self, row: Row, labelled: bool = True) -> list[Example]:
        texts = self.texts(row)
        numbers = set(map(self._number_of, _labels_in(row, self.config))) if labelled else set()
        labels = {name: int(number in numbers) for number, name in enumerate(self._label_features)}
        return [{**self.example_of_texts(texts), **labels}]

    def _number_of(self, label: str) -> int:
        number = self._numbers.get(label)
        if number is None and self._are_names and label.isdecimal() and int(label) < len(self._numbers):
            return int(label)  # a file of numbers, whose names the config gives
        if number is None:
            known = ", ".join(self.config.class_names[:8])
            raise RowError(f"label {label!r} is not one of {known}{' ...' if len(self._numbers) > 8 else ''}")
        return number

    @functools.cached_property
    def _are_names(self) -> bool:
        return not any(name.lstrip("-").isdecimal() for name in self.config.class_names)

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.config.class_names)}

    def made_from(self) -> dict[str, Any]:
        found = {f"task.{key}": getattr(self.config, key) for key in ("labels_column", "label_separator")}
        lists = {f"task.{key}": list(getattr(self.config, key)) for key in ("label_columns", "class_names")}
        return super().made_from() | found | lists

    def for_training(self, value_counts: Mapping[str, Mapping[str, int]]) -> Task:
        if self.config.balance != "class_weights":
            return self
        weights = {}
        for name, feature in zip(self.config.class_names, self._label_features, strict=True):
            counts = value_counts[feature]
            weights[name] = counts.get("0", 0) / max(counts.get("1", 0), 1)
        derived = dataclasses.replace(self.config, balance="none", class_weights=weights)
        return Task(derived, self.tokenizer, self.max_seq_length)

    def build_model(self, encoder: BertEncoder) -> keras.Model:
        config = self.config
        return self.pooled_model(encoder, config.pooling, len(config.class_names), config.head_dropout_rate, "logits")

    def loss_weights(self, batch: base.Tensors) -> dict[str, tf.Tensor]:
        return {"label": batch["example_weights"]}

    def loss(self, batch: base.Tensors, outputs: base.Tensors) -> tuple[base.Losses, base.Measures]:
        import tensorflow as tf

        labels = tf.cast(tf.stack([batch[name] for name in self._label_features], axis=-1), tf.float32)
        weights = tf.constant([self.config.class_weights.get(name, 1.0) for name in self.config.class_names])
        # The mean over the labels, as PyTorch's BCEWithLogitsLoss with pos_weight
        losses = tf.nn.weighted_cross_entropy_with_logits(labels, outputs["logits"], weights)
        return {"label": tf.reduce_mean(losses, axis=-1)}, {}

    def divergence(self, batch: base.Tensors, first: base.Tensors, second: base.Tensors) -> base.Losses:
        import tensorflow as tf

        from trainer.models.losses import binary_divergence

        return {"label": tf.reduce_mean(binary_divergence(first["logits"], second["logits"]), axis=-1)}

    def decode(self, row: Row, windows: Sequence[base.Window]) -> base.Prediction:
        (window,) = windows
        probabilities, names = sigmoid(window.outputs["logits"]), self.config.class_names
        chosen = probabilities >= self._thresholds
        return {
            "labels": [name for name, is_chosen in zip(names, chosen, strict=True) if is_chosen],
            "probabilities": dict(zip(names, map(float, probabilities), strict=True)),
        }

    @property
    def _thresholds(self) -> np.ndarray:
        """Returns float32 [labels]."""
        thresholds = np.array(self.config.thresholds or (0.5,), np.float32)
        return np.broadcast_to(thresholds, [len(self.config.class_names)])

    def score(self, rows: Iterable[tuple[Row, Sequence[base.Window]]], tune: bool = False) -> dict[str, Any]:
        logits, *labels = self.arrays(rows, "logits", self._label_features)
        true, probabilities = np.stack(labels, axis=1), sigmoid(logits)
        if not tune or self.config.thresholds or self.config.tune_thresholds == "none":
            return multi_label_scores(true, probabilities, self.config.class_names, self._thresholds)
        thresholds = best_thresholds(true, probabilities, self.config.tune_thresholds == "per_label")
        scores = multi_label_scores(true, probabilities, self.config.class_names, thresholds)
        return {**scores, "tuned": {"thresholds": thresholds.tolist()}}

    def reply(self, request: Request) -> dict[str, tf.Tensor]:
        """The labels of each row, as many as the row with the most has, "" where it has fewer; and all probabilities."""
        import tensorflow as tf

        from trainer.serving.windows import padded

        probabilities = tf.sigmoid(request.results["logits"])
        places = tf.where(probabilities >= tf.constant(self._thresholds))
        labels = tf.gather(tf.constant(self.config.class_names), places[:, 1])
        rows = tf.shape(probabilities, tf.int64)[0]
        return {"labels": padded(labels, places[:, 0], rows, ""), "probabilities": probabilities}

    def as_reply(self, prediction: base.Prediction) -> dict[str, Any]:
        return {"labels": prediction["labels"], "probabilities": list(prediction["probabilities"].values())}

    def is_tie(self, output: str, reply: Mapping[str, np.ndarray], tolerance: float) -> bool:
        return bool((np.abs(reply["probabilities"] - self._thresholds) <= tolerance).any())

    def labels_asset(self) -> tuple[str, ...]:
        return self.config.class_names

    def hugging_face_head(self, model: keras.Model) -> tuple[str, dict[str, np.ndarray]]:
        if self.config.pooling != "pooler":
            return super().hugging_face_head(model)
        return "BertForSequenceClassification", base.head_weights(model)


def _first_values(lists: Sequence[list | None]) -> list[Any]:
    return [value for found in lists[:100] for value in found or []]


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Returns 1 / (1 + exp(-logits)), float32, without overflow."""
    return (0.5 * (1 + np.tanh(0.5 * np.asarray(logits, np.float64)))).astype(np.float32)


def _labels_in(row: Row, config: Config) -> list[str]:
    """Returns a row's labels; a list without any is one, too.

    Raises:
      RowError: a column is missing, or holds something else.
    """
    if config.label_columns:
        return [column for column in config.label_columns if _is_set(row, column)]
    column = config.labels_column
    value = value_in(row, column)
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if value is None:
        raise RowError(f"column {column!r} is null; a row without labels has an empty list")
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise RowError(f"column {column!r} begins as a JSON list and is none: {error}") from None
    elif not isinstance(value, list):
        value = str(value).split(config.label_separator)
    names = [label_text(entry) for entry in value]
    if value and not any(names) and any(isinstance(entry, list | dict) for entry in value):
        raise RowError(f"column {column!r} holds {str(value)[:60]!r} where a list of labels belongs")
    return [name for name in names if name is not None]


def _is_set(row: Row, column: str) -> bool:
    name = label_text(value_in(row, column))
    if name in YES:
        return True
    if name in NO:
        return False
    raise RowError(f"column {column!r} holds {str(row.values[column])[:40]!r} where 1 or 0 belongs")
