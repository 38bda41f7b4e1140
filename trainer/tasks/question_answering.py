"""Extractive question answering: the span of a context that answers a question, or none; long contexts by windows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np

from trainer.config import check
from trainer.data import squad
from trainer.data.row_values import text_in, value_in
from trainer.data.sources import Row, RowError
from trainer.data.table import Proposal, Table, UnrecognizedError
from trainer.errors import NothingToLearnError
from trainer.features import ROW_ID, TOKENS, Example, Feature, FeatureSpec
from trainer.metrics.question_answering import AnswerScores
from trainer.tasks import base
from trainer.text.windows import TokenWindow, token_windows
from trainer.text.words import is_ideograph

if TYPE_CHECKING:
    import tensorflow as tf
    import tf_keras as keras

    from trainer.models.encoder import BertEncoder
    from trainer.serving.windows import Request, RequestWindows
    from trainer.text.in_graph_tokenizer import InGraphTokenizer

IMPOSSIBLE = -1e30  # the score of a span that cannot be; no infinity, whose differences are no numbers
CONTEXTS_LOOKED_AT = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(base.TaskConfig):
    """The `task` section of question answering."""

    name: str = "question_answering"
    """Which task: the name of a file in trainer/tasks."""
    question_column: str = "question"
    """The column of the question."""
    context_column: str = "context"
    """The column of the text that holds the answer."""
    answers_column: str = "answers"
    """The column of the answers with their texts and where they begin, as in SQuAD's files or Hugging Face's; [] for none."""
    metric: Literal["auto", "squad_v1.1", "squad_v2.0", "cmrc2018"] = "auto"
    """The official script whose scores are computed; squad_v2.0: a question may have no answer. auto: learned (data.train)."""
    max_question_tokens: int = 64
    """Tokens of a question; a longer one is cut."""
    window_stride_tokens: int = 128
    """How far apart two windows of a long context begin; half of a window at most."""
    max_answer_tokens: int = 30
    """Tokens of an answer, at most."""
    best_answers: int = 20
    """The spans that share the probability; in each window as many starts and ends are combined."""
    no_answer_threshold: float | None = None
    """squad_v2.0: no answer where its score is over the best span's by more than this. null: tuned on data.validation."""

    def __post_init__(self):
        super().__post_init__()
        for field in ("max_question_tokens", "window_stride_tokens", "max_answer_tokens", "best_answers"):
            check(getattr(self, field) >= 1, field, f"must be 1 or more, got {getattr(self, field)}")

    @property
    def may_lack_answers(self) -> bool:
        """Whether a question may have no answer."""
        return self.metric == "squad_v2.0"


class Tokens(NamedTuple):
    """A text's tokens and where each stands in it."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Answer(NamedTuple):
    """A span of the context.

    Attributes:
      score: the sum of its start's and its end's logits.
      start, end: in characters of the context.
    """

    score: float
    start: int
    end: int


class Task(base.Task):
    """See the module."""

    config: Config
    best_score = "f1"
    has_windows = True
    token_outputs: ClassVar[Mapping[str, str]] = {"start_logits": "", "end_logits": ""}

    @classmethod
    def recognize(cls, table: Table) -> Proposal:
        missing = [column for column in ("question", "context", "answers") if column not in table.columns]
        if missing:
            raise UnrecognizedError(f"no column {missing[0]!r}; questions have question, context and answers")
        learned = cls.learn(Config(), (Row(values, table.source, number) for number, values in enumerate(table.rows, 1)))
        return Proposal(
            certainty=3,
            summary=[f"questions with answers in their context, scored as {learned.metric}"],
            task={"metric": f"auto  # {learned.metric}"},
            token_lengths=table.token_lengths(["question", "context"]),
            max_seq_length=384,
        )

    @classmethod
    def text_columns(cls, config: Config) -> tuple[str, ...]:
        return (config.context_column,)

    @property
    def input_columns(self) -> tuple[str, ...]:
        return self.config.question_column, self.config.context_column

    @property
    def request_names(self) -> tuple[str, ...]:
        return "question", "context"

    @classmethod
    def to_learn(cls, config: Config) -> tuple[str, ...]:
        return ("metric",) if config.metric == "auto" else ()

    @classmethod
    def learn(cls, config: Config, rows: Iterable[Row]) -> Config:
        questions, chinese, problem = 0, 0, ""
        for row in rows:
            try:
                answers = squad.answers_in(value_in(row, config.answers_column))
                context = text_in(row, config.context_column)
            except RowError as error:
                problem = problem or f"; the first row, {row.path}:{row.line}: {error}"
                continue
            questions += 1
            if not answers:
                return dataclasses.replace(config, metric="squad_v2.0")
            if questions <= CONTEXTS_LOOKED_AT:
                chinese += 2 * sum(map(is_ideograph, context)) > len(context)
        if not questions:
            raise NothingToLearnError(f"no row has a question with answers{problem}")
        is_chinese = 2 * chinese > min(questions, CONTEXTS_LOOKED_AT)
        return dataclasses.replace(config, metric="cmrc2018" if is_chinese else "squad_v1.1")

    def features(self) -> FeatureSpec:
        place = Feature("int32", "example")
        return {**TOKENS, "answer_start": place, "answer_end": place, **ROW_ID}

    def examples(self, row: Row, labelled: bool = True) -> list[Example]:
        question, context = (text_in(row, column) for column in self.input_columns)
        if not self._tokens_of(context).ids:
            raise RowError(f"the text in column {self.config.context_column!r} has no token")
        return self._windows_of(question, context, self._true_span(row, context) if labelled else None)

    def special_cases(self, row: Row) -> Mapping[str, int]:
        answers = squad.answers_in(row.values[self.config.answers_column])
        is_moved = bool(answers) and self._placed(answers, row.values[self.config.context_column]).is_moved
        return {"answers_moved": int(is_moved)}

    def remarks(self, split: Mapping[str, Any]) -> list[str]:
        count = split.get("special_cases", {}).get("answers_moved", 0)
        return [f"{count:,} answers do not stand where they say; the nearest place was taken"] if count else []

    def request_examples(self, row: Row) -> list[Example]:
        question, context = (row.values[column] for column in self.input_columns)
        return self._windows_of(question, context, None)

    def _true_span(self, row: Row, context: str) -> tuple[int, int] | None:
        """Returns where the first answer that the context holds begins and ends; None for a question without one."""
        answers = squad.answers_in(value_in(row, self.config.answers_column))
        if not answers and not self.config.may_lack_answers:
            raise RowError("the question has no answer; task.metric=squad_v2.0 is for such questions")
        return self._placed(answers, context)[:2] if answers else None

    def _placed(self, answers: Sequence[dict[str, Any]], context: str) -> squad.Placed:
        """Returns where the first answer stands that the context holds; raises the first one's RowError where none does."""
        problem: RowError | None = None
        for answer in answers:
            try:
                return squad.placed_answer(context, answer)
            except RowError as error:
                problem = problem or error
        assert problem is not None
        raise problem

    def _windows_of(self, question: str, context: str, answer: tuple[int, int] | None) -> list[Example]:
        asked, tokens = self._question_ids(question), self._tokens_of(context)
        cls_id, sep_id, between = self.tokenizer.cls_id, self.tokenizer.sep_id, self.tokenizer.separators
        first = last = -1
        if answer:
            touched = [i for i, (start, end) in enumerate(tokens.offsets) if start < answer[1] and end > answer[0]]
            if not touched:
                raise RowError("the tokenizer drops every character of the answer")
            first, last = touched[0], touched[-1]
        examples: list[Example] = []
        for window in self._cut(len(asked), len(tokens.ids)):
            before = len(asked) + self._specials - 1
            is_inside = answer is not None and window.start <= first and last < window.end
            examples.append(
                {
                    "input_ids": [cls_id, *asked, *between, *tokens.ids[window.start : window.end], sep_id],
                    "token_type_ids": [0] * before + [1] * (window.end - window.start + 1),
                    # A window without the answer points to its first token, as in google-research/bert's run_squad.py.
                    "answer_start": before + first - window.start if is_inside else 0,
                    "answer_end": before + last - window.start if is_inside else 0,
                }
            )
        return examples

    @property
    def _specials(self) -> int:
        """Special tokens of a window."""
        return 2 + len(self.tokenizer.separators)

    def _question_ids(self, question: str) -> list[int]:
        return self.tokenizer.encode(question, self._most_question_tokens)

    @property
    def _most_question_tokens(self) -> int:
        return min(self.config.max_question_tokens, (self.max_seq_length - self._specials) // 2)

    def _cut(self, asked: int, length: int) -> list[TokenWindow]:
        """Returns the windows over a context of so many tokens, beside a question of so many."""
        size = self.max_seq_length - self._specials - asked
        return token_windows(length, size, min(self.config.window_stride_tokens, max(size // 2, 1)))

    @functools.cached_property
    def _tokens_of(self) -> Callable[[str], Tokens]:
        # Questions on the same context follow each other.
        return functools.lru_cache(maxsize=64)(lambda text: Tokens(*self.tokenizer.encode_with_offsets(text)))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_tokens_of"}  # workers make their own

    def kept(self, row: Row) -> dict[str, Any]:
        question, context = (row.values[column] for column in self.input_columns)
        answers = squad.answers_in(row.values[self.config.answers_column])
        texts = {self.config.question_column: question, self.config.context_column: context}
        return {**texts, self.config.answers_column: [answer["text"] for answer in answers]}

    def made_from(self) -> dict[str, Any]:
        deciding = ("question_column", "context_column", "answers_column", "metric", "max_question_tokens")
        return {f"task.{key}": getattr(self.config, key) for key in (*deciding, "window_stride_tokens")}

    def build_model(self, encoder: BertEncoder) -> keras.Model:
        from trainer.models.encoder import packed_inputs
        from trainer.models.heads import DenseHead
        from trainer.models.task_model import TaskModel

        # Inputs
        inputs = packed_inputs()
        # Encoder
        tokens = encoder(inputs)
        # Head: float32 [rows, length] each; without dropout, as in google-research/bert's run_squad.py
        logits = DenseHead(2, 0.0)(tokens)
        return TaskModel(inputs, {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}, name="question_answering")

    def loss_weights(self, batch: base.Tensors) -> dict[str, tf.Tensor]:
        return {"answer": batch["example_weights"]}

    def loss(self, batch: base.Tensors, outputs: base.Tensors) -> tuple[base.Losses, base.Measures]:
        from trainer.models.losses import place_cross_entropy

        edges = ("start", "end")
        losses = [place_cross_entropy(batch[f"answer_{edge}"], outputs[f"{edge}_logits"], batch) for edge in edges]
        return {"answer": (losses[0] + losses[1]) / 2}, {}

    def divergence(self, batch: base.Tensors, first: base.Tensors, second: base.Tensors) -> base.Losses:
        from trainer.models.losses import place_divergence

        edges = ("start_logits", "end_logits")
        apart = [place_divergence(first[edge], second[edge], batch) for edge in edges]
        return {"answer": (apart[0] + apart[1]) / 2}

    def decode(self, row: Row, windows: Sequence[base.Window]) -> base.Prediction:
        context = row.values[self.config.context_column]
        found, no_answer = self._best_spans(row, windows)
        scores = np.array([answer.score for answer in found] + [no_answer] * self.config.may_lack_answers)
        shares = np.exp(scores - scores.max(initial=IMPOSSIBLE))
        shares /= max(shares.sum(), 1e-30)
        answers = [
            {"text": context[span.start : span.end], "start": span.start, "end": span.end, "probability": float(share)}
            for span, share in zip(found, shares, strict=False)
        ]
        runner_up = [answer["probability"] for answer in answers[1:2]] or [0.0]
        best = answers[0] if answers else {"text": "", "start": -1, "end": -1, "probability": 0.0}
        prediction: base.Prediction = _identity(row)
        margin = {"margin": best["probability"] - runner_up[0] if answers else 1.0}
        if not self.config.may_lack_answers:
            return {**prediction, "answer": best["text"], **_without_text(best), **margin, "answers": answers[:5]}
        over = no_answer - (found[0].score if found else IMPOSSIBLE)
        if over > (self.config.no_answer_threshold or 0.0):
            best = {"text": "", "start": -1, "end": -1, "probability": float(shares[-1])}
        others = {"no_answer_probability": float(shares[-1]), "no_answer_score": over, "answers": answers[:5]}
        return {**prediction, "answer": best["text"], **_without_text(best), **margin, **others}

    def _best_spans(self, row: Row, windows: Sequence[base.Window]) -> tuple[list[Answer], float]:
        """Returns the best spans of a row, best first, and the score of no answer: the least of its windows'.

        Source: `write_predictions` of google-research/bert's run_squad.py; each span begins in the window where its first token
        counts, so that none comes twice.
        """
        question, context = (row.values[column] for column in self.input_columns)
        asked, tokens = self._question_ids(question), self._tokens_of(context)
        first = len(asked) + self._specials - 1  # of the context's tokens
        found: list[Answer] = []
        no_answer = np.inf
        for cut, window in zip(self._cut(len(asked), len(tokens.ids)), windows, strict=True):
            starts, ends = window.outputs["start_logits"], window.outputs["end_logits"]
            no_answer = min(no_answer, float(starts[0] + ends[0]))
            inside = slice(first, first + cut.end - cut.start)
            for score, start, end in self._combined(starts[inside], ends[inside], cut):
                found.append(Answer(score, tokens.offsets[start][0], tokens.offsets[end][1]))
        found.sort(key=lambda answer: -answer.score)  # stable: of equal ones the first
        return found[: self.config.best_answers], no_answer

    def _combined(self, starts: np.ndarray, ends: np.ndarray, cut: TokenWindow) -> list[tuple[float, int, int]]:
        """Returns (score, first token, last token) of a window's best spans, best first."""
        count = self.config.best_answers
        own = starts[cut.own_start - cut.start : cut.own_end - cut.start]
        first = np.argsort(-own, kind="stable")[:count] + cut.own_start - cut.start
        last = np.argsort(-ends, kind="stable")[:count]
        scores = starts[first][:, None] + ends[last][None]
        longer = last[None] - first[:, None]
        usable = (longer >= 0) & (longer < self.config.max_answer_tokens)
        order = np.argsort(-np.where(usable, scores, IMPOSSIBLE), axis=None, kind="stable")[:count]
        places = zip(*np.unravel_index(order, scores.shape), strict=True)
        found = [(float(scores[i, j]), int(first[i]), int(last[j])) for i, j in places if usable[i, j]]
        return [(score, start + cut.start, end + cut.start) for score, start, end in found]

    def score(self, rows: Iterable[tuple[Row, Sequence[base.Window]]], tune: bool = False) -> dict[str, Any]:
        found = AnswerScores(self.config.metric)
        for row, windows in rows:
            spans, no_answer = self._best_spans(row, windows)
            context = row.values[self.config.context_column]
            text = context[spans[0].start : spans[0].end] if spans else ""
            over = no_answer - (spans[0].score if spans else IMPOSSIBLE)
            found.add(text, row.values[self.config.answers_column], over if self.config.may_lack_answers else None)
        if not self.config.may_lack_answers:
            return found.scores()
        threshold = self.config.no_answer_threshold
        if threshold is not None or not tune:
            return found.scores(threshold or 0.0)
        threshold = float(found.scores()["best_f1_thresh"])
        return {**found.scores(threshold), "tuned": {"no_answer_threshold": threshold}}

    def request_windows(self, texts: Sequence[tf.Tensor], tokenize: InGraphTokenizer) -> RequestWindows:
        import tensorflow as tf

        from trainer.serving.windows import RequestWindows
        from trainer.text.in_graph_windows import graph_windows

        question, context = texts
        same = tf.debugging.assert_equal(tf.size(question), tf.size(context), "as many questions as contexts are needed")
        with tf.control_dependencies([same]):
            question = tf.identity(question)
        asked = tokenize(question)[:, : self._most_question_tokens]
        ids, starts, ends = tokenize.with_offsets(context)
        size = self.max_seq_length - self._specials - tf.cast(asked.row_lengths(), tf.int32)
        stride = tf.minimum(self.config.window_stride_tokens, tf.maximum(size // 2, 1))
        windows = graph_windows(tf.cast(ids.row_lengths(), tf.int32), size, stride)
        cls_id, sep_id = (tf.fill([tf.size(windows.row), 1], i) for i in (self.tokenizer.cls_id, self.tokenizer.sep_id))
        between = tf.tile([self.tokenizer.separators], [tf.size(windows.row), 1])
        before = tf.concat([cls_id, tf.gather(asked, windows.row), between], axis=1)
        inside = windows.cut(ids)
        types = [tf.zeros_like(before), tf.ones_like(inside), tf.ones_like(sep_id)]
        counts = [tf.zeros_like(before), tf.ones_like(inside), tf.zeros_like(sep_id)]
        return RequestWindows(
            {"input_ids": tf.concat([before, inside, sep_id], axis=1), "token_type_ids": tf.concat(types, axis=1)},
            windows.row,
            {
                "is_context": tf.concat(counts, axis=1),
                "is_own": windows.is_own(),
                "starts": windows.cut(starts),
                "ends": windows.cut(ends),
            },
        )

    def reply(self, request: Request) -> dict[str, tf.Tensor]:
        """The best answer of each row: "" with -1 and -1 for none."""
        import tensorflow as tf

        from trainer.serving.windows import substrings

        assert request.windows is not None
        rows, row, about = tf.shape(request.texts[1], tf.int64)[0], request.windows.row, request.windows.about
        logits = {name: request.results[name] for name in self.token_outputs}
        is_context = about["is_context"].flat_values > 0

        def table(name, usable):
            """The logits of the context's tokens, as wide as the widest window: [windows, tokens]."""
            inside = about["starts"].with_flat_values(tf.boolean_mask(logits[name].flat_values, is_context))
            if usable is not None:
                inside = inside.with_flat_values(tf.where(usable.flat_values, inside.flat_values, IMPOSSIBLE))
            wide = inside.to_tensor(default_value=IMPOSSIBLE)
            fill = tf.maximum(self.config.best_answers - tf.shape(wide)[1], 0)
            return tf.pad(wide, [[0, 0], [0, fill]], constant_values=IMPOSSIBLE)

        count = self.config.best_answers
        start_scores, first = tf.math.top_k(table("start_logits", about["is_own"]), count)
        end_scores, last = tf.math.top_k(table("end_logits", None), count)
        longer = last[:, None] - first[:, :, None]
        usable = (longer >= 0) & (longer < self.config.max_answer_tokens)
        scores = tf.where(usable, start_scores[:, :, None] + end_scores[:, None], IMPOSSIBLE)
        scores, pair = tf.math.top_k(tf.reshape(scores, [-1, count * count]), count)  # [windows, count]
        window = tf.range(tf.size(row))[:, None]
        found = {
            "score": tf.maximum(scores, IMPOSSIBLE),
            "start": _at(about["starts"], window, tf.gather(first, pair // count, batch_dims=1)),
            "end": _at(about["ends"], window, tf.gather(last, pair % count, batch_dims=1)),
        }
        # The spans of a row's windows, one after the other
        of_rows = {name: _by_row(value, row, rows) for name, value in found.items()}
        scores, best = tf.math.top_k(of_rows["score"], count)
        start, end = (tf.gather(of_rows[name], best, batch_dims=1)[:, 0] for name in ("start", "end"))
        is_span = scores > IMPOSSIBLE / 2
        first_tokens = tf.gather(
            logits["start_logits"].flat_values + logits["end_logits"].flat_values, logits["start_logits"].row_starts()
        )
        no_answer = tf.math.unsorted_segment_min(first_tokens, tf.cast(row, tf.int64), rows)
        considered = tf.concat([scores, no_answer[:, None]], axis=1) if self.config.may_lack_answers else scores
        shares = tf.nn.softmax(considered)
        of_spans = tf.where(is_span, shares[:, :count], 0.0)
        probability = of_spans[:, 0]
        margin = tf.where(is_span[:, 0], probability - (of_spans[:, 1] if count > 1 else 0.0), 1.0)
        is_answer = is_span[:, 0]
        others = {}
        if self.config.may_lack_answers:
            over = no_answer - tf.where(is_answer, scores[:, 0], IMPOSSIBLE)
            says_none = over > (self.config.no_answer_threshold or 0.0)
            probability = tf.where(says_none, shares[:, -1], probability)
            is_answer &= ~says_none
            others = {"no_answer_probability": shares[:, -1], "no_answer_score": over}
        start, end = (tf.where(is_answer, place, -1) for place in (start, end))
        points = tf.strings.unicode_decode(request.texts[1], "UTF-8", errors="replace")
        return {
            "answer": substrings(points, tf.range(tf.size(start)), start, end),
            "start": start,
            "end": end,
            "probability": probability,
            "margin": margin,
            **others,
        }

    def as_reply(self, prediction: base.Prediction) -> dict[str, Any]:
        names = ("answer", "start", "end", "probability", "margin", "no_answer_probability", "no_answer_score")
        return {name: prediction[name] for name in names if name in prediction}

    def is_tie(self, output: str, reply: Mapping[str, np.ndarray], tolerance: float) -> bool:
        # Two spans of nearly the same score; or a question that may or may not have an answer: scores are logits, of about 10.
        is_near = False
        if "no_answer_score" in reply:
            over = float(reply["no_answer_score"]) - (self.config.no_answer_threshold or 0.0)
            is_near = abs(over) <= 10 * tolerance
        return "margin" in reply and bool(float(reply["margin"]) <= tolerance or is_near)

    def hugging_face_head(self, model: keras.Model) -> tuple[str, dict[str, np.ndarray]]:
        return "BertForQuestionAnswering", base.head_weights(model, "qa_outputs")


def _identity(row: Row) -> dict[str, Any]:
    """Returns a question's id, where it has one, as JSON can hold it."""
    identity = row.values.get("id")
    if identity is None:
        return {}
    return {"id": identity if isinstance(identity, str | int) and not isinstance(identity, bool) else str(identity)}


def _without_text(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "text"}


def _at(values: tf.RaggedTensor, window: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """Returns the values at places of windows; any number where a place lies outside: int32 [windows, n]."""
    import tensorflow as tf

    flat = tf.concat([values.flat_values, [0]], 0)
    cells = tf.gather(tf.cast(values.row_starts(), tf.int32), window) + places
    return tf.gather(flat, tf.minimum(cells, tf.size(flat) - 1))


def _by_row(values: tf.Tensor, row: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Returns windows' values by the row that they are of: [windows, n] → [rows, most · n], filled with IMPOSSIBLE or 0."""
    import tensorflow as tf

    ragged = tf.RaggedTensor.from_value_rowids(values, tf.cast(row, tf.int64), nrows=rows, validate=False)
    empty = IMPOSSIBLE if values.dtype.is_floating else 0
    wide = ragged.to_tensor(default_value=tf.constant(empty, values.dtype), shape=[None, None, values.shape[1]])
    return tf.reshape(wide, [tf.shape(wide)[0], tf.maximum(tf.shape(wide)[1], 1) * values.shape[1]])
