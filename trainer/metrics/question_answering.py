"""Exact match and F1 of extractive question answering, as the official scripts of SQuAD and CMRC 2018 define them.

Figures are fractions, 0 to 1; the scripts print percent. transformers' `squad_metrics` follows the script of SQuAD v2.0. For
SQuAD v1.1, its figures differ from the official ones, which count here, in two cases: an answer of articles and punctuation
only stays a gold answer, and F1 is 0 (not 1) where neither side has a word left.
"""

import re
import string
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher

import numpy as np

from trainer.metrics.nltk_words import words

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)

# The official list. It is neither all of Unicode's nor all of ASCII's punctuation: brackets and commas of ASCII stay.
_CMRC_PUNCTUATION = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_FIRST_CHINESE, _LAST_CHINESE = "\u4e00", "\u9fa5"  # the official range; a character outside it is part of a word

# SQuAD


def normalize_answer(text: str) -> str:
    """Returns a text in lower case without ASCII punctuation and English articles, with one space between words.

    >>> normalize_answer("The  U.S. Army")
    'us army'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Returns 1 if the prediction equals any answer after normalization, else 0; as SQuAD's evaluate-v1.1.py.

    A question without answers scores 0; SQuAD v1.1 has no such question.
    """
    normalized = normalize_answer(prediction)
    return max((float(normalized == normalize_answer(answer)) for answer in answers), default=0.0)


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Returns the best F1 over the answers, on bags of normalized words; as SQuAD's evaluate-v1.1.py.

    A question without answers scores 0; SQuAD v1.1 has no such question.

    >>> f1("the Denver Broncos team", ["Denver Broncos", "Broncos"])
    0.8
    """
    predicted = normalize_answer(prediction).split()
    return max((_bag_f1(predicted, normalize_answer(answer).split()) for answer in answers), default=0.0)


def exact_match_or_no_answer(prediction: str, answers: Sequence[str]) -> float:
    """Returns exact match as SQuAD's evaluate-v2.0.py: if no answer normalizes to a word, "" is the right prediction."""
    return exact_match(prediction, _usable(answers))


def f1_or_no_answer(prediction: str, answers: Sequence[str]) -> float:
    """Returns F1 as SQuAD's evaluate-v2.0.py: if no answer normalizes to a word, "" is the right prediction.

    >>> f1_or_no_answer("", []), f1_or_no_answer("Paris", [])
    (1.0, 0.0)
    """
    usable = _usable(answers)
    return float(not normalize_answer(prediction)) if usable == [""] else f1(prediction, usable)


def _usable(answers: Sequence[str]) -> list[str]:
    return [answer for answer in answers if normalize_answer(answer)] or [""]


def _bag_f1(predicted: list[str], gold: list[str]) -> float:
    return _f1((Counter(predicted) & Counter(gold)).total(), len(predicted), len(gold))


def _f1(common: int, predicted: int, gold: int) -> float:
    if not common:
        return 0.0
    precision, recall = common / predicted, common / gold
    return 2 * precision * recall / (precision + recall)


# CMRC 2018


def cmrc_exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Returns 1 if the prediction equals any answer without case and punctuation, else 0; as cmrc2018_evaluate.py.

    The official script fails on a question without answers; here, a prediction without characters is right for it.
    """
    left = _without_cmrc_punctuation(prediction)
    return max((float(left == _without_cmrc_punctuation(answer)) for answer in answers), default=float(not left))


def cmrc_f1(prediction: str, answers: Sequence[str]) -> float:
    """Returns the best F1 over the answers, on the longest run of segments in common; as cmrc2018_evaluate.py.

    The official script fails on a question without answers; here, a prediction without segments is right for it.

    >>> round(cmrc_f1("光荣公司", ["光荣和ω-force", "光荣"]), 4)
    0.6667
    """
    segments = cmrc_segments(prediction)
    return max((_run_f1(segments, cmrc_segments(answer)) for answer in answers), default=float(not segments))


def cmrc_segments(text: str) -> list[str]:
    """Splits a text into Chinese characters and the words between them, without case and punctuation.

    The official script's words are those of `nltk.word_tokenize`; see `trainer.metrics.nltk_words` for how close these are.

    >>> cmrc_segments("由ω-Force开发，2.5 km.")
    ['由', 'ωforce', '开', '发', '2.5', 'km', '.']
    """
    segments: list[str] = []
    run = ""
    for character in _without_cmrc_punctuation(text):
        if _FIRST_CHINESE <= character <= _LAST_CHINESE:
            segments += [*words(run), character]
            run = ""
        else:
            run += character
    return segments + words(run)


def _without_cmrc_punctuation(text: str) -> str:
    return "".join(character for character in text.lower().strip() if character not in _CMRC_PUNCTUATION)


def _run_f1(predicted: list[str], gold: list[str]) -> float:
    common = SequenceMatcher(None, predicted, gold, autojunk=False).find_longest_match().size
    return _f1(common, len(predicted), len(gold))


# All questions

Metric = Callable[[str, Sequence[str]], float]
METRICS: dict[str, tuple[Metric, Metric]] = {
    # Whose script → its exact match, its F1
    "squad_v1.1": (exact_match, f1),
    "squad_v2.0": (exact_match_or_no_answer, f1_or_no_answer),
    "cmrc2018": (cmrc_exact_match, cmrc_f1),
}


def apply_threshold(scores: np.ndarray, no_answer_scores: np.ndarray, has_answer: np.ndarray, threshold: float) -> np.ndarray:
    """Returns each question's score where a no-answer score above the threshold replaces the prediction by no answer.

    Args:
      scores: float [questions], exact match or F1 of the predictions.
      no_answer_scores: float [questions], higher means no answer.
      has_answer: bool [questions].
      threshold: a no-answer score equal to it keeps the prediction.
    """
    return np.where(np.asarray(no_answer_scores) > threshold, ~np.asarray(has_answer, bool), scores).astype(np.float64)


def best_threshold(
    scores: np.ndarray, no_answer_scores: np.ndarray, has_answer: np.ndarray, has_text: np.ndarray
) -> tuple[float, float]:
    """Returns the best mean score over all thresholds, and the threshold; as `find_best_thresh` of evaluate-v2.0.py.

    The script's conventions hold: it starts from no answer to every question, with the threshold 0, and takes the lowest of
    equally good thresholds. It tries a threshold after each question, even between two with equal no-answer scores, so the
    best score can be one that no threshold reaches; such questions count in the order given.

    Args:
      scores: float [questions], exact match or F1 of the predictions.
      no_answer_scores: float [questions], higher means no answer.
      has_answer: bool [questions].
      has_text: bool [questions], whether the prediction is not "".
    """
    has_answer = np.asarray(has_answer, bool)
    gains = np.where(has_answer, scores, -np.asarray(has_text, np.float64))
    order = np.argsort(no_answer_scores, kind="stable")
    totals = np.cumsum(np.append(np.count_nonzero(~has_answer), gains[order]))  # after none, one, two ... questions answered
    best = int(totals.argmax())
    threshold = float(no_answer_scores[order[best - 1]]) if best else 0.0
    return float(totals[best] / len(gains)), threshold


class AnswerScores:
    """Scores of all questions, from one prediction at a time; keeps a few numbers for each question and no text.

    Args:
      metric: a key of METRICS: whose script to follow.
    """

    def __init__(self, metric: str):
        self._exact_match, self._f1 = METRICS[metric]
        self._metric = metric
        self._exact, self._overlap, self._no_answer_scores = array("d"), array("d"), array("d")
        self._has_answer, self._has_text = bytearray(), bytearray()

    def add(self, prediction: str, answers: Sequence[str], no_answer_score: float | None = None) -> None:
        """Scores one question.

        Args:
          prediction: the text; "" for no answer, and for a question that has no prediction.
          answers: the gold texts; empty if the question has no answer.
          no_answer_score: any number that is higher where no answer is more likely, as a probability or a difference of
            logits; for all questions or for none.
        """
        is_scored = no_answer_score is not None
        if self._exact and is_scored != bool(self._no_answer_scores):
            raise ValueError("no_answer_score is given for some questions and not for others; give it for all or for none")
        self._exact.append(self._exact_match(prediction, answers))
        self._overlap.append(self._f1(prediction, answers))
        self._has_answer.append(bool(answers))
        self._has_text.append(bool(prediction))
        if no_answer_score is not None:
            self._no_answer_scores.append(no_answer_score)

    def __len__(self) -> int:
        return len(self._exact)

    def scores(self, threshold: float | None = None) -> dict[str, float]:
        """Returns the means over all questions; {} without any.

        Args:
          threshold: predict no answer where the no-answer score is above it; None keeps the predictions.

        Returns:
          {"examples", "exact_match", "f1"}, and for SQuAD v2.0, with the script's names, {"HasAns_exact", "HasAns_f1",
          "HasAns_total"} and the same for "NoAns" where there are such questions. With no-answer scores also {"best_exact",
          "best_exact_thresh", "best_f1", "best_f1_thresh"}, of the predictions as they are. For CMRC 2018 also {"average"}
          of exact match and F1.
        """
        if not self._exact:
            return {}
        has_answer = np.array(self._has_answer, bool)
        exact, overlap = np.array(self._exact), np.array(self._overlap)
        found: dict[str, float] = {}
        if self._no_answer_scores:
            found = self._best_thresholds(exact, overlap, has_answer)
        if threshold is not None:
            exact, overlap = (self._at_threshold(values, has_answer, threshold) for values in (exact, overlap))
        parts = {"HasAns": has_answer, "NoAns": ~has_answer} if self._metric == "squad_v2.0" else {}
        for name, is_part in parts.items():
            if is_part.any():
                found[f"{name}_exact"] = float(exact[is_part].mean())
                found[f"{name}_f1"] = float(overlap[is_part].mean())
                found[f"{name}_total"] = int(is_part.sum())
        means = {"exact_match": float(exact.mean()), "f1": float(overlap.mean())}
        average = {"average": sum(means.values()) / 2} if self._metric == "cmrc2018" else {}
        return {"examples": len(self), **means, **average, **found}

    def _best_thresholds(self, exact: np.ndarray, overlap: np.ndarray, has_answer: np.ndarray) -> dict[str, float]:
        others = (np.array(self._no_answer_scores), has_answer, np.array(self._has_text, bool))
        best_exact, exact_threshold = best_threshold(exact, *others)
        best_f1, f1_threshold = best_threshold(overlap, *others)
        return {
            "best_exact": best_exact,
            "best_exact_thresh": exact_threshold,
            "best_f1": best_f1,
            "best_f1_thresh": f1_threshold,
        }

    def _at_threshold(self, scores: np.ndarray, has_answer: np.ndarray, threshold: float) -> np.ndarray:
        if not self._no_answer_scores:
            raise ValueError("a threshold needs a no_answer_score for every question")
        return apply_threshold(scores, np.array(self._no_answer_scores), has_answer, threshold)
