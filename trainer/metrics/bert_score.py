"""BERTScore (Zhang et al. 2020, arXiv:1904.09675): how well the tokens of two texts match, as vectors in context.

Equal to the package bert-score 0.3.12 on the same vectors: its special tokens count for matches, and weigh nothing themselves.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Embedded(NamedTuple):
    """A text's tokens, [CLS] first and [SEP] last, and their vectors: float32 [tokens, hidden]."""

    tokens: Sequence[str]
    vectors: np.ndarray


class Score(NamedTuple):
    """How much of a candidate is in its reference (precision), of the reference in the candidate (recall), and F1."""

    precision: float
    recall: float
    f1: float


@dataclasses.dataclass(frozen=True)
class InverseFrequency:
    """Weights of tokens: rare ones count more (section 3, "importance weighting").

    Attributes:
      weights: of the tokens that are in a reference.
      unseen: the weight of others.
    """

    weights: Mapping[str, float]
    unseen: float

    @classmethod
    def of(cls, references: Iterable[Sequence[str]]) -> "InverseFrequency":
        """Returns the weights by the references' tokens: log((M + 1) / (references with the token + 1))."""
        count = 0
        holding: collections.Counter[str] = collections.Counter()
        for tokens in references:
            count += 1
            holding.update(set(tokens))
        weights = {token: math.log((count + 1) / (found + 1)) for token, found in holding.items()}
        return cls(weights, math.log(count + 1))

    def of_tokens(self, tokens: Sequence[str]) -> np.ndarray:
        """Returns the weight of each token: float64 [tokens]."""
        return np.array([self.weights.get(token, self.unseen) for token in tokens])


def bert_score(candidate: Embedded, reference: Embedded, frequency: InverseFrequency | None = None) -> Score:
    """Returns the score of a candidate (equations 1 to 3).

    Args:
      candidate, reference: the texts.
      frequency: weighs the tokens; None: all weigh the same, but [CLS] and [SEP], which weigh nothing.
    """
    first, second = (_units(text.vectors) for text in (candidate, reference))
    similar = first @ second.T  # [candidate's tokens, reference's tokens]
    precision = _weighted(similar.max(axis=1), candidate, frequency)
    recall = _weighted(similar.max(axis=0), reference, frequency)
    return Score(precision, recall, _f1(precision, recall))


def _weighted(matches: np.ndarray, text: Embedded, frequency: InverseFrequency | None) -> float:
    if frequency is None:
        weights = np.ones(len(matches))
        weights[[0, -1]] = 0.0
    else:
        weights = frequency.of_tokens(text.tokens)
    total = weights.sum()
    return float(matches @ weights / total) if total else 0.0


def _units(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def rescaled(score: Score, baseline: Score) -> Score:
    """Returns a score such that texts which have nothing to do with each other get about 0 (section 3, "baseline rescaling").

    >>> rescaled(Score(0.75, 0.5, 0.6), Score(0.5, 0.5, 0.5)).precision
    0.5
    """
    return Score(*((value - low) / (1 - low) for value, low in zip(score, baseline, strict=True)))


def mean_score(scores: Sequence[Score]) -> Score:
    """Returns the mean of each number."""
    return Score(*(float(value) for value in np.mean(scores, axis=0)))
