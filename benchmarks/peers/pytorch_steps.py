"""PyTorch as a side of `benchmarks/speed.py`, `pretraining_speed.py`, `gpu_speed.py`, at its defaults or at its best settings.

It is transformers' class of the encoder for sequence classification; for token classification where the case has tags of words,
for question answering where it has the places of answers, for masked language modelling where it has masked tokens ("targets").
"""

import argparse
import random

import protocol
import torch
from pytorch_common import length_grouped_batches, parameter_groups
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    get_linear_schedule_with_warmup,
)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", required=True)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--learning_rate", type=float, default=1e-6)
    parser.add_argument("--total_steps", type=int, help="of a warm-up and a linear decay; without, the rate is constant")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--attention", choices=("eager", "sdpa"), default="sdpa")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--padding", choices=("longest", "max"), default="max")
    parser.add_argument("--grouped", action="store_true", help="batches of like lengths, as HF's group_by_length")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--fused_optimizer", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()

    case = protocol.load_case(options.case)
    torch.manual_seed(options.seed)
    model = load_model(options.encoder, case, options.attention).to(options.device)
    if options.device == "cuda":
        torch.set_float32_matmul_precision("high")  # what stays float32 may be rounded to TF32
    examples, size = case["examples"], case["batch_size"]

    def on_device(batch):
        return {name: values.to(options.device) for name, values in batch.items()}

    def tensors(rows):
        width = case["max_length"] if options.padding == "max" else max(len(examples[row]) for row in rows)
        return on_device({**padded([examples[row] for row in rows], width), **targets_of(case, rows, width)})

    model.eval()
    # The places of an answer are those of the padding, too, in this model's loss: examples by themselves have none.
    parts = [[row] for row in range(size)] if "answers" in case else [range(size)]
    with torch.no_grad():
        first_loss = sum(model(**tensors(rows)).loss.item() for rows in parts) / len(parts)
    model.train()
    optimizer = torch.optim.AdamW(
        parameter_groups(model, 0.01), lr=options.learning_rate, fused=options.fused_optimizer or None
    )
    schedule = None
    if options.total_steps:
        schedule = get_linear_schedule_with_warmup(optimizer, options.total_steps // 10, options.total_steps)
    forward = torch.compile(model, dynamic=True) if options.compile else model

    def step(batch):
        with torch.autocast(options.device, dtype=torch.bfloat16, enabled=options.precision == "bfloat16"):
            loss = forward(**batch).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if schedule:
            schedule.step()
        loss.item()  # a GPU is not done when the calls are

    def evaluate():
        tests, hits = case["test_examples"], 0
        model.eval()
        for start in range(0, len(tests), 128):
            rows = tests[start : start + 128]
            with torch.inference_mode():
                predicted = model(**on_device(padded(rows, max(map(len, rows))))).logits.argmax(-1).cpu()
            hits += int((predicted == torch.tensor(case["test_labels"][start : start + 128])).sum())
        model.train()
        return hits / len(tests)

    def grouped_batches():
        generator = random.Random(options.seed)
        while True:
            yield from length_grouped_batches([len(ids) for ids in examples], size, generator)

    batches = grouped_batches() if options.grouped else protocol.drawn_batches(examples, size)

    def next_batch():
        rows = next(batches)
        batch = tensors(rows)
        return batch, int(batch["attention_mask"].sum()), len(rows), batch["input_ids"].numel()

    protocol.serve(first_loss, next_batch, step, evaluate)


def padded(rows, width):
    """Returns {"input_ids", "attention_mask"} of lists of ids, int64 [rows, width]."""
    ids = torch.zeros([len(rows), width], dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def targets_of(case, rows, width):
    """Returns what the model's loss reads besides the tokens, by the model's names.

    Classes and places are int64 [rows]. Tags and tokens to predict are int64 [rows, width]; a position without one has -100.
    """
    if "labels" in case:
        return {"labels": torch.tensor([case["labels"][row] for row in rows])}
    if "answers" in case:
        starts, ends = torch.tensor([case["answers"][row] for row in rows]).T
        types = padded([case["token_type_ids"][row] for row in rows], width)["input_ids"]
        return {"start_positions": starts, "end_positions": ends, "token_type_ids": types}
    found = torch.full([len(rows), width], -100)
    of_tokens = case["word_tags"] if "word_tags" in case else case["targets"]
    for i, row in enumerate(rows):
        targets = torch.tensor(of_tokens[row])
        found[i, : len(targets)] = torch.where(targets > 0, targets - 1, -100)
    return {"labels": found}


def load_model(folder, case, attention):
    """Returns the model with the folder's weights and the case's head."""
    if "targets" in case:
        return AutoModelForMaskedLM.from_pretrained(folder, attn_implementation=attention)
    kind = AutoModelForSequenceClassification
    if "word_tags" in case:
        kind = AutoModelForTokenClassification
    elif "answers" in case:
        kind = AutoModelForQuestionAnswering
    model = kind.from_pretrained(folder, num_labels=case["classes"], attn_implementation=attention)
    head = model.qa_outputs if "answers" in case else model.classifier
    with torch.no_grad():
        head.weight.copy_(torch.tensor(case["head"]["kernel"]).T)
        head.bias.copy_(torch.tensor(case["head"]["bias"]))
    return model


if __name__ == "__main__":
    main()
