"""Sequences of a hand-made corpus, each verified by hand; Google's rules; no text lost; every special case counted."""

import collections
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.text.segments import SequenceRecipe, TokenizedDocument, sequences_of, truncated_lengths


class Script(random.Random):
    """Gives the draws that a test writes down, and fails where another is asked for."""

    def __init__(self, *draws):
        super().__init__(0)
        self.draws = list(draws)

    def take(self, kind, low, high):
        wanted, value = self.draws.pop(0)
        assert wanted == kind and low <= value <= high, (kind, low, high, wanted, value)
        return value

    def random(self):
        return self.take("random", 0, 1)

    def randint(self, low, high):
        return self.take("randint", low, high)

    def randrange(self, high):
        return self.take("randrange", 0, high - 1)

    def getrandbits(self, count):
        return self.take("bits", 0, 2**count - 1)


def documents(*texts):
    """Documents of one-letter tokens: "ab cd" is one of two segments."""
    return [
        TokenizedDocument((number,), [[ord(letter) for letter in segment] for segment in text.split()])
        for number, text in enumerate(texts)
    ]


def told(found):
    """(document, "first", "second", label) of each sequence."""

    def letters(ids):
        return "".join(map(chr, ids))

    return [(n, letters(s.first), s.second and letters(s.second), s.label) for n, s in found]


def run(recipe, draw, *texts):
    counts: collections.Counter = collections.Counter()
    return told(sequences_of(documents(*texts), recipe, draw, counts)), dict(counts)


def test_next_sentence_pairs_by_hand():
    # Eleven tokens with [CLS] and two [SEP]: eight of text. No short sequences.
    recipe = SequenceRecipe("nsp", 11, short_seq_prob=0.0)
    draw = Script(
        # Document 0: "abc def" are six tokens, "gh" makes eight. The first part ends after one segment, and is followed.
        ("randint", 1), ("random", 0.9),
        # The rest is "ij" alone: its second part comes from another document, from its second segment on. Wanted: 8 - 2
        # tokens; "vwxyz" are five, and then that document ends.
        ("randrange", 0), ("randrange", 1),
        # Document 1: "stu vwxyz" are eight. One segment first; a random second part, of document 0 from its third segment.
        # Wanted: 8 - 3; "gh ij" are four and end the document. "vwxyz" was not used: it begins the next sequence.
        ("randint", 1), ("random", 0.1), ("randrange", 0), ("randrange", 2),
        # "vwxyz" alone; document 0 from its first segment: wanted 3, and three are "abc".
        ("randrange", 0), ("randrange", 0),
    )  # fmt: skip
    found, counts = run(recipe, draw, "abc def gh ij", "stu vwxyz")
    assert found == [
        (0, "abc", "defgh", 0),
        (0, "ij", "vwxyz", 1),
        (1, "stu", "ghij", 1),
        (1, "vwxyz", "abc", 1),
    ]
    assert not draw.draws and counts == {}


def test_sentence_order_pairs_by_hand():
    recipe = SequenceRecipe("sop", 11, short_seq_prob=0.0)
    draw = Script(
        # "abcd efgh" are eight; in order. Then "ij" alone is halved, and swapped.
        ("randint", 1), ("random", 0.9), ("random", 0.1),
        # One token only: nothing can follow it.
    )  # fmt: skip
    found, counts = run(recipe, draw, "abcd efgh ij", "z")
    assert found == [(0, "abcd", "efgh", 0), (0, "j", "i", 1)]
    assert counts == {"halved_single_segments": 1, "one_token_documents": 1}


def test_full_sentences_by_hand():
    # Ten tokens with [CLS] and [SEP]: eight of text, and documents are not mixed.
    recipe = SequenceRecipe("none", 10, short_seq_prob=0.0)
    found, counts = run(recipe, Script(), "abc def gh ij", "klmnopqrstu v")
    assert found == [
        (0, "abcdefgh", None, 0),
        (0, "ij", None, 0),
        (1, "klmnopqr", None, 0),
        (1, "stuv", None, 0),
    ]
    assert counts == {"split_long_segments": 1}
    found, counts = run(SequenceRecipe("none", 10, 0.0, keep_long_segments=False), Script(), "klmnopqrstu v")
    assert found == [(0, "klmnopqr", None, 0), (0, "v", None, 0)] and counts == {}


def test_short_sequences():
    recipe = SequenceRecipe("none", 10, short_seq_prob=0.5)
    draw = Script(("random", 0.4), ("randint", 3), ("random", 0.6))
    found, counts = run(recipe, draw, "ab c defgh ij")
    assert found == [(0, "abc", None, 0), (0, "defghij", None, 0)] and counts == {"short": 1}


def test_one_document_alone_has_no_random_next():
    recipe = SequenceRecipe("nsp", 11, short_seq_prob=0.0)
    draw = Script(("randint", 1), ("random", 0.1))
    found, counts = run(recipe, draw, "abcd efgh ij")
    assert found == [(0, "abcd", "efgh", 0), (0, "i", "j", 0)]
    assert counts == {"no_other_document": 2, "halved_single_segments": 1}


def test_parts_of_one_long_document_are_no_other_document():
    recipe = SequenceRecipe("nsp", 11, short_seq_prob=0.0, random_next_prob=1.0)
    texts = documents("abcd efgh", "ijkl mnop", "qrst uvwx")
    parts = [TokenizedDocument((0,), texts[0].segments), TokenizedDocument((0,), texts[1].segments), texts[2]]
    for number, sequence in sequences_of(parts, recipe, random.Random(1), collections.Counter()):
        is_from_third = set(sequence.second) <= set(map(ord, "qrstuvwx"))
        assert sequence.label == 1 and is_from_third == (number < 2)


def test_a_pair_is_cut_at_both_ends_of_its_longer_part():
    recipe = SequenceRecipe("nsp", 8, short_seq_prob=0.0, keep_long_segments=False)
    # Five tokens of text; "abcdefg" alone, with "xyz" of the other document (wanted: none more, so its first segment).
    # The first part gives way down to three, then both in turn: 3 and 2. Its surplus of 4 tokens: coins 0b0111, three in front.
    draw = Script(("randrange", 0), ("randrange", 0), ("bits", 0b0111), ("bits", 0b0))
    first = next(sequences_of(documents("abcdefg", "xyz"), recipe, draw, collections.Counter()))
    assert told([first]) == [(0, "def", "xy", 1)]


def test_full_sentences_of_a_short_target_keep_what_fits_a_sequence():
    recipe = SequenceRecipe("none", 10, short_seq_prob=1.0, keep_long_segments=False)
    draw = Script(("random", 0.1), ("randint", 3), ("random", 0.1), ("randint", 4))
    assert run(recipe, draw, "abcdefg")[0] == [(0, "abc", None, 0), (0, "defg", None, 0)]


@given(st.integers(1, 60), st.integers(1, 60), st.integers(2, 60))
def test_lengths_are_those_of_removing_one_by_one(first, second, budget):
    a, b = first, second
    while a + b > budget:
        if a > b:
            a -= 1
        else:
            b -= 1
    assert truncated_lengths(first, second, budget) == (a, b)


texts = st.lists(
    st.lists(st.lists(st.integers(1, 10**9), min_size=1, max_size=30), min_size=1, max_size=12), min_size=1, max_size=5
)


@settings(max_examples=150, deadline=None)
@given(texts, st.sampled_from(["nsp", "sop", "none"]), st.integers(8, 40), st.integers(0, 1000))
def test_sequences_fit_come_from_their_documents_and_lose_nothing(corpus, objective, length, seed):
    recipe = SequenceRecipe(objective, length, 0.2)
    parts = [TokenizedDocument((number,), segments) for number, segments in enumerate(corpus)]
    counts: collections.Counter = collections.Counter()
    seen = collections.defaultdict(list)
    for number, (first, second, label) in sequences_of(parts, recipe, random.Random(seed), counts):
        assert len(first) >= 1 and len(first) + len(second or ()) <= recipe.budget
        assert (second is None) == (objective == "none") and (second is None or len(second) >= 1)
        own = [token for segment in corpus[number] for token in segment]
        assert _is_inside(first, own)
        if second is not None:
            if objective == "nsp" and label == 1:
                others = [[t for s in other for t in s] for i, other in enumerate(corpus) if i != number]
                assert any(_is_inside(second, other) for other in others)
            else:
                assert _is_inside(second, own)
        seen[number] += [*first, *(second or ())]
    if objective == "none":
        assert all(seen[number] == [t for s in segments for t in s] for number, segments in enumerate(corpus))


def _is_inside(part, whole):
    return any(whole[start : start + len(part)] == list(part) for start in range(len(whole) - len(part) + 1))
