"""ROUGE (Lin 2004), as google-research's rouge-score computes it."""

import collections
import functools
import re
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from trainer.errors import UserError, install_hint

Words = Literal["english", "stemmed_english", "any_language"]
TYPES = ("rouge1", "rouge2", "rougeL")
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_]+")  # a Chinese or Japanese character is a word


class Overlap(NamedTuple):
    """How much of a summary is in a reference (precision), and of the reference in the summary (recall)."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """The harmonic mean of both."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def splitter(words: Words) -> Callable[[str], list[str]]:
    """Returns what cuts a text into words.

    Args:
      words: "english", runs of a-z and 0-9, as rouge-score; "stemmed_english", longer ones stemmed (rouge-score's use_stemmer);
        "any_language", runs of letters and digits of any script, and single Chinese and Japanese characters.

    Raises:
      UserError: the stemmer is not installed.

    >>> splitter("english")("It's 3 o'clock, René."), splitter("any_language")("René 你好")
    (['it', 's', '3', 'o', 'clock', 'ren'], ['rené', '你', '好'])
    """
    if words == "any_language":
        return lambda text: _WORD.findall(text.lower())
    if words == "english":
        return lambda text: re.findall("[a-z0-9]+", text.lower())
    try:
        from nltk.stem import porter
    except ImportError:
        raise UserError(f"task.rouge_words=stemmed_english needs the package nltk: {install_hint('summaries')}") from None
    stem = functools.cache(porter.PorterStemmer().stem)
    return lambda text: [stem(word) if len(word) > 3 else word for word in re.findall("[a-z0-9]+", text.lower())]


def rouge(summary: Sequence[str], reference: Sequence[str]) -> dict[str, Overlap]:
    """Returns {each of TYPES: the overlap of two texts}, given as words."""
    found = {f"rouge{size}": ngram_overlap(ngrams(summary, size), ngrams(reference, size)) for size in (1, 2)}
    common = _longest_common(summary, reference)
    return {**found, "rougeL": Overlap(common / max(len(summary), 1), common / max(len(reference), 1))}


def ngrams(words: Sequence[str], size: int) -> collections.Counter[tuple[str, ...]]:
    """Returns how often each run of `size` words occurs."""
    return collections.Counter(zip(*(words[start:] for start in range(size)), strict=False))


def ngram_overlap(summary: collections.Counter, reference: collections.Counter) -> Overlap:
    """Returns the overlap of two texts, given as counts of their n-grams."""
    common = sum(min(count, reference[ngram]) for ngram, count in summary.items())
    return Overlap(common / max(summary.total(), 1), common / max(reference.total(), 1))


def _longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Returns the length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for place, other in enumerate(second, start=1):
            before = row[place]
            row[place] = diagonal + 1 if word == other else max(before, row[place - 1])
            diagonal = before
    return row[-1]


def best_rouge(summary: str, references: Sequence[str], split: Callable[[str], list[str]]) -> dict[str, float]:
    """Returns {each of TYPES: F1} against the reference that ROUGE-1 likes best, as SciTLDR is scored (Cachola et al. 2020)."""
    words = split(summary)
    each = [{name: overlap.f1 for name, overlap in rouge(words, split(reference)).items()} for reference in references]
    return max(each, key=lambda scores: scores["rouge1"])


def oracle(sentences: Sequence[str], references: Sequence[str], most: int, split: Callable[[str], list[str]]) -> list[int]:
    """Returns which sentences make the best summary, chosen one after the other while the score rises; in order.

    The score is the sum of ROUGE-1's and ROUGE-2's F1, of several references the best one's; source: BERTSum's
    `greedy_selection` (Liu and Lapata 2019, section 4.2).

    Args:
      sentences: of the text.
      references: summaries of it by people.
      most: sentences to choose.
      split: cuts a text into words.
    """
    words = [split(sentence) for sentence in sentences]
    ones, twos = ([ngrams(sentence, size) for sentence in words] for size in (1, 2))
    targets = [(ngrams(split(reference), 1), ngrams(split(reference), 2)) for reference in references]
    chosen: list[int] = []
    taken: tuple[collections.Counter, collections.Counter] = collections.Counter(), collections.Counter()
    best = 0.0

    def score(number: int) -> float:
        one, two = taken[0] + ones[number], taken[1] + twos[number]
        return max(ngram_overlap(one, first).f1 + ngram_overlap(two, second).f1 for first, second in targets)

    while len(chosen) < min(most, len(sentences)):
        number = max((n for n in range(len(sentences)) if n not in chosen), key=score)
        if score(number) <= best:
            break
        best = score(number)
        chosen.append(number)
        taken = taken[0] + ones[number], taken[1] + twos[number]
    return sorted(chosen)
