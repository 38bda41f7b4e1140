"""Raw text cut into the words that a tagger tags, by one of three rules; told by the tokenizer's tokens and their places.

    rule         "We (U.S.) won't." becomes
    whitespace   We  (U.S.)  won't.               white space separates
    edges        We  (  U.S  .  )  won't  .       and marks at the edges of what it separates stand alone, as in most corpora
    punctuation  We  (  U  .  S  .  )  won  '  t  .   and so does every mark, as BERT's tokenizer cuts

Chinese, Japanese and Korean ideographs are a word each, by every rule. What the tokenizer drops separates as white space does.
"""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
from tokenizers import pre_tokenizers

RULES = ("whitespace", "edges", "punctuation")
# Source: `_is_chinese_char` of google-research/bert's tokenization.py: what the tokenizer puts spaces around
IDEOGRAPHS = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip
MARKS_ENOUGH = 10  # marks in a corpus that tell how its words are cut


@functools.lru_cache(maxsize=1 << 16)
def is_punctuation(character: str) -> bool:
    """Returns whether BERT's tokenizer makes a word of a character that stands between letters."""
    parts = pre_tokenizers.BertPreTokenizer().pre_tokenize_str(f"a{character}a")
    return len(parts) == 3


@functools.lru_cache(maxsize=1 << 16)
def is_space(character: str) -> bool:
    """Returns whether BERT's tokenizer cuts a text at a character and drops it."""
    return len(pre_tokenizers.BertPreTokenizer().pre_tokenize_str(f"a{character}a")) == 2


@functools.lru_cache(maxsize=1 << 16)
def is_ideograph(character: str) -> bool:
    """Returns whether a character is a word of its own, as Chinese ones are."""
    return any(first <= ord(character) <= last for first, last in IDEOGRAPHS)


def without_spaces(text: str, offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Returns tokens' places without the white space at their ends, as byte-level BPE and SentencePiece may have it.

    A token that is white space only has no length.

    >>> without_spaces("a  b", [(0, 1), (1, 2), (2, 4)])
    [(0, 1), (2, 2), (3, 4)]
    """
    found = []
    for start, end in offsets:
        while start < end and is_space(text[start]):
            start += 1
        while start < end and is_space(text[end - 1]):
            end -= 1
        found.append((start, end))
    return found


def continues_word(text: str, offsets: Sequence[tuple[int, int]]) -> np.ndarray:
    """Returns which tokens are no word of their own where BERT would cut, of a tokenizer whose tokens do not say it.

    A token continues a word where it begins inside of the character that the one before it ends with, or right behind it, and
    neither is a mark or an ideograph there.

    Args:
      text: the text.
      offsets: as `without_spaces` gives them, none of them empty.
    """
    cuts = [is_punctuation(character) or is_ideograph(character) for character in text]
    return np.array(
        [
            place > 0 and start <= (end := offsets[place - 1][1]) and (start < end or not (cuts[start] or cuts[start - 1]))
            for place, (start, _) in enumerate(offsets)
        ],
        bool,
    )


def word_starts(text: str, offsets: Sequence[tuple[int, int]], continues: Sequence[bool] | np.ndarray, rule: str) -> np.ndarray:
    """Returns which tokens begin a word: bool [tokens].

    Args:
      text: the text.
      offsets: (start, end) of each token in it.
      continues: whether a token is a later piece of a word to the tokenizer, as "##ing".
      rule: one of RULES.
    """
    if not offsets:
        return np.zeros(0, bool)
    basic = ~np.asarray(continues, bool)
    basic[0] = True
    if rule == "punctuation":
        return basic
    starts, ends = np.asarray(offsets).T
    first = [text[start] for start in starts]
    alone = np.array([is_ideograph(character) for character in first])
    after_gap = np.append(True, starts[1:] > ends[:-1])
    opens = after_gap | alone | np.append(False, alone[:-1])
    if rule == "whitespace":
        return basic & opens
    plain = ~basic | ~np.array([is_punctuation(character) for character in first])
    chunk = np.cumsum(opens) - 1
    before = np.cumsum(plain)
    outside = (before - plain)[opens][chunk]  # plain tokens before the chunk
    total = np.bincount(chunk, weights=plain)[chunk]
    inner = (before - outside > 0) & (total - (before - plain - outside) > 0)
    return basic & (opens | ~inner | ~np.append(False, inner[:-1]))


def learned_rule(words: Mapping[str, int]) -> str:
    """Returns the rule that cuts raw text as a corpus' words were cut.

    1. Marks stand at the ends of words at least as often as alone: whitespace.
    2. Words with marks inside are rare (fewer than one for 50 marks alone): punctuation.
    3. Else, or where there are hardly any marks: edges.

    Args:
      words: {word: how often}; those without a mark decide nothing.

    >>> learned_rule({".": 9, ",": 9, "O'Neil": 9}), learned_rule({"left.": 12})
    ('edges', 'whitespace')
    """
    alone = attached = inside = 0
    for word, count in words.items():
        marks = [is_punctuation(character) for character in word]
        if all(marks):
            alone += count
        elif any(marks[1:-1]) and not (marks[0] or marks[-1]):
            inside += count
        elif marks[-1] and word[-1] in ".,;:!?":
            attached += count
    if alone + attached < MARKS_ENOUGH:
        return "edges"
    if attached >= alone:
        return "whitespace"
    return "punctuation" if inside * 50 < alone else "edges"
