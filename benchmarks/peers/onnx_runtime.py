"""ONNX Runtime, float32, with the fast tokenizer as a side of `benchmarks/inference.py`: MODEL TEXTS FIRST [BATCH_SIZE]."""

import json
import sys
import tempfile
from pathlib import Path

import inference_protocol
import numpy as np
import onnxruntime
import torch
from transformers import BertForSequenceClassification, BertTokenizerFast


def main(folder, texts, first, batch_size="32"):
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    session = _session(folder, tokenizer)

    def predict(chunk):
        found = []
        for begin in range(0, len(chunk), int(batch_size)):
            part = tokenizer(
                chunk[begin : begin + int(batch_size)], padding=True, truncation=True, max_length=128, return_tensors="np"
            )
            (logits,) = session.run(None, {name: value.astype(np.int64) for name, value in part.items()})
            exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
            found += (exponents / exponents.sum(axis=1, keepdims=True))[:, 1].tolist()
        return found

    inference_protocol.serve(predict, json.loads(Path(texts).read_text()), int(first))


def _session(folder, tokenizer):
    model = BertForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    encoded = tokenizer(["an example", "a second and longer one"], padding=True, return_tensors="pt")
    names = ["input_ids", "attention_mask", "token_type_ids"]  # in the order of the model's arguments
    axes = {0: "batch", 1: "length"}
    with tempfile.TemporaryDirectory() as scratch:
        path = f"{scratch}/model.onnx"
        torch.onnx.export(
            model,
            tuple(encoded[name] for name in names),
            path,
            input_names=names,
            output_names=["logits"],
            dynamic_axes=dict.fromkeys(names, axes),
            dynamo=False,
        )
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main(*sys.argv[1:])
