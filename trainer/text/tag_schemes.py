"""Tag schemes: how a sequence of tags marks entities, slots or chunks.

A tag is a letter, "-" and a type ("B-PER"); a letter without a type ("B") where all entities are of one type; or "O" outside
of entities. The schemes differ in the letters. "New York" followed directly by "Paris", both of the same type:

    scheme   New   York   Paris
    IOB1     I     I      B       B only where an entity follows another one of its type
    IOB2     B     I      B
    BIOES    B     E      S
    BILOU    B     L      U
    BMES     B     E      S       M is the inside of an entity of three or more tokens

"plain" tags have no letter, as parts of speech: each token is a span of its own.
"""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from trainer.errors import NothingToLearnError, UserError

OUTSIDE = "O"
_TAG = re.compile(r"([BIESLUM])(?:-(.+))?", re.DOTALL)
_OTHER_SEPARATOR = re.compile(r"[BIESLUM][_:.|/](.+)", re.DOTALL)
MAX_TAGS_NAMED = 5  # in an error message


class Span(NamedTuple):
    """One entity.

    Attributes:
      start, end: its first token and the one after its last.
      type: "PER"; "" where tags have no type.
    """

    start: int
    end: int
    type: str


class _Letters(NamedTuple):
    """Letters of a scheme.

    Attributes:
      opening: those that always begin an entity.
      closing: those that always end one.
      first, inside, last: of an entity with several tokens.
      single: of an entity with one token.
    """

    opening: str
    closing: str
    first: str
    inside: str
    last: str
    single: str


_SCHEMES = {
    "IOB1": _Letters("B", "", "I", "I", "I", "I"),
    "IOB2": _Letters("B", "", "B", "I", "I", "B"),
    "BIOES": _Letters("BS", "ES", "B", "I", "E", "S"),
    "BILOU": _Letters("BU", "LU", "B", "I", "L", "U"),
    "BMES": _Letters("BS", "ES", "B", "M", "E", "S"),
}
SCHEMES = (*_SCHEMES, "plain")


def recognize(sequences: Iterable[Sequence[str]], where: str = "the training rows") -> str:
    """Returns the scheme of training sequences, one of SCHEMES.

    1. No tag has a letter, "-" and a type: "plain"; unless all tags are letters of one scheme, B among them.
    2. Some tags have a letter of a scheme, others do not: "plain" if there is neither "O" nor the letter B, else an error.
    3. The first of IOB2, BIOES, BILOU and BMES that has all the letters.
    4. With the letters B and I: IOB1 if an entity begins with I, and B only stands directly after an entity of its type.
       A file that breaks both rules is IOB2 with mistakes, which `spans_of` repairs.

    Args:
      sequences: the tags of each row; read once.
      where: they come from, for messages.

    Raises:
      UserError: the tags mix letters of several schemes, or tags with a letter and tags without, or have no "-" after it.
      NothingToLearnError: there is no tag except "O".

    >>> recognize([["O", "B-PER", "I-PER"]]), recognize([["I-PER", "B-PER", "O"]]), recognize([["DET", "NOUN"]])
    ('IOB2', 'IOB1', 'plain')
    """
    # Pairs of neighbours decide everything, and a file has few distinct ones.
    pairs: Counter[tuple[str, str]] = Counter()
    for tags in sequences:
        pairs.update(pairwise((OUTSIDE, *tags)))
    counts: Counter[str] = Counter()
    for (_, tag), count in pairs.items():
        counts[tag] += count
    if not counts.keys() - {OUTSIDE}:
        raise NothingToLearnError(f"{where}: no tag is different from {OUTSIDE!r}; check the column of the tags")
    scheme = _scheme_of(counts, where)
    return "IOB1" if scheme == "IOB2" and _is_iob1(pairs) else scheme


def _scheme_of(counts: Counter[str], where: str) -> str:
    """Returns the scheme by the letters; "IOB2" also for IOB1, which has the same ones."""
    matches = {tag: _TAG.fullmatch(tag) for tag in counts if tag != OUTSIDE}
    letters = {match[1] for match in matches.values() if match}
    without_letter = [tag for tag, match in matches.items() if match is None]
    fitting = [scheme for scheme in ("IOB2", "BIOES", "BILOU", "BMES") if letters <= set(_known_letters(scheme))]
    separated = [tag for tag in without_letter if _OTHER_SEPARATOR.fullmatch(tag)]
    if separated and len(separated) == len(matches) and OUTSIDE in counts:
        raise UserError(
            f"{where}: the tags separate letter and type by {separated[0][1]!r}: {_named(separated, counts)}; a '-' belongs "
            f"there, as in '{separated[0][0]}-{separated[0][2:]}'"
        )
    if not any(match and match[2] for match in matches.values()):
        return fitting[0] if fitting and "B" in letters and not without_letter else "plain"
    if without_letter and OUTSIDE not in counts and "B" not in letters:
        return "plain"  # parts of speech may look like it: the Arabic treebank has "S----3MS3-"
    if without_letter:
        raise UserError(
            f"{where}: some tags begin with a letter of a scheme, as 'B-' and 'I-', and others do not: "
            f"{_named(without_letter, counts)}; correct these, or name the scheme: {', '.join(SCHEMES)}"
        )
    if not fitting:
        raise UserError(
            f"{where}: no scheme has all the letters {', '.join(sorted(letters))}, as in {_named(matches, counts)}; use the "
            f"letters of one scheme: {'; '.join(f'{name} {_known_letters(name)}' for name in _SCHEMES)}"
        )
    return fitting[0]


def _named(tags: Iterable[str], counts: Counter[str]) -> str:
    rarest_first = sorted(tags, key=lambda tag: (counts[tag], tag))
    more = f" and {len(rarest_first) - MAX_TAGS_NAMED} more" if len(rarest_first) > MAX_TAGS_NAMED else ""
    return ", ".join(f"{tag!r} ({counts[tag]} times)" for tag in rarest_first[:MAX_TAGS_NAMED]) + more


def _is_iob1(pairs: Iterable[tuple[str, str]]) -> bool:
    begins_inside = False
    for before, tag in pairs:
        if tag == OUTSIDE or before != OUTSIDE and _parsed(before, "IOB1")[1] == _parsed(tag, "IOB1")[1]:
            continue
        if _parsed(tag, "IOB1")[0] == "B":
            return False
        begins_inside = True
    return begins_inside


def _known_letters(scheme: str) -> str:
    letters = _SCHEMES[scheme]
    return "".join(sorted(set("".join(letters))))


@functools.lru_cache(maxsize=4096)
def _parsed(tag: str, scheme: str) -> tuple[str, str]:
    """Returns a tag's letter and type."""
    match = _TAG.fullmatch(tag)
    if match is None or match[1] not in _known_letters(scheme):
        raise ValueError(f"tag {tag!r} is not of the scheme {scheme}: use {OUTSIDE!r}, or a letter of {_known_letters(scheme)}")
    return match[1], match[2] or ""


def spans_of(tags: Sequence[str], scheme: str) -> list[Span]:
    """Returns the entities that tags mark, in order; tags that break the scheme are repaired as conlleval and seqeval do.

    An entity goes on to the next token as long as the type stays the same, the next letter does not begin an entity, and the
    letter before did not end one. So an I after O or after another type begins an entity, and an entity may lack its E.

    Args:
      tags: of one sequence.
      scheme: one of SCHEMES.

    Raises:
      ValueError: a tag has no letter of the scheme.

    >>> spans_of(["I-PER", "I-PER", "I-LOC", "O"], "IOB2")
    [Span(start=0, end=2, type='PER'), Span(start=2, end=3, type='LOC')]
    """
    if scheme == "plain":
        return [Span(position, position + 1, tag) for position, tag in enumerate(tags)]
    letters = _SCHEMES[scheme]
    spans: list[Span] = []
    is_open = False
    for position, tag in enumerate(tags):
        if tag == OUTSIDE:
            is_open = False
            continue
        letter, entity_type = _parsed(tag, scheme)
        if is_open and letter not in letters.opening and spans[-1].type == entity_type:
            spans[-1] = Span(spans[-1].start, position + 1, entity_type)
        else:
            spans.append(Span(position, position + 1, entity_type))
        is_open = letter not in letters.closing
    return spans


def strict_spans_of(tags: Sequence[str], scheme: str) -> list[Span]:
    """Returns only the entities whose tags follow the scheme, as seqeval with mode="strict" for IOB2, BIOES and BILOU.

    >>> strict_spans_of(["I-PER", "O", "B-LOC"], "IOB2")
    [Span(start=2, end=3, type='LOC')]
    """
    spans = spans_of(tags, scheme)
    correct = tags_of(spans, len(tags), scheme)
    return [span for span in spans if list(tags[span.start : span.end]) == correct[span.start : span.end]]


def invalid_positions(tags: Sequence[str], scheme: str) -> list[int]:
    """Returns the positions of the tags that `spans_of` repairs: those that the same entities would not have.

    >>> invalid_positions(["O", "I-PER", "I-PER"], "IOB2")
    [1]
    """
    correct = tags_of(spans_of(tags, scheme), len(tags), scheme)
    return [position for position, pair in enumerate(zip(tags, correct, strict=True)) if pair[0] != pair[1]]


def tags_of(spans: Iterable[Span], length: int, scheme: str) -> list[str]:
    """Returns the tags that mark entities: `spans_of` of them gives the same entities again.

    Args:
      spans: in any order, without overlap; of one token each if the scheme is "plain".
      length: tokens of the sequence.
      scheme: one of SCHEMES.

    Raises:
      ValueError: spans overlap, are empty or exceed the sequence; or a plain span has several tokens.

    >>> tags_of([Span(0, 2, "LOC"), Span(2, 3, "LOC")], 4, "BIOES")
    ['B-LOC', 'E-LOC', 'S-LOC', 'O']
    """
    tags = [OUTSIDE] * length
    before = Span(0, 0, "")
    for span in sorted(spans):
        if not before.end <= span.start < span.end <= length:
            raise ValueError(f"{span} overlaps {before}, is empty, or exceeds the {length} tokens")
        tags[span.start : span.end] = _tags_of_one(span, before, scheme)
        before = span
    return tags


def _tags_of_one(span: Span, before: Span, scheme: str) -> list[str]:
    size = span.end - span.start
    if scheme == "plain":
        if size > 1:
            raise ValueError(f"{span} has several tokens, which plain tags cannot mark")
        return [span.type]
    letters = _SCHEMES[scheme]
    written = letters.single if size == 1 else letters.first + letters.inside * (size - 2) + letters.last
    if scheme == "IOB1" and before.start < before.end == span.start and before.type == span.type:
        written = "B" + written[1:]
    return [f"{letter}-{span.type}" if span.type else letter for letter in written]
