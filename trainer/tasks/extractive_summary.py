"""Extractive summaries: the sentences of a text that say most of it.

Liu and Lapata 2019 (arXiv:1908.08345), BERTSum: each sentence begins with [CLS] and ends with [SEP], token types alternate from
sentence to sentence, and a dense layer tells whether a sentence belongs to the summary. It reads the mean of the sentence's
tokens, or its [CLS] as in BERTSum. A text longer than max_seq_length is cut between sentences into windows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trainer.config import check
from trainer.data.row_values import optional_text, texts_in, value_in
from trainer.data.sources import Row, RowError
from trainer.data.table import Proposal, Table, UnrecognizedError, quoted, token_estimate
from trainer.features import ROW_ID, TOKENS, Example, Feature, FeatureSpec
from trainer.metrics.rouge import TYPES, best_rouge, oracle, splitter
from trainer.tasks import base
from trainer.text.sentences import sentence_splitter

if TYPE_CHECKING:
    import tensorflow as tf
    import tf_keras as keras

    from trainer.models.encoder import BertEncoder
    from trainer.serving.windows import Request, RequestWindows
    from trainer.text.in_graph_tokenizer import InGraphTokenizer

DOCUMENTS, SUMMARIES = ("document", "source", "article", "text"), ("summary", "target", "highlights", "abstract")
LABELS = ("labels", "source_labels")
ABSENT, OTHER, CHOSEN = 0, 1, 2  # at a token: no sentence begins; one that is not in the summary; one that is
NONE = -1.0  # the score where no sentence begins
BLANK = r"[\s\pZ\x0b\x1c-\x1f\x85]*"  # what Python's `strip` leaves nothing of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(base.TaskConfig):
    """The `task` section of extractive summaries."""

    name: str = "extractive_summary"
    """Which task: the name of a file in trainer/tasks."""
    document_column: str = "document"
    """The column of the text: a list of sentences, or a text. A text with line breaks has a sentence a line."""
    summary_column: str | None = "summary"
    """The column of the summaries by people: a text, or a list of several for one document. Scores need it."""
    labels_column: str | None = None
    """A column with 1 for each sentence of the summary and 0 for the others. null: the sentences are found by ROUGE."""
    language: str = "en"
    """The language of texts that are not cut into sentences yet, an ISO 639 code."""
    summary_sentences: int = 3
    """Sentences of a summary, at most."""
    block_trigrams: bool = True
    """A sentence that shares three tokens in a row with a better one is left out of the summary."""
    rouge_words: Literal["english", "stemmed_english", "any_language"] = "english"
    """What ROUGE compares: english, runs of a-z and 0-9; stemmed_english, as most papers; any_language, words of any script."""
    pooling: Literal["mean", "cls"] = "mean"
    """What the head reads of a sentence: the mean of its tokens, or its [CLS], which takes an encoder long to learn."""
    head_dropout_rate: float = 0.1
    """Dropout before the head's dense layer."""

    def __post_init__(self):
        super().__post_init__()
        check(self.summary_sentences >= 1, "summary_sentences", f"must be 1 or more, got {self.summary_sentences}")
        has_any = self.summary_column is not None or self.labels_column is not None
        check(has_any, "summary_column", "needed where there is no task.labels_column")
        base.check_head_dropout(self.head_dropout_rate)


class Task(base.Task):
    """See the module."""

    config: Config
    best_score = "rouge1"
    has_windows = True
    token_outputs = {"score": "", "target": ""}
    request_features = ("sentence_targets",)

    @classmethod
    def recognize(cls, table: Table) -> Proposal:
        document = next((column for column in DOCUMENTS if table.holds(column, (list, str))), None)
        summary = next((column for column in SUMMARIES if table.holds(column, (list, str))), None)
        if document is None or summary is None:
            raise UnrecognizedError("no document with its summary, as columns document and summary")
        labels = next((column for column in LABELS if table.holds(column, list)), None)
        task = {"document_column": quoted(document), "summary_column": quoted(summary)}
        task |= {"labels_column": quoted(labels)} if labels else {}
        texts = [" ".join(value) if isinstance(value, list) else str(value) for value in table.values(document)]
        lengths = sorted(map(token_estimate, texts))
        is_sure = table.holds(document, list)
        return Proposal(
            3 if is_sure else 1, [f"document: {document}", f"summary: {summary}"], task, lengths, max_seq_length=512
        )

    @classmethod
    def text_columns(cls, config: Config) -> tuple[str, ...]:
        return (config.document_column,)

    # Rows become examples: one for each window of sentences

    def features(self) -> FeatureSpec:
        return {**TOKENS, "sentence_targets": Feature("int32", "token"), **ROW_ID}

    def examples(self, row: Row, labelled: bool = True) -> list[Example]:
        sentences = self._sentences(row)
        chosen = self._labels(row, sentences) if labelled else [0] * len(sentences)
        return self._examples_of(sentences, chosen)

    def _examples_of(self, sentences: Sequence[str], chosen: Sequence[int]) -> list[Example]:
        ids = [self.tokenizer.encode(sentence)[: self.max_seq_length - 2] for sentence in sentences]
        found: list[Example] = []
        for first, end in _windows([len(one) + 2 for one in ids], self.max_seq_length):
            parts = [[self.tokenizer.cls_id, *one, self.tokenizer.sep_id] for one in ids[first:end]]
            types = [place % 2 for place, part in enumerate(parts) for _ in part]
            starts = [
                [OTHER + label] + [ABSENT] * (len(part) - 1) for label, part in zip(chosen[first:end], parts, strict=True)
            ]
            tokens = {"input_ids": sum(parts, []), "token_type_ids": types, "sentence_targets": sum(starts, [])}
            found.append(tokens)
        return found

    def _sentences(self, row: Row) -> list[str]:
        sentences = self._split(row)
        if not any(sentences):
            raise RowError(f"column {self.config.document_column!r} has no sentence")
        return sentences

    def _split(self, row: Row) -> list[str]:
        column = self.config.document_column
        value = value_in(row, column)
        if isinstance(value, list):
            return [optional_text(one, f"a sentence of {column!r}") for one in value]
        text = optional_text(value, f"the value of {column!r}")
        if not text:
            return []
        found = text.split("\n") if "\n" in text.strip() else sentence_splitter(self.config.language)(text)
        return [sentence for sentence in found if sentence.strip()]

    def _labels(self, row: Row, sentences: Sequence[str]) -> list[int]:
        config = self.config
        if config.labels_column is not None:
            labels = value_in(row, config.labels_column)
            if not isinstance(labels, list) or any(label not in (0, 1) for label in labels):
                raise RowError(f"column {config.labels_column!r} is no list of 0 and 1")
            if len(labels) != len(sentences):
                raise RowError(f"{len(labels)} labels in {config.labels_column!r} for {len(sentences)} sentences")
            return list(map(int, labels))
        best = oracle(sentences, self._references(row), config.summary_sentences, splitter(config.rouge_words))
        return [int(number in best) for number in range(len(sentences))]

    def _references(self, row: Row) -> list[str]:
        column = self.config.summary_column
        return [] if column is None else texts_in(row, column)

    def kept(self, row: Row) -> dict[str, Any]:
        sentences = self._sentences(row)
        return {"sentences": sentences, "references": self._references(row)}

    def made_from(self) -> dict[str, Any]:
        keys = ("document_column", "summary_column", "labels_column", "language", "summary_sentences", "rouge_words")
        return {f"task.{key}": getattr(self.config, key) for key in keys}

    # Batches are learned from

    def build_model(self, encoder: BertEncoder) -> keras.Model:
        from trainer.models.encoder import packed_inputs
        from trainer.models.heads import DenseHead
        from trainer.models.task_model import TaskModel

        # Inputs
        inputs = packed_inputs()
        # Encoder
        tokens = encoder(inputs)
        # Head: float32 [rows, length]
        logits = DenseHead(1, self.config.head_dropout_rate)(tokens)[..., 0]
        return TaskModel(inputs, {"logits": logits}, name=self.config.name)

    def loss_weights(self, batch: base.Tensors) -> dict[str, tf.Tensor]:
        import tensorflow as tf

        return {"sentence": tf.cast(batch["sentence_targets"] > ABSENT, tf.float32)}

    def loss(self, batch: base.Tensors, outputs: base.Tensors) -> tuple[base.Losses, base.Measures]:
        import tensorflow as tf

        labels = tf.cast(batch["sentence_targets"] == CHOSEN, tf.float32)
        return {"sentence": tf.nn.sigmoid_cross_entropy_with_logits(labels, self._logits(batch, outputs))}, {}

    def divergence(self, batch: base.Tensors, first: base.Tensors, second: base.Tensors) -> base.Losses:
        from trainer.models.losses import binary_divergence

        return {"sentence": binary_divergence(self._logits(batch, first), self._logits(batch, second))}

    def _logits(self, batch: base.Tensors, outputs: base.Tensors) -> tf.Tensor:
        """Returns the logit of each sentence at its first token: float32 [rows, length]."""
        import tensorflow as tf

        if self.config.pooling == "cls":
            return outputs["logits"]
        # The head is linear: the mean of its outputs is its output for the mean.
        number = tf.cumsum(tf.cast(batch["sentence_targets"] > ABSENT, tf.int32), axis=1)
        own = (number[:, :, None] == number[:, None]) & (batch["segment_ids"] > 0)[:, None]  # [rows, length, length]
        own = tf.cast(own, tf.float32)
        return tf.linalg.matvec(own, outputs["logits"]) / tf.maximum(tf.reduce_sum(own, axis=-1), 1.0)

    # Outputs become a prediction a row, and scores

    def results(self, batch: base.Tensors, outputs: base.Tensors, labelled: bool) -> dict[str, tf.Tensor]:
        import tensorflow as tf

        found = {"score": tf.where(batch["sentence_targets"] > ABSENT, tf.sigmoid(self._logits(batch, outputs)), NONE)}
        return found | ({"target": tf.cast(batch["sentence_targets"], tf.float32)} if labelled else {})

    def decode(self, row: Row, windows: Sequence[base.Window]) -> base.Prediction:
        sentences = self._split(row)
        scores = _scores_of(windows)
        chosen = self._selected(sentences, scores)
        return {
            "summary": " ".join(sentences[number].strip() for number in chosen),
            "sentences": chosen,
            "scores": scores.tolist(),
        }

    def _selected(self, sentences: Sequence[str], scores: np.ndarray) -> list[int]:
        """Returns the numbers of a summary's sentences, in the order of the text."""
        seen: set[tuple[int, ...]] = set()
        chosen: list[int] = []
        for number in np.argsort(-scores, kind="stable").tolist():
            if len(chosen) == self.config.summary_sentences:
                break
            ids = self.tokenizer.encode(sentences[number])[: self.max_seq_length - 2]
            trigrams = set(zip(ids, ids[1:], ids[2:], strict=False))
            if not (self.config.block_trigrams and trigrams & seen):
                chosen.append(number)
                seen |= trigrams
        return sorted(chosen)

    def score(self, rows: Iterable[tuple[Row, Sequence[base.Window]]], tune: bool = False) -> dict[str, Any]:
        split = splitter(self.config.rouge_words)
        ours, lead, best = (dict.fromkeys(TYPES, 0.0) for _ in range(3))
        count = sentences = right = 0
        for row, windows in rows:
            texts, references = row.values["sentences"], row.values["references"]
            scores = _scores_of(windows)
            targets = np.concatenate([window.outputs["target"] for window in windows])
            labels = targets[targets > ABSENT] == CHOSEN
            count, sentences = count + 1, sentences + len(texts)
            right += int(((scores > 0.5) == labels).sum())
            first = range(min(self.config.summary_sentences, len(texts)))
            marked = np.flatnonzero(labels)
            for total, chosen in ((ours, self._selected(texts, scores)), (lead, first), (best, marked)):
                found = best_rouge(" ".join(texts[number] for number in chosen), references, split) if references else {}
                for name, value in found.items():
                    total[name] += value
        means = [{name: value / count for name, value in total.items()} for total in (ours, lead, best)]
        return {"rows": count, **means[0], "sentence_accuracy": right / sentences, "lead": means[1], "oracle": means[2]}

    # An export replies to strings: a sentence a line

    @property
    def request_names(self) -> tuple[str, ...]:
        return ("text",)

    def request_of(self, row: Row) -> list[str]:
        return ["\n".join(" ".join(sentence.splitlines()) for sentence in self._sentences(row))]

    def request_examples(self, row: Row) -> list[Example]:
        lines = str(row.values[self.config.document_column]).split("\n")
        sentences = [line for line in lines if line.strip()] or lines[:1]
        row.values[self.config.document_column] = sentences  # as `decode` is to see it: a request is cut at line breaks only
        return self._examples_of(sentences, [0] * len(sentences))

    def request_windows(self, texts: Sequence[tf.Tensor], tokenize: InGraphTokenizer) -> RequestWindows:
        import tensorflow as tf

        from trainer.serving.windows import RequestWindows

        sentences = _graph_sentences(texts[0])
        row = tf.cast(sentences.value_rowids(), tf.int32)
        ids = tokenize(sentences.flat_values)[:, : self.max_seq_length - 2]
        edges = [tf.fill([tf.size(row), 1], number) for number in (self.tokenizer.cls_id, self.tokenizer.sep_id)]
        framed = tf.concat([edges[0], ids, edges[1]], axis=1)
        lengths = tf.cast(framed.row_lengths(), tf.int32)
        window, place = _graph_windows(lengths, row, self.max_seq_length)
        types = framed.with_flat_values(tf.gather(place % 2, framed.value_rowids()))
        starts = tf.concat([tf.fill([tf.size(row), 1], OTHER), tf.zeros_like(framed)[:, 1:]], axis=1)
        count = tf.reduce_max(tf.concat([window + 1, [0]], 0))
        sizes = tf.math.unsorted_segment_sum(lengths, window, count)

        def joined(values):
            return tf.RaggedTensor.from_row_lengths(values.flat_values, sizes, validate=False)

        features = {"input_ids": joined(framed), "token_type_ids": joined(types), "sentence_targets": joined(starts)}
        about = {"sentence": sentences, "ids": sentences.with_flat_values(ids)}
        return RequestWindows(features, tf.math.unsorted_segment_max(row, window, count), about)

    def reply(self, request: Request) -> dict[str, tf.Tensor]:
        """The summary of each row, its sentences' numbers (-1 where a row has fewer), and all sentences' scores (0)."""
        import tensorflow as tf

        assert request.windows is not None
        about = request.windows.about
        flat = request.results["score"].flat_values
        scores = about["sentence"].with_flat_values(tf.boolean_mask(flat, flat > NONE / 2))  # float32 [batch, (sentences)]
        most, blocks = self.config.summary_sentences, self.config.block_trigrams
        chosen = tf.map_fn(
            lambda row: _graph_selected(row[0], row[1], most, blocks),
            (scores, about["ids"]),
            fn_output_signature=tf.TensorSpec([most], tf.int32),
        )
        listed = tf.RaggedTensor.from_tensor(chosen, padding=-1)
        texts = tf.strings.strip(tf.gather(about["sentence"], listed, batch_dims=1))
        summary = tf.strings.reduce_join(texts, axis=-1, separator=" ")
        return {"summary": summary, "sentences": chosen, "scores": scores.to_tensor()}

    def as_reply(self, prediction: base.Prediction) -> dict[str, Any]:
        missing = self.config.summary_sentences - len(prediction["sentences"])
        kept = {name: prediction[name] for name in ("summary", "scores")}
        return {**kept, "sentences": [*prediction["sentences"], *[-1] * missing]}

    def is_tie(self, output: str, reply: Mapping[str, np.ndarray], tolerance: float) -> bool:
        gaps = np.diff(np.sort(np.asarray(reply["scores"])))
        return bool((gaps <= tolerance).any())


def _graph_sentences(texts: tf.Tensor) -> tf.RaggedTensor:
    """Returns each text's lines that are not blank, string [batch, (sentences)]; the first one where all are."""
    import tensorflow as tf

    from trainer.text.in_graph_words import begins_row

    lines = tf.strings.split(texts, "\n")
    is_blank = tf.strings.regex_full_match(lines.flat_values, BLANK)
    row = lines.value_rowids()
    has_any = tf.math.unsorted_segment_max(tf.cast(~is_blank, tf.int32), row, lines.nrows()) > 0
    return tf.ragged.boolean_mask(lines, lines.with_flat_values(~is_blank | (begins_row(row) & ~tf.gather(has_any, row))))


def _windows(lengths: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Returns (the first sentence, the one after the last) of each window: as many sentences as fit.

    >>> _windows([5, 4, 8, 2], 10)
    [(0, 2), (2, 4)]
    """
    found: list[tuple[int, int]] = []
    first = used = 0
    for number, length in enumerate(lengths):
        if used and used + length > most:
            found.append((first, number))
            first, used = number, 0
        used += length
    return [*found, (first, len(lengths))]


def _graph_windows(lengths: tf.Tensor, row: tf.Tensor, most: int) -> tuple[tf.Tensor, tf.Tensor]:
    """`_windows` in the graph: int32 [sentences] each → the number of each sentence's window, and its place in it."""
    import tensorflow as tf

    def step(state, sentence):
        window, place, used, before = state
        length, of_row = sentence
        begins = (of_row != before) | (used + length > most)
        following = (
            tf.where(begins, window + 1, window),
            tf.where(begins, 0, place + 1),
            tf.where(begins, length, used + length),
        )
        return *following, of_row

    begin = (tf.constant(-1), tf.constant(0), tf.constant(0), tf.constant(-1))
    window, place, _, _ = tf.scan(step, (lengths, row), begin, parallel_iterations=1)
    return window, place


def _graph_selected(scores: tf.Tensor, ids: tf.RaggedTensor, most: int, blocks: bool) -> tf.Tensor:
    """`Task._selected` in the graph: float32 [sentences], int32 [sentences, (tokens)] → int32 [most], the rest -1."""
    import tensorflow as tf

    count = tf.size(scores)
    if blocks:
        wide = tf.cast(ids, tf.int64)
        trigrams = (wide[:, :-2] * (1 << 20) + wide[:, 1:-1]) * (1 << 20) + wide[:, 2:]
        _, number = tf.unique(trigrams.flat_values)
        cells = tf.stack([tf.cast(trigrams.value_rowids(), tf.int32), number], axis=1)
        has = tf.scatter_nd(cells, tf.ones_like(number, tf.float32), [count, tf.reduce_max(tf.concat([number + 1, [0]], 0))])
        shares = tf.matmul(has, has, transpose_b=True) > 0  # [sentences, sentences]
    else:
        shares = tf.zeros([count, count], tf.bool)
    order = tf.argsort(scores, direction="DESCENDING", stable=True)

    def step(i, chosen):
        is_free = (tf.math.count_nonzero(chosen) < most) & ~tf.reduce_any(shares[order[i]] & chosen)
        return i + 1, tf.where(is_free, chosen | (tf.range(count) == order[i]), chosen)

    _, chosen = tf.while_loop(lambda i, _: i < count, step, (0, tf.zeros([count], tf.bool)), parallel_iterations=1)
    found = tf.cast(tf.where(chosen)[:, 0], tf.int32)
    return tf.pad(found, [[0, most - tf.size(found)]], constant_values=-1)


def _scores_of(windows: Sequence[base.Window]) -> np.ndarray:
    """Returns the score of each sentence, in order."""
    flat = np.concatenate([window.outputs["score"] for window in windows])
    return flat[flat > NONE / 2]
