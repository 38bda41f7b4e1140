"""Pre-training: masked tokens, with next sentence prediction (BERT), sentence order (ALBERT), or neither (RoBERTa).

Or replaced tokens (ELECTRA), see `models.replaced_tokens`.
"""

from __future__ import annotations

import array
import collections
import dataclasses
import functools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trainer.config import check
from trainer.data import google_records
from trainer.data.sources import Row, RowError
from trainer.data.table import Proposal, Table, UnrecognizedError
from trainer.errors import UserError
from trainer.features import ID_TYPE, ROW_ID, TOKENS, Example, Feature, FeatureSpec
from trainer.metrics.classification import precision_recall_f1
from trainer.tasks import base
from trainer.text.masks import MaskableTokens, MaskingRecipe, StaticMasker
from trainer.text.segments import Segment, SentenceObjective, SequenceRecipe, TokenizedDocument, TokenSequence, sequences_of
from trainer.text.sentences import sentence_splitter

if TYPE_CHECKING:
    import tensorflow as tf
    import tf_keras as keras
    from transformers import BertConfig

    from trainer.data.pipeline import BatchWork
    from trainer.data.sampling import Sampling
    from trainer.models.encoder import BertEncoder
    from trainer.serving.windows import Request

MASKS_PREDICTED = 32  # [MASK] tokens of a text to be filled, at most
CONTINUES = 1 << 24  # added to a token's id while sequences are made: it belongs to the word of the token before it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(base.TextTaskConfig):
    """The `task` section of pre-training."""

    name: str = "pretraining"
    """Which task: the name of a file in trainer/tasks."""
    sentence_objective: SentenceObjective = "nsp"
    """The second objective. nsp: does the second part follow (BERT); sop: is the order right (ALBERT); none (RoBERTa)."""
    random_next_prob: float = 0.5
    """Share of pairs whose second part comes from another document (nsp) or that are swapped (sop)."""
    short_seq_prob: float = 0.1
    """Share of sequences of a random, shorter length."""
    split_sentences: bool = False
    """Split each line into sentences, by the rules of task.language; false: a line is a sentence, or another unit of text."""
    language: str = "en"
    """The language of the text, an ISO 639 code, for sentence splitting."""
    keep_long_segments: bool = True
    """A line or sentence longer than a sequence continues in the next ones; false drops the rest, as Google's script does."""
    dupe_factor: int = 1
    """How often the corpus is cut into sequences, each time at other places. Masks are drawn anew in each epoch anyway."""
    sequence_seed: int = 12345
    """Of the choices made when documents are cut (lengths, random next parts) and of the masks."""
    replaced_tokens: bool = False
    """A small generator fills the masks, and the encoder learns from every token whether it is the text's own (ELECTRA); with
    sentence_objective=none, and mask_token_prob=0.85 and random_token_prob=0 as there."""
    generator_size: float = 0.25
    """Of replaced_tokens: the generator's width as a share of the encoder's."""
    replaced_weight: float = 50.0
    """Of replaced_tokens: the weight of the encoder's loss beside the generator's."""
    masking: Literal["token", "whole_word", "ngram", "span"] = "token"
    """What is masked as one: token, whole_word, ngram (words, as ALBERT) or span (words, as SpanBERT)."""
    masked_lm_prob: float = 0.15
    """Share of the tokens that are predicted."""
    mask_token_prob: float = 0.8
    """Of the predicted tokens, the share that is replaced by [MASK]."""
    random_token_prob: float = 0.1
    """Of the predicted tokens, the share that is replaced by a random token; the rest stays as it is."""
    max_predictions: int = 0
    """The most predicted tokens per sequence; 0: no limit but masked_lm_prob."""
    max_ngram: int = 3
    """With masking=ngram, the most words masked as one."""
    segmented_words: bool = False
    """White space in the text separates words also where BERT's tokenizer would cut further, as in segmented Chinese."""
    static_masks: bool = False
    """Masks are those of the records, the same in each epoch: drawn when the data are prepared, or those of Google's files."""
    sampling_exponent: float = 1.0
    """With one file per language: a language with n examples is drawn in proportion to n to this power. 0.7 is usual; 1
    changes nothing."""
    languages: tuple[str, ...] = ()
    """With a sampling_exponent, the files, one per language. Empty: learned from data.train and saved with the run."""
    predicted_tokens: int = 5
    """predict: the number of tokens given for each [MASK], the most probable first."""

    def __post_init__(self):
        super().__post_init__()
        check(not self.clean_texts, "clean_texts", "is not for pre-training; clean the corpus before")
        for field in ("random_next_prob", "short_seq_prob", "mask_token_prob", "random_token_prob"):
            check(0 <= getattr(self, field) <= 1, field, f"must be in [0, 1], got {getattr(self, field)}")
        check(0 < self.masked_lm_prob < 1, "masked_lm_prob", f"must be between 0 and 1, got {self.masked_lm_prob}")
        total = self.mask_token_prob + self.random_token_prob
        check(total <= 1, "random_token_prob", f"with mask_token_prob it makes {total:g}; both together are 1 at most")
        for field in ("dupe_factor", "max_ngram", "predicted_tokens"):
            check(getattr(self, field) >= 1, field, f"must be 1 or more, got {getattr(self, field)}")
        exponent = self.sampling_exponent
        check(0 <= exponent <= 1, "sampling_exponent", f"must be in [0, 1], got {exponent}")
        is_alone = not self.replaced_tokens or self.sentence_objective == "none"
        check(is_alone, "replaced_tokens", "goes with task.sentence_objective=none")
        check(0 < self.generator_size <= 1, "generator_size", f"must be over 0 and at most 1, got {self.generator_size}")
        check(self.replaced_weight > 0, "replaced_weight", f"must be over 0, got {self.replaced_weight}")
        check(len(self.text_columns) == 1, "text_columns", f"pre-training reads one column, got {', '.join(self.text_columns)}")
        check(self.max_predictions >= 0, "max_predictions", f"must be 0 or more, got {self.max_predictions}")

    @property
    def has_pairs(self) -> bool:
        """Whether sequences have two parts."""
        return self.sentence_objective != "none"

    def masking_recipe(self) -> MaskingRecipe:
        """Returns how tokens are masked."""
        names = [field.name for field in dataclasses.fields(MaskingRecipe) if field.name != "unit"]
        return MaskingRecipe(self.masking, **{name: getattr(self, name) for name in names})


class Task(base.TextTask):
    """See the module."""

    config: Config
    txt_as, is_corpus = "documents", True

    @property
    def best_score(self) -> str:  # type: ignore[override]
        """The score that chooses the best checkpoint."""
        return "replaced_f1" if self.config.replaced_tokens else "masked_lm_accuracy"

    @property
    def loads_head(self) -> bool:  # type: ignore[override]
        """Whether the heads start from a checkpoint, too: not a generator's."""
        return not self.config.replaced_tokens

    @classmethod
    def recognize(cls, table: Table) -> Proposal:
        if table.columns != ["text"]:
            raise UnrecognizedError(f"plain text has one column, text; the columns are {', '.join(map(repr, table.columns))}")
        return Proposal(
            certainty=1,
            summary=["text without labels: masked tokens are learned from it"],
            task={"sentence_objective": "none  # or nsp, sop: for documents with a sentence a line"},
            token_lengths=table.token_lengths(["text"]),
            validation="null  # a file of other text",
        )

    @property
    def logged(self) -> Sequence[str]:
        pairs = ("sentence_loss", "sentence_accuracy") if self.config.has_pairs else ()
        replaced = ("replaced_loss", "replaced_accuracy") if self.config.replaced_tokens else ()
        return ("masked_lm_loss", "masked_lm_accuracy", *pairs, *replaced)

    @classmethod
    def to_learn(cls, config: Config) -> tuple[str, ...]:
        return ("languages",) if config.sampling_exponent != 1 and not config.languages else ()

    @classmethod
    def learn(cls, config: Config, rows: Iterable[Row]) -> Config:
        paths = sorted({row.path for row in rows})
        if len(paths) < 2:
            raise UserError(
                f"task.sampling_exponent={config.sampling_exponent:g} needs a file for each language, and data.train names "
                f"{len(paths)}: {', '.join(paths)}"
            )
        return dataclasses.replace(config, languages=tuple(paths))

    def features(self) -> FeatureSpec:
        spec = {"input_ids": TOKENS["input_ids"], **ROW_ID}
        if self.config.has_pairs:
            spec |= {**TOKENS, "sentence_label": Feature("int32", "example")}
        if self.config.segmented_words:
            spec["continues_word"] = Feature("int32", "token")
        if self.config.static_masks:
            spec["masked_lm_targets"] = Feature("int32", "token")
        if self.config.languages:
            spec["language_number"] = Feature("int32", "example")
        return spec

    def remarks(self, split: Mapping[str, Any]) -> list[str]:
        labels, cases = split["values"].get("sentence_label", {}), split.get("special_cases", {})
        remarks = []
        if cases.get("no_other_document"):
            remarks.append(
                f"{cases['no_other_document']} pairs found no other document for a random second part; the true next part "
                "was taken. A blank line ends a document"
            )
        if labels and max(labels.values()) > 0.9 * sum(labels.values()):
            what = "random or swapped" if labels.get("1", 0) > labels.get("0", 0) else "the true next one"
            remarks.append(
                f"nearly all second parts are {what}: there is little to learn from pairs. Documents of one line have no next "
                "part; try task.split_sentences=true, or task.sentence_objective=none"
            )
        return remarks

    def made_from(self) -> dict[str, Any]:
        deciding = ["sentence_objective", "random_next_prob", "short_seq_prob", "split_sentences", "language"]
        deciding += ["keep_long_segments", "dupe_factor", "sequence_seed", "segmented_words", "static_masks"]
        if self.config.static_masks:
            deciding += [field.name for field in dataclasses.fields(MaskingRecipe) if field.name != "unit"] + ["masking"]
        decided = {f"task.{key}": getattr(self.config, key) for key in deciding}
        return super().made_from() | decided | {"task.languages": list(self.config.languages)}

    def chunk_examples(
        self, rows: Sequence[Row], chunk: str, counts: collections.Counter
    ) -> Iterator[tuple[int, Example | RowError]]:
        config = self.config
        recipe = SequenceRecipe(
            config.sentence_objective,
            self.max_seq_length,
            config.short_seq_prob,
            config.random_next_prob,
            config.keep_long_segments,
        )
        split = sentence_splitter(config.language) if config.split_sentences else str.splitlines
        encode = self._encode_words if config.segmented_words else self.tokenizer.encode_compactly
        documents, numbers = [], []
        for number, row in enumerate(rows):
            try:
                if google_records.is_record(row):
                    yield number, self._example_of_google(row)
                    continue
                (text,) = self.texts(row)
            except RowError as error:
                yield number, error
                continue
            segments: list[Segment] = [ids for segment in split(text) if (ids := encode(segment))]
            if segments:
                documents.append(TokenizedDocument((row.path, row.line), segments))
                numbers.append(number)
            else:
                counts["documents_without_tokens"] += 1
        for copy in range(config.dupe_factor):
            draw = random.Random(f"{config.sequence_seed}/{copy}/{chunk}")
            mask = random.Random(f"{config.sequence_seed}/{copy}/{chunk}/masks")
            for document, sequence in sequences_of(documents, recipe, draw, counts):
                number = numbers[document]
                example = self._example(sequence, mask)
                if config.languages:
                    example["language_number"] = self._language_number(rows[number].path, chunk)
                yield number, example

    def _encode_words(self, text: str) -> array.array[int]:
        """Returns the ids of a segmented text; all but the first of a word are marked."""
        words = map(self.tokenizer.encode, text.split())
        marked = (number | CONTINUES if place else number for word in words for place, number in enumerate(word))
        return array.array(ID_TYPE, marked)

    def _example(self, sequence: TokenSequence, mask: random.Random) -> dict[str, Any]:
        cls_id, sep_id = self.tokenizer.cls_id, self.tokenizer.sep_id
        ids = array.array(ID_TYPE, [cls_id])
        ids.extend(sequence.first)
        ids.append(sep_id)
        example: dict[str, Any] = {"input_ids": ids}
        if sequence.second is not None:
            types = bytes(len(ids)) + b"\1" * (len(sequence.second) + 1)
            example |= {"token_type_ids": types, "sentence_label": sequence.label}
            ids.extend(sequence.second)
            ids.append(sep_id)
        if self.config.segmented_words:
            example["continues_word"] = bytes(number >= CONTINUES for number in ids)
            example["input_ids"] = ids = array.array(ID_TYPE, [number & ~CONTINUES for number in ids])
        if self.config.static_masks:
            masked, targets = self._static_masker(ids, mask, example.get("continues_word"))
            example |= {"input_ids": masked, "masked_lm_targets": targets}
        return example

    @functools.cached_property
    def _static_masker(self) -> StaticMasker:
        return StaticMasker(self.config.masking_recipe(), MaskableTokens(self.tokenizer))

    def _language_number(self, path: str, chunk: str) -> int:
        if not chunk.startswith("train/"):  # nothing is sampled from other splits
            return 0
        if path not in self.config.languages:
            raise UserError(f"{path} is not one of task.languages: {', '.join(self.config.languages)}")
        return self.config.languages.index(path)

    def _example_of_google(self, row: Row) -> Example:
        if not self.config.static_masks:
            raise RowError("Google's records hold their masks: set task.static_masks=true")
        if self.config.segmented_words or self.config.languages:
            raise RowError("Google's records tell neither words nor languages: leave task.segmented_words and _exponent out")
        example = google_records.example_of(row, self.max_seq_length, self.tokenizer.vocabulary_size)
        if not self.config.has_pairs:
            example = {name: example[name] for name in ("input_ids", "masked_lm_targets")}
        return example

    def examples(self, row: Row, labelled: bool = True) -> list[Example]:
        """Returns the text as it is, with its [MASK] tokens: for prediction."""
        self.texts(row)
        (example,) = self.request_examples(row)
        masks = example["input_ids"].count(self.tokenizer.mask_id)
        if not 0 < masks <= MASKS_PREDICTED:
            what = "no [MASK]" if not masks else f"{masks} [MASK] tokens, over the {MASKS_PREDICTED} that can be"
            raise RowError(f"the text has {what} to fill in its first {self.max_seq_length} tokens")
        return [example]

    def request_examples(self, row: Row) -> list[Example]:
        (example,) = super().request_examples(row)
        of_tokens = [name for name, feature in self.features().items() if feature.per == "token"]
        return [{**{name: bytes(len(example["input_ids"])) for name in of_tokens}, **example}]

    def batch_work(self) -> BatchWork:
        from trainer.data.masked_batches import drawn_masks, masked_work, stored_masks
        from trainer.data.masking import Masker

        recipe = self.config.masking_recipe()
        if self.config.static_masks:
            most = _most_each(self.config.max_predictions) if self.config.max_predictions else recipe.most_predictions
            return masked_work(stored_masks, self.features(), most)
        masker = Masker(recipe, self.tokenizer, self.config.sequence_seed)
        return masked_work(drawn_masks(masker), self.features(), recipe.most_predictions)

    def completed(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Adds the places of the [MASK] tokens that stand in the texts."""
        import tensorflow as tf

        from trainer.data.masked_batches import with_masked_positions

        is_mask = tf.cast(batch["input_ids"] == self.tokenizer.mask_id, tf.int32)
        return with_masked_positions({**batch, "original_ids": batch["input_ids"], "is_masked": is_mask})

    def sampling(self, value_counts: Mapping[str, Mapping[str, int]]) -> Sampling | None:
        from trainer.data.sampling import Sampling

        if not self.config.languages:
            return None
        counts = base.counts_by_value(value_counts, "language_number", len(self.config.languages))
        wanted = np.power(counts, self.config.sampling_exponent, where=counts > 0, out=np.zeros(len(counts)))
        # A language's share by the exponent, over its share as it is
        rates = np.divide(wanted / wanted.sum(), counts / counts.sum(), where=counts > 0, out=np.zeros(len(counts)))
        return Sampling("language_number", counts, rates)

    def build_model(self, encoder: BertEncoder) -> keras.Model:
        kind, can_be = encoder.bert_config.model_type, ("bert", "electra") if self.config.replaced_tokens else ("bert",)
        if kind not in can_be:
            raise UserError(
                f"task.name=pretraining trains encoders of type {' or '.join(can_be)} here; this one is of type {kind}"
            )
        if self.config.replaced_tokens:
            from trainer.models.replaced_tokens import build_replaced_token_model

            return build_replaced_token_model(encoder, self.config.generator_size)
        import tensorflow as tf
        import tf_keras as keras

        from trainer.models.encoder import PACKED_INPUTS, Pooler
        from trainer.models.heads import PretrainingHeads
        from trainer.models.task_model import TaskModel

        # Inputs: each int32, [rows, length], [rows, P] or [rows, K]
        read = ("masked_positions", "cls_positions") if self.config.has_pairs else ("masked_positions",)
        inputs = {name: keras.Input([None], dtype="int32", name=name) for name in (*PACKED_INPUTS, *read)}

        # The last layer is computed where a head reads it: at masked tokens and at [CLS]
        heads = PretrainingHeads(encoder, self.config.has_pairs)
        if not self.config.has_pairs:
            return TaskModel(inputs, heads(encoder(inputs, inputs["masked_positions"])), name="pretraining")
        hidden = encoder(inputs, tf.concat([inputs[name] for name in read], axis=1))
        sizes = tf.stack([tf.shape(inputs[name])[1] for name in read])
        masked, first = tf.split(hidden, sizes, axis=1, num=2)
        return TaskModel(inputs, heads(masked, Pooler(encoder)(first)), name="pretraining")

    def loss_weights(self, batch: base.Tensors) -> dict[str, tf.Tensor]:
        pairs = {"sentence": batch["example_weights"]} if self.config.has_pairs else {}
        replaced = {"replaced": self._is_token(batch)} if self.config.replaced_tokens else {}
        return {"masked_lm": batch["masked_lm_weights"], **pairs, **replaced}

    def _is_token(self, batch: base.Tensors) -> tf.Tensor:
        import tensorflow as tf

        return tf.cast(batch["segment_ids"] > 0, tf.float32)

    def loss(self, batch: base.Tensors, outputs: base.Tensors) -> tuple[base.Losses, base.Measures]:
        import tensorflow as tf

        from trainer.models.losses import cross_entropy, vocabulary_cross_entropy

        of_tokens, correct = vocabulary_cross_entropy(batch["masked_lm_ids"], outputs["masked_lm_logits"])
        losses, measures = {"masked_lm": of_tokens}, {"masked_lm_accuracy": ("masked_lm", correct)}
        if self.config.has_pairs:
            labels, logits = batch["sentence_label"], outputs["sentence_logits"]
            losses["sentence"] = cross_entropy(labels, logits)
            is_right = tf.cast(tf.argmax(logits, -1, tf.int32) == labels, tf.float32)
            measures["sentence_accuracy"] = ("sentence", is_right)
        if self.config.replaced_tokens:
            logits, is_replaced = outputs["replaced_logits"], outputs["is_replaced"]
            of_each = tf.nn.sigmoid_cross_entropy_with_logits(is_replaced, logits)
            losses["replaced"] = self.config.replaced_weight * of_each
            measures["replaced_accuracy"] = ("replaced", tf.cast((logits > 0) == (is_replaced > 0), tf.float32))
        return losses, measures

    def head_flops_per_token(self, bert_config: BertConfig) -> float:
        if not self.config.replaced_tokens:
            hidden = bert_config.hidden_size
            return 6.0 * self.config.masked_lm_prob * hidden * (hidden + bert_config.vocab_size)
        from trainer.models.replaced_tokens import generator_config

        generator = generator_config(bert_config, self.config.generator_size)
        hidden, inner, width = generator.hidden_size, generator.intermediate_size, generator.embedding_size
        layers = generator.num_hidden_layers * (4 * hidden * hidden + 2 * hidden * inner)
        head = self.config.masked_lm_prob * width * (hidden + bert_config.vocab_size)
        return 6.0 * (layers + hidden * width + head + bert_config.hidden_size**2)

    def results(self, batch: base.Tensors, outputs: base.Tensors, labelled: bool) -> dict[str, tf.Tensor]:
        return (self._sums if labelled else self._most_probable)(batch, outputs)

    def _sums(self, batch: base.Tensors, outputs: base.Tensors) -> dict[str, tf.Tensor]:
        """Sums over each example's masked tokens: logits of a vocabulary are too many to be handed back."""
        import tensorflow as tf

        from trainer.models.losses import vocabulary_cross_entropy

        losses, correct = vocabulary_cross_entropy(batch["masked_lm_ids"], outputs["masked_lm_logits"])
        slots, example = tf.shape(batch["cls_positions"])[1], _examples_of_masks(batch)
        member = tf.one_hot(example, slots, axis=1) * batch["masked_lm_weights"][:, None]  # [rows, K, P]

        def by_example(values):
            return tf.reduce_sum(member * values[:, None], -1)

        sums = {"masked_lm_loss": by_example(losses), "masked_lm_correct": by_example(correct)}
        sums["masked_tokens"] = tf.reduce_sum(member, -1)
        if self.config.replaced_tokens:
            sums |= self._replaced_sums(batch, outputs, slots)
        return sums | ({"sentence_logits": outputs["sentence_logits"]} if self.config.has_pairs else {})

    def _replaced_sums(self, batch: base.Tensors, outputs: base.Tensors, slots: tf.Tensor) -> dict[str, tf.Tensor]:
        """Sums over each example's tokens: float32 [rows, K] each."""
        import tensorflow as tf

        from trainer.models.pooling import membership

        logits, is_replaced = outputs["replaced_logits"], outputs["is_replaced"]
        is_guessed = tf.cast(logits > 0, tf.float32)
        of_tokens = {
            "tokens": self._is_token(batch),
            "replaced": is_replaced,
            "replaced_guessed": is_guessed,
            "replaced_found": is_guessed * is_replaced,
            "replaced_loss": tf.nn.sigmoid_cross_entropy_with_logits(is_replaced, logits),
        }
        is_own = membership(batch["segment_ids"], slots)  # [rows, K, length]
        return {name: tf.linalg.matvec(is_own, values) for name, values in of_tokens.items()}

    def _most_probable(self, batch: base.Tensors, outputs: base.Tensors) -> dict[str, tf.Tensor]:
        """The most probable tokens of each example's masks: "token_ids", "probabilities", [rows, K, MASKS_PREDICTED, n]."""
        import tensorflow as tf

        logits = outputs["masked_lm_logits"][..., : self.tokenizer.vocabulary_size]  # embeddings may have rows to spare
        probabilities, ids = tf.math.top_k(tf.nn.softmax(logits), self.config.predicted_tokens)
        example = _examples_of_masks(batch)  # [rows, P]
        rows, slots = tf.unstack(tf.shape(batch["cls_positions"]))
        member = tf.one_hot(example, slots, axis=1, dtype=tf.int32)  # [rows, K, P]
        turns = tf.transpose(tf.cumsum(member, axis=2, exclusive=True), [0, 2, 1])  # [rows, P, K]
        turn = tf.gather(turns, tf.maximum(example, 0), batch_dims=2)  # -1: padding
        row = tf.broadcast_to(tf.range(rows)[:, None], tf.shape(example))
        # Which of its example's masks a mask is: turn. Those beyond MASKS_PREDICTED, and what is no mask, have no place.
        is_kept = (batch["masked_lm_weights"] > 0) & (turn < MASKS_PREDICTED)
        places = tf.boolean_mask(tf.stack([row, example, turn], axis=-1), is_kept)
        shape = tf.stack([rows, slots, MASKS_PREDICTED, self.config.predicted_tokens])

        def spread(values):
            return tf.scatter_nd(places, tf.boolean_mask(tf.cast(values, tf.float32), is_kept), shape)

        return {"token_ids": spread(ids), "probabilities": spread(probabilities)}

    def decode(self, row: Row, windows: Sequence[base.Window]) -> base.Prediction:
        (window,) = windows
        token_of = self.tokenizer.backend.id_to_token
        masks = [
            [{"token": token_of(int(i)), "probability": float(p)} for i, p in zip(ids, shares, strict=True)]
            for ids, shares in zip(window.outputs["token_ids"], window.outputs["probabilities"], strict=True)
            if shares[0] > 0  # no mask: its probabilities are 0
        ]
        return {"masks": masks}

    def score(self, rows: Iterable[tuple[Row, Sequence[base.Window]]], tune: bool = False) -> dict[str, Any]:
        sums, right = collections.Counter[str](), 0
        for _, windows in rows:
            for window in windows:
                outputs = window.outputs
                sums.update({name: float(value) for name, value in outputs.items() if name != "sentence_logits"})
                sums["examples"] += 1
                if self.config.has_pairs:
                    right += int(outputs["sentence_logits"].argmax() == window.features["sentence_label"])
        tokens = max(sums["masked_tokens"], 1.0)
        loss, accuracy = sums["masked_lm_loss"] / tokens, sums["masked_lm_correct"] / tokens
        scores = {"masked_lm_accuracy": accuracy, "masked_lm_loss": loss, "perplexity": float(np.exp(min(loss, 700.0)))}
        if self.config.has_pairs:
            scores["sentence_accuracy"] = right / sums["examples"]
        if self.config.replaced_tokens:
            scores |= _replaced_scores(sums)
        return scores | {"masked_tokens": int(tokens), "examples": int(sums["examples"])}

    def request_of(self, row: Row) -> list[str]:
        """The first words of a document, one of them masked."""
        (text,) = self.texts(row)
        words = text.split()[:20]
        words[len(words) // 2] = "[MASK]"
        return [" ".join(words)]

    def reply(self, request: Request) -> dict[str, tf.Tensor]:
        """For each of MASKS_PREDICTED masks the most probable tokens; "" with probability 0 where a text has fewer masks."""
        import tensorflow as tf

        probabilities = request.results["probabilities"]
        tokens = tf.gather(tf.constant(self.tokenizer.tokens()), tf.cast(request.results["token_ids"], tf.int32))
        return {"tokens": tf.where(probabilities > 0, tokens, ""), "probabilities": probabilities}

    def as_reply(self, prediction: base.Prediction) -> dict[str, Any]:
        none = [{"token": "", "probability": 0.0}] * self.config.predicted_tokens
        masks = [*prediction["masks"], *[none] * (MASKS_PREDICTED - len(prediction["masks"]))]
        return {
            "tokens": [[token["token"] for token in mask] for mask in masks],
            "probabilities": [[token["probability"] for token in mask] for mask in masks],
        }

    def is_tie(self, output: str, reply: Mapping[str, np.ndarray], tolerance: float) -> bool:
        # Neighbours in the order of a mask's tokens change places; so do the last one and the first that is left out.
        probabilities = reply["probabilities"]
        is_close = np.abs(np.diff(probabilities, axis=-1)) <= tolerance
        return bool((is_close & (probabilities[..., 1:] > 0)).any() or (probabilities[..., -1] > 0).any())

    def hugging_face_head(self, model: keras.Model) -> tuple[str, dict[str, np.ndarray]]:
        from trainer.serving.hugging_face import pytorch_weights

        if not self.config.replaced_tokens:
            architecture = "BertForPreTraining" if self.config.has_pairs else "BertForMaskedLM"
            return architecture, pytorch_weights(model.get_layer("cls").weights)
        if model.get_layer("encoder").bert_config.model_type == "electra":
            return "BertForPreTraining", pytorch_weights(model.get_layer("discriminator_predictions").weights)
        return super().hugging_face_head(model)


def _replaced_scores(sums: Mapping[str, float]) -> dict[str, float]:
    """Returns the scores of finding replaced tokens, from the sums of `_replaced_sums`."""
    found, guessed, replaced, tokens = (sums[name] for name in ("replaced_found", "replaced_guessed", "replaced", "tokens"))
    confusion = np.array([[tokens - guessed - replaced + found, guessed - found], [replaced - found, found]])
    precision, recall, f1 = (float(of_classes[1]) for of_classes in precision_recall_f1(confusion))
    scores = {"replaced_f1": f1, "replaced_precision": precision, "replaced_recall": recall}
    known = max(tokens, 1.0)
    return scores | {"replaced_accuracy": float(confusion.trace()) / known, "replaced_loss": sums["replaced_loss"] / known}


def _most_each(masks: int) -> Callable[[int, int], int]:
    """Returns how many masks a row has at most, where each of its examples has at most `masks`."""
    return lambda cells, examples: min(examples * masks, cells)


def _examples_of_masks(batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Returns which of its row's examples each mask is in: int32 [rows, P], -1 where there is no mask."""
    import tensorflow as tf

    return tf.gather(batch["segment_ids"], batch["masked_positions"], batch_dims=1) - 1
