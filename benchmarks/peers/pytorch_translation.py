"""Fine-tune transformers' EncoderDecoderModel on pairs of texts: the peer of our generation.

Encoder and decoder start from one encoder's weights, the decoder from its first layers, and share their word embeddings; the
cross-attention is random. Searched by `generate`, scored by sacrebleu. Runs in an environment of its own:

    python benchmarks/peers/pytorch_translation.py --train=train --test=test_2016_flickr --folder=multi30k --encoder=DIR \
        --output=peer.jsonl
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path
from typing import Any

import pytorch_common as common
import sacrebleu
import torch
from pytorch_generation import generated
from transformers import BertConfig, BertLMHeadModel, BertModel, EncoderDecoderModel
from transformers.modeling_outputs import Seq2SeqLMOutput


class SmoothedModel(torch.nn.Module):
    """An encoder and decoder whose loss has label smoothing."""

    def __init__(self, model: EncoderDecoderModel, label_smoothing: float):
        super().__init__()
        self.model = model
        self._loss = torch.nn.CrossEntropyLoss(ignore_index=common.IGNORED, label_smoothing=label_smoothing)

    def forward(self, labels: torch.Tensor, **inputs: torch.Tensor) -> Seq2SeqLMOutput:
        """Returns the loss and the logits."""
        logits = self.model(**inputs).logits
        return Seq2SeqLMOutput(loss=self._loss(logits.flatten(0, 1), labels.flatten()), logits=logits)


def build(encoder: str, layers: int) -> EncoderDecoderModel:
    """Returns a decoder of the encoder's first layers beside it."""
    read = BertModel.from_pretrained(encoder)
    config = BertConfig.from_pretrained(encoder, is_decoder=True, add_cross_attention=True, num_hidden_layers=layers)
    decoder = BertLMHeadModel.from_pretrained(encoder, config=config)
    decoder.bert.embeddings.word_embeddings.weight = read.embeddings.word_embeddings.weight
    decoder.tie_weights()
    return EncoderDecoderModel(encoder=read, decoder=decoder)


def read_texts(folder: str, split: str, language: str, most: int | None) -> list[str]:
    """Returns the lines of a file."""
    with gzip.open(Path(folder) / f"{split}.{language}.gz", "rt", encoding="utf8") as file:
        return [line.strip() for line in file][:most]


def main() -> None:
    """Trains and scores once."""
    parser = common.parser_of(__doc__, epochs=5, batch_size=32, learning_rate=3e-4, max_seq_length=64)
    parser.add_argument("--folder", required=True, help="of the files")
    parser.add_argument("--train", default="train", help="the files' names before their languages")
    parser.add_argument("--test", default="test_2016_flickr")
    parser.add_argument("--languages", nargs=2, default=("de", "en"))
    parser.add_argument("--decoder_layers", type=int, default=3)
    parser.add_argument("--max_new_tokens", type=int, default=48)
    parser.add_argument("--num_beams", type=int, default=4)
    parser.add_argument("--label_smoothing", type=float, default=0.1)
    train(parser.parse_args())


def train(options: argparse.Namespace) -> None:
    """Trains a model, scores it, and adds a line to options.output."""
    tokenizer = common.begin(options)
    most = {"train": options.max_train_rows, "test": options.max_test_rows}
    texts = {
        split: [read_texts(options.folder, getattr(options, split), language, most[split]) for language in options.languages]
        for split in most
    }

    def example(source: str, target: str) -> dict[str, Any]:
        ids = tokenizer(target, add_special_tokens=False)["input_ids"][: options.max_new_tokens - 1]
        return {
            "input_ids": tokenizer(source, truncation=True, max_length=options.max_seq_length)["input_ids"],
            "decoder_input_ids": [tokenizer.cls_token_id, *ids],
            "labels": [*ids, tokenizer.sep_token_id],
        }

    model = build(options.encoder, options.decoder_layers)
    generation = model.generation_config
    generation.decoder_start_token_id = generation.bos_token_id = tokenizer.cls_token_id
    generation.eos_token_id, generation.pad_token_id = tokenizer.sep_token_id, tokenizer.pad_token_id
    generation.num_beams, generation.max_new_tokens = options.num_beams, options.max_new_tokens

    def evaluate() -> dict[str, Any]:
        sources, references = texts["test"]
        found = generated(model, tokenizer, sources, options.batch_size, options.max_seq_length)
        bleu = sacrebleu.corpus_bleu(found, [references], lowercase=True)  # an uncased vocabulary has no capitals
        return {
            "bleu": bleu.score,
            "chrf": sacrebleu.corpus_chrf([t.lower() for t in found], [[r.lower() for r in references]]).score,
        }

    padding = common.PADDING | {"decoder_input_ids": tokenizer.pad_token_id, "labels": common.IGNORED}
    examples = [example(*pair) for pair in zip(*texts["train"], strict=True)]
    common.train(SmoothedModel(model, options.label_smoothing), examples, options, evaluate, padding)


if __name__ == "__main__":
    main()
