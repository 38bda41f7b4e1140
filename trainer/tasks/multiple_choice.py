"""Multiple choice: which of several continuations or answers goes with a text, as in SWAG, RACE or CommonsenseQA.

Each choice is an example of its own, [CLS] text [SEP] choice [SEP], and gets a score; the softmax goes over a row's choices
(Devlin et al. 2019, section 4.4).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trainer.config import check
from trainer.data.labels import label_text
from trainer.data.row_values import optional_text, text_in, value_in
from trainer.data.sources import Row, RowError
from trainer.data.table import Proposal, Table, UnrecognizedError, listed, quoted, token_estimate
from trainer.errors import NothingToLearnError
from trainer.features import ROW_ID, TOKENS, Example, Feature, FeatureSpec
from trainer.tasks import base
from trainer.text.sequences import pair_sequence

if TYPE_CHECKING:
    import tensorflow as tf
    import tf_keras as keras

    from trainer.models.encoder import BertEncoder
    from trainer.serving.windows import Request, RequestWindows
    from trainer.text.in_graph_tokenizer import InGraphTokenizer

NUMBERED = re.compile(r"(ending|choice|option|answer|alternative|sol)[ _-]?(\d+|[A-Ha-h])")
LISTS = ("choices", "options", "endings", "answers")
TEXTS, QUESTIONS = ("context", "sent1", "premise", "passage", "article"), ("question", "sent2", "goal", "query", "stem")
LABELS = ("label", "answerKey", "answer", "gold", "correct")
NOT_THERE = -1e9  # the score of a choice that a row lacks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(base.TaskConfig):
    """The `task` section of multiple choice."""

    name: str = "multiple_choice"
    """Which task: the name of a file in trainer/tasks."""
    context_column: str = "context"
    """The column of the text that comes before, the first part of each pair."""
    question_column: str | None = None
    """A column of text that is put before each choice, as SWAG's sent2. null: the choices stand for themselves."""
    choice_columns: tuple[str, ...] = ()
    """The columns of the choices, as [ending0, ending1, ending2, ending3]. Empty: they are listed in choices_column."""
    choices_column: str = "choices"
    """Without choice_columns: the column of a list of texts, or of {"text": [...], "label": [...]}."""
    label_column: str = "label"
    """The right choice: its number from 0, its letter from A, its own label, or its text."""
    choices: int = 0
    """Choices of a row; one with fewer has empty ones. 0: learned from data.train, or one for each of choice_columns."""
    pooling: Literal["pooler", "cls", "mean"] = "pooler"
    """What the head reads: BERT's pooler (dense and tanh on [CLS]), [CLS] itself, or the mean of the tokens."""
    head_dropout_rate: float = 0.1
    """Dropout before the head's dense layer."""

    def __post_init__(self):
        super().__post_init__()
        base.check_distinct(self.choice_columns, "choice_columns")
        base.check_head_dropout(self.head_dropout_rate)
        check(len(self.choice_columns) != 1, "choice_columns", "two columns or more, or none")
        check(self.choices == 0 or self.choices >= 2, "choices", f"must be 2 or more, or 0, got {self.choices}")
        if self.choice_columns:
            named = len(self.choice_columns)
            check(self.choices in (0, named), "choices", f"choice_columns names {named}, got {self.choices}; leave it out")
            object.__setattr__(self, "choices", named)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of the choices in a request."""
        return self.choice_columns or tuple(f"choice_{number}" for number in range(self.choices))


class Task(base.Task):
    """See the module."""

    config: Config
    best_score = "accuracy"
    has_windows = True  # of a row: its choices
    compares_examples = True

    @classmethod
    def recognize(cls, table: Table) -> Proposal:
        numbered = [column for column in table.columns if NUMBERED.fullmatch(column)]
        listed_in = [column for column in LISTS if column in table.columns and table.holds(column, (list, dict))]
        label = next((column for column in LABELS if column in table.columns and column not in numbered), None)
        if (len(numbered) < 2 and not listed_in) or label is None:
            raise UnrecognizedError("no columns ending0, ending1, ... (or one of lists, choices) with a label beside them")
        found = (next((column for column in names if column in table.columns), None) for names in (TEXTS, QUESTIONS))
        texts = [column for column in found if column is not None]
        if not texts:
            raise UnrecognizedError("no column of text beside the choices, as context or question")
        task = {"context_column": quoted(texts[0]), "label_column": quoted(label)}
        task |= {"question_column": quoted(texts[1])} if len(texts) > 1 else {}
        task |= {"choices_column": quoted(listed_in[0])} if listed_in else {"choice_columns": listed(numbered)}
        read = [*texts, *(listed_in[:1] or numbered)]
        lengths = sorted(sum(token_estimate(str(row.get(column) or "")) for column in read) for row in table.rows)
        return Proposal(3, [f"text: {texts[0]}", f"choices: {', '.join(listed_in[:1] or numbered)}"], task, lengths)

    @classmethod
    def text_columns(cls, config: Config) -> tuple[str, ...]:
        return (config.context_column, *([config.question_column] if config.question_column else []))

    @classmethod
    def examples_together(cls, config: Config) -> int:
        return max(config.choices, 1)

    @classmethod
    def to_learn(cls, config: Config) -> tuple[str, ...]:
        return () if config.choices else ("choices",)

    @classmethod
    def learn(cls, config: Config, rows: Iterable[Row]) -> Config:
        most, problem = 0, ""
        for row in rows:
            try:
                most = max(most, len(_listed(row, config.choices_column)[0]))
            except RowError as error:
                problem = problem or f"; the first row, {row.path}:{row.line}: {error}"
        if most < 2:
            raise NothingToLearnError(f"no row lists two choices or more in {config.choices_column!r}{problem}")
        return dataclasses.replace(config, choices=most)

    # Rows become examples: one for each choice

    @property
    def input_columns(self) -> tuple[str, ...]:
        return (*self.text_columns(self.config), *self.config.names)

    def features(self) -> FeatureSpec:
        flags = {name: Feature("int32", "example") for name in ("is_right", "is_there")}
        return {**TOKENS, **flags, **ROW_ID}

    def examples(self, row: Row, labelled: bool = True) -> list[Example]:
        texts = self._texts(row)
        choices, labels = self._choices(row)
        if sum(map(bool, choices)) < 2:
            columns = self.config.choice_columns
            raise RowError(f"fewer than two choices in {listed(columns) if columns else repr(self.config.choices_column)}")
        right = self._right(row, choices, labels) if labelled else None
        return self._examples_of(texts, choices, right)

    def _examples_of(self, texts: Sequence[str], choices: Sequence[str], right: int | None) -> list[Example]:
        context = self.tokenizer.encode(texts[0])
        found: list[Example] = []
        for number, choice in enumerate(choices):
            before, second = (context, self._second_ids(texts, choice)) if choice else ([], [])
            input_ids, types = pair_sequence(before, second, self.tokenizer, self.max_seq_length)
            flags = {"is_right": int(number == right), "is_there": int(bool(choice))}
            found.append({"input_ids": input_ids, "token_type_ids": types, **flags})
        return found

    def _second_ids(self, texts: Sequence[str], choice: str) -> list[int]:
        """Returns the ids of what follows the context: the question, where there is one, and a choice."""
        return self.tokenizer.encode(" ".join([*texts[1:], choice]))

    def _texts(self, row: Row) -> list[str]:
        return [text_in(row, column) for column in self.text_columns(self.config)]

    def _choices(self, row: Row) -> tuple[list[str], list[str]]:
        """Returns (the texts, "" for one that is not there; their own labels, where they have some)."""
        config = self.config
        labels: list[str] = []
        if not config.choice_columns and config.choices_column in row.values:
            values, labels = _listed(row, config.choices_column)
            if len(values) > config.choices:
                raise RowError(f"{len(values)} choices, more than task.choices={config.choices}")
            values += [""] * (config.choices - len(values))
        else:
            values = [row.values.get(column) or "" for column in config.names]
        return [optional_text(value, "a choice") for value in values], labels

    def _right(self, row: Row, choices: Sequence[str], labels: Sequence[str]) -> int:
        value = label_text(value_in(row, self.config.label_column)) or ""
        there = [number for number, choice in enumerate(choices) if choice]
        letters = {chr(ord("A") + number): number for number in there}
        for known in ({labels[number]: number for number in there if number < len(labels)},
                      {str(number): number for number in there}, letters,
                      {choices[number]: number for number in there}):  # fmt: skip
            if value in known:
                return known[value]
        raise RowError(f"the label is {value!r}, which is none of the row's {len(there)} choices")

    def kept(self, row: Row) -> dict[str, Any]:
        return dict(zip(self.config.names, self._choices(row)[0], strict=True))

    def untruncated_length(self, row: Row) -> int:
        texts, (choices, _) = self._texts(row), self._choices(row)
        before = len(self.tokenizer.encode(texts[0]))
        longest = max(len(self._second_ids(texts, choice)) for choice in choices if choice)
        return before + longest + 3

    def made_from(self) -> dict[str, Any]:
        config = self.config
        keys = ("context_column", "question_column", "choices_column", "label_column", "choices")
        return {f"task.{key}": getattr(config, key) for key in keys} | {"task.choice_columns": list(config.choice_columns)}

    # Batches are learned from: a row's examples follow each other in the stream, from a multiple of `choices` on

    def build_model(self, encoder: BertEncoder) -> keras.Model:
        from trainer.models.encoder import packed_inputs
        from trainer.models.heads import DenseHead
        from trainer.models.pooling import pooled_texts
        from trainer.models.task_model import TaskModel

        # Inputs
        inputs = packed_inputs()
        # Encoder
        pooled = pooled_texts(encoder, inputs, self.config.pooling)
        # Head: float32 [rows, K]
        score = DenseHead(1, self.config.head_dropout_rate)(pooled)[..., 0]
        return TaskModel(inputs, {"score": score}, name=self.config.name)

    def loss_weights(self, batch: base.Tensors) -> dict[str, tf.Tensor]:
        import tensorflow as tf

        return {"choice": batch["example_weights"] * tf.cast(batch["is_right"], tf.float32)}

    def loss(self, batch: base.Tensors, outputs: base.Tensors) -> tuple[base.Losses, base.Measures]:
        import tensorflow as tf

        scores = tf.reshape(outputs["score"], [-1])
        totals = tf.reduce_logsumexp(tf.where(self._same_group(batch), scores, NOT_THERE), axis=1)
        return {"choice": tf.reshape(totals - scores, tf.shape(outputs["score"]))}, {}

    def divergence(self, batch: base.Tensors, first: base.Tensors, second: base.Tensors) -> base.Losses:
        import tensorflow as tf

        from trainer.models.losses import divergence

        same = self._same_group(batch)
        apart = divergence(*(tf.where(same, tf.reshape(passed["score"], [-1]), NOT_THERE) for passed in (first, second)))
        return {"choice": tf.reshape(apart, tf.shape(first["score"]))}

    def _same_group(self, batch: base.Tensors) -> tf.Tensor:
        """Returns which choices there are to the question of each: bool [rows · K, rows · K]."""
        import tensorflow as tf

        # Where an example is in a row of packed ones has nothing to do with the others of its group: by their numbers.
        group = tf.reshape(batch["example_number"] // self.config.choices, [-1])
        is_there = tf.reshape((batch["is_there"] > 0) & (batch["example_weights"] > 0), [-1])
        return (group[:, None] == group) & is_there

    # Outputs become a prediction a row, and scores

    def decode(self, row: Row, windows: Sequence[base.Window]) -> base.Prediction:
        probabilities = self._probabilities(windows).tolist()
        best = int(np.argmax(probabilities))
        text = self._choices(row)[0][best]
        return {"choice": best, "text": text, "probability": probabilities[best], "probabilities": probabilities}

    def _probabilities(self, windows: Sequence[base.Window]) -> np.ndarray:
        scores = np.array([one.outputs["score"] if one.features["is_there"] else NOT_THERE for one in windows], np.float64)
        return base.softmax(scores)

    def score(self, rows: Iterable[tuple[Row, Sequence[base.Window]]], tune: bool = False) -> dict[str, Any]:
        count = right = 0
        loss = 0.0
        for _, windows in rows:
            probabilities = self._probabilities(windows)
            is_right = np.array([window.features["is_right"] for window in windows], bool)
            count, right = count + 1, right + int(is_right[np.argmax(probabilities)])
            loss -= float(np.log(max(probabilities[is_right].sum(), 1e-30)))
        return {"rows": count, "accuracy": right / count, "loss": loss / count}

    # An export replies to strings

    def request_of(self, row: Row) -> list[str]:
        return [*self._texts(row), *self._choices(row)[0]]

    def request_examples(self, row: Row) -> list[Example]:
        texts = [str(row.values[column]) for column in self.input_columns]
        count = len(self.text_columns(self.config))
        return self._examples_of(texts[:count], [optional_text(text, "a choice") for text in texts[count:]], None)

    def request_windows(self, texts: Sequence[tf.Tensor], tokenize: InGraphTokenizer) -> RequestWindows:
        import tensorflow as tf

        from trainer.serving.text_inputs import graph_sequences
        from trainer.serving.windows import RequestWindows

        before, count = len(self.text_columns(self.config)), self.config.choices
        context, *question = texts[:before]
        stacked = tf.reshape(tf.stack(texts[before:], axis=1), [-1])  # a row's choices one after the other
        is_there = tf.strings.length(tf.strings.strip(stacked)) > 0
        row = tf.repeat(tf.range(tf.size(context)), count)
        joined = tf.strings.join([*[tf.gather(text, row) for text in question], stacked], separator=" ")
        second = tokenize(tf.where(is_there, joined, ""))
        first = tokenize(tf.where(is_there, tf.gather(context, row), ""))
        ids = graph_sequences([first, second], self.tokenizer, self.max_seq_length)
        return RequestWindows(ids, row, {"is_there": is_there, "choice": tf.where(is_there, stacked, "")})

    def reply(self, request: Request) -> dict[str, tf.Tensor]:
        import tensorflow as tf

        assert request.windows is not None
        about, shape = request.windows.about, [-1, self.config.choices]
        scores = tf.where(about["is_there"], request.results["score"], NOT_THERE)
        probabilities = tf.nn.softmax(tf.reshape(scores, shape))
        best = tf.argmax(probabilities, axis=1, output_type=tf.int32)
        return {
            "choice": best,
            "text": tf.gather(tf.reshape(about["choice"], shape), best, batch_dims=1),
            "probability": tf.reduce_max(probabilities, axis=1),
            "probabilities": probabilities,
        }

    def as_reply(self, prediction: base.Prediction) -> dict[str, Any]:
        return {name: prediction[name] for name in ("choice", "text", "probability", "probabilities")}

    def is_tie(self, output: str, reply: Mapping[str, np.ndarray], tolerance: float) -> bool:
        second, first = np.sort(reply["probabilities"])[-2:]
        return bool(first - second <= tolerance)

    def hugging_face_head(self, model: keras.Model) -> tuple[str, dict[str, np.ndarray]]:
        if self.config.pooling != "pooler":
            return super().hugging_face_head(model)
        return "BertForMultipleChoice", base.head_weights(model)


def _listed(row: Row, column: str) -> tuple[list[Any], list[str]]:
    """Returns (the choices in a row's column, their own labels where they have some).

    Raises:
      RowError: the column holds no list.
    """
    value = value_in(row, column)
    labels: list[str] = []
    if isinstance(value, dict):
        labels, value = [str(label) for label in value.get("label", ())], value.get("text")
    if not isinstance(value, list):
        raise RowError(f"column {column!r} holds a {type(value).__name__} where a list of choices belongs")
    return list(value), labels
