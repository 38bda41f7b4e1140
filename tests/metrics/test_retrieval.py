"""Rankings against their definitions written out, and against scikit-learn's NDCG."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.metrics.retrieval import retrieval_scores, top_k


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_the_most_similar_come_first_of_equal_ones_the_first(texts, k, seed):
    draw = np.random.default_rng(seed)
    corpus = draw.integers(-2, 3, [texts, 2]).astype(np.float32)  # many equal similarities
    queries = draw.integers(-2, 3, [300, 2]).astype(np.float32)
    places, values = top_k(queries, corpus, k)
    similar = queries @ corpus.T
    assert np.array_equal(places, np.argsort(-similar, axis=1, kind="stable")[:, :k])
    assert np.array_equal(values, np.take_along_axis(similar, places, axis=1))


def test_no_queries():
    places, values = top_k(np.zeros([0, 3], np.float32), np.ones([5, 3], np.float32), 2)
    assert places.shape == values.shape == (0, 2)


def test_scores_are_those_of_their_definitions():
    draw = np.random.default_rng(1)
    queries, corpus = (draw.normal(size=[size, 8]).astype(np.float32) for size in (50, 60))
    relevant = [set(draw.choice(60, draw.integers(1, 15), replace=False).tolist()) for _ in range(50)]
    scores = retrieval_scores(queries, corpus, relevant)
    similar = queries @ corpus.T
    ranked = np.argsort(-similar, axis=1)[:, :10]
    hits = [[place in wanted for place in row] for row, wanted in zip(ranked, relevant, strict=True)]
    reciprocal = [next((1 / (i + 1) for i, hit in enumerate(row) if hit), 0.0) for row in hits]
    average = [
        sum(sum(row[: i + 1]) / (i + 1) for i, hit in enumerate(row) if hit) / min(len(wanted), 10)
        for row, wanted in zip(hits, relevant, strict=True)
    ]
    truth = np.array([[place in wanted for place in range(60)] for wanted in relevant], float)
    assert scores["mrr@10"] == pytest.approx(np.mean(reciprocal)) and scores["map@10"] == pytest.approx(np.mean(average))
    assert scores["ndcg@10"] == pytest.approx(sklearn.metrics.ndcg_score(truth, similar, k=10))
    for k in (1, 5, 10):
        assert scores[f"accuracy@{k}"] == pytest.approx(np.mean([any(row[:k]) for row in hits]))
        shares = [sum(row[:k]) / len(wanted) for row, wanted in zip(hits, relevant, strict=True)]
        assert scores[f"recall@{k}"] == pytest.approx(np.mean(shares))


def test_a_corpus_smaller_than_the_depth():
    scores = retrieval_scores(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), [{0}, {0}])
    assert scores["accuracy@10"] == 1.0 and scores["mrr@10"] == 0.75
