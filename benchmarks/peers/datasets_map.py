"""`datasets.map` with the fast tokenizer as a side of `benchmarks/preparation.py`: SOURCE ENCODER FOLDER WORKERS MAX_LENGTH."""

import json
import os
import sys
import time
from pathlib import Path

import datasets
from transformers import BertTokenizerFast


def main(source, encoder, folder, workers, max_length):
    datasets.disable_progress_bars()
    begun = time.perf_counter()
    tokenizer = BertTokenizerFast.from_pretrained(encoder)
    rows = datasets.load_dataset("csv", data_files=source, split="train", cache_dir=folder, keep_default_na=False)
    encoded = rows.map(
        lambda batch: tokenizer(batch["text"], truncation=True, max_length=int(max_length)),
        batched=True,
        num_proc=int(workers),
        remove_columns=["text"],
    )
    seconds = time.perf_counter() - begun
    tokens = sum(len(ids) for batch in encoded.iter(10_000) for ids in batch["input_ids"])
    written = sum(Path(file["filename"]).stat().st_size for file in encoded.cache_files)
    print(json.dumps({"work": seconds, "tokens": tokens, "bytes": written}))


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism, as datasets advises
    main(*sys.argv[1:])
