"""Tag schemes: recognized from sequences, read with and without repair, and written without loss."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.errors import NothingToLearnError, UserError
from trainer.text.tag_schemes import SCHEMES, Span, invalid_positions, recognize, spans_of, strict_spans_of, tags_of

ENTITY_SCHEMES = [scheme for scheme in SCHEMES if scheme != "plain"]
LETTERS = {"IOB1": "BI", "IOB2": "BI", "BIOES": "BIES", "BILOU": "BILU", "BMES": "BMES"}


@st.composite
def sequences_of_spans(draw, type_name=st.sampled_from(["PER", "creative-work", "-", ""])):
    spans, end = [], 0
    for gap, size in draw(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4)), max_size=6)):
        spans.append(Span(end + gap, end + gap + size, draw(type_name)))
        end = spans[-1].end
    return spans, end + draw(st.integers(0, 2))


@st.composite
def schemes_and_tags(draw):
    scheme = draw(st.sampled_from(ENTITY_SCHEMES))
    known = ["O", *(f"{letter}-{name}" for letter in LETTERS[scheme] for name in ("A", "B"))]
    return scheme, draw(st.lists(st.sampled_from(known), max_size=12))


@settings(max_examples=300, deadline=None)
@given(sequences_of_spans(), st.sampled_from(ENTITY_SCHEMES))
def test_spans_survive_every_scheme(sequence, scheme):
    spans, length = sequence
    tags = tags_of(spans, length, scheme)
    assert len(tags) == length
    assert spans_of(tags, scheme) == strict_spans_of(tags, scheme) == spans
    assert invalid_positions(tags, scheme) == []
    assert tags_of(reversed(spans), length, scheme) == tags


@settings(max_examples=50, deadline=None)
@given(sequences_of_spans(type_name=st.text(max_size=4)))
def test_a_type_may_be_any_text(sequence):
    spans, length = sequence
    assert spans_of(tags_of(spans, length, "BIOES"), "BIOES") == spans


@settings(max_examples=300, deadline=None)
@given(schemes_and_tags())
def test_any_tags_are_repaired_to_valid_ones(scheme_and_tags):
    scheme, tags = scheme_and_tags
    spans = spans_of(tags, scheme)
    repaired = tags_of(spans, len(tags), scheme)
    assert spans_of(repaired, scheme) == spans and invalid_positions(repaired, scheme) == []
    covered = {position for span in spans for position in range(span.start, span.end)}
    assert covered == {position for position, tag in enumerate(tags) if tag != "O"}
    assert all(tags[position][2:] == span.type for span in spans for position in range(span.start, span.end))
    assert set(strict_spans_of(tags, scheme)) <= set(spans)
    assert (invalid_positions(tags, scheme) == []) == (strict_spans_of(tags, scheme) == spans)


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("IOB1", ["I-A", "I-A", "I-A", "B-A", "B-A", "I-A", "O", "I-B", "I-A"]),
        ("IOB2", ["B-A", "I-A", "I-A", "B-A", "B-A", "I-A", "O", "B-B", "B-A"]),
        ("BIOES", ["B-A", "I-A", "E-A", "S-A", "B-A", "E-A", "O", "S-B", "S-A"]),
        ("BILOU", ["B-A", "I-A", "L-A", "U-A", "B-A", "L-A", "O", "U-B", "U-A"]),
        ("BMES", ["B-A", "M-A", "E-A", "S-A", "B-A", "E-A", "O", "S-B", "S-A"]),
    ],
)
def test_the_letters_of_each_scheme(scheme, expected):
    spans = [Span(0, 3, "A"), Span(3, 4, "A"), Span(4, 6, "A"), Span(7, 8, "B"), Span(8, 9, "A")]
    assert tags_of(spans, 9, scheme) == expected
    assert recognize([expected]) == scheme


@pytest.mark.parametrize(
    ("scheme", "tags", "lenient", "strict", "invalid"),
    [
        # An I that follows no entity of its type begins one.
        ("IOB2", "O I-A I-A", [(1, 3, "A")], [], [1]),
        ("IOB2", "B-A I-B I-B", [(0, 1, "A"), (1, 3, "B")], [(0, 1, "A")], [1]),
        # IOB1 writes B only between entities of one type.
        ("IOB1", "B-A I-A B-A", [(0, 2, "A"), (2, 3, "A")], [(2, 3, "A")], [0]),
        ("IOB1", "I-A B-B", [(0, 1, "A"), (1, 2, "B")], [(0, 1, "A")], [1]),
        # An entity without its E, and an E without its B.
        ("BIOES", "B-A I-A O", [(0, 2, "A")], [], [1]),
        ("BIOES", "B-A O E-A", [(0, 1, "A"), (2, 3, "A")], [], [0, 2]),
        ("BIOES", "B-A E-A E-A", [(0, 2, "A"), (2, 3, "A")], [(0, 2, "A")], [2]),
        ("BIOES", "B-A I-A S-A", [(0, 2, "A"), (2, 3, "A")], [(2, 3, "A")], [1]),
        ("BIOES", "S-A I-A E-A", [(0, 1, "A"), (1, 3, "A")], [(0, 1, "A")], [1]),
        ("BILOU", "B-A L-B U-B", [(0, 1, "A"), (1, 2, "B"), (2, 3, "B")], [(2, 3, "B")], [0, 1]),
        ("BMES", "B-A M-A O S-A", [(0, 2, "A"), (3, 4, "A")], [(3, 4, "A")], [1]),
        # Tags of one type need no name for it.
        ("IOB2", "B I O I", [(0, 2, ""), (3, 4, "")], [(0, 2, "")], [3]),
    ],
)
def test_tags_that_break_the_scheme(scheme, tags, lenient, strict, invalid):
    assert spans_of(tags.split(), scheme) == lenient
    assert strict_spans_of(tags.split(), scheme) == strict
    assert invalid_positions(tags.split(), scheme) == invalid


@pytest.mark.parametrize(
    ("scheme", "sequences"),
    [
        ("IOB2", ["O B-A I-A O", "B-A B-A"]),
        ("IOB2", ["B-A O"]),
        ("IOB2", ["B-creative-work I-creative-work"]),
        ("IOB1", ["I-A I-A O", "I-B"]),
        ("IOB1", ["I-A B-A O", "I-A I-B"]),
        # Both an I that begins an entity and a B after O: mistakes in IOB2.
        ("IOB2", ["I-A I-A O", "B-A"]),
        ("IOB2", ["I-A B-B"]),
        # Sentences do not continue each other.
        ("IOB2", ["I-A", "B-A"]),
        ("IOB2", ["B I O O"]),
        ("IOB1", ["I B I O"]),
        ("BIOES", ["B-A I-A E-A", "S-A O"]),
        ("BIOES", ["B-A E-A S-A"]),
        ("BIOES", ["S-A O"]),
        ("BILOU", ["B-A L-A O U-A"]),
        ("BILOU", ["U-A O"]),
        ("BMES", ["B-A M-A E-A O"]),
        ("BMES", ["B M M E S B E"]),
        ("plain", ["DET NOUN VERB O"]),
        ("plain", ["DT -LRB- NN"]),
        ("plain", ["S O N V"]),
        ("plain", ["S-3MS3 I- N-"]),
        ("plain", ["B I E L"]),
    ],
)
def test_schemes_are_recognized(scheme, sequences):
    assert recognize(tags.split() for tags in sequences) == scheme


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ("B-A I-A O PER PER I-", r"dev\.conll: some tags .* others do not: 'I-' \(1 times\), 'PER' \(2 times\); correct these"),
        ("B-A I-A _ _", r"others do not: '_' \(2 times\)"),
        ("B-A O-A O", r"others do not: 'O-A' \(1 times\)"),
        ("B-A E-A U-A", r"no scheme has all the letters B, E, U, as in 'B-A' \(1 times\), .*; BIOES BEIS; "),
        ("B-A a b c d e f O", r"'e' \(1 times\) and 1 more; correct"),
        ("B_A I_A O", r"letter and type by '_': 'B_A' \(1 times\), 'I_A' \(1 times\); a '-' belongs there, as in 'B-A'"),
    ],
)
def test_mixed_tags_are_refused(tags, message):
    with pytest.raises(UserError, match=message):
        recognize([tags.split()], "dev.conll")


@pytest.mark.parametrize("sequences", [[], [[]], [["O", "O"]]])
def test_nothing_to_recognize(sequences):
    with pytest.raises(NothingToLearnError, match="the training rows: no tag is different from 'O'"):
        recognize(sequences)


def test_plain_tags_are_spans_of_one_token():
    tags = ["DET", "NOUN", "NOUN", "B-X"]
    spans = spans_of(tags, "plain")
    assert spans == strict_spans_of(tags, "plain") == [(0, 1, "DET"), (1, 2, "NOUN"), (2, 3, "NOUN"), (3, 4, "B-X")]
    assert tags_of(spans, 4, "plain") == tags and invalid_positions(tags, "plain") == []
    with pytest.raises(ValueError, match="several tokens"):
        tags_of([Span(0, 2, "DET")], 2, "plain")


@pytest.mark.parametrize("tag", ["E-A", "PER", "b-A", "B-", "BA", "", "O-A"])
def test_an_unknown_tag_is_named(tag):
    with pytest.raises(ValueError, match=f"tag '{tag}' is not of the scheme IOB2: use 'O', or a letter of BI"):
        spans_of(["O", tag], "IOB2")


@pytest.mark.parametrize(
    "spans", [[Span(0, 2, "A"), Span(1, 3, "A")], [Span(1, 1, "A")], [Span(2, 5, "A")], [Span(-1, 1, "A")]]
)
def test_spans_that_do_not_fit_are_refused(spans):
    with pytest.raises(ValueError, match="overlaps"):
        tags_of(spans, 4, "BIOES")
