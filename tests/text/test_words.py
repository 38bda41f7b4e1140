"""Raw text cut into words: by each rule, and as a corpus' words were cut."""

import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.conll import read_conll
from trainer.text.words import RULES, is_ideograph, is_punctuation, learned_rule, word_starts


def words_of(tokenizer, text, rule):
    ids, offsets = tokenizer.encode_with_offsets(text)
    pieces = [tokenizer.backend.id_to_token(number) for number in ids]
    starts = word_starts(text, offsets, [piece.startswith("##") for piece in pieces], rule)
    first = [place for place, begins in enumerate(starts) if begins]
    return [text[offsets[a][0] : offsets[b - 1][1]] for a, b in zip(first, [*first[1:], len(ids)], strict=False)]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("whitespace", ["We", "(U.S.)", "won't."]),
        ("edges", ["We", "(", "U.S", ".", ")", "won't", "."]),
        ("punctuation", ["We", "(", "U", ".", "S", ".", ")", "won", "'", "t", "."]),
    ],
)
def test_each_rule(tokenizer, rule, words):
    assert words_of(tokenizer, "We (U.S.) won't.", rule) == words
    assert words_of(tokenizer, "", rule) == []


@pytest.mark.parametrize("rule", RULES)
def test_ideographs_stand_alone_by_every_rule(tokenizer, rule):
    assert words_of(tokenizer, "我在Berlin吃饭", rule) == ["我", "在", "Berlin", "吃", "饭"]


def test_marks_alone_and_dropped_characters(tokenizer):
    assert words_of(tokenizer, "... ok?!", "edges") == [".", ".", ".", "ok", "?", "!"]
    assert words_of(tokenizer, "... ok?!", "whitespace") == ["...", "ok?!"]
    assert words_of(tokenizer, "a\u200b.b", "whitespace") == ["a", ".b"], "what the tokenizer drops separates"
    assert words_of(tokenizer, "unaffable\u0301ness", "edges") == ["unaffable\u0301ness"], "pieces of a word are none"


@given(st.text(alphabet="ab.,'(- 中\u0301é", max_size=20))
def test_rules_are_finer_and_finer(tokenizer, text):
    """What a rule cuts, the next cuts, too; and no letter is lost."""
    cuts = [words_of(tokenizer, text, rule) for rule in RULES]
    assert len(cuts[0]) <= len(cuts[1]) <= len(cuts[2])
    assert len({"".join(words).replace(" ", "") for words in cuts}) == 1


def test_characters():
    assert is_punctuation(".") and is_punctuation("$") and is_punctuation("，") and not is_punctuation("a")
    assert is_ideograph("中") and not is_ideograph("あ") and not is_ideograph("a")


def test_the_rule_is_learned_from_the_words():
    assert learned_rule({"week": 20, ".": 20}) == "punctuation"
    assert learned_rule({"U.S": 20, ".": 20, "won't": 20, ",": 20}) == "edges"
    assert learned_rule({"week.": 20}) == "whitespace"
    assert learned_rule({"play": 20}) == "edges", "nothing is known about marks"
    assert learned_rule({}) == "edges"


def test_rules_of_real_corpora(shared_data):
    def rule_of(name):
        rows = read_conll(str(shared_data / name))
        return learned_rule(collections.Counter(token for row in rows for token in row.values["tokens"]))

    assert rule_of("wikigold/wikigold.conll") == "edges" and rule_of("wnut17/dev.conll") == "punctuation"
