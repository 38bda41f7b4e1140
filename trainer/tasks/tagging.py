"""Tagging of words: named entities, slots, parts of speech; by windows, with an optional CRF."""

from __future__ import annotations

import collections
import dataclasses
import functools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np

from trainer.config import check
from trainer.data.row_values import text_in, value_in
from trainer.data.sources import Row, RowError
from trainer.data.table import Proposal, Table, UnrecognizedError, quoted
from trainer.errors import NothingToLearnError
from trainer.features import ROW_ID, TOKENS, Example, Feature, FeatureSpec
from trainer.metrics.tagging import EntityCounts
from trainer.tasks import base
from trainer.text import tag_schemes, words
from trainer.text.graph_limits import is_byte_pairs
from trainer.text.tag_schemes import Span
from trainer.text.tokenizer import SPACE_SIGNS
from trainer.text.windows import token_windows

if TYPE_CHECKING:
    import tensorflow as tf
    import tf_keras as keras

    from trainer.models.encoder import BertEncoder
    from trainer.serving.windows import Request, RequestWindows
    from trainer.text.in_graph_tokenizer import InGraphTokenizer

log = logging.getLogger(__name__)
# A file's scheme → the one that is learned: with a letter for each place that the file's own tells apart
LEARNED_SCHEME = {"IOB1": "IOB2", "IOB2": "IOB2", "BIOES": "BIOES", "BILOU": "BIOES", "BMES": "BIOES", "plain": "plain"}
LETTERS = {"IOB2": "BI", "BIOES": "BIES"}
TAG_NAMES = ("tags", "ner_tags", "slots", "labels")  # of a column of tags, as public data sets call it
TYPE_NAMES = ("label", "type", "entity", "entity_group", "tag")  # of a span's type, in rows of text with spans


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(base.TaskConfig):
    """The `task` section of a tagging."""

    name: str = "tagging"
    """Which task: the name of a file in trainer/tasks."""
    tokens_column: str = "tokens"
    """The column of the words, a list; CoNLL files have it."""
    tags_column: str = "tags"
    """The column of the words' tags, a list."""
    text_column: str = "text"
    """The column of a raw text, in rows without words."""
    spans_column: str = "spans"
    """The column of a text's entities, a list of {start, end, label}; start and end count characters."""
    numbered_tags: tuple[str, ...] = ()
    """What numbers in tags_column stand for, from 0 on, as [O, B-PER, I-PER]; for rows that hold numbers and not names."""
    tag_scheme: Literal["auto", "IOB1", "IOB2", "BIOES", "BILOU", "BMES", "plain"] = "auto"
    """How tags mark entities; plain: they do not, as parts of speech. auto: learned from data.train and saved with the run."""
    entity_types: tuple[str, ...] = ()
    """The types of entities; with plain tags, the tags. Empty: learned from data.train (sorted) and saved with the run."""
    word_splitting: Literal["auto", "whitespace", "edges", "punctuation"] = "auto"
    """How raw text is cut into words, see trainer/text/words.py. auto: learned from the words of data.train."""
    window_overlap_tokens: int = 32
    """Tokens that two windows of a long text share: context for what lies at their edges."""
    crf: bool = False
    """Learn which tag follows which (a linear-chain CRF), and predict the best sequence of tags."""
    head_dropout_rate: float = 0.1
    """Dropout before the head's dense layer."""

    def __post_init__(self):
        super().__post_init__()
        base.check_distinct(self.entity_types, "entity_types")
        base.check_head_dropout(self.head_dropout_rate)
        check(self.window_overlap_tokens >= 0, "window_overlap_tokens", f"must be 0 or more, got {self.window_overlap_tokens}")

    @property
    def learned_scheme(self) -> str:
        """The scheme of the tags that the model learns."""
        return LEARNED_SCHEME[self.tag_scheme]

    @property
    def tag_names(self) -> tuple[str, ...]:
        """The tags that the model learns, in the order of their numbers."""
        if self.learned_scheme == "plain":
            return self.entity_types
        letters = LETTERS[self.learned_scheme]
        tags = (f"{letter}-{name}" if name else letter for name in self.entity_types for letter in letters)
        return (tag_schemes.OUTSIDE, *tags)


class Words(NamedTuple):
    """A row's words and their tokens.

    Attributes:
      text: the row's, or its words with a space between.
      spans: (start, end) of each word in the text.
      ids: of the tokens.
      starts: for each token whether it begins a word.
    """

    text: str
    spans: list[tuple[int, int]]
    ids: list[int]
    starts: list[bool]

    def texts(self) -> list[str]:
        """Returns the words."""
        return [self.text[start:end] for start, end in self.spans]


class Task(base.Task):
    """See the module."""

    config: Config
    best_score = "f1"
    has_windows = True
    token_outputs: ClassVar[Mapping[str, str]] = {"tag": "", "probability": "", "margin": "", "word_starts": ""}
    request_features: ClassVar[tuple[str, ...]] = ("word_starts",)
    _last: tuple[Row, Words] | None = None

    @classmethod
    def recognize(cls, table: Table) -> Proposal:
        words, tags = _columns_of_words(table)
        if words and tags:
            usual, found = {"tokens_column": "tokens", "tags_column": "tags"}, {"tokens_column": words, "tags_column": tags}
            columns = {key: quoted(column) for key, column in found.items() if column != usual[key]}
            counts = sorted(len(tokens) for tokens in table.values(words) if isinstance(tokens, list))
            lengths = [round(1.3 * count) + 2 for count in counts]
        elif table.holds("spans", list) and table.holds("text", str):
            columns, lengths = {"text_column": quoted("text"), "spans_column": quoted("spans")}, table.token_lengths(["text"])
        else:
            raise UnrecognizedError("no columns 'tokens' and 'tags' with lists, and no 'text' with a list of 'spans'")
        config = Config(tokens_column=words or "tokens", tags_column=tags or "tags")
        learned = cls.learn(config, (Row(values, table.source, number) for number, values in enumerate(table.rows, 1)))
        types = learned.entity_types
        has_documents = len(set(map(str, table.values("document")))) >= 10
        return Proposal(
            certainty=3,
            summary=[f"tags: {learned.tag_scheme}; {len(types)} types, as {', '.join(types[:8])}"],
            task={**columns, "tag_scheme": f"auto  # {learned.tag_scheme}", "crf": "false  # true: best sequences of tags"},
            token_lengths=lengths,
            data={"holdout_column": "document  # the sentences of a document stay together"} if has_documents else {},
            max_seq_length=128,
        )

    @classmethod
    def text_columns(cls, config: Config) -> tuple[str, ...]:
        return config.tokens_column, config.text_column

    @property
    def input_columns(self) -> tuple[str, ...]:
        return (self.config.text_column,)

    @property
    def request_names(self) -> tuple[str, ...]:
        return ("text",)

    @classmethod
    def to_learn(cls, config: Config) -> tuple[str, ...]:
        unknown = {"tag_scheme": config.tag_scheme == "auto", "word_splitting": config.word_splitting == "auto"}
        unknown["entity_types"] = not config.entity_types
        return tuple(field for field, is_unknown in unknown.items() if is_unknown)

    @classmethod
    def learn(cls, config: Config, rows: Iterable[Row]) -> Config:
        tags: set[str] = set()
        types: set[str] = set()
        marked: collections.Counter[str] = collections.Counter()  # words with a mark: they tell how text was cut
        problems: list[str] = []

        def tagged() -> Iterator[list[str]]:
            for row in rows:
                try:
                    found = _tags_in(row, config) if config.tags_column in row.values else None
                    if found is None:
                        types.update(name for _, _, name in _spans_in(row, config.spans_column))
                        continue
                    marked.update(word for word in _listed(row, config.tokens_column) if not word.isalnum())
                except RowError as error:
                    problems.append(f"; the first of them, {row.path}:{row.line}: {error}")
                    continue
                tags.update(found)
                yield found

        try:
            scheme = tag_schemes.recognize(tagged(), "data.train")
        except NothingToLearnError:
            if not types:
                raise NothingToLearnError(
                    f"no row has an entity in the columns {config.tags_column!r} or {config.spans_column!r}"
                    f"{problems[0] if problems else ''}"
                ) from None
            scheme = "IOB2"
        scheme = config.tag_scheme if config.tag_scheme != "auto" else scheme
        types |= {span.type for tag in tags for span in tag_schemes.spans_of([tag], scheme)}
        rule = words.learned_rule(marked) if tags else "punctuation"
        found: dict[str, Any] = {"tag_scheme": scheme, "entity_types": tuple(sorted(types)), "word_splitting": rule}
        return dataclasses.replace(config, **{field: found[field] for field in cls.to_learn(config)})

    def features(self) -> FeatureSpec:
        of_token = Feature("int32", "token")
        return {"input_ids": TOKENS["input_ids"], "word_starts": of_token, "tags": of_token, **ROW_ID}

    def examples(self, row: Row, labelled: bool = True) -> list[Example]:
        found = self._words_of(row)
        if not found.spans:
            raise RowError("the text has no word")
        return self._windows_of(found, self._true_tags(row, found) if labelled else None)

    def special_cases(self, row: Row) -> Mapping[str, int]:
        if self.config.tags_column not in row.values:
            return {}
        tags = _tags_in(row, self.config)
        return {"tags_out_of_scheme": len(tag_schemes.invalid_positions(tags, self.config.tag_scheme))}

    def remarks(self, split: Mapping[str, Any]) -> list[str]:
        count = split.get("special_cases", {}).get("tags_out_of_scheme", 0)
        how = "they are read as conlleval reads them"
        return [f"{count:,} tags are not what {self.config.tag_scheme} allows at their place; {how}"] if count else []

    def request_examples(self, row: Row) -> list[Example]:
        return self._windows_of(self._words_of_text(row.values[self.config.text_column]), None)

    def request_of(self, row: Row) -> list[str]:
        return [self._words_of(row).text]

    def _words_of(self, row: Row) -> Words:
        if self._last is None or self._last[0] is not row:  # a row's examples, and what is kept of it, follow each other
            self._last = row, self._made_words(row)
        return self._last[1]

    def _made_words(self, row: Row) -> Words:
        if self._has_tokens(row):
            return self._words_of_tokens(_listed(row, self.config.tokens_column))
        if self.config.text_column not in row.values:
            raise RowError(
                f"neither a column {self.config.tokens_column!r} of words nor {self.config.text_column!r}; the row has "
                f"{', '.join(map(repr, row.values)) or 'nothing'}"
            )
        return self._words_of_text(text_in(row, self.config.text_column))

    def _has_tokens(self, row: Row) -> bool:
        """Whether the words are given: tables have both columns in every row, one of them empty."""
        columns = self.config.tokens_column, self.config.text_column
        tokens, text = (row.values.get(column) for column in columns)
        return columns[0] in row.values and (isinstance(tokens, list | np.ndarray) or not isinstance(text, str))

    def _words_of_tokens(self, tokens: Sequence[str]) -> Words:
        spans, ids, starts, place = [], [], [], 0
        for token in tokens:
            spans.append((place, place + len(token)))
            place += len(token) + 1
            pieces = self._pieces(token, is_first=not spans[1:])
            pieces = pieces or [self.tokenizer.unk_id]  # nothing but characters that the tokenizer drops
            ids += pieces
            starts += [True, *[False] * (len(pieces) - 1)]
        return Words(" ".join(tokens), spans, ids, starts)

    def _pieces(self, word: str, is_first: bool) -> list[int]:
        """Returns a given word's ids: those that it has in a text."""
        if self._continues is not None:
            return self.tokenizer.encode(word)
        has_space = is_byte_pairs(self.tokenizer) and not is_first  # a token of byte-level BPE has the space before a word
        return self._encoded(f" {word}" if has_space else word)[0]

    def _encoded(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Returns the ids of a text and their places, but no pieces of white space only: they say nothing about words."""
        ids, offsets = self.tokenizer.encode_with_offsets(text)
        if self._continues is not None:
            return ids, offsets
        places = words.without_spaces(text, offsets)
        found = zip(ids, places, strict=True)
        kept = [(number, place) for number, place in found if place[0] < place[1] and number not in self._blank_ids]
        return [number for number, _ in kept], [place for _, place in kept]

    def _words_of_text(self, text: str) -> Words:
        ids, offsets = self._encoded(text)
        continues = words.continues_word(text, offsets) if self._continues is None else self._continues[ids]
        starts = words.word_starts(text, offsets, continues, self.config.word_splitting)
        first = np.flatnonzero(starts)
        last = [*(first[1:] - 1), len(ids) - 1]
        return Words(text, [(offsets[i][0], offsets[j][1]) for i, j in zip(first, last, strict=False)], ids, starts.tolist())

    @functools.cached_property
    def _blank_ids(self) -> set[int]:
        """The ids of spaces: of SentencePiece's before a text's first word, the place is that word's."""
        return {number for number, token in enumerate(self.tokenizer.tokens()) if token and not token.strip(SPACE_SIGNS)}

    @functools.cached_property
    def _continues(self) -> np.ndarray | None:
        """Whether the piece of an id continues a word: bool [vocabulary]; None where its text does not say."""
        prefix = self.tokenizer.piece_prefix
        if not prefix:
            return None
        return np.array([token.startswith(prefix) for token in self.tokenizer.tokens()])

    def _true_tags(self, row: Row, found: Words) -> list[int]:
        """Returns the number of each word's true tag."""
        spans = self._true_spans(row, found)
        if self.config.learned_scheme == "plain":
            return [self._number_of(span.type) for span in spans]
        return list(map(self._number_of, tag_schemes.tags_of(spans, len(found.spans), self.config.learned_scheme)))

    def _true_spans(self, row: Row, found: Words) -> list[Span]:
        if self.config.tags_column not in row.values:
            return _spans_of_words(found, _spans_in(row, self.config.spans_column))
        tags = _tags_in(row, self.config)
        if len(tags) != len(found.spans):
            raise RowError(f"{len(tags)} tags for {len(found.spans)} words")
        try:
            return tag_schemes.spans_of(tags, self.config.tag_scheme)
        except ValueError as error:
            raise RowError(str(error)) from None

    def _number_of(self, tag: str) -> int:
        if tag not in self._numbers:
            known = ", ".join(self.config.tag_names[:12])
            raise RowError(f"tag {tag!r} is not one of those of data.train: {known}{' ...' if len(self._numbers) > 12 else ''}")
        return self._numbers[tag]

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {tag: number for number, tag in enumerate(self.config.tag_names)}

    def _windows_of(self, found: Words, tags: Sequence[int] | None) -> list[Example]:
        """Returns the windows over a row's tokens; "tags" is 0 without a tag, else 1 + its number."""
        begun = np.array(found.starts, np.int32)
        labels = np.zeros(len(begun), np.int32)
        if tags is not None:
            labels[begun > 0] = np.array(tags, np.int32) + 1
        size, stride = self._window_sizes
        examples: list[Example] = []
        for start, end, own_start, own_end in token_windows(len(found.ids), size, stride):
            own = np.zeros(end - start, np.int32)
            own[own_start - start : own_end - start] = 1
            edges = self.tokenizer.cls_id, self.tokenizer.sep_id
            examples.append(
                {
                    "input_ids": [edges[0], *found.ids[start:end], edges[1]],
                    "word_starts": [0, *(begun[start:end] * own).tolist(), 0],
                    "tags": [0, *(labels[start:end] * own).tolist(), 0],
                }
            )
        return examples

    @property
    def _window_sizes(self) -> tuple[int, int]:
        """The tokens of a window without [CLS] and [SEP], and how far apart two begin."""
        size = self.max_seq_length - 2
        return size, size - min(self.config.window_overlap_tokens, size // 2)

    def kept(self, row: Row) -> dict[str, Any]:
        return {"spans": list(map(list, self._true_spans(row, self._words_of(row))))}

    def made_from(self) -> dict[str, Any]:
        deciding = ("tokens_column", "tags_column", "text_column", "spans_column", "tag_scheme", "word_splitting")
        found = {f"task.{key}": getattr(self.config, key) for key in (*deciding, "window_overlap_tokens")}
        lists = {f"task.{key}": list(getattr(self.config, key)) for key in ("numbered_tags", "entity_types")}
        return found | lists

    def build_model(self, encoder: BertEncoder) -> keras.Model:
        from trainer.models.crf import Transitions
        from trainer.models.encoder import packed_inputs
        from trainer.models.heads import DenseHead
        from trainer.models.task_model import TaskModel

        # Inputs
        inputs = packed_inputs()
        # Encoder
        tokens = encoder(inputs)
        # Head: float32 [rows, length, tags]
        outputs = {"logits": DenseHead(len(self.config.tag_names), self.config.head_dropout_rate)(tokens)}
        if self.config.crf:
            outputs["transitions"] = Transitions(len(self.config.tag_names))(outputs["logits"])
        return TaskModel(inputs, outputs, name="tagging")

    def loss_weights(self, batch: base.Tensors) -> dict[str, tf.Tensor]:
        import tensorflow as tf

        from trainer.models.crf import chain_of

        if self.config.crf:
            return {"tag": tf.cast(chain_of(batch["word_starts"], batch["segment_ids"]).is_word, tf.float32)}
        return {"tag": tf.cast(batch["word_starts"], tf.float32)}

    def loss(self, batch: base.Tensors, outputs: base.Tensors) -> tuple[base.Losses, base.Measures]:
        import tensorflow as tf

        from trainer.models.crf import chain_of, crf_losses
        from trainer.models.losses import cross_entropy

        tags = tf.maximum(batch["tags"] - 1, 0)
        if self.config.crf:
            chain = chain_of(batch["word_starts"], batch["segment_ids"])
            return {"tag": crf_losses(outputs["logits"], tags, outputs["transitions"], chain)}, {}
        return {"tag": cross_entropy(tags, outputs["logits"])}, {}

    def divergence(self, batch: base.Tensors, first: base.Tensors, second: base.Tensors) -> base.Losses:
        from trainer.models.losses import divergence

        if self.config.crf:
            return super().divergence(batch, first, second)
        return {"tag": divergence(first["logits"], second["logits"])}

    def results(self, batch: base.Tensors, outputs: base.Tensors, labelled: bool) -> dict[str, tf.Tensor]:
        """For each token its tag's number, the tag's probability, and how far it lies before the second most probable."""
        import tensorflow as tf

        from trainer.models.crf import best_tags, chain_of, tag_probabilities

        if self.config.crf:
            of_words = outputs["logits"], outputs["transitions"], chain_of(batch["word_starts"], batch["segment_ids"])
            probabilities, tag = tag_probabilities(*of_words), best_tags(*of_words)
        else:
            probabilities = tf.nn.softmax(outputs["logits"])
            tag = tf.argmax(probabilities, axis=-1, output_type=tf.int32)
        chosen = tf.gather(probabilities, tag, batch_dims=2)
        others = tf.where(tf.one_hot(tag, probabilities.shape[-1], on_value=True, off_value=False), 0.0, probabilities)
        is_word = tf.cast(batch["word_starts"], tf.float32)  # elsewhere nothing was learned
        margin = chosen - tf.reduce_max(others, axis=-1)
        of_tokens = {"tag": tf.cast(tag, tf.float32), "probability": chosen, "margin": margin}
        return {**{name: value * is_word for name, value in of_tokens.items()}, "word_starts": is_word}

    def decode(self, row: Row, windows: Sequence[base.Window]) -> base.Prediction:
        found = self._words_of(row) if self._has_tokens(row) else self._words_of_text(row.values[self.config.text_column])
        tags, probability, margin = (_joined(windows, name) for name in ("tag", "probability", "margin"))
        spans = self._predicted_spans(tags)
        entities = [
            {
                "text": found.text[found.spans[first][0] : found.spans[end - 1][1]],
                "label": name,
                "start": found.spans[first][0],
                "end": found.spans[end - 1][1],
                "probability": float(probability[first:end].mean()),
            }
            for first, end, name in spans
        ]
        written = tag_schemes.tags_of(spans, len(tags), self.config.tag_scheme)
        return {
            "entities": entities,
            "words": found.texts(),
            "tags": written,
            "margin": float(margin.min(initial=1.0)),
        }

    def _predicted_spans(self, tags: np.ndarray) -> list[Span]:
        """Returns the entities of the words' tags; what no scheme allows is repaired as conlleval reads it."""
        names = self.config.tag_names
        return tag_schemes.spans_of([names[int(tag)] for tag in tags], self.config.learned_scheme)

    def score(self, rows: Iterable[tuple[Row, Sequence[base.Window]]], tune: bool = False) -> dict[str, Any]:
        counts, strict, sentences = EntityCounts(), EntityCounts(), 0
        scheme = self.config.learned_scheme
        names = self.config.tag_names
        for row, windows in rows:
            sentences += 1
            true = [Span(*span) for span in row.values["spans"]]
            predicted = [names[int(tag)] for tag in _joined(windows, "tag")]
            counts.add(true, tag_schemes.spans_of(predicted, scheme))
            counts.add_tags(tag_schemes.tags_of(true, len(predicted), scheme), predicted)
            strict.add(true, tag_schemes.strict_spans_of(predicted, scheme))
        of_strict = strict.scores()
        scores = {"examples": sentences, **counts.scores()}
        return scores | {"strict": {name: of_strict[name] for name in ("precision", "recall", "f1")}}

    def request_windows(self, texts: Sequence[tf.Tensor], tokenize: InGraphTokenizer) -> RequestWindows:
        import tensorflow as tf

        from trainer.serving.windows import RequestWindows
        from trainer.text.in_graph_windows import graph_windows
        from trainer.text.in_graph_words import graph_continues_word, graph_without_spaces, graph_word_starts

        (text,) = texts
        ids, starts, ends = tokenize.with_offsets(text)
        points = tf.strings.unicode_decode(text, "UTF-8", errors="replace")
        if self._continues is None:
            starts, ends = graph_without_spaces(points, starts, ends)
            ids, starts, ends = (tf.ragged.boolean_mask(values, starts < ends) for values in (ids, starts, ends))
            continues = graph_continues_word(points, starts, ends)
        else:
            continues = ids.with_flat_values(tf.gather(tf.constant(self._continues), ids.flat_values))
        begins = graph_word_starts(points, starts, ends, continues, self.config.word_splitting)
        size, stride = (tf.fill([tf.shape(text)[0]], value) for value in self._window_sizes)
        windows = graph_windows(tf.cast(ids.row_lengths(), tf.int32), size, stride)
        own = windows.cut(begins)
        own = own.with_flat_values(tf.cast(own.flat_values & windows.is_own().flat_values, tf.int32))
        edge = [tf.fill([tf.size(windows.row), 1], number) for number in (self.tokenizer.cls_id, self.tokenizer.sep_id, 0)]
        cls_id, sep_id, nothing = edge
        # A word ends with the last token before the next one begins, or before the row ends.
        is_first = begins.flat_values
        row = begins.value_rowids()
        is_last = tf.concat([is_first[1:] | (row[1:] != row[:-1]), tf.ones([tf.minimum(tf.size(row), 1)], tf.bool)], 0)
        first = tf.boolean_mask(starts.flat_values, is_first)
        last = tf.boolean_mask(ends.flat_values, is_last)
        word_row = tf.boolean_mask(row, is_first)
        return RequestWindows(
            {
                "input_ids": tf.concat([cls_id, windows.cut(ids), sep_id], axis=1),
                "word_starts": tf.concat([nothing, own, nothing], axis=1),
            },
            windows.row,
            {"points": points, "word_start": first, "word_end": last, "word_row": word_row},
        )

    def reply(self, request: Request) -> dict[str, tf.Tensor]:
        """The entities of each row, as many as the row with the most has: "", -1 and 0 where a row has fewer."""
        import tensorflow as tf

        from trainer.serving.windows import padded, substrings
        from trainer.text.in_graph_words import begins_row, left_neighbour

        assert request.windows is not None
        about, results = request.windows.about, request.results
        is_word = results["word_starts"].flat_values > 0
        tag = tf.cast(tf.boolean_mask(results["tag"].flat_values, is_word), tf.int32)
        probability, margin = (tf.boolean_mask(results[name].flat_values, is_word) for name in ("probability", "margin"))
        row, rows = about["word_row"], tf.shape(request.texts[0], tf.int64)[0]
        # Which words begin an entity, by the same rule as `tag_schemes.spans_of`
        names, kind, opens, closes = _tag_tables(self.config)
        of_type = tf.gather(tf.constant(kind), tag)
        is_closed = left_neighbour(tf.gather(tf.constant(closes), tag))
        is_entity = of_type >= 0
        goes_on = ~begins_row(row) & (of_type == left_neighbour(of_type)) & ~tf.gather(tf.constant(opens), tag) & ~is_closed
        begins = is_entity & ~goes_on
        number = tf.boolean_mask(tf.cumsum(tf.cast(begins, tf.int32)) - 1, is_entity)
        start = tf.boolean_mask(about["word_start"], begins)
        end = tf.math.segment_max(tf.boolean_mask(about["word_end"], is_entity), number)
        label = tf.gather(tf.constant(names), tf.boolean_mask(of_type, begins))
        mean = tf.math.segment_mean(tf.boolean_mask(probability, is_entity), number)
        entity_row = tf.boolean_mask(row, begins)
        text = substrings(about["points"], entity_row, start, end)
        strings, places = {"texts": text, "labels": label}, {"starts": start, "ends": end}
        found = {name: padded(values, entity_row, rows, "") for name, values in strings.items()}
        found |= {name: padded(values, entity_row, rows, -1) for name, values in places.items()}
        found["probabilities"] = padded(mean, entity_row, rows, 0.0)
        return {**found, "margin": tf.minimum(tf.math.unsorted_segment_min(margin, row, rows), 1.0)}

    def as_reply(self, prediction: base.Prediction) -> dict[str, Any]:
        columns = {"texts": "text", "labels": "label", "starts": "start", "ends": "end", "probabilities": "probability"}
        entities = prediction["entities"]
        found = {name: [entity[key] for entity in entities] for name, key in columns.items()}
        return {**found, "margin": prediction["margin"]}

    def is_tie(self, output: str, reply: Mapping[str, np.ndarray], tolerance: float) -> bool:
        margin = np.asarray(reply["margin"])
        is_word = np.asarray(reply["word_starts"]) > 0 if "word_starts" in reply else np.ones_like(margin, bool)
        return bool(margin[is_word].min(initial=1.0) <= tolerance)

    def labels_asset(self) -> tuple[str, ...]:
        return self.config.tag_names

    def hugging_face_head(self, model: keras.Model) -> tuple[str, dict[str, np.ndarray]]:
        if self.config.crf:
            log.warning("transformers has no CRF: the tags of huggingface/ are the most probable ones, each by itself")
        return "BertForTokenClassification", base.head_weights(model)


def _columns_of_words(table: Table) -> tuple[str | None, str | None]:
    """Returns the columns of words and of their tags: lists of equal length, the first of them of strings."""
    lists = [column for column in table.columns if table.holds(column, list)]
    words = next((column for column in ("tokens", "words") if column in lists), None)
    if words is None:
        return None, None
    lengths = [len(value or []) for value in table.values(words)[:100]]
    named = [column for column in lists if column in TAG_NAMES or column.endswith("_tags")]
    named.sort(key=lambda column: TAG_NAMES.index(column) if column in TAG_NAMES else len(TAG_NAMES))
    fitting = [column for column in named if [len(value or []) for value in table.values(column)[:100]] == lengths]
    return words, next(iter(fitting or named), None)


def _tags_in(row: Row, config: Config) -> list[str]:
    """Returns the tags of a row's words; raises RowError where there is no list of them."""
    value = value_in(row, config.tags_column)
    numbers = value.tolist() if isinstance(value, np.ndarray) else value
    if not (isinstance(numbers, list) and numbers and all(isinstance(number, int) for number in numbers)):
        return _listed(row, config.tags_column)
    if not config.numbered_tags:
        raise RowError(
            f"column {config.tags_column!r} holds numbers; task.numbered_tags says what they stand for, as [O, B-PER, I-PER]"
        )
    wrong = [number for number in numbers if not 0 <= number < len(config.numbered_tags)]
    if wrong:
        raise RowError(f"tag {wrong[0]} is no number of task.numbered_tags, which has {len(config.numbered_tags)}")
    return [config.numbered_tags[number] for number in numbers]


def _listed(row: Row, column: str) -> list[str]:
    """Returns a row's list of strings.

    Raises:
      RowError: the column is missing, or holds something else.
    """
    value = value_in(row, column)
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(value, list):  # TensorFlow datasets have bytes
        value = [entry.decode("utf8", "replace") if isinstance(entry, bytes) else entry for entry in value]
    if not isinstance(value, list) or not all(isinstance(entry, str) and entry for entry in value):
        raise RowError(f"column {column!r} holds {str(value)[:60]!r} where a list of words belongs")
    if not value:
        raise RowError(f"column {column!r} is an empty list")
    return value


def _spans_in(row: Row, column: str) -> list[tuple[int, int, str]]:
    """Returns the entities of a row: (start, end, type), sorted.

    Raises:
      RowError: the column is missing, or holds something else.
    """
    value = value_in(row, column)
    found = []
    for span in value if isinstance(value, list) else [None]:
        if isinstance(span, Mapping):
            name = next((span[key] for key in TYPE_NAMES if key in span), None)
            span = [span.get("start"), span.get("end"), name]
        if not (isinstance(span, list) and len(span) == 3):
            raise RowError(f"column {column!r}: {str(span)[:60]!r} is no span; write {{start, end, label}} for each entity")
        start, end, name = span
        if not (isinstance(start, int) and isinstance(end, int) and 0 <= start < end and isinstance(name, str) and name):
            raise RowError(f"column {column!r}: {str(span)[:60]!r} is no span with a start before its end and a label")
        found.append((start, end, name))
    return sorted(found)


def _spans_of_words(found: Words, spans: Sequence[tuple[int, int, str]]) -> list[Span]:
    """Returns spans of characters as spans of the words that they touch.

    Raises:
      RowError: one touches no word, or two the same.
    """
    starts, ends = (np.array([span[place] for span in found.spans]) for place in (0, 1))
    of_words: list[Span] = []
    for start, end, name in spans:
        touched = np.flatnonzero((starts < end) & (ends > start))
        if not len(touched):
            raise RowError(f"the span {start} to {end} ({name}) holds no word; the text has {len(found.text)} characters")
        if of_words and touched[0] < of_words[-1].end:
            raise RowError(f"the span {start} to {end} ({name}) overlaps another, or shares a word with it")
        of_words.append(Span(int(touched[0]), int(touched[-1]) + 1, name))
    return of_words


def _joined(windows: Sequence[base.Window], name: str) -> np.ndarray:
    """Returns an output of a row's words, from the window that each counts in: [words]."""
    return np.concatenate([window.outputs[name][window.outputs["word_starts"] > 0] for window in windows])


def _tag_tables(config: Config) -> tuple[list[str], list[int], list[bool], list[bool]]:
    """Returns the types; for each tag its type's number (-1: outside), whether it always begins an entity, and ends one."""
    if config.learned_scheme == "plain":
        count = len(config.tag_names)
        return list(config.tag_names), list(range(count)), [True] * count, [True] * count
    numbers = {name: number for number, name in enumerate(config.entity_types)}
    kind, opens, closes = [-1], [False], [False]
    for tag in config.tag_names[1:]:
        (span,) = tag_schemes.spans_of([tag], config.learned_scheme)
        kind.append(numbers[span.type])
        opens.append(tag[0] in "BS")
        closes.append(tag[0] in "ES")
    return list(config.entity_types), kind, opens, closes
