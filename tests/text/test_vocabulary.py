"""Vocabularies: BERT's layout, the same each time, judged by figures that can be counted by hand."""

import pytest

from trainer.errors import UserError
from trainer.text.tokenizer import from_vocabulary
from trainer.text.vocabulary import coverage, extended_vocabulary, rounded_size, train_vocabulary

TEXTS = ["The ships sail. The ships of Österreich sailed!", "a ship, two ships: 1 2 3"] * 5


@pytest.mark.parametrize("lowercase", [True, False])
def test_layout_and_order_of_ids(lowercase):
    tokens = train_vocabulary(lambda: TEXTS, size=300, lowercase=lowercase, unused=7)
    assert len(tokens) == rounded_size(300) == 384 == len(set(tokens))
    assert tokens[:7] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]"]
    assert {"ships", "~", "9"} <= set(tokens) and ("Q" in tokens) != lowercase
    assert ("o" if lowercase else "Ö") in tokens and ("Ö" in tokens) != lowercase
    assert tokens == train_vocabulary(lambda: TEXTS, size=300, lowercase=lowercase, unused=7)
    assert from_vocabulary(tokens, lowercase).encode("ships!") == [tokens.index("ships"), tokens.index("!")]


def test_a_small_text_leaves_unused_slots():
    tokens = train_vocabulary(lambda: ["ab"], size=1000, lowercase=True, unused=2)
    assert len(tokens) == 1024 and tokens[-1].startswith("[unused") and len(set(tokens)) == 1024


def test_coverage_by_hand():
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ship", "##s", "the", "s", "h"]
    found = coverage(from_vocabulary(tokens, True), ["The ships, the ship", "the Ψ Ψ"])
    # the, ships → ship ##s, "," unknown, the, ship, the, Ψ and Ψ unknown (lower-cased)
    assert (found.words, found.tokens, found.unknown_words, found.whole_words) == (8, 9, 3, 4)
    assert dict(found.unknown_characters) == {"ψ": 2, ",": 1}
    told = "\n".join(found.lines())
    assert "8 words, 9 tokens: 1.12 tokens a word" in told and "[UNK]: 33.333% of the tokens" in told and "ψ (2)" in told


def test_extended_vocabularies_keep_their_ids():
    base = [f"t{i}" for i in range(100)]
    found = extended_vocabulary(base, ["[PAD]", "t5", "new1", "##new2", *[f"n{i}" for i in range(100)]], 120)
    assert found[:100] == base and found[100:102] == ["new1", "##new2"] and len(found) == 128
    few = extended_vocabulary(base, ["ж", "##x", "word"], 120)
    assert few[100:] == ["word", "ж", "##x"], "single characters do not crowd words out"


def test_a_size_that_holds_not_even_the_characters():
    with pytest.raises(UserError, match="--size=256 is too small: special tokens, 200 unused slots and "):
        train_vocabulary(lambda: TEXTS, size=256, lowercase=True, unused=200)
