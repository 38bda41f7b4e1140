"""The tables, against what Unicode and the tokenizer say."""

import itertools
import unicodedata

import numpy as np
import pytest
from tokenizers import normalizers, pre_tokenizers

from trainer.errors import UserError
from trainer.text.character_tables import PUNCTUATION, SPACE, WORD, PagedTable, ReplacementTable, read_tables
from trainer.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tables(tokenizer):
    return read_tables(tokenizer)


def look_up(table: PagedTable, character: str) -> int:
    return int(table.pages[table.page_of[ord(character) // 256], ord(character) % 256])


def output(tables, character: str) -> str:
    return replaced(tables.replacement, character)


def replaced(table: ReplacementTable, character: str) -> str:
    entry = look_up(table.entry, character)
    if entry == 0:
        return character
    start, end = table.starts[entry - 1 : entry + 1]
    return "".join(map(chr, table.values[start:end]))


def test_paged_table_holds_every_value():
    values = np.random.default_rng(0).integers(0, 5, 0x110000).astype(np.int32)
    table = PagedTable.of(values)
    assert (table.pages[table.page_of].reshape(-1) == values).all()


@pytest.mark.parametrize(
    ("character", "expected"),
    [("A", "a"), ("É", "e"), ("İ", "i"), ("ß", "ß"), ("ﬁ", "ﬁ"), ("½", "½"), ("…", "…"), ("你", " 你 "), ("\u200b", ""),
     ("\x00", ""), ("\ufffd", ""), ("\t", " "), ("\u3000", " "), ("가", "\u1100\u1161"), ("\u0301", ""), ("|", "|"), ("豈", " 豈 ")],
)  # fmt: skip
def test_replacements(tables, character, expected):
    assert output(tables, character) == expected


@pytest.mark.parametrize(
    ("character", "expected"),
    [("A", "A"), ("É", "E\u0301"), ("İ", "I\u0307"), ("你", " 你 "), ("\x00", ""), ("\ufffd", ""), ("\t", " "), ("豈", " 豈 "),
     ("각", "\u1100\u1161\u11a8"), ("\u0344", "\u0308\u0301"), ("|", "|")],
)  # fmt: skip
def test_decompositions_keep_accents_and_case(tables, character, expected):
    assert replaced(tables.marks.decomposition, character) == expected


def test_kinds(tables):
    kinds = {c: look_up(tables.kind, c) for c in "a你_ -\u2003,。$\u00a0"}
    words = {c for c, kind in kinds.items() if kind == WORD}
    assert words == {"a", "你"}
    assert kinds[" "] == kinds["\u2003"] == kinds["\u00a0"] == SPACE
    assert kinds["_"] == kinds["-"] == kinds[","] == kinds["。"] == kinds["$"] == PUNCTUATION


def test_starters_agree_with_unicode(tables):
    """The classes read off the library, against Python's own Unicode data, in blocks that both have known for long."""
    blocks = [range(0xC0, 0x370), range(0x483, 0x488), range(0x591, 0x5C8), range(0x610, 0x61B), range(0x64B, 0x660)]
    blocks += [range(0xE31, 0xE4F), range(0x1E00, 0x1F00), range(0xAC00, 0xAD00)]
    for code in itertools.chain(*blocks):
        expected = sum(not unicodedata.combining(part) for part in unicodedata.normalize("NFD", chr(code)))
        assert look_up(tables.marks.starters, chr(code)) == expected, hex(code)


def test_other_tokenizers_are_refused(tokenizer):
    other = Tokenizer(tokenizer.json)
    other.backend.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(UserError, match="this tokenizer has BertNormalizer and Whitespace"):
        read_tables(other)
    other.backend.normalizer = normalizers.NFC()
    with pytest.raises(UserError, match="this tokenizer has NFC and Whitespace"):
        read_tables(other)
