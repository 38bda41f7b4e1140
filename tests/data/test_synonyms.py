"""Tables of synonyms: files, and which words are one token."""

import pytest

from tests.text.learned_tokenizers import byte_pairs
from trainer.data.synonyms import inner_tokens, read_synonyms, synonym_ids
from trainer.errors import UserError


def test_a_file_of_words(tmp_path):
    path = tmp_path / "words.tsv"
    path.write_text("# of a thesaurus\ngood\tgreat\tfine\n\nbad\t poor \t\nbad\tawful\tbad\n", encoding="utf8")
    assert read_synonyms(str(path)) == {"good": ["great", "fine"], "bad": ["poor", "awful"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("good\tgreat\nbad\n", "words.tsv:2: a word and at least one other are needed, with tabs between"),
        ("good\tgood\n", "words.tsv:1: a word and at least one other"),
        ("# nothing\n", "words.tsv: no line with words"),
    ],
)
def test_lines_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "words.tsv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_synonyms(str(tmp_path / "words.tsv"))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="data.augment_synonyms: no file .*words.tsv"):
        read_synonyms(str(tmp_path / "words.tsv"))


def test_words_that_are_one_token(tokenizer):
    found = synonym_ids({"good": ["great", "unaffable", "Good"], "unaffable": ["good"]}, tokenizer)
    good, great = (tokenizer.encode(word)[0] for word in ("good", "great"))
    assert found == {good: [great]}
    with pytest.raises(UserError, match="no word of the table has one that may stand for it where both are one token"):
        synonym_ids({"unaffable": ["good"]}, tokenizer)


def test_words_with_their_spaces():
    number = {word: byte_pairs().backend.token_to_id(f"Ġ{word}") for word in ("good", "great")}
    assert synonym_ids({"good": ["great"]}, byte_pairs()) == {number["good"]: [number["great"]]}


def test_tokens_inside_of_words(tokenizer):
    inner = inner_tokens(tokenizer)
    assert inner[tokenizer.backend.token_to_id("##ing")] and not inner[tokenizer.backend.token_to_id("ing")]
    inner = inner_tokens(byte_pairs())
    assert inner[byte_pairs().backend.token_to_id("ing")] and not inner[byte_pairs().backend.token_to_id("Ġgood")]
    assert not inner[byte_pairs().backend.token_to_id(".")]
