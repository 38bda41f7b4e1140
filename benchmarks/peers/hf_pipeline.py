"""Hugging Face's text-classification pipeline as a side of `benchmarks/inference.py`."""

import argparse
import json
from pathlib import Path

import inference_protocol
import torch
from transformers import pipeline


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("texts")
    parser.add_argument("first", type=int)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--sorted", action="store_true", help="longest texts first, so that a batch holds like lengths")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    classify = pipeline(
        "text-classification", model=options.model, dtype=getattr(torch, options.precision), batch_size=options.batch_size
    )
    if options.compile:
        classify.model = torch.compile(classify.model, dynamic=True)

    def predict(chunk):
        order = sorted(range(len(chunk)), key=lambda i: -len(chunk[i])) if options.sorted else range(len(chunk))
        replies = classify([chunk[i] for i in order], top_k=None, truncation=True, max_length=128)
        found = [0.0] * len(chunk)
        for i, reply in zip(order, replies, strict=True):
            found[i] = next(one["score"] for one in reply if one["label"] == classify.model.config.id2label[1])
        return found

    inference_protocol.serve(predict, json.loads(Path(options.texts).read_text()), options.first)


if __name__ == "__main__":
    main()
