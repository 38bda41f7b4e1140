"""Classification of a text or a pair of texts into two or many classes."""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trainer.config import check
from trainer.data.labels import class_order, label_problem, label_text
from trainer.data.sources import Row, RowError
from trainer.data.table import Proposal, Table, listed, quoted
from trainer.errors import NothingToLearnError, UserError
from trainer.features import ROW_ID, Example, Feature, FeatureSpec
from trainer.metrics.classification import classification_scores
from trainer.tasks import base

if TYPE_CHECKING:
    import tensorflow as tf
    import tf_keras as keras

    from trainer.data.sampling import Sampling
    from trainer.models.encoder import BertEncoder
    from trainer.serving.windows import Request

MAX_CLASSES = 10_000  # more distinct labels mean that the column holds no classes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(base.TextTaskConfig):
    """The `task` section of a classification."""

    name: str = "classification"
    """Which task: the name of a file in trainer/tasks."""
    label_column: str = "label"
    """The column of the class."""
    class_names: tuple[str, ...] = ()
    """The classes, in the order of their numbers. Empty: learned from data.train (sorted) and saved with the run."""
    balance: Literal["none", "class_weights", "sampling"] = "none"
    """Against unequal classes: weigh the loss by inverse frequency, or draw rare classes more often."""
    class_weights: dict[str, float] = dataclasses.field(default_factory=dict)
    """Loss weights by class name, as {spam: 3.0}; classes not named have 1.0."""
    focal_gamma: float = 0.0
    """Over 0: focal loss with this gamma (Lin et al. 2017); 2.0 is usual."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes."""
    pooling: Literal["pooler", "cls", "mean"] = "pooler"
    """What the head reads: BERT's pooler (dense and tanh on [CLS]), [CLS] itself, or the mean of the tokens."""
    head_dropout_rate: float = 0.1
    """Dropout before the head's dense layer."""
    threshold: float | None = None
    """Two classes: predict the second when its probability reaches this. More: below this the label is null."""

    def __post_init__(self):
        super().__post_init__()
        base.check_distinct(self.class_names, "class_names")
        check(len(self.class_names) != 1, "class_names", "one class only: there is nothing to tell apart")
        check(self.focal_gamma >= 0, "focal_gamma", f"must be 0 or more, got {self.focal_gamma}")
        check(0 <= self.label_smoothing < 1, "label_smoothing", f"must be in [0, 1), got {self.label_smoothing}")
        base.check_head_dropout(self.head_dropout_rate)
        in_range = self.threshold is None or 0 < self.threshold < 1
        check(in_range, "threshold", f"must be between 0 and 1, got {self.threshold}")
        base.check_class_weights(self.class_weights, self.balance, self.class_names)


class Task(base.TextTask):
    """See the module."""

    config: Config
    best_score = "accuracy"
    problem_type = "single_label_classification"

    @classmethod
    def recognize(cls, table: Table) -> Proposal:
        label = table.label_column()
        texts = table.text_columns(without=[label])
        names = [name for name in map(label_text, table.values(label)) if name is not None]
        classes = collections.Counter(names).most_common()
        rows, counts = len(table.rows), [count for _, count in classes]
        shown = [f"  {name}: {count:,} ({count / rows:.1%})" for name, count in classes[:8]]
        shown += [f"  and {len(classes) - 8} more"] if len(classes) > 8 else []
        unlabelled, is_unequal = rows - len(names), max(counts) > 4 * min(counts)
        shown += [f"  no label: {unlabelled:,} rows, which are left out"] if unlabelled else []
        ratio = f"{max(counts) / min(counts):.0f}×"
        weights = f"class_weights  # the largest class has {ratio} the rows of the smallest"
        # A split may have twice the share of rows without a label.
        allowed = f"{min(math.ceil(200 * unlabelled / rows) / 100, 1.0):g}  # {unlabelled} of {rows} rows have no label"
        return Proposal(
            certainty=1,
            summary=[f"text: {', '.join(texts)}", f"label: {label}, {len(classes)} classes", *shown],
            task={
                "text_columns": listed(texts),
                "label_column": quoted(label),
                "class_names": listed(sorted(dict(classes))) if len(classes) <= 100 else "[]  # learned from data.train",
                "balance": weights if is_unequal else "none  # or class_weights, sampling",
            },
            token_lengths=table.token_lengths(texts),
            data={"max_rejected_fraction": allowed} if unlabelled > 0.005 * rows else {},
            train={"best_score": "macro.f1  # accuracy hides the rare classes"} if is_unequal else {},
            validation=_validation_share(counts),
        )

    @classmethod
    def label_of(cls, config: Config, prediction: base.Prediction | None, confidence: float) -> dict[str, Any] | None:
        if prediction is None or prediction["label"] is None or prediction["probability"] < confidence:
            return None
        return {config.label_column: prediction["label"]}

    @classmethod
    def class_column(cls, config: Config) -> str:
        return config.label_column

    @classmethod
    def to_learn(cls, config: Config) -> tuple[str, ...]:
        return () if config.class_names else ("class_names",)

    @classmethod
    def learn(cls, config: Config, rows: Iterable[Row]) -> Config:
        found: set[str] = set()
        column = config.label_column
        without: Row | None = None  # the first row that lacks the column: one JSON object may, all rows must not
        for row in rows:
            if column not in row.values:
                without = without or row
            name = label_text(row.values.get(column))
            if name is not None:
                found.add(name)
            if len(found) > MAX_CLASSES:
                raise UserError(
                    f"task.label_column: {column!r} has over {MAX_CLASSES:,} different values; is it the label's column?"
                )
        if not found and without:
            raise UserError(
                f"{without.path}:{without.line}: no column {column!r} (task.label_column); "
                f"the columns are {', '.join(map(repr, without.values))}"
            )
        if not found:
            raise NothingToLearnError(f"no row has a label in column {column!r}, so class names cannot be learned")
        if len(found) == 1:
            raise UserError(
                f"data.train: one class only, {found.pop()!r}; a classifier needs at least two. "
                f"Is task.label_column={column!r} right?"
            )
        return dataclasses.replace(config, class_names=tuple(sorted(found, key=class_order)))

    def features(self) -> FeatureSpec:
        return {**self.token_features(), "label": Feature("int32", "example"), **ROW_ID}

    def examples(self, row: Row, labelled: bool = True) -> list[Example]:
        label = self._class_number(row) if labelled else 0
        return [{**self.example_of_texts(self.texts(row)), "label": label}]

    def made_from(self) -> dict[str, Any]:
        names = self.config.class_names
        digest = hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]
        classes = {"task.label_column": self.config.label_column, "task.class_names": f"{len(names)} classes, sha256 {digest}"}
        return super().made_from() | classes

    def _class_number(self, row: Row) -> int:
        column = self.config.label_column
        if column not in row.values:
            raise RowError(f"no label: there is no column {column!r}; the row has {', '.join(map(repr, row.values))}")
        value = row.values[column]
        problem = label_problem(value)
        if problem:
            raise RowError(f"no usable label: column {column!r} {problem}")
        name = label_text(value)
        if name is None and str(value).strip() in self.config.class_names:
            name = str(value).strip()  # a class that is called "null", by the config's own word
        if name is None:
            raise RowError(f"no label: column {column!r} is empty, null or NaN")
        number = self._number_of_class.get(name)
        if number is None:
            known = ", ".join(map(repr, self.config.class_names[:10]))
            more = f" and {len(self.config.class_names) - 10} more" if len(self.config.class_names) > 10 else ""
            raise RowError(f"label {name!r} is not one of the classes {known}{more}")
        return number

    @functools.cached_property
    def _number_of_class(self) -> dict[str, int]:
        return {label_text(name) or name: number for number, name in enumerate(self.config.class_names)}

    def build_model(self, encoder: BertEncoder) -> keras.Model:
        config = self.config
        return self.pooled_model(encoder, config.pooling, len(config.class_names), config.head_dropout_rate, "logits")

    def loss_weights(self, batch: base.Tensors) -> dict[str, tf.Tensor]:
        import tensorflow as tf

        by_class = tf.constant([self.config.class_weights.get(name, 1.0) for name in self.config.class_names])
        return {"label": batch["example_weights"] * tf.gather(by_class, batch["label"])}

    def loss(self, batch: base.Tensors, outputs: base.Tensors) -> tuple[base.Losses, base.Measures]:
        from trainer.models.losses import cross_entropy

        smoothing, gamma = self.config.label_smoothing, self.config.focal_gamma
        return {"label": cross_entropy(batch["label"], outputs["logits"], smoothing, gamma)}, {}

    def divergence(self, batch: base.Tensors, first: base.Tensors, second: base.Tensors) -> base.Losses:
        from trainer.models.losses import divergence

        return {"label": divergence(first["logits"], second["logits"])}

    def decode(self, row: Row, windows: Sequence[base.Window]) -> base.Prediction:
        (window,) = windows
        probabilities = base.softmax(window.outputs["logits"])
        names, threshold = self.config.class_names, self.config.threshold
        best = int(self._chosen(probabilities))
        unsure = threshold is not None and len(names) > 2 and probabilities[best] < threshold
        return {
            "label": None if unsure else names[best],
            "probability": float(probabilities[best]),
            "probabilities": dict(zip(names, probabilities.tolist(), strict=True)),
        }

    def _chosen(self, probabilities: np.ndarray) -> np.ndarray:
        """Returns the number of the class: float64 [..., classes] → int64 [...]."""
        if len(self.config.class_names) == 2 and self.config.threshold is not None:
            return (probabilities[..., 1] >= self.config.threshold).astype(np.int64)
        return probabilities.argmax(axis=-1)

    def score(self, rows: Iterable[tuple[Row, Sequence[base.Window]]], tune: bool = False) -> dict[str, Any]:
        logits, labels = self.arrays(rows, "logits", ["label"])
        probabilities = base.softmax(logits)
        return classification_scores(labels, probabilities, self.config.class_names, self._chosen(probabilities))

    def reply(self, request: Request) -> dict[str, tf.Tensor]:
        import tensorflow as tf

        probabilities = tf.nn.softmax(request.results["logits"])
        if len(self.config.class_names) == 2 and self.config.threshold is not None:
            best = tf.cast(probabilities[:, 1] >= self.config.threshold, tf.int64)
        else:
            best = tf.argmax(probabilities, axis=-1)
        probability = tf.gather(probabilities, best, batch_dims=1)
        label = tf.gather(tf.constant(self.config.class_names), best)
        if len(self.config.class_names) > 2 and self.config.threshold is not None:
            label = tf.where(probability < self.config.threshold, "", label)
        return {"label": label, "probability": probability, "probabilities": probabilities}

    def as_reply(self, prediction: base.Prediction) -> dict[str, Any]:
        label, probabilities = prediction["label"] or "", list(prediction["probabilities"].values())
        return {"label": label, "probability": prediction["probability"], "probabilities": probabilities}

    def is_tie(self, output: str, reply: Mapping[str, np.ndarray], tolerance: float) -> bool:
        # The label changes between the two most probable classes, and at the threshold.
        second, first = np.sort(reply["probabilities"])[-2:]
        gaps = [first - second]
        if self.config.threshold is not None:
            decisive = reply["probabilities"][1] if len(self.config.class_names) == 2 else first
            gaps.append(abs(decisive - self.config.threshold))
        return min(gaps) <= tolerance

    def labels_asset(self) -> tuple[str, ...]:
        return self.config.class_names

    def hugging_face_head(self, model: keras.Model) -> tuple[str, dict[str, np.ndarray]]:
        if self.config.pooling != "pooler":
            return super().hugging_face_head(model)
        return "BertForSequenceClassification", base.head_weights(model)

    def sampling(self, value_counts: Mapping[str, Mapping[str, int]]) -> Sampling | None:
        from trainer.data.sampling import Sampling

        if self.config.balance != "sampling":
            return None
        return Sampling(
            "label",
            base.counts_by_value(value_counts, "label", len(self.config.class_names)),
            self._inverse_frequencies(value_counts),
        )

    def for_training(self, value_counts: Mapping[str, Mapping[str, int]]) -> Task:
        # balance=class_weights is worked out from the training counts
        if self.config.balance != "class_weights":
            return self
        rates = self._inverse_frequencies(value_counts)
        weights = dict(zip(self.config.class_names, map(float, rates), strict=True))
        derived = dataclasses.replace(self.config, balance="none", class_weights=weights)
        return Task(derived, self.tokenizer, self.max_seq_length)

    def _inverse_frequencies(self, value_counts: Mapping[str, Mapping[str, int]]) -> np.ndarray:
        """examples / (classes × examples of the class), scikit-learn's "balanced"; 0 for a class that is not there."""
        counts = base.counts_by_value(value_counts, "label", len(self.config.class_names))
        total, present = counts.sum(), np.count_nonzero(counts)
        return np.divide(total / present, counts, out=np.zeros(len(counts)), where=counts > 0)


def _validation_share(counts: Sequence[int]) -> str:
    """Returns the smallest usual share of the rows that holds out rows of two classes at least."""
    for percent in (10, 20, 30, 40):
        if sum(min(round(percent / 100 * count), count - 1) >= 1 for count in counts) >= 2:
            return f"{percent}%"
    return "null  # too few rows to hold some out"
