"""Similarity: a vector for each text, whose cosine with another says how alike the two are (bi-encoder, sentence embeddings).

Reimers and Gurevych 2019 (arXiv:1908.10084). Rows are pairs, pairs with a score, triplets, or a query with a text that answers
it and some that do not. Each text of a row is an example; one encoder reads them all, packed together.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trainer.config import check
from trainer.data.row_values import number_in, optional_text, text_in
from trainer.data.sources import Row, RowError
from trainer.data.table import Proposal, Table, UnrecognizedError, listed, quoted
from trainer.errors import NothingToLearnError
from trainer.features import ROW_ID, TOKENS, Example, Feature, FeatureSpec
from trainer.metrics.regression import pearson
from trainer.metrics.retrieval import retrieval_scores
from trainer.metrics.statistics import ranks
from trainer.tasks import base
from trainer.text.sequences import single_sequence

if TYPE_CHECKING:
    import tensorflow as tf
    import tf_keras as keras

    from trainer.models.encoder import BertEncoder
    from trainer.models.similarity_losses import Groups
    from trainer.serving.windows import Request, RequestWindows
    from trainer.text.in_graph_tokenizer import InGraphTokenizer

Loss = Literal["auto", "multiple_negatives", "cosine_mse", "cosent", "contrastive", "triplet"]
SCORED: tuple[Loss, ...] = ("cosine_mse", "cosent", "contrastive")  # losses that read a score
QUERIES = ("query", "anchor", "question", "sentence1", "title")
POSITIVES = ("positive", "pos", "answer", "passage", "document", "paragraph", "context", "sentence2", "body")
NEGATIVE_LISTS = ("negatives", "hard_negatives", "neg")
RANKED_AT = (1, 5, 10)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(base.TaskConfig):
    """The `task` section of similarity."""

    name: str = "similarity"
    """Which task: the name of a file in trainer/tasks."""
    text_columns: tuple[str, ...] = ("query", "positive")
    """The two columns that belong together: a query and what answers it, or two texts with a score."""
    negative_columns: tuple[str, ...] = ()
    """Columns of texts that do not answer the query, as [negative]. A row may lack some."""
    negatives_column: str | None = None
    """A column with a list of such texts, instead of negative_columns."""
    negatives: int | None = None
    """With a negatives_column: texts taken of a row's list, the first ones. null: learned, the longest list."""
    score_column: str | None = None
    """How alike the two texts are: a number. null: each pair belongs together."""
    score_range: tuple[float, ...] = ()
    """The lowest and the highest score, as [0, 5]. Empty: learned from data.train."""
    loss: Loss = "auto"
    """What is learned. auto: cosent with a score_column, else multiple_negatives. multiple_negatives: the positive among all
    other texts of the batch; cosine_mse: the cosine is the score; cosent: cosines have the scores' order; contrastive: a high
    score draws texts together, a low one pushes them apart; triplet: the positive is nearer than the negative."""
    scale: float = 20.0
    """Factor of the cosine in multiple_negatives and cosent: one over the temperature."""
    margin: float = 0.5
    """How far texts that are not alike are to be, in cosine distance: of contrastive and triplet."""
    symmetric: bool = False
    """With multiple_negatives, the query is also found among all queries."""
    pooling: Literal["cls", "mean", "max", "weighted_mean", "pooler"] = "mean"
    """What a text's vector is made of: [CLS], the mean or the highest values of the tokens, their mean weighted by position, or
    BERT's pooler."""
    normalize: bool = True
    """Vectors have length 1, so that their dot product is the cosine; false: as the encoder gives them."""
    matryoshka_dimensions: tuple[int, ...] = ()
    """Lengths to which vectors can be cut, as [256, 128, 64]: the loss is summed over them and the whole."""
    query_prompt: str = ""
    """Text put before each query, as "query: "."""
    document_prompt: str = ""
    """Text put before each other text, as "passage: "."""
    max_query_tokens: int = 0
    """Tokens of a query, special ones included; 0: data.max_seq_length, as of other texts."""

    def __post_init__(self):
        super().__post_init__()
        base.check_distinct((*self.text_columns, *self.negative_columns), "text_columns")
        check(len(self.text_columns) == 2, "text_columns", f"two columns, got {len(self.text_columns)}")
        has_list = self.negatives_column is not None
        both = has_list and self.negative_columns
        check(not both, "negatives_column", "given beside negative_columns; keep one of the two")
        if not has_list:
            named = len(self.negative_columns)
            check(self.negatives in (None, named), "negatives", "goes with a negatives_column; negative_columns tell it")
            object.__setattr__(self, "negatives", named)
        check(self.negatives is None or self.negatives >= 0, "negatives", f"must be 0 or more, got {self.negatives}")
        is_scored, has_negatives = self.score_column is not None, has_list or bool(self.negative_columns)
        if self.loss == "auto":
            object.__setattr__(self, "loss", "cosent" if is_scored else "multiple_negatives")
        needs = "a score_column" if self.loss in SCORED else "negative_columns, or a negatives_column"
        has = is_scored if self.loss in SCORED else has_negatives or self.loss != "triplet"
        check(has, "loss", f"{self.loss} needs {needs}")
        check(
            not is_scored or self.loss in SCORED,
            "loss",
            f"{self.loss} reads no scores: leave task.score_column out, and rows whose texts do not belong together, too",
        )
        check(not (is_scored and has_negatives), "score_column", "rows with negatives have no scores; keep one of the two")
        low_high = len(self.score_range) in (0, 2) and self.score_range == tuple(sorted(set(self.score_range)))
        check(low_high, "score_range", f"the lowest and the highest score, got {list(self.score_range)}")
        for field in ("scale", "margin"):
            check(getattr(self, field) > 0, field, f"must be over 0, got {getattr(self, field)}")
        check(all(size > 0 for size in self.matryoshka_dimensions), "matryoshka_dimensions", "must be over 0, each")
        check(self.max_query_tokens == 0 or self.max_query_tokens >= 8, "max_query_tokens", "must be 8 or more, or 0")

    @property
    def texts(self) -> int:
        """Texts of each row: the query, its positive, its negatives."""
        return 2 + (self.negatives or 0)


class Task(base.Task):
    """See the module."""

    config: Config
    has_windows = True  # of a row: its texts
    compares_examples = True
    text_signatures = {"embedding": 1, "query_embedding": 0}

    @property
    def best_score(self) -> str:  # type: ignore[override]
        """The score that chooses the best checkpoint."""
        return "spearman" if self.config.score_column else f"mrr@{max(RANKED_AT)}"

    @classmethod
    def recognize(cls, table: Table) -> Proposal:
        def named(names: Sequence[str]) -> str | None:
            return next((column for column in names if column in table.columns and table.holds(column, str)), None)

        query, positive = named(QUERIES), named(POSITIVES)
        if query is None or positive is None:
            raise UnrecognizedError("no two columns of texts that belong together, as query and positive")
        task = {"text_columns": listed([query, positive])}
        negatives = [column for column in table.columns if column.startswith("negative") and table.holds(column, str)]
        lists = [column for column in NEGATIVE_LISTS if column in table.columns and table.holds(column, list)]
        score = next((column for column in ("score", "similarity") if table.holds(column, (int, float, str))), None)
        summary = [f"texts that belong together: {query}, {positive}"]
        if negatives or lists:
            task |= {"negative_columns": listed(negatives)} if negatives else {"negatives_column": quoted(lists[0])}
            summary.append(f"texts that do not: {', '.join(negatives or lists[:1])}")
        elif score is not None:
            task["score_column"] = quoted(score)
            summary.append(f"how alike they are: {score}")
        is_sure = bool(negatives or lists) or (query, positive) in (("query", "positive"), ("anchor", "positive"))
        lengths = sorted(length for column in (query, positive) for length in table.token_lengths([column]))
        return Proposal(3 if is_sure else 1, summary, task, lengths)

    @classmethod
    def text_columns(cls, config: Config) -> tuple[str, ...]:
        return config.text_columns

    @classmethod
    def examples_together(cls, config: Config) -> int:
        return config.texts

    @classmethod
    def to_learn(cls, config: Config) -> tuple[str, ...]:
        learned = ["negatives"] if config.negatives is None else []
        return tuple(learned + (["score_range"] if config.score_column and not config.score_range else []))

    @classmethod
    def learn(cls, config: Config, rows: Iterable[Row]) -> Config:
        scores: list[float] = []
        longest, problem = 0, ""
        for row in rows:
            try:
                if config.score_column:
                    scores.append(number_in(row, config.score_column))
                else:
                    longest = max(longest, len(_listed(row, config.negatives_column or "")))
            except RowError as error:
                problem = problem or f"; the first row, {row.path}:{row.line}: {error}"
        if config.score_column:
            if len(set(scores)) < 2:
                raise NothingToLearnError(f"no two rows with different numbers in {config.score_column!r}{problem}")
            return dataclasses.replace(config, score_range=(min(scores), max(scores)))
        if not longest:
            raise NothingToLearnError(f"no row lists a text in {config.negatives_column!r}{problem}")
        return dataclasses.replace(config, negatives=longest)

    # Rows become examples: one for each text

    def features(self) -> FeatureSpec:
        numbers = {name: Feature("int32", "example") for name in ("is_there", "hash_low", "hash_high")}
        return {"input_ids": TOKENS["input_ids"], **numbers, "target": Feature("float32", "example"), **ROW_ID}

    def examples(self, row: Row, labelled: bool = True) -> list[Example]:
        texts = [text_in(row, column) for column in self.config.text_columns]
        if not labelled:
            return self._examples_of(texts, 0.0)
        return self._examples_of([*texts, *self._negatives(row)], self._target(row))

    def _examples_of(self, texts: Sequence[str], target: float) -> list[Example]:
        return [self.example_of(text, number == 0, 0.0 if number else target) for number, text in enumerate(texts)]

    def example_of(self, text: str, is_query: bool, target: float = 0.0) -> Example:
        """Returns the example of one text."""
        low, high = _hash(text)
        numbers = {"is_there": int(bool(text)), "hash_low": low, "hash_high": high, "target": target}
        return {"input_ids": self.ids_of(text, is_query), **numbers}

    def ids_of(self, text: str, is_query: bool) -> list[int]:
        """Returns the token ids of a text, special ones included, with its prompt; [CLS] [SEP] for a text that is not there."""
        limit = self._limit(is_query)
        prompt = self.config.query_prompt if is_query else self.config.document_prompt
        return single_sequence(self.tokenizer.encode(prompt + text, limit) if text else [], self.tokenizer, limit)

    def _limit(self, is_query: bool) -> int:
        limit = self.config.max_query_tokens if is_query else 0
        return min(limit or self.max_seq_length, self.max_seq_length)

    def _negatives(self, row: Row) -> list[str]:
        """Returns a row's texts that do not answer its query, "" for those that it lacks."""
        config = self.config
        if config.negatives_column is not None:
            found = _listed(row, config.negatives_column)[: config.negatives]
            return [*found, *[""] * ((config.negatives or 0) - len(found))]
        return [optional_text(row.values.get(column) or "", f"column {column!r}") for column in config.negative_columns]

    def _target(self, row: Row) -> float:
        if self.config.score_column is None:
            return 1.0
        low, high = self.config.score_range
        score = number_in(row, self.config.score_column)
        if not low <= score <= high:
            raise RowError(f"the score {score:g} is outside of task.score_range=[{low:g}, {high:g}]")
        return (score - low) / (high - low)

    def untruncated_length(self, row: Row) -> int:
        return max(len(self.tokenizer.encode(text_in(row, column))) for column in self.config.text_columns) + 2

    def made_from(self) -> dict[str, Any]:
        config = self.config
        keys = ("negatives_column", "negatives", "score_column", "query_prompt", "document_prompt", "max_query_tokens")
        values = {key: getattr(config, key) for key in keys}
        values |= {key: list(getattr(config, key)) for key in ("text_columns", "negative_columns", "score_range")}
        return {f"task.{key}": value for key, value in values.items()}

    # Batches are learned from: a row's texts follow each other in the stream, from a multiple of `texts` on

    def build_model(self, encoder: BertEncoder) -> keras.Model:
        from trainer.errors import UserError
        from trainer.models.encoder import packed_inputs
        from trainer.models.pooling import pooled_texts
        from trainer.models.task_model import TaskModel

        longest, size = max(self.config.matryoshka_dimensions, default=0), encoder.bert_config.hidden_size
        if longest > size:
            raise UserError(f"task.matryoshka_dimensions: {longest} is over the encoder's {size}")
        # Inputs
        inputs = packed_inputs()
        # Encoder: float32 [rows, K, hidden]
        vectors = pooled_texts(encoder, inputs, self.config.pooling)
        return TaskModel(inputs, {"embedding": vectors}, name=self.config.name)

    def loss_weights(self, batch: base.Tensors) -> dict[str, tf.Tensor]:
        from trainer.models.similarity_losses import rows_of

        return {"similarity": rows_of(batch, self.config.texts)}

    def loss(self, batch: base.Tensors, outputs: base.Tensors) -> tuple[base.Losses, base.Measures]:
        from trainer.models.similarity_losses import groups_of

        groups = groups_of(batch, outputs["embedding"], self.config.texts)
        loss, measures = self._loss_of(groups)
        for dimensions in self.config.matryoshka_dimensions:
            loss += self._loss_of(groups.cut(dimensions))[0]
        return {"similarity": loss}, {name: ("similarity", values) for name, values in measures.items()}

    def _loss_of(self, groups: Groups) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Returns the loss of each group, float32 [G], and measures of them."""
        from trainer.models import similarity_losses as losses

        config = self.config
        if config.loss == "multiple_negatives":
            loss, is_first = losses.multiple_negatives(groups, config.scale, config.symmetric)
            return loss, {"batch_accuracy": is_first}
        if config.loss == "cosent":
            return losses.cosent(groups, config.scale), {}
        if config.loss == "cosine_mse":
            return losses.cosine_mse(groups), {}
        of_margin = losses.contrastive if config.loss == "contrastive" else losses.triplet
        return of_margin(groups, config.margin), {}

    @property
    def logged(self) -> Sequence[str]:
        return ("batch_accuracy",) if self.config.loss == "multiple_negatives" else ()

    # Outputs become a prediction a row, and scores

    def results(self, batch: base.Tensors, outputs: base.Tensors, labelled: bool) -> dict[str, tf.Tensor]:
        import tensorflow as tf

        if not self.config.normalize:
            return dict(outputs)
        return {"embedding": tf.math.l2_normalize(outputs["embedding"], axis=-1, epsilon=1e-12)}

    def decode(self, row: Row, windows: Sequence[base.Window]) -> base.Prediction:
        return {"similarity": _cosine(windows)}

    def score(self, rows: Iterable[tuple[Row, Sequence[base.Window]]], tune: bool = False) -> dict[str, Any]:
        if self.config.score_column:
            pairs = [(_cosine(windows), windows[0].features["target"]) for _, windows in rows]
            cosines, targets = np.array(pairs, np.float64).T
            error = float(np.mean((cosines - targets) ** 2))
            scores = {"pearson": pearson(targets, cosines), "spearman": pearson(ranks(targets), ranks(cosines))}
            return {"rows": len(pairs), **scores, "mean_squared_error": error}
        return self._ranking_scores(rows)

    def _ranking_scores(self, rows: Iterable[tuple[Row, Sequence[base.Window]]]) -> dict[str, Any]:
        """Returns how well each query finds its positives among all other texts of the rows."""
        corpus, queries = _Vectors(), _Vectors()
        relevant: dict[int, set[int]] = {}
        count = with_negatives = won = 0
        for _, windows in rows:
            texts = [corpus.place_of(window) for window in windows[1:] if window.features["is_there"]]
            relevant.setdefault(queries.place_of(windows[0]), set()).add(texts[0])
            count += 1
            if len(texts) > 1:
                cosines = [_cosine([windows[0], window]) for window in windows[1:] if window.features["is_there"]]
                with_negatives, won = with_negatives + 1, won + int(cosines[0] > max(cosines[1:]))
        found = retrieval_scores(queries.array(), corpus.array(), [relevant[place] for place in range(len(queries))], RANKED_AT)
        triplets = {"triplet_accuracy": won / with_negatives} if with_negatives else {}
        return {"rows": count, "queries": len(queries), "corpus_texts": len(corpus), **found, **triplets}

    # An export replies to strings

    @property
    def request_names(self) -> tuple[str, ...]:
        return ("text", "text_pair")

    def request_examples(self, row: Row) -> list[Example]:
        return self._examples_of([str(row.values[column]) for column in self.input_columns], 0.0)

    def request_windows(self, texts: Sequence[tf.Tensor], tokenize: InGraphTokenizer) -> RequestWindows:
        import tensorflow as tf

        from trainer.serving.windows import RequestWindows

        rows = tf.size(texts[0])
        both = [self.request_ids(text, tokenize, number) for number, text in enumerate(texts)]
        stacked = tf.concat(both, axis=0)
        # A row's two texts, one after the other
        order = tf.reshape(tf.stack([tf.range(rows), rows + tf.range(rows)], axis=1), [-1])
        return RequestWindows({"input_ids": tf.gather(stacked, order)}, tf.repeat(tf.range(rows), 2))

    def request_ids(self, texts: tf.Tensor, tokenize: InGraphTokenizer, number: int) -> tf.RaggedTensor:
        import tensorflow as tf

        is_query = number == 0
        prompt = self.config.query_prompt if is_query else self.config.document_prompt
        prompted = tf.where(texts == "", texts, tf.strings.join([tf.constant(prompt), texts])) if prompt else texts
        ids = tokenize(prompted)[:, : self._limit(is_query) - 2]
        cls_id, sep_id = (tf.fill([tf.size(texts), 1], i) for i in (self.tokenizer.cls_id, self.tokenizer.sep_id))
        return tf.concat([cls_id, ids, sep_id], axis=1)

    def reply(self, request: Request) -> dict[str, tf.Tensor]:
        import tensorflow as tf

        vectors = tf.math.l2_normalize(request.results["embedding"], axis=-1, epsilon=1e-12)  # [batch · 2, hidden]
        pairs = tf.reshape(vectors, [-1, 2, vectors.shape[-1]])
        return {"similarity": tf.reduce_sum(pairs[:, 0] * pairs[:, 1], axis=-1)}

    def hugging_face_files(self, model: keras.Model) -> Mapping[str, Any]:
        from trainer.models.sentence_transformers import SentenceRecipe, recipe_files

        config = self.config
        if config.pooling == "pooler":
            return {}
        recipe = SentenceRecipe(
            config.pooling, config.normalize, self.max_seq_length, config.query_prompt, config.document_prompt
        )
        return recipe_files(recipe, model.output["embedding"].shape[-1])

    def as_reply(self, prediction: base.Prediction) -> dict[str, Any]:
        return {"similarity": prediction["similarity"]}


class _Vectors:
    """The vectors of different texts, each once."""

    def __init__(self):
        self._places: dict[tuple[int, int], int] = {}
        self._vectors: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._vectors)

    def place_of(self, window: base.Window) -> int:
        """Returns the number of a text, which is kept where it is new."""
        key = window.features["hash_low"], window.features["hash_high"]
        place = self._places.setdefault(key, len(self._vectors))
        if place == len(self._vectors):
            self._vectors.append(window.outputs["embedding"])
        return place

    def array(self) -> np.ndarray:
        """Returns the vectors, of length 1: float32 [texts, dimensions]."""
        vectors = np.stack(self._vectors).astype(np.float32)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _cosine(windows: Sequence[base.Window]) -> float:
    first, second = (np.asarray(window.outputs["embedding"], np.float64) for window in windows[:2])
    return float(first @ second) / max(float(np.sqrt((first @ first) * (second @ second))), 1e-12)


def _hash(text: str) -> tuple[int, int]:
    """Returns two numbers of 31 bits that are equal for equal texts, and for others hardly ever."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "big") >> 1, int.from_bytes(digest[4:], "big") >> 1


def _listed(row: Row, column: str) -> list[str]:
    """Returns the texts in a row's column, without empty ones.

    Raises:
      RowError: the column holds no list, or something else than texts is in it.
    """
    value = row.values.get(column)
    if not isinstance(value, list | None):
        raise RowError(f"column {column!r} holds a {type(value).__name__} where a list of texts belongs")
    return [text for one in value or () if (text := optional_text(one, f"an entry of {column!r}"))]
