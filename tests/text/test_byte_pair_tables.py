"""The tables of byte-level BPE; that what they give is Hugging Face's is in test_in_graph_byte_pairs.py."""

import json

import numpy as np

from tests.text.learned_tokenizers import byte_pairs
from trainer.text.byte_pair_tables import DIGIT, LETTER, OTHER, SPACE, read_byte_pairs, signs_of_bytes, split_table
from trainer.text.tokenizer import Tokenizer


def test_a_sign_for_each_byte():
    signs = signs_of_bytes()
    assert len(set(signs)) == 256 and signs[ord("a")] == "a" and signs[ord(" ")] == "Ġ" and signs[ord("\n")] == "Ċ"


def test_classes_of_characters():
    table = split_table()
    kinds = {
        character: table.pages[table.page_of[ord(character) // 256], ord(character) % 256]
        for character in "aé人1½²! \u3000\u0301"
    }
    assert kinds == {
        **dict.fromkeys("aé人", LETTER), **dict.fromkeys("1½²", DIGIT), **dict.fromkeys("!\u0301", OTHER), " ": SPACE, "\u3000": SPACE,
    }  # fmt: skip


def test_pairs_are_those_of_the_merges():
    tokenizer = byte_pairs()
    tables = read_byte_pairs(tokenizer)
    model = json.loads(tokenizer.json)["model"]
    vocabulary, merges = model["vocab"], model["merges"]
    assert (np.diff(tables.pairs) > 0).all() and len(tables.pairs) == len(merges)
    for rank in (0, 7, len(merges) - 1):
        left, right = merges[rank]
        place = np.searchsorted(tables.pairs, vocabulary[left] * tables.size + vocabulary[right])
        assert tables.ranks[place] == rank and tables.merged[place] == vocabulary[left + right]


def test_spaces_count_where_offsets_are_trimmed():
    tokenizer = byte_pairs()
    number = tokenizer.backend.token_to_id("Ġthe")
    assert read_byte_pairs(tokenizer).spaces_before[number] == 1
    content = json.loads(tokenizer.json)
    content["post_processor"]["trim_offsets"] = False
    other = read_byte_pairs(Tokenizer(json.dumps(content), tokenizer.special_tokens))
    assert not other.spaces_before.any() and not other.trims_offsets
