"""The formula by hand; the whole of it against bert-score is in tests/commands/test_score.py."""

import numpy as np
import pytest

from trainer.metrics.bert_score import Embedded, InverseFrequency, Score, bert_score, mean_score, rescaled

CLS, SEP, A, B = ([1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 2.0, 0], [0, 0, 3.0, 3.0])


def text(tokens, *vectors):
    return Embedded(["[CLS]", *tokens, "[SEP]"], np.array([CLS, *vectors, SEP]))


def test_each_token_takes_its_best_match():
    score = bert_score(text("a", A), text("ab", A, B))
    assert score.precision == pytest.approx(1) and score.recall == pytest.approx((1 + 0.5**0.5) / 2)
    assert score.f1 == pytest.approx(2 * score.precision * score.recall / (score.precision + score.recall))


def test_rare_tokens_weigh_more():
    frequency = InverseFrequency.of([["[CLS]", "a", "[SEP]"], ["[CLS]", "a", "b", "[SEP]"]])
    assert frequency.of_tokens(["[CLS]", "a", "b", "new"]) == pytest.approx([0, 0, np.log(3 / 2), np.log(3)])
    score = bert_score(text("a", A), text("ab", A, B), frequency)
    assert score.precision == 0.0, "no token of any weight" and score.recall == pytest.approx(0.5**0.5)


def test_empty_texts():
    assert bert_score(text(""), text("a", A)) == Score(0.0, 0.0, 0.0)


def test_rescaling_and_means():
    assert rescaled(Score(0.5, 1.0, 0.0), Score(0.5, 0.5, 0.5)) == Score(0.0, 1.0, -1.0)
    assert mean_score([Score(0, 1, 2), Score(1, 1, 0)]) == Score(0.5, 1.0, 1.0)
