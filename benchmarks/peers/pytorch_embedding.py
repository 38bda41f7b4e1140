"""Embeds a file of texts by sentence-transformers, as often as it is asked to: the peer of `benchmarks/embedding.py`.

Each line on standard input embeds all texts once, sorted by length as sentence-transformers does it; the answer tells the
seconds.
"""

import json
import sys
import time
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer

if __name__ == "__main__":
    encoder, path, threads, batch_size, max_seq_length = sys.argv[1:6]
    torch.set_num_threads(int(threads))
    texts = json.loads(Path(path).read_text(encoding="utf8"))
    model = SentenceTransformer(encoder, device="cpu")
    model.max_seq_length = int(max_seq_length)
    print(json.dumps({"texts": len(texts)}), flush=True)
    for _ in sys.stdin:
        begun = time.perf_counter()
        model.encode(texts, batch_size=int(batch_size), normalize_embeddings=True)
        print(json.dumps({"seconds": time.perf_counter() - begun}), flush=True)
