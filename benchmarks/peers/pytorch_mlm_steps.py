"""PyTorch's BertForMaskedLM as a side of `benchmarks/pretraining_speed.py`, at its defaults or at its best settings."""

import argparse
import random

import protocol
import torch
from pytorch_classification import length_grouped_batches, parameter_groups
from transformers import BertForMaskedLM


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", required=True)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--attention", choices=("eager", "sdpa"), default="sdpa")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--padding", choices=("longest", "max"), default="max")
    parser.add_argument("--grouped", action="store_true", help="batches of like lengths, as HF's group_by_length")
    parser.add_argument("--fused_optimizer", action="store_true")
    options = parser.parse_args()

    case = protocol.load_case(options.case)
    torch.manual_seed(1)
    model = BertForMaskedLM.from_pretrained(options.encoder, attn_implementation=options.attention)
    examples, targets, size = case["examples"], case["targets"], case["batch_size"]

    def tensors(rows):
        width = case["max_length"] if options.padding == "max" else max(len(examples[row]) for row in rows)
        ids = torch.zeros([len(rows), width], dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for i, row in enumerate(rows):
            length = len(examples[row])
            ids[i, :length] = torch.tensor(examples[row])
            mask[i, :length] = 1
            labels[i, :length] = torch.tensor([target - 1 if target else -100 for target in targets[row]])
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    model.eval()
    with torch.no_grad():
        first_loss = model(**tensors(range(size))).loss.item()
    model.train()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01), lr=1e-6, fused=options.fused_optimizer or None)

    def step(batch):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.precision == "bfloat16"):
            loss = model(**batch).loss
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


if __name__ == "__main__":
    main()
