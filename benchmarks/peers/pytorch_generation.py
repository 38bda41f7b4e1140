"""Writes texts for a file of sources by transformers' `generate`: the peer of `benchmarks/generation.py`.

Each line on standard input generates for all sources once, sorted by length; how to generate stands in the folder's
generation_config.json. The answer tells the seconds, and the first texts.
"""

import json
import sys
import time
from pathlib import Path

import torch
from transformers import AutoTokenizer, EncoderDecoderModel


def generated(model, tokenizer, sources: list[str], batch_size: int, max_seq_length: int) -> list[str]:
    """Returns a text for each source, in order."""
    order = sorted(range(len(sources)), key=lambda number: -len(sources[number]))
    texts = [""] * len(sources)
    for begun in range(0, len(order), batch_size):
        chosen = order[begun : begun + batch_size]
        batch = tokenizer(
            [sources[number] for number in chosen],
            padding=True,
            truncation=True,
            max_length=max_seq_length,
            return_tensors="pt",
        )
        with torch.inference_mode():
            found = model.generate(batch["input_ids"], attention_mask=batch["attention_mask"])
        for number, text in zip(chosen, tokenizer.batch_decode(found, skip_special_tokens=True), strict=True):
            texts[number] = text
    return texts


if __name__ == "__main__":
    folder, path, threads, batch_size, max_seq_length = sys.argv[1:6]
    torch.set_num_threads(int(threads))
    sources = json.loads(Path(path).read_text(encoding="utf8"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = EncoderDecoderModel.from_pretrained(folder).eval()
    print(json.dumps({"texts": len(sources)}), flush=True)
    for _ in sys.stdin:
        begun = time.perf_counter()
        texts = generated(model, tokenizer, sources, int(batch_size), int(max_seq_length))
        print(json.dumps({"seconds": time.perf_counter() - begun, "texts": texts}), flush=True)
