"""BLEU (Papineni et al. 2002) and chrF (Popović 2015), as sacrebleu computes them by default; over a corpus, 0 to 100."""

import collections
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from trainer.metrics.rouge import ngrams

BleuTokenizer = Literal["13a", "zh", "char"]
ORDER = 4  # of BLEU's n-grams
CHARACTERS, RECALL_WEIGHT = 6, 2  # chrF's longest n-gram of characters; how many times as much recall counts: its β
_WESTERN = (
    # Marks apart; full stop and comma, but not inside of numbers; the dash after a digit
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
# Characters that are words of their own to sacrebleu's "zh": compared as strings, for two of its limits have two characters.
_CHINESE = (
    ("\u3400", "\u4db5"), ("\u4e00", "\u9fa5"), ("\u9fa6", "\u9fbb"), ("\uf900", "\ufa2d"), ("\ufa30", "\ufa6a"),
    ("\ufa70", "\ufad9"), ("\u2000" "0", "\u2a6d" "6"), ("\u2f80" "0", "\u2fa1" "d"), ("\uff00", "\uffef"),
    ("\u2e80", "\u2eff"), ("\u3000", "\u303f"), ("\u31c0", "\u31ef"), ("\u2f00", "\u2fdf"), ("\u2ff0", "\u2fff"),
    ("\u3100", "\u312f"),
    ("\u31a0", "\u31bf"), ("\ufe10", "\ufe1f"), ("\ufe30", "\ufe4f"), ("\u2600", "\u26ff"), ("\u2700", "\u27bf"),
    ("\u3200", "\u32ff"), ("\u3300", "\u33ff"),
)  # fmt: skip


def bleu(
    texts: Sequence[str], references: Sequence[Sequence[str]], tokenizer: BleuTokenizer = "13a", lowercase: bool = False
) -> float:
    """Returns BLEU over a corpus, with exponential smoothing where no n-gram of an order is right.

    Args:
      texts: what was written.
      references: of each text, those that are right.
      tokenizer: how words are found, as sacrebleu's --tokenize.
      lowercase: capitals do not count.

    >>> bleu(["the cat sat on the mat"], [["the cat sat on a mat"]])
    53.7284965911771
    """
    words_of = _TOKENIZERS[tokenizer]
    right, total = [0] * ORDER, [0] * ORDER
    length = reference_length = 0
    for text, known in zip(texts, references, strict=True):
        words, *others = (words_of((one.lower() if lowercase else one).rstrip()) for one in (text, *known))
        length += len(words)
        reference_length += min((abs(len(words) - len(other)), len(other)) for other in others)[1]
        for size in range(1, ORDER + 1):
            of_text = ngrams(words, size)
            most: collections.Counter = collections.Counter()
            for other in others:
                most |= ngrams(other, size)
            total[size - 1] += of_text.total()
            right[size - 1] += (of_text & most).total()
    if not any(right) or not all(total):
        return 0.0
    logs, smoothing = 0.0, 1.0
    for count, of in zip(right, total, strict=True):
        if count == 0:
            smoothing *= 2
        logs += math.log(100 * count / of if count else 100 / (smoothing * of))
    brevity = min(0.0, 1 - reference_length / length)
    return math.exp(brevity + logs / ORDER)


def chrf(texts: Sequence[str], references: Sequence[Sequence[str]], lowercase: bool = False) -> float:
    """Returns chrF2 over a corpus: n-grams of up to six characters, spaces left out; of several references the best one's.

    >>> round(chrf(["the cat sat"], [["the cat sits"]]), 4)
    61.0345
    """
    sums = [[0, 0, 0] for _ in range(CHARACTERS)]
    for text, known in zip(texts, references, strict=True):
        of_text = _character_ngrams(text, lowercase)
        counts = [_counts(of_text, _character_ngrams(reference, lowercase)) for reference in known]
        best = max(counts, key=_f_score)
        sums = [[a + b for a, b in zip(row, more, strict=True)] for row, more in zip(sums, best, strict=True)]
    return _f_score(sums)


def _character_ngrams(text: str, lowercase: bool) -> list[collections.Counter]:
    characters = "".join((text.lower() if lowercase else text).split())
    return [ngrams(characters, size) for size in range(1, CHARACTERS + 1)]


def _counts(text: Iterable[collections.Counter], reference: Iterable[collections.Counter]) -> list[list[int]]:
    """Returns, for each length of n-grams, how many the text and the reference have, and both."""
    return [[a.total() if b else 0, b.total(), (a & b).total()] for a, b in zip(text, reference, strict=True)]


def _f_score(counts: Sequence[Sequence[int]]) -> float:
    used = [(both / of_text, both / of_reference) for of_text, of_reference, both in counts if of_text and of_reference]
    if not used:
        return 0.0
    precision, recall = (sum(values) / len(used) for values in zip(*used, strict=True))
    weight = RECALL_WEIGHT**2
    return 100 * (1 + weight) * precision * recall / (weight * precision + recall) if precision + recall else 0.0


def _words_13a(text: str) -> list[str]:
    """As WMT's mteval-v13a.pl."""
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    return _western(f" {text} ")


def _western(text: str) -> list[str]:
    for pattern, replacement in _WESTERN:
        text = pattern.sub(replacement, text)
    return text.split()


def _words_zh(text: str) -> list[str]:
    apart = (f" {one} " if any(low <= one <= high for low, high in _CHINESE) else one for one in text.strip())
    return _western("".join(apart))


def _characters(text: str) -> list[str]:
    return " ".join(text).split()


_TOKENIZERS: dict[str, Callable[[str], list[str]]] = {"13a": _words_13a, "zh": _words_zh, "char": _characters}
