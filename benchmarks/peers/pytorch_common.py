"""What the PyTorch peers share: options, files, batches, the optimizer, the training loop, a head on the mean of the tokens.

The recipe is the one our configs use: AdamW with epsilon 1e-6 and without decay on biases and LayerNorm, linear warm-up and
linear decay to 0, clipping at norm 1.0. Batches are padded to their longest example and grouped by length. A training step
runs in float32 or under bfloat16 autocast, evaluation always in float32.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import (
    BertForSequenceClassification,
    BertModel,
    BertPreTrainedModel,
    BertTokenizerFast,
    PreTrainedModel,
    get_scheduler,
    logging,
)
from transformers.modeling_outputs import SequenceClassifierOutput

Example = Mapping[str, Any]  # "input_ids", and what else the model takes
PADDING = {"input_ids": 0, "token_type_ids": 0}  # a feature with a value for each token → what fills it up; BERT's [PAD] is 0
IGNORED = -100  # the label that PyTorch's cross entropy leaves out
LOG_EVERY_STEPS = 100


# Options


def parser_of(
    description: str | None, epochs: int, batch_size: int, learning_rate: float, max_seq_length: int
) -> argparse.ArgumentParser:
    """Returns a parser with the options of every peer and these defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, help="folder with config.json, model.safetensors and the vocabulary")
    parser.add_argument("--output", required=True, help="one JSON line is added to this file")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--steps", type=int, help="optimizer updates, instead of --epochs")
    parser.add_argument("--batch_size", type=int, default=batch_size)
    parser.add_argument("--learning_rate", type=float, default=learning_rate)
    parser.add_argument("--schedule", choices=("linear", "cosine", "constant"), default="linear", help="after the warm-up")
    parser.add_argument("--warmup_ratio", type=float, default=0.1)
    parser.add_argument("--weight_decay", type=float, default=0.01)
    parser.add_argument("--epsilon", type=float, default=1e-6)
    parser.add_argument("--max_gradient_norm", type=float, default=1.0)
    parser.add_argument("--max_seq_length", type=int, default=max_seq_length)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the training steps")
    parser.add_argument("--attention", choices=("eager", "sdpa"), default="sdpa")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--evaluate_each_epoch", action="store_true", help="also before the last epoch; not in the speed")
    parser.add_argument("--max_train_rows", type=int, help="the first rows only, to try a command")
    parser.add_argument("--max_test_rows", type=int, help="the first rows only, to try a command")
    return parser


def add_head_options(parser: argparse.ArgumentParser, has_pooling: bool = True) -> None:
    """Adds the options of a head: its dropout and, where it reads one vector for a text, which."""
    parser.add_argument("--head_dropout_rate", type=float, default=0.1)
    if has_pooling:
        parser.add_argument("--pooling", choices=("pooler", "mean"), default="mean", help="what the head reads")


def begin(options: argparse.Namespace) -> BertTokenizerFast:
    """Sets threads and seed; returns the encoder's tokenizer."""
    logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    return BertTokenizerFast.from_pretrained(options.encoder)


# Files


def read_table(path: str, quoting: str = "none", column_names: Sequence[str] = ()) -> list[dict[str, str]]:
    """Returns the rows of a csv or tsv file.

    Args:
      path: the columns of .tsv are separated by tabs.
      quoting: "none", as GLUE's files are, or "standard", where double quotes may surround a value.
      column_names: of a file without a header.
    """
    how: dict[str, Any] = {"delimiter": "\t" if path.endswith(".tsv") else ","}
    if quoting == "none":
        how["quoting"] = csv.QUOTE_NONE
    with open(path, encoding="utf-8-sig", newline="") as file:  # MRPC's files begin with a byte-order mark
        rows = list(csv.DictReader(file, fieldnames=list(column_names) or None, **how))
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise SystemExit(f"{path}: row {number} has another number of columns than {list(rows[0])}; is --quoting right?")
    return rows


# Batches


def padded_batch(examples: Sequence[Example], padding: Mapping[str, int] = PADDING) -> dict[str, torch.Tensor]:
    """Returns a batch, each feature padded to its longest one, with the "attention_mask" of "input_ids".

    Args:
      examples: a value for each token is a list, any other a number or a list of one size.
      padding: {feature with a value for each token: what fills it up}.

    >>> padded_batch([{"input_ids": [5, 6], "labels": 1}, {"input_ids": [7], "labels": 0}])["input_ids"].tolist()
    [[5, 6], [7, 0]]
    """
    width = max(len(example["input_ids"]) for example in examples)
    batch = {"attention_mask": _filled([[1] * len(example["input_ids"]) for example in examples], width, 0)}
    for name in examples[0]:
        values = [example[name] for example in examples]
        longest = max(map(len, values)) if name in padding else 0
        batch[name] = _filled(values, longest, padding[name]) if name in padding else torch.tensor(values)
    return batch


def _filled(rows: Sequence[list[int]], width: int, fill: int) -> torch.Tensor:
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])


def length_grouped_batches(lengths: Sequence[int], batch_size: int, generator: random.Random) -> list[list[int]]:
    """Returns lists of row numbers: shuffled, then sorted by length within 50 batches, as HF's Trainer does."""
    order = list(range(len(lengths)))
    generator.shuffle(order)
    pool = 50 * batch_size
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        group = sorted(order[start : start + pool], key=lambda row: lengths[row])
        batches += [group[i : i + batch_size] for i in range(0, len(group), batch_size)]
    generator.shuffle(batches)
    return batches


# Training


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Returns AdamW's two groups: weight decay on matrices only, as google-research/bert's optimization.py."""
    exempt = ("bias", "LayerNorm.weight")
    named = list(model.named_parameters())
    return [
        {"params": [p for n, p in named if not n.endswith(exempt)], "weight_decay": weight_decay},
        {"params": [p for n, p in named if n.endswith(exempt)], "weight_decay": 0.0},
    ]


def train(
    model: torch.nn.Module,
    examples: Sequence[Example],
    options: argparse.Namespace,
    evaluate: Callable[[], dict[str, Any]],
    padding: Mapping[str, int] = PADDING,
    best_score: str = "",
) -> None:
    """Trains the model, scores it, and adds a line with options, scores and speed to options.output.

    The speed counts the tokens that are no padding, [CLS] and [SEP] included, over the seconds of the training steps, in which
    batches are padded, too. Evaluation and the tokenizer are not in it.

    Args:
      model: its output has a "loss".
      examples: see `padded_batch`; the lengths of "input_ids" decide which ones form a batch.
      options: of `parser_of`.
      evaluate: returns the scores of the weights as they are.
      padding: see `padded_batch`.
      best_score: if given, the line has the scores where this one is the highest, too, as "scores_at_best_dev".
    """
    lengths = [len(example["input_ids"]) for example in examples]
    steps = options.steps or options.epochs * -(-len(examples) // options.batch_size)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, options.weight_decay), lr=options.learning_rate, eps=options.epsilon, fused=True
    )
    name = "constant_with_warmup" if options.schedule == "constant" else options.schedule
    schedule = get_scheduler(name, optimizer, round(options.warmup_ratio * steps), steps)
    seconds, tokens, cells, scores = 0.0, 0, 0, []
    model.train()
    for step, (rows, is_last_of_epoch) in enumerate(_batches(lengths, steps, options), start=1):
        begun = time.perf_counter()
        batch = padded_batch([examples[row] for row in rows], padding)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.precision == "bfloat16"):
            loss = model(**batch).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.max_gradient_norm)
        optimizer.step()
        schedule.step()
        seconds += time.perf_counter() - begun
        tokens += sum(lengths[row] for row in rows)
        cells += batch["input_ids"].numel()
        if step % LOG_EVERY_STEPS == 0 or step in (1, steps):
            print(f"step {step}/{steps} loss {loss.item():.4f} {tokens / seconds:,.0f} tokens/s", flush=True)
        if step == steps or (is_last_of_epoch and options.evaluate_each_epoch):
            scores.append({"step": step, **_evaluated(model, evaluate)})
            print(json.dumps({name: value for name, value in scores[-1].items() if not isinstance(value, list)}), flush=True)
    speed = {"train_seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds, "useful_cells": tokens / cells}
    record = vars(options) | {"examples": len(examples), "scores": scores[-1], "scores_by_epoch": scores, **speed}
    if best_score:
        record["scores_at_best_dev"] = max(scores, key=lambda found: found[best_score])
    with open(options.output, "a", encoding="utf8") as file:
        file.write(json.dumps(record) + "\n")


def _batches(lengths: Sequence[int], steps: int, options: argparse.Namespace) -> Iterator[tuple[list[int], bool]]:
    """Yields (row numbers, whether an epoch ends) of each step."""
    generator = random.Random(options.seed)
    done = 0
    while True:
        batches = length_grouped_batches(lengths, options.batch_size, generator)
        for number, rows in enumerate(batches, start=1):
            yield rows, number == len(batches)
            done += 1
            if done == steps:
                return


def _evaluated(model: torch.nn.Module, evaluate: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    model.eval()
    with torch.inference_mode():
        scores = evaluate()
    model.train()
    return scores


def outputs_of(model: PreTrainedModel, examples: Sequence[Example], names: Sequence[str], batch_size: int = 64) -> list[tuple]:
    """Returns the outputs of each example, NumPy arrays in the order of the names, with as many tokens as it has or more.

    Examples of like lengths are computed together; labels are left out.
    """
    order = sorted(range(len(examples)), key=lambda row: len(examples[row]["input_ids"]))
    found: list[tuple] = [()] * len(examples)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        inputs = [{name: value for name, value in examples[row].items() if name in PADDING} for row in rows]
        outputs = model(**padded_batch(inputs))
        for place, row in enumerate(rows):
            found[row] = tuple(outputs[name][place].float().numpy() for name in names)
    return found


# Models


class MeanPooledBert(BertPreTrainedModel):
    """BERT with dropout and a dense layer on the mean of its tokens, [CLS] and [SEP] included, of which transformers has none.

    Its losses are those of BertForSequenceClassification, by `config.problem_type`.
    """

    def __init__(self, config: Any):
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.dropout = torch.nn.Dropout(config.classifier_dropout)
        self.classifier = torch.nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Returns logits, float [batch, labels], and the loss where there are labels."""
        tokens = self.bert(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(tokens.dtype)
        logits = self.classifier(self.dropout((tokens * weights).sum(1) / weights.sum(1)))
        return SequenceClassifierOutput(loss=None if labels is None else self._loss(logits, labels), logits=logits)

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.config.problem_type == "regression":
            return torch.nn.functional.mse_loss(logits.squeeze(-1), labels)
        if self.config.problem_type == "multi_label_classification":
            return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        return torch.nn.functional.cross_entropy(logits, labels)


def load_pooled(options: argparse.Namespace, problem_type: str, labels: int) -> PreTrainedModel:
    """Returns a model of one vector for each text: BertForSequenceClassification, or `MeanPooledBert`."""
    kind = MeanPooledBert if options.pooling == "mean" else BertForSequenceClassification
    return kind.from_pretrained(
        options.encoder,
        num_labels=labels,
        problem_type=problem_type,
        classifier_dropout=options.head_dropout_rate,
        attn_implementation=options.attention,
    )
