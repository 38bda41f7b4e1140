from hypothesis import given
from hypothesis import strategies as st
from transformers import BertTokenizerFast

from trainer.text.sequences import pair_lengths, pair_sequence, single_sequence


@given(st.integers(0, 40), st.integers(1, 40), st.integers(5, 40))  # an empty second text is no pair to Hugging Face
def test_pairs_are_cut_as_hugging_face_cuts_them(minilm, tokenizer, first, second, limit):
    reference = _reference(minilm)
    texts = ("one " * first, "two " * second)
    encoded = reference(*texts, truncation="longest_first", max_length=limit)
    ids, types = pair_sequence(tokenizer.encode(texts[0]), tokenizer.encode(texts[1]), tokenizer, limit)
    assert ids == encoded["input_ids"] and types == encoded["token_type_ids"]


_cache = {}


def _reference(minilm):
    if "tokenizer" not in _cache:
        _cache["tokenizer"] = BertTokenizerFast.from_pretrained(str(minilm))
    return _cache["tokenizer"]


def test_single_texts_are_cut_at_the_end(tokenizer):
    assert single_sequence([7, 8, 9], tokenizer, 4) == [101, 7, 8, 102]
    assert single_sequence([], tokenizer, 4) == [101, 102]


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_pair_lengths_use_the_budget_and_no_more(first, second, budget):
    kept = pair_lengths(first, second, budget)
    assert kept[0] <= first and kept[1] <= second
    assert sum(kept) == min(first + second, budget)
