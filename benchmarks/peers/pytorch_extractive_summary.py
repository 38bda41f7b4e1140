"""Score sentences for a summary in PyTorch, as BERTSum does (Liu and Lapata 2019): the peer of our extractive summaries.

Windows of whole sentences, each between [CLS] and [SEP], types 0 and 1 in turn; the mean of a sentence's tokens, dropout, a
dense layer, binary cross entropy. The sentence with the highest score is the summary, scored by rouge-score as SciTLDR is. Runs
in an environment of its own (`pip install -r benchmarks/peers/requirements.txt`):

    python benchmarks/peers/pytorch_extractive_summary.py --folder=scitldr --encoder=DIR --seed=1 --output=peer.jsonl
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytorch_common as common
import torch
from rouge_score.rouge_scorer import RougeScorer
from transformers import BertModel, BertPreTrainedModel, BertTokenizerFast
from transformers.modeling_outputs import TokenClassifierOutput

PADDING = {**common.PADDING, "sentences": 0, "labels": common.IGNORED}
TYPES = ["rouge1", "rouge2", "rougeL"]


class SentenceScorer(BertPreTrainedModel):
    """BERT with a logit for each sentence, from the mean of its tokens."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.dropout = torch.nn.Dropout(config.classifier_dropout)
        self.classifier = torch.nn.Linear(config.hidden_size, 1)
        self.post_init()

    def forward(self, input_ids, attention_mask, token_type_ids, sentences, labels=None) -> TokenClassifierOutput:
        """Returns logits, float [batch, sentences], and the loss of labels, int [batch, length], at first tokens."""
        tokens = self.bert(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state
        numbers = torch.arange(1, int(sentences.max()) + 1)
        own = (sentences[:, None] == numbers[None, :, None]).to(tokens.dtype)  # [batch, sentences, length]
        means = own @ tokens / own.sum(-1, keepdim=True).clamp(min=1)
        logits = self.classifier(self.dropout(means)).squeeze(-1)
        loss = None
        if labels is not None:
            is_first = labels != common.IGNORED
            of_first = torch.gather(logits, 1, (sentences - 1).clamp(min=0))
            loss = torch.nn.functional.binary_cross_entropy_with_logits(of_first[is_first], labels[is_first].to(logits.dtype))
        return TokenClassifierOutput(loss=loss, logits=logits)


def windows(row: dict[str, Any], tokenizer: BertTokenizerFast, max_length: int) -> list[dict[str, list[int]]]:
    """Returns the windows of a row's sentences: as many whole ones as fit into each."""
    parts = tokenizer(row["source"], add_special_tokens=False, truncation=True, max_length=max_length - 2)["input_ids"]
    found: list[dict[str, list[int]]] = []
    for part, label in zip(parts, row["source_labels"], strict=True):
        ids = [tokenizer.cls_token_id, *part, tokenizer.sep_token_id]
        if not found or len(found[-1]["input_ids"]) + len(ids) > max_length:
            found.append({name: [] for name in ("input_ids", "token_type_ids", "sentences", "labels")})
        number = max(found[-1]["sentences"], default=0) + 1
        found[-1]["input_ids"] += ids
        found[-1]["token_type_ids"] += [(number - 1) % 2] * len(ids)
        found[-1]["sentences"] += [number] * len(ids)
        found[-1]["labels"] += [label] + [common.IGNORED] * (len(ids) - 1)
    return found


def main() -> None:
    """Trains and scores once."""
    parser = common.parser_of(__doc__, epochs=4, batch_size=16, learning_rate=1e-4, max_seq_length=256)
    common.add_head_options(parser, has_pooling=False)
    parser.add_argument("--folder", required=True, help="with train.jsonl and test.jsonl")
    options = parser.parse_args()

    tokenizer = common.begin(options)
    rows, tests = (
        [json.loads(line) for line in Path(options.folder, f"{split}.jsonl").read_text().splitlines()]
        for split in ("train", "test")
    )
    rows, tests = rows[: options.max_train_rows], tests[: options.max_test_rows]
    examples = [window for row in rows for window in windows(row, tokenizer, options.max_seq_length)]
    of_tests = [windows(row, tokenizer, options.max_seq_length) for row in tests]
    model = SentenceScorer.from_pretrained(
        options.encoder, classifier_dropout=options.head_dropout_rate, attn_implementation=options.attention
    )
    scorer = RougeScorer(TYPES, use_stemmer=True)

    def evaluate() -> dict[str, Any]:
        sums = dict.fromkeys(TYPES, 0.0)
        for row, found in zip(tests, of_tests, strict=True):
            scores: list[float] = []
            for window in found:
                batch = common.padded_batch([window], PADDING)
                scores += model(**{name: value for name, value in batch.items() if name != "labels"}).logits[0].tolist()
            summary = row["source"][max(range(len(scores)), key=scores.__getitem__)]
            each = [{n: s.fmeasure for n, s in scorer.score(target, summary).items()} for target in row["target"]]
            for name, value in max(each, key=lambda one: one["rouge1"]).items():
                sums[name] += value
        return {name: value / len(tests) for name, value in sums.items()}

    common.train(model, examples, options, evaluate, PADDING)


if __name__ == "__main__":
    main()
