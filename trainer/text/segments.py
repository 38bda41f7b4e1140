"""Segments of documents → the sequences that BERT is pre-trained on: pairs for NSP and SOP, full sentences for MLM only.

A segment is a sentence, or a line, as token ids. The pairs are those of google-research/bert's
`create_pretraining_data.py` (`create_instances_from_document`), with its faults mended: a "random" next segment never comes
from the same document, and what cannot be made as asked for is counted, not mislabelled.
"""

import collections
import dataclasses
import random
from collections.abc import Iterator, MutableSequence, Sequence
from typing import Literal, NamedTuple

from trainer.text.sequences import pair_lengths

SentenceObjective = Literal["nsp", "sop", "none"]
Segment = MutableSequence[int]  # ids: in a list, or in an array, where there are many


@dataclasses.dataclass(frozen=True)
class SequenceRecipe:
    """How documents are cut into sequences.

    Attributes:
      objective: "nsp": the second part follows the first, or comes from another document (Devlin et al. 2019, section 3.1);
        "sop": it follows, or both are swapped (Lan et al. 2020, section 3.1); "none": one part, of full sentences that do
        not leave their document (Liu et al. 2019, section 4.2, DOC-SENTENCES).
      max_seq_length: tokens of a sequence, [CLS] and [SEP] included.
      short_seq_prob: the share of sequences that are made shorter, of a random length.
      random_next_prob: of "nsp", the share of pairs whose second part comes from elsewhere; of "sop", the swapped share.
      keep_long_segments: a segment longer than a sequence continues in the next sequences; False drops what does not fit, as
        Google's script does.
    """

    objective: SentenceObjective
    max_seq_length: int
    short_seq_prob: float = 0.1
    random_next_prob: float = 0.5
    keep_long_segments: bool = True

    @property
    def budget(self) -> int:
        """Tokens of a sequence without [CLS] and [SEP]."""
        return self.max_seq_length - (2 if self.objective == "none" else 3)


class TokenSequence(NamedTuple):
    """One sequence.

    Attributes:
      first, second: token ids; second is None where there is one part only.
      label: 1 where the second part is not the first one's continuation (random, or swapped), else 0.
    """

    first: Segment
    second: Segment | None
    label: int


class TokenizedDocument(NamedTuple):
    """A document, or a part of a very long one.

    Attributes:
      identity: the same for all parts of one document.
      segments: each with one token at least.
    """

    identity: tuple
    segments: list[Segment]


def sequences_of(
    documents: Sequence[TokenizedDocument], recipe: SequenceRecipe, draw: random.Random, counts: collections.Counter
) -> Iterator[tuple[int, TokenSequence]]:
    """Yields (the document's number, a sequence of it), document after document.

    Args:
      documents: parts of one document follow each other; random segments come from these.
      recipe: how.
      draw: all randomness.
      counts: special cases are added here: "short", "split_long_segments", "halved_single_segments",
        "no_other_document", "one_token_documents", "truncated_tokens".
    """
    if recipe.keep_long_segments:
        documents = [_with_long_segments_split(document, recipe, counts) for document in documents]
    bounds = _bounds_of_identities(documents)
    for number, document in enumerate(documents):
        if recipe.objective == "none":
            found = _full_sentences(document.segments, recipe, draw, counts)
        else:
            found = _pairs(document.segments, _Elsewhere(documents, *bounds[number]), recipe, draw, counts)
        for sequence in found:
            yield number, sequence


def _bounds_of_identities(documents: Sequence[TokenizedDocument]) -> list[tuple[int, int]]:
    """Returns for each document the range of the parts that belong to the same one."""
    bounds: list[tuple[int, int]] = []
    begin = 0
    for number in range(1, len(documents) + 1):
        if number == len(documents) or documents[number].identity != documents[begin].identity:
            bounds += [(begin, number)] * (number - begin)
            begin = number
    return bounds


def _with_long_segments_split(
    document: TokenizedDocument, recipe: SequenceRecipe, counts: collections.Counter
) -> TokenizedDocument:
    """Cuts segments that are longer than a sequence: for pairs into halves of one, which can follow each other."""
    most = recipe.budget
    if max(map(len, document.segments), default=0) <= most:
        return document
    size = most if recipe.objective == "none" else most // 2
    segments: list[Segment] = []
    for segment in document.segments:
        if len(segment) > most:
            counts["split_long_segments"] += 1
            segments += [segment[start : start + size] for start in range(0, len(segment), size)]
        else:
            segments.append(segment)
    return TokenizedDocument(document.identity, segments)


class _Elsewhere:
    """Draws from all documents but one, whose parts are documents[begin:end]."""

    def __init__(self, documents: Sequence[TokenizedDocument], begin: int, end: int):
        self._documents, self._begin, self._skipped = documents, begin, end - begin
        self.is_empty = self._skipped == len(documents)

    def draw_segments(self, wanted: int, draw: random.Random) -> Segment:
        """Returns segments in a row, from a random one of a random document on: `wanted` tokens, or to the document's end."""
        number = draw.randrange(len(self._documents) - self._skipped)
        segments = self._documents[number + self._skipped if number >= self._begin else number].segments
        begin = draw.randrange(len(segments))
        return _joined(segments[begin : _end_of(segments, begin, wanted)])


def _target_length(recipe: SequenceRecipe, draw: random.Random, counts: collections.Counter) -> int:
    """Returns how many tokens the next sequence is to have: mostly all that fit, seldom fewer."""
    if recipe.short_seq_prob and draw.random() < recipe.short_seq_prob:
        counts["short"] += 1
        return draw.randint(2, recipe.budget)
    return recipe.budget


def _pairs(
    segments: list[Segment],
    elsewhere: _Elsewhere,
    recipe: SequenceRecipe,
    draw: random.Random,
    counts: collections.Counter,
) -> Iterator[TokenSequence]:
    """Google's walk through a document; one target length for the whole of it, as there."""
    target = _target_length(recipe, draw, counts)
    start = 0
    while start < len(segments):
        end = _end_of(segments, start, target)
        cut = draw.randint(start + 1, end - 1) if end - start > 1 else end  # the first part is segments[start:cut]
        first = _joined(segments[start:cut])
        rest = _joined(segments[cut:end])
        if recipe.objective == "nsp":
            sequence, used_rest = _next_sentence_pair(first, rest, elsewhere, target, recipe, draw, counts)
        else:
            sequence, used_rest = _sentence_order_pair(first, rest, recipe, draw, counts), True
        if sequence:
            yield _truncated(sequence, recipe.budget, draw, counts)
        start = end if used_rest else cut


def _next_sentence_pair(first, rest, elsewhere, target, recipe, draw, counts) -> tuple[TokenSequence | None, bool]:
    """Returns the pair, and whether `rest` went into it: where it did not, it begins the next one, so no text is lost."""
    if not rest or draw.random() < recipe.random_next_prob:
        if not elsewhere.is_empty:
            return TokenSequence(first, elsewhere.draw_segments(target - len(first), draw), 1), False
        counts["no_other_document"] += 1
    return (TokenSequence(first, rest, 0) if rest else _halved(first, counts)), True


def _sentence_order_pair(first, rest, recipe, draw, counts) -> TokenSequence | None:
    pair = TokenSequence(first, rest, 0) if rest else _halved(first, counts)
    if pair and pair.second and draw.random() < recipe.random_next_prob:
        return TokenSequence(pair.second, pair.first, 1)
    return pair


def _halved(segment: Segment, counts: collections.Counter) -> TokenSequence | None:
    """Returns a single segment as two parts that follow each other; None where it has one token only."""
    if len(segment) < 2:
        counts["one_token_documents"] += 1
        return None
    counts["halved_single_segments"] += 1
    middle = len(segment) // 2
    return TokenSequence(segment[:middle], segment[middle:], 0)


def _full_sentences(segments, recipe, draw, counts) -> Iterator[TokenSequence]:
    target = _target_length(recipe, draw, counts)
    tokens = segments[0][:0] if segments else []
    for segment in segments:
        segment = segment[: recipe.budget]  # longer ones were split before, unless their rest is not to be kept
        if tokens and len(tokens) + len(segment) > target:
            yield TokenSequence(tokens, None, 0)
            tokens, target = segment[:0], _target_length(recipe, draw, counts)
        tokens += segment
        while len(tokens) > target:
            yield TokenSequence(tokens[:target], None, 0)
            tokens, target = tokens[target:], _target_length(recipe, draw, counts)
    if tokens:
        yield TokenSequence(tokens, None, 0)


def _truncated(sequence: TokenSequence, budget: int, draw: random.Random, counts: collections.Counter) -> TokenSequence:
    """Cuts a pair to the budget, token by token at the longer part's beginning or end, by chance (`truncate_seq_pair`)."""
    first, second, label = sequence
    assert second is not None
    lengths = truncated_lengths(len(first), len(second), budget)
    parts = []
    for part, length in zip((first, second), lengths, strict=True):
        surplus = len(part) - length
        if surplus:
            counts["truncated_tokens"] += surplus
            in_front = draw.getrandbits(surplus).bit_count()  # as many coins as there are tokens to remove
            part = part[in_front : in_front + length]
        parts.append(part)
    return TokenSequence(parts[0], parts[1], label)


def truncated_lengths(first: int, second: int, budget: int) -> tuple[int, int]:
    """Returns how many tokens stay of each part when one after the other is removed from the longer (the second, if equal).

    >>> truncated_lengths(10, 3, 8), truncated_lengths(10, 10, 7), truncated_lengths(2, 3, 9)
    ((5, 3), (4, 3), (2, 3))
    """
    if first + second <= budget or 2 * min(first, second) <= budget:
        return pair_lengths(first, second, budget)
    return (budget + 1) // 2, budget // 2  # both give way: the odd token is the first one's here


def _end_of(segments: Sequence[Segment], begin: int, wanted: int) -> int:
    """Returns where the shortest run of segments from `begin` on with `wanted` tokens ends, or the document; at least one."""
    length, end = len(segments[begin]), begin + 1
    while end < len(segments) and length < wanted:
        length += len(segments[end])
        end += 1
    return end


def _joined(segments: Sequence[Segment]) -> Segment:
    tokens = segments[0][:] if segments else []
    for segment in segments[1:]:
        tokens += segment
    return tokens
