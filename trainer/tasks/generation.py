"""Generation: a text is written for a text, or a pair of texts: translation, summaries, questions, text from data.

An encoder reads the source and a decoder, a BERT too, writes the target (BERT2BERT; Rothe, Narayan and Severyn 2020,
arXiv:1907.12461). Sources and targets are packed beside each other.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trainer.config import check
from trainer.data.row_values import texts_in
from trainer.data.sources import Row
from trainer.data.table import Proposal, Table, UnrecognizedError, listed, quoted, token_estimate
from trainer.features import ROW_ID, Example, Feature, FeatureSpec
from trainer.metrics.rouge import TYPES, Words, best_rouge, splitter
from trainer.metrics.translation import BleuTokenizer, bleu, chrf
from trainer.tasks import base
from trainer.text.target_text import TargetText
from trainer.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tensorflow as tf
    import tf_keras as keras
    from transformers import BertConfig

    from trainer.models.decoder import BertDecoder
    from trainer.models.encoder import BertEncoder
    from trainer.serving.windows import Request

SOURCES = ("source", "src", "document", "article", "dialogue", "input", "text", "abstract")
TARGETS = ("target", "tgt", "summary", "highlights", "output", "translation", "title", "reference")
LANGUAGE = re.compile("[a-z]{2,3}([-_][A-Za-z]{2,4})?")
TARGET_TOKENS = {name: Feature("int32", "token", "target", aligned_with="") for name in ("target_input_ids", "target_labels")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(base.TextTaskConfig):
    """The `task` section of generation."""

    name: str = "generation"
    """Which task: the name of a file in trainer/tasks."""
    text_columns: tuple[str, ...] = ("source",)
    """The column of the text that is read, or two columns for a pair, as a question and its context."""
    target_column: str = "target"
    """The column of the text that is to be written; a list of texts where several are right: the first one is learned."""
    max_new_tokens: int = 64
    """Tokens of a target, the last [SEP] included; longer ones are cut in training."""
    decoder_layers: int | None = None
    """Layers of the decoder; null: as many as the encoder's."""
    decoder_init_from: str = "encoder"
    """What the decoder starts from: encoder, the encoder's own weights; random; or a folder or Hub id, as encoder.init_from,
    with the same vocabulary. Cross-attention is random, it is in no checkpoint."""
    share_embeddings: bool = True
    """Encoder and decoder have the same word embeddings; the head's are always the decoder's."""
    label_smoothing: float = 0.1
    """Share of the target that all tokens of the vocabulary have alike (Szegedy et al. 2016)."""
    num_beams: int = 4
    """Beams of the search; 1 takes the likeliest token each time."""
    num_return_sequences: int = 1
    """Texts for each row, the best first; more than one are listed as alternatives."""
    length_penalty: float = 1.0
    """A text's score is its log probability divided by its tokens to this power: higher means longer texts."""
    early_stopping: bool = False
    """The search ends once as many texts as beams have ended; false: once no other can become better."""
    min_new_tokens: int = 0
    """Tokens that a text has at least, the last [SEP] not counted."""
    no_repeat_ngram_size: int = 0
    """So many tokens in a row occur once in a text; 0: as often as the model likes."""
    do_sample: bool = False
    """Tokens are drawn instead of searched for: from the same text always the same ones."""
    temperature: float = 1.0
    """Of drawing: divides the logits; lower means likelier tokens."""
    top_k: int = 0
    """Of drawing: only the likeliest tokens, so many; 0: all."""
    top_p: float = 1.0
    """Of drawing: only the likeliest tokens that together have this probability."""
    seed: int = 0
    """Of drawing: another number draws other texts."""
    selection_score: Literal["bleu", "chrf", "rouge1", "rouge2", "rougeL"] = "bleu"
    """The score that chooses the best checkpoint."""
    bleu_tokenizer: BleuTokenizer = "13a"
    """How BLEU finds words, as sacrebleu's --tokenize: 13a for spaced languages, zh for Chinese, char for single characters."""
    rouge_words: Words = "any_language"
    """What ROUGE counts: any_language, runs of letters and digits, and single Chinese characters; english, as rouge-score; or
    stemmed_english, as rouge-score with its stemmer."""

    def __post_init__(self):
        super().__post_init__()
        base.check_distinct((*self.text_columns, self.target_column), "text_columns")
        for field in ("max_new_tokens", "num_beams", "num_return_sequences", "decoder_layers"):
            value = getattr(self, field)
            check(value is None or value >= 1, field, f"must be 1 or more, got {value}")
        for field in ("min_new_tokens", "no_repeat_ngram_size", "top_k", "seed"):
            check(getattr(self, field) >= 0, field, f"must be 0 or more, got {getattr(self, field)}")
        check(self.max_new_tokens >= 2, "max_new_tokens", "must be 2 or more: a token and the last one")
        check(self.min_new_tokens <= self.max_new_tokens, "min_new_tokens", "is over task.max_new_tokens")
        check(0 <= self.label_smoothing < 1, "label_smoothing", f"must be in [0, 1), got {self.label_smoothing}")
        check(self.temperature > 0, "temperature", f"must be over 0, got {self.temperature}")
        check(0 < self.top_p <= 1, "top_p", f"must be in (0, 1], got {self.top_p}")
        most = self.num_beams if not self.do_sample else self.num_return_sequences
        check(
            self.num_return_sequences <= most,
            "num_return_sequences",
            f"{self.num_return_sequences} is more than task.num_beams={self.num_beams}",
        )
        drawing = [name for name in ("temperature", "top_k", "top_p") if getattr(self, name) not in (0, 1)]
        check(self.do_sample or not drawing, drawing[0] if drawing else "", "is of drawing; it needs task.do_sample=true")


class Task(base.TextTask):
    """See the module."""

    config: Config

    def __init__(self, config: Config, tokenizer: Tokenizer, max_seq_length: int):
        super().__init__(config, tokenizer, max_seq_length)
        self._target_text = TargetText(tokenizer)

    @property
    def best_score(self) -> str:  # type: ignore[override]
        """The score that chooses the best checkpoint."""
        return self.config.selection_score

    @classmethod
    def recognize(cls, table: Table) -> Proposal:
        def named(names: Sequence[str]) -> str | None:
            return next((column for column in names if column in table.columns and table.holds(column, str)), None)

        source, target = named(SOURCES), named(TARGETS)
        languages = [column for column in table.columns if LANGUAGE.fullmatch(column) and table.holds(column, str)]
        if (source is None or target is None) and len(languages) == len(table.columns) == 2:
            source, target = languages
        if source is None or target is None:
            raise UnrecognizedError("no column of texts to read (source, document, de) with one to write (target, summary, en)")
        lengths = sorted(token_estimate(str(row.get(source) or "")) for row in table.rows)
        task = {"text_columns": listed([source]), "target_column": quoted(target)}
        task |= {"selection_score": "rougeL"} if target in ("summary", "highlights", "title") else {}
        return Proposal(2, [f"text that is read: {source}", f"text that is written: {target}"], task, lengths)

    # Rows become examples

    def features(self) -> FeatureSpec:
        return {**self.token_features(), **TARGET_TOKENS, **ROW_ID}

    def examples(self, row: Row, labelled: bool = True) -> list[Example]:
        ids = self._target_text.ids(texts_in(row, self.config.target_column)[0]) if labelled else []
        return [{**self.example_of_texts(self.texts(row)), **self._target(ids, labelled)}]

    def request_examples(self, row: Row) -> list[Example]:
        texts = [row.values[column] for column in self.config.text_columns]
        return [{**self.example_of_texts(texts), **self._target([], labelled=False)}]

    def _target(self, ids: Sequence[int], labelled: bool) -> dict[str, list[int]]:
        """Returns the features of a target: what the decoder reads, and what it is to say then."""
        ids = ids[: self._most_new_tokens - 1]
        ends = [self.tokenizer.sep_id] if labelled else [self.tokenizer.pad_id]
        return {"target_input_ids": [self.tokenizer.cls_id, *ids], "target_labels": [*ids, *ends]}

    @property
    def _most_new_tokens(self) -> int:
        return min(self.config.max_new_tokens, self.max_seq_length)

    def kept(self, row: Row) -> dict[str, Any]:
        return {"references": texts_in(row, self.config.target_column)}

    def made_from(self) -> dict[str, Any]:
        config = self.config
        return super().made_from() | {"task.target_column": config.target_column, "task.max_new_tokens": config.max_new_tokens}

    # Batches are learned from

    def build_model(self, encoder: BertEncoder) -> keras.Model:
        import tf_keras as keras

        from trainer.models.decoder import BertDecoder
        from trainer.models.encoder import packed_inputs
        from trainer.models.generation import GenerationModel
        from trainer.models.heads import PretrainingHeads
        from trainer.models.search import Search

        config = self.config
        # Inputs
        sources = packed_inputs()
        names = ("target_input_ids", "target_position_ids", "target_segment_ids")
        targets = {name: keras.Input([None], dtype="int32", name=name) for name in names}
        # Encoder and decoder: dtype [rows, tokens, hidden]
        memory = encoder(sources)
        decoder = BertDecoder(encoder, config.decoder_layers, config.share_embeddings)
        hidden = decoder(targets, memory, sources["segment_ids"])
        # Head: dtype [rows, tokens, vocabulary]
        head = PretrainingHeads(decoder, has_pairs=False)
        logits = head(hidden)["masked_lm_logits"]
        model = GenerationModel({**sources, **targets}, {"target_logits": logits}, name=config.name)
        shared = {field.name for field in dataclasses.fields(Search)} & {field.name for field in dataclasses.fields(config)}
        ids: dict[str, Any] = {
            "first_id": self.tokenizer.cls_id,
            "last_id": self.tokenizer.sep_id,
            "pad_id": self.tokenizer.pad_id,
        }
        asked = {name: getattr(config, name) for name in shared} | {"max_new_tokens": self._most_new_tokens}
        model.generate_with(encoder, decoder, head, Search(**ids, **asked))
        return model

    def warm_start(self, model: keras.Model, encoder: BertEncoder, folder_of: Callable[[str], str]) -> list[str]:
        from trainer.models.decoder import CROSS_ATTENTION
        from trainer.models.initialization import load_encoder_weights

        decoder, init_from = model.get_layer("decoder"), self.config.decoder_init_from
        if init_from == "random":
            return ["decoder weights: random"]
        if init_from == "encoder":
            return [f"decoder weights: {decoder.start_from(encoder)} as the encoder's; cross-attention is random"]
        report = load_encoder_weights(decoder, folder_of(init_from), [CROSS_ATTENTION], model.get_layer("cls").weights)
        return [f"decoder: {line}" for line in report.lines()]

    def loss_weights(self, batch: base.Tensors) -> dict[str, tf.Tensor]:
        import tensorflow as tf

        return {"target": tf.cast(batch["target_segment_ids"] > 0, tf.float32)}

    def loss(self, batch: base.Tensors, outputs: base.Tensors) -> tuple[base.Losses, base.Measures]:
        from trainer.models.losses import vocabulary_cross_entropy

        smoothing = self.config.label_smoothing
        losses, is_right = vocabulary_cross_entropy(batch["target_labels"], outputs["target_logits"], smoothing)
        return {"target": losses}, {"token_accuracy": ("target", is_right)}

    def divergence(self, batch: base.Tensors, first: base.Tensors, second: base.Tensors) -> base.Losses:
        from trainer.models.losses import divergence

        return {"target": divergence(first["target_logits"], second["target_logits"])}

    @property
    def logged(self) -> Sequence[str]:
        return ("token_accuracy",)

    def head_flops_per_token(self, bert_config: BertConfig) -> float:
        # A target's tokens go through the decoder and the vocabulary, a source's through the encoder, which the caller counts:
        # here both together have, of each token, half of both. Texts of like length are assumed.
        hidden, inner = bert_config.hidden_size, bert_config.intermediate_size
        layers = self.config.decoder_layers or bert_config.num_hidden_layers
        decoder = layers * (8 * hidden * hidden + 2 * hidden * inner) + hidden * bert_config.vocab_size
        encoder = bert_config.num_hidden_layers * (4 * hidden * hidden + 2 * hidden * inner)
        return 6.0 * (decoder - encoder) / 2

    # Outputs become a prediction a row, and scores

    def completed(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {name: value for name, value in batch.items() if not name.startswith("target_")}

    def decode(self, row: Row, windows: Sequence[base.Window]) -> base.Prediction:
        (window,) = windows
        texts = [self._target_text.text(ids) for ids in np.asarray(window.outputs["sequences"], np.int64).tolist()]
        scores = np.asarray(window.outputs["scores"]).tolist()
        found = {"text": texts[0], "score": scores[0], "margin": float(window.outputs["margin"])}
        return found | ({"alternatives": texts, "alternative_scores": scores} if len(texts) > 1 else {})

    def score(self, rows: Iterable[tuple[Row, Sequence[base.Window]]], tune: bool = False) -> dict[str, Any]:
        texts: list[str] = []
        references: list[list[str]] = []
        loss = tokens = 0.0
        for row, windows in rows:
            texts.append(self.decode(row, windows)["text"])
            references.append(row.values["references"])
            loss += float(windows[0].outputs["target_loss"])
            tokens += float(windows[0].outputs["target_tokens"])
        # A vocabulary without capitals cannot write any: its texts are compared without them, as sacrebleu -lc does.
        lowercase = self.tokenizer.lowercase
        found = {"rows": len(texts), "bleu": bleu(texts, references, self.config.bleu_tokenizer, lowercase)}
        found["chrf"] = chrf(texts, references, lowercase)
        split = splitter(self.config.rouge_words)
        each = [best_rouge(text, known, split) for text, known in zip(texts, references, strict=True)]
        found |= {name: float(np.mean([scores[name] for scores in each])) for name in TYPES}
        return {**found, "loss": loss / max(tokens, 1.0), "perplexity": float(np.exp(loss / max(tokens, 1.0)))}

    # An export replies to strings

    def reply(self, request: Request) -> dict[str, tf.Tensor]:
        import tensorflow as tf

        results = request.results
        texts = self._target_text.text_in_graph(tf.cast(results["sequences"], tf.int32))
        found = {"text": texts[:, 0], "score": results["scores"][:, 0], "margin": results["margin"]}
        more = {"alternatives": texts, "alternative_scores": results["scores"]}
        return found | (more if self.config.num_return_sequences > 1 else {})

    def as_reply(self, prediction: base.Prediction) -> dict[str, Any]:
        names = ("text", "score", "margin", "alternatives", "alternative_scores")
        return {name: prediction[name] for name in names if name in prediction}

    def hugging_face_head(self, model: keras.Model) -> tuple[str, dict[str, np.ndarray]]:
        from trainer.serving.hugging_face import pytorch_weights

        return "EncoderDecoderModel", pytorch_weights(model.get_layer("cls").weights)

    def hugging_face_decoder(self, model: keras.Model) -> BertDecoder:
        return model.get_layer("decoder")

    def hugging_face_files(self, model: keras.Model) -> Mapping[str, Any]:
        config, tokenizer = self.config, self.tokenizer
        ids = {"bos_token_id": tokenizer.cls_id, "eos_token_id": tokenizer.sep_id, "pad_token_id": tokenizer.pad_id}
        names = ["num_return_sequences", "min_new_tokens", "no_repeat_ngram_size", "do_sample"]
        names += ["temperature", "top_k", "top_p"] if config.do_sample else ["num_beams", "length_penalty", "early_stopping"]
        how = {name: getattr(config, name) for name in names} | {"max_new_tokens": self._most_new_tokens}
        return {"generation_config.json": {**ids, "decoder_start_token_id": tokenizer.cls_id, **how}}

    def is_tie(self, output: str, reply: Mapping[str, np.ndarray], tolerance: float) -> bool:
        return float(reply["margin"]) <= tolerance
