"""Fine-tune a bi-encoder with sentence-transformers: the peer of our similarity.

The losses and the evaluators are sentence-transformers' own (CoSENTLoss, MultipleNegativesRankingLoss with batches without
duplicates, EmbeddingSimilarityEvaluator, InformationRetrievalEvaluator); the loop is that of the other peers. Runs in an
environment of its own (`pip install -r benchmarks/peers/requirements.txt`):

    python benchmarks/peers/pytorch_similarity.py --train=STS-B/train.tsv --test=STS-B/dev.tsv --encoder=DIR --output=peer.jsonl
    python benchmarks/peers/pytorch_similarity.py --train=train.json --test=dev.json --encoder=DIR --output=peer.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytorch_common as common
import torch
from sentence_transformers import SentenceTransformer, losses
from sentence_transformers.evaluation import EmbeddingSimilarityEvaluator, InformationRetrievalEvaluator
from transformers import get_scheduler

Pair = tuple[str, str, float]


def read_pairs(path: str) -> list[Pair]:
    """Returns the pairs of STS-B's file with their scores from 0 to 1, or SQuAD's questions with their paragraphs."""
    if path.endswith(".json"):
        articles = json.loads(Path(path).read_text(encoding="utf8"))["data"]
        paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
        return [(one["question"], paragraph["context"], 1.0) for paragraph in paragraphs for one in paragraph["qas"]]
    rows = common.read_table(path)
    return [(row["sentence1"], row["sentence2"], float(row["score"]) / 5) for row in rows]


def batches_of(pairs: Sequence[Pair], batch_size: int, is_scored: bool, generator: random.Random) -> Iterator[list[Pair]]:
    """Yields batches of an epoch; without scores none has a text twice, as sentence-transformers' NoDuplicatesBatchSampler."""
    order = list(range(len(pairs)))
    generator.shuffle(order)
    while len(order) >= batch_size or (order and is_scored):
        taken: list[int] = []
        seen: set[str] = set()
        for place in order:
            texts = set(pairs[place][:2])
            if is_scored or not texts & seen:
                taken.append(place)
                seen |= texts
            if len(taken) == batch_size:
                break
        if len(taken) < batch_size and not is_scored:
            return
        chosen = set(taken)
        order = [place for place in order if place not in chosen]
        yield [pairs[place] for place in taken]


def evaluator_of(pairs: Sequence[Pair], is_scored: bool) -> Callable[[SentenceTransformer], dict[str, Any]]:
    """Returns what scores a model."""
    if is_scored:
        first, second, scores = (list(values) for values in zip(*pairs, strict=True))
        found = EmbeddingSimilarityEvaluator(first, second, scores, main_similarity="cosine", name="dev")
        return lambda model: {"spearman": float(found(model)["dev_spearman_cosine"])}
    corpus = {text: str(number) for number, text in enumerate(dict.fromkeys(text for _, text, _ in pairs))}
    questions = {text: str(number) for number, text in enumerate(dict.fromkeys(text for text, _, _ in pairs))}
    relevant: dict[str, set[str]] = {}
    for question, paragraph, _ in pairs:
        relevant.setdefault(questions[question], set()).add(corpus[paragraph])
    by_number = [{number: text for text, number in texts.items()} for texts in (questions, corpus)]
    ranked = InformationRetrievalEvaluator(*by_number, relevant, name="dev")
    return lambda model: {"mrr@10": float(ranked(model)["dev_cosine_mrr@10"])}


def main() -> None:
    """Trains and scores once."""
    parser = common.parser_of(__doc__, epochs=4, batch_size=32, learning_rate=5e-5, max_seq_length=128)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    train(parser.parse_args())


def train(options: argparse.Namespace) -> None:
    """Trains a model, scores it before and after, and adds a line to options.output."""
    common.begin(options)
    pairs, test = read_pairs(options.train), read_pairs(options.test)
    is_scored = options.train.endswith(".tsv")
    model = SentenceTransformer(options.encoder, device="cpu")
    model.max_seq_length = options.max_seq_length
    loss = losses.CoSENTLoss(model) if is_scored else losses.MultipleNegativesRankingLoss(model)
    evaluate = evaluator_of(test, is_scored)
    before = evaluate(model)
    groups = common.parameter_groups(model, options.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, eps=options.epsilon)
    steps = options.epochs * -(-len(pairs) // options.batch_size)
    schedule = get_scheduler("linear", optimizer, round(options.warmup_ratio * steps), steps)
    generator, done, begun = random.Random(options.seed), 0, time.perf_counter()
    model.train()
    for _ in range(options.epochs):
        for batch in batches_of(pairs, options.batch_size, is_scored, generator):
            features = [model.tokenize([pair[side] for pair in batch]) for side in (0, 1)]
            value = loss(features, torch.tensor([pair[2] for pair in batch]))
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), options.max_gradient_norm)
            optimizer.step()
            schedule.step()
            done += 1
            if done % common.LOG_EVERY_STEPS == 0:
                print(f"step {done}/{steps} loss {value.item():.4f}", flush=True)
    seconds = time.perf_counter() - begun
    model.eval()
    record = vars(options) | {"before": before, "scores": evaluate(model), "train_seconds": seconds}
    print(json.dumps(record["scores"]), flush=True)
    with open(options.output, "a", encoding="utf8") as file:
        file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
