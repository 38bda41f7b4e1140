"""Fine-tune Hugging Face's PyTorch BertForSequenceClassification: the peer that our accuracy is held to.

The recipe is the one our configs use (AdamW without decay on biases and LayerNorm, linear warm-up,
clipping at norm 1.0), with the peer's best settings on a CPU: dynamic padding, lengths
grouped within 50 batches, bfloat16 autocast, fused AdamW. One JSON line per run goes to --output.

Runs in an environment of its own (`pip install -r benchmarks/peers/requirements.txt`):

    python benchmarks/peers/pytorch_classification.py --train=train.tsv --test=dev.tsv \
        --text_column=sentence --label_column=label --encoder=DIR --seed=1 --output=peer.jsonl
"""

import argparse
import csv
import json
import random
import time

import numpy as np
import torch
from pytorch_common import length_grouped_batches, parameter_groups
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import BertForSequenceClassification, BertTokenizerFast, get_scheduler


def read_rows(path, text_column, label_column):
    """Returns (texts, labels), both list[str], of a csv or tsv file with a header."""
    tab = path.endswith(".tsv")
    with open(path, encoding="utf8", newline="") as file:
        options = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tab else {}
        rows = list(csv.DictReader(file, **options))
    return [row[text_column] for row in rows], [row[label_column] for row in rows]


def evaluate(model, tokenizer, encoded, labels):
    """Returns the accuracy over all rows, in float32."""
    model.eval()
    order = sorted(range(len(labels)), key=lambda row: len(encoded[row]))
    correct = 0
    with torch.inference_mode():
        for start in range(0, len(order), 128):
            rows = order[start : start + 128]
            inputs = tokenizer.pad({"input_ids": [encoded[row] for row in rows]}, return_tensors="pt")
            predicted = model(**inputs).logits.argmax(-1).numpy()
            correct += int((predicted == np.array([labels[row] for row in rows])).sum())
    model.train()
    return correct / len(labels)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("train", "test", "text_column", "label_column", "encoder", "output"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--schedule", choices=("linear", "constant"), default="linear", help="after 10 % of warm-up")
    parser.add_argument("--label_smoothing", type=float, default=0.0)
    parser.add_argument("--dropout_rate", type=float, help="in the encoder's hidden layers; its config's by default")
    parser.add_argument("--ema_decay", type=float, default=0.0, help="over 0: the averaged weights are scored")
    parser.add_argument("--max_seq_length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    generator = random.Random(options.seed)
    tokenizer = BertTokenizerFast.from_pretrained(options.encoder)
    texts, train_names = read_rows(options.train, options.text_column, options.label_column)
    test_texts, test_names = read_rows(options.test, options.text_column, options.label_column)
    names = sorted(set(train_names))
    labels = [names.index(name) for name in train_names]
    test_labels = [names.index(name) for name in test_names]
    encoded = tokenizer(texts, truncation=True, max_length=options.max_seq_length)["input_ids"]
    test_encoded = tokenizer(test_texts, truncation=True, max_length=options.max_seq_length)["input_ids"]

    changed = {} if options.dropout_rate is None else {"hidden_dropout_prob": options.dropout_rate}
    model = BertForSequenceClassification.from_pretrained(options.encoder, num_labels=len(names), **changed)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(options.ema_decay)) if options.ema_decay else None
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=options.label_smoothing)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01), lr=options.learning_rate, fused=True)
    steps = options.epochs * -(-len(texts) // options.batch_size)
    name = "constant_with_warmup" if options.schedule == "constant" else options.schedule
    schedule = get_scheduler(name, optimizer, int(0.1 * steps), steps)
    model.train()
    started, seconds, scores = time.time(), 0.0, []
    for epoch in range(options.epochs):
        for number, rows in enumerate(length_grouped_batches([len(e) for e in encoded], options.batch_size, generator)):
            inputs = tokenizer.pad({"input_ids": [encoded[row] for row in rows]}, return_tensors="pt")
            target = torch.tensor([labels[row] for row in rows])
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(model(**inputs).logits, target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if average:
                average.update_parameters(model)
            if number % 200 == 0:
                print(f"epoch {epoch} step {number} loss {loss.item():.3f} {time.time() - started:.0f} s", flush=True)
        seconds = time.time() - started
        scores.append(evaluate(average or model, tokenizer, test_encoded, test_labels))
        print(f"epoch {epoch} accuracy {scores[-1]:.4f}", flush=True)
    record = vars(options) | {"accuracy": scores[-1], "accuracy_by_epoch": scores, "train_seconds": seconds}
    with open(options.output, "a", encoding="utf8") as file:
        file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
