"""Scores of a ranking: which of a corpus' texts come first for a query, as trec_eval and sentence-transformers define them."""

from collections.abc import Sequence

import numpy as np

QUERIES_AT_A_TIME = 256  # their similarities to the whole corpus are held at once


def top_k(queries: np.ndarray, corpus: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the k most similar texts of each query, the most similar first; of equal ones the first in the corpus.

    Args:
      queries, corpus: float32 [queries, dimensions], [texts, dimensions]; the similarity is the dot product.
      k: at most as many as there are texts.

    Returns:
      (int64 [queries, k], float32 [queries, k]): which texts, and how similar.
    """
    places, values = [np.zeros([0, min(k, len(corpus))], np.int64)], [np.zeros([0, min(k, len(corpus))], np.float32)]
    for start in range(0, len(queries), QUERIES_AT_A_TIME):
        similar = queries[start : start + QUERIES_AT_A_TIME] @ corpus.T
        if k < len(corpus):
            # What is not below the k-th highest value: equal ones at the border are all looked at.
            border = np.partition(similar, len(corpus) - k, axis=1)[:, len(corpus) - k]
            place = np.stack([_best(row, np.flatnonzero(row >= least), k) for row, least in zip(similar, border, strict=True)])
        else:
            place = np.argsort(-similar, axis=1, kind="stable")
        places.append(place)
        values.append(np.take_along_axis(similar, place, axis=1))
    return np.concatenate(places), np.concatenate(values)


def _best(row: np.ndarray, places: np.ndarray, k: int) -> np.ndarray:
    return places[np.argsort(-row[places], kind="stable")[:k]]


def retrieval_scores(
    queries: np.ndarray, corpus: np.ndarray, relevant: Sequence[set[int]], at: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Returns accuracy@k and recall@k for each k of `at`, and MRR, NDCG and MAP of the largest of them.

    Args:
      queries, corpus: as `top_k`.
      relevant: for each query the texts that answer it, one or more.
      at: depths of the ranking.

    >>> scores = retrieval_scores(np.eye(2, dtype="f"), np.array([[0.0, 1.0], [0.1, 0.0], [0.9, 0.0]], "f"), [{1}, {0}], [1, 2])
    >>> scores["mrr@2"], scores["recall@1"]
    (0.75, 0.5)
    """
    most = max(at)
    ranked, _ = top_k(queries, corpus, most)
    hits = np.zeros(ranked.shape, bool)
    for number, wanted in enumerate(relevant):
        hits[number] = np.isin(ranked[number], list(wanted))
    counts = np.array([len(wanted) for wanted in relevant])
    place = np.arange(1, ranked.shape[1] + 1)
    discounts = 1.0 / np.log2(place + 1)
    ideal = np.concatenate([[0.0], np.cumsum(discounts)])
    found = hits.cumsum(axis=1)
    scores: dict[str, float] = {}
    for k in at:
        scores[f"accuracy@{k}"] = float((found[:, :k][:, -1] > 0).mean())
        scores[f"recall@{k}"] = float((found[:, :k][:, -1] / counts).mean())
    scores[f"mrr@{most}"] = float(np.where(hits.any(axis=1), 1.0 / (hits.argmax(axis=1) + 1), 0.0).mean())
    scores[f"ndcg@{most}"] = float(((hits * discounts).sum(axis=1) / ideal[np.minimum(counts, ranked.shape[1])]).mean())
    precision = (hits * found / place).sum(axis=1)
    scores[f"map@{most}"] = float((precision / np.minimum(counts, most)).mean())
    return scores
