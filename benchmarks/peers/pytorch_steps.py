"""PyTorch as a side of `benchmarks/speed.py` and `pretraining_speed.py`, at its defaults or at its best settings.

It is BertForSequenceClassification; or, where the case has masked tokens ("targets"), BertForMaskedLM.
"""

import argparse
import random

import protocol
import torch
from pytorch_classification import length_grouped_batches, parameter_groups
from transformers import BertForMaskedLM, BertForSequenceClassification


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", required=True)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--attention", choices=("eager", "sdpa"), default="sdpa")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--padding", choices=("longest", "max"), default="max")
    parser.add_argument("--grouped", action="store_true", help="batches of like lengths, as HF's group_by_length")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--fused_optimizer", action="store_true")
    options = parser.parse_args()

    case = protocol.load_case(options.case)
    torch.manual_seed(1)
    model = load_model(options.encoder, case, options.attention)
    examples, size = case["examples"], case["batch_size"]

    def tensors(rows):
        width = case["max_length"] if options.padding == "max" else max(len(examples[row]) for row in rows)
        ids = torch.zeros([len(rows), width], dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(examples[row])] = torch.tensor(examples[row])
            mask[i, : len(examples[row])] = 1
        return {"input_ids": ids, "attention_mask": mask, "labels": labels_of(case, rows, width)}

    model.eval()
    with torch.no_grad():
        first_loss = model(**tensors(range(size))).loss.item()
    model.train()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01), lr=1e-6, fused=options.fused_optimizer or None)
    forward = torch.compile(model, dynamic=True) if options.compile else model

    def step(batch):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.precision == "bfloat16"):
            loss = forward(**batch).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    def grouped_batches():
        generator = random.Random(1)
        while True:
            yield from length_grouped_batches([len(ids) for ids in examples], size, generator)

    batches = grouped_batches() if options.grouped else protocol.drawn_batches(examples, size)

    def next_batch():
        rows = next(batches)
        batch = tensors(rows)
        return batch, int(batch["attention_mask"].sum()), len(rows), batch["input_ids"].numel()

    protocol.serve(first_loss, next_batch, step)


def labels_of(case, rows, width):
    """Returns classes, int64 [rows], or tokens to predict, int64 [rows, width], -100 where there is none."""
    if "labels" in case:
        return torch.tensor([case["labels"][row] for row in rows])
    found = torch.full([len(rows), width], -100)
    for i, row in enumerate(rows):
        targets = torch.tensor(case["targets"][row])
        found[i, : len(targets)] = torch.where(targets > 0, targets - 1, -100)
    return found


def load_model(folder, case, attention):
    """Returns the model with the folder's weights and the case's head."""
    if "targets" in case:
        return BertForMaskedLM.from_pretrained(folder, attn_implementation=attention)
    model = BertForSequenceClassification.from_pretrained(folder, num_labels=case["classes"], attn_implementation=attention)
    with torch.no_grad():
        model.classifier.weight.copy_(torch.tensor(case["head"]["kernel"]).T)
        model.classifier.bias.copy_(torch.tensor(case["head"]["bias"]))
    return model


if __name__ == "__main__":
    main()
