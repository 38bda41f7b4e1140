import json
import pickle

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizerFast

from trainer import files
from trainer.errors import UserError
from trainer.text.tokenizer import Tokenizer, from_vocabulary, load_tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def test_ids_are_hugging_faces(minilm, tokenizer):
    reference = BertTokenizerFast.from_pretrained(str(minilm))
    for text in ("Unaffable!", "你好, Welt", "a [MASK] b", ""):
        assert tokenizer.encode(text) == reference(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.encode("word " * 1000) and len(tokenizer.encode("word " * 1000)) == 1000, "nothing is cut here"
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id) == (
        0,
        100,
        101,
        102,
        103,
    )
    assert tokenizer.vocabulary_size == 30522 and tokenizer.lowercase


PIECES = st.sampled_from(
    ["word", "Word", "un", "affable", " ", "  ", "\t", "\n", "\x1c", "\x85", "\u00a0", "\u2028", "\u200b", "\x00", "\ufffd"]
    + list(",.()\"'-:;[]!") + ["[MASK]", "[SEP]", "[ MASK ]", "\u0301", "\u0323", "e\u0301", "ﬁ", "½", "ß", "İ", "你好", "…", "x" * 120]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES | st.text(max_size=4), max_size=12).map("".join), st.integers(1, 9))
def test_by_words_or_whole_the_ids_are_the_same(tokenizers_of_all_kinds, text, most):
    text = text.encode("utf8", "ignore").decode()  # half a surrogate pair is no text
    for tokenizer in tokenizers_of_all_kinds:
        whole = tokenizer.backend.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text) == whole and tokenizer.encode(text, most) == whole[:most]


@pytest.fixture(scope="module")
def tokenizers_of_all_kinds(tokenizer):
    letters = [
        *"abcdefghijklmnopqrstuvwxyzWUE",
        *["##" + c for c in "nafbledrwo"],
        *",.()\"'-:;[]!",
        "word",
        "你",
        "\u0301",
        "##\u0301",
    ]
    with_word = Tokenizer(tokenizer.json).backend  # an added token of letters is found inside of words, too
    with_word.add_tokens([tokenizers.AddedToken("able", normalized=True)])
    short = json.loads(tokenizer.json)
    short["model"]["max_input_chars_per_word"] = 5
    return [
        tokenizer,
        from_vocabulary([*SPECIAL, *letters], lowercase=False),
        from_vocabulary([*SPECIAL, *letters], lowercase=True),
        Tokenizer(with_word.to_str()),
        Tokenizer(json.dumps(short)),
    ]


def test_a_tokenizer_with_spaces_in_its_tokens_takes_texts_whole(tokenizer):
    backend = Tokenizer(tokenizer.json).backend
    backend.add_tokens(["new york"])
    other = Tokenizer(backend.to_str())
    assert other.encode("in new york now") == backend.encode("in new york now", add_special_tokens=False).ids
    assert other.encode("in new york now", 2) == other.encode("in new york now")[:2]


@pytest.mark.parametrize("token", ["e.g.", "new\u00a0york"])
def test_added_tokens_with_a_mark_or_other_white_space(tokenizer, token):
    backend = Tokenizer(tokenizer.json).backend
    backend.add_tokens([tokenizers.AddedToken(token, normalized=True)])
    other = Tokenizer(backend.to_str())
    for text in (f"see {token} this", f"{token}", "new york e.g. e . g ."):
        assert other.encode(text) == backend.encode(text, add_special_tokens=False).ids


def test_texts_without_spaces_are_not_kept(tokenizer):
    fresh = Tokenizer(tokenizer.json)
    text = "你好世界" * 20
    assert fresh.encode(text) == fresh.backend.encode(text, add_special_tokens=False).ids
    assert fresh.encode("ok") and list(fresh._ids_of) == ["ok"]


def test_words_are_forgotten_before_there_are_too_many(tokenizer, monkeypatch):
    fresh = Tokenizer(tokenizer.json)
    monkeypatch.setattr("trainer.text.tokenizer.MAX_WORDS", 2)
    text = "one two three four five"
    assert fresh.encode(text) == fresh.encode(text) == tokenizer.encode(text)
    assert fresh.encode("six") == tokenizer.encode("six") and len(fresh._ids_of) <= 2


def test_travels_to_workers(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode("hello there") == tokenizer.encode("hello there")
    assert copy.fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("remote", [False, True])
def test_saved_files_load_in_transformers_and_here(tokenizer, tmp_path, remote):
    folder = f"ram://tokenizer/{tmp_path.name}" if remote else str(tmp_path / "saved")
    tokenizer.save(folder)
    assert load_tokenizer(folder).encode("Hello") == tokenizer.encode("Hello")
    assert {"tokenizer.json", "vocab.txt", "tokenizer_config.json"} <= set(files.list_dir(folder))
    if not remote:
        assert BertTokenizerFast.from_pretrained(folder)("Hello", add_special_tokens=False)["input_ids"] == [7592]


def test_bare_vocabulary_is_cased_if_it_has_capitals(tmp_path):
    assert not from_vocabulary([*SPECIAL, "The", "the"]).lowercase
    assert from_vocabulary([*SPECIAL, "the", "A"]).lowercase
    assert not from_vocabulary([*SPECIAL, "the"], lowercase=False).lowercase
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, "the", "##s"]) + "\n")
    assert load_tokenizer(str(tmp_path)).encode("The thes") == [5, 5, 6]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert load_tokenizer(str(tmp_path)).encode("The the") == [1, 5]


def test_missing_pieces_are_told(tmp_path):
    with pytest.raises(UserError, match="no tokenizer.json or vocab.txt there; found nothing"):
        load_tokenizer(str(tmp_path))
    without_mask = from_vocabulary([*SPECIAL, "a"]).backend
    broken = without_mask.to_str().replace("[MASK]", "[MUSK]")
    with pytest.raises(UserError, match=r"the tokenizer's vocabulary lacks \[MASK\]"):
        Tokenizer(broken)


@pytest.mark.parametrize("lowercase", [True, False])
def test_a_vocabularys_tokenizer_is_transformers_own(lowercase, minilm):
    vocabulary = (minilm / "vocab.txt").read_text(encoding="utf8").rstrip("\n").split("\n")
    reference = BertTokenizerFast(vocab_file=str(minilm / "vocab.txt"), do_lower_case=lowercase)
    assert json.loads(from_vocabulary(vocabulary, lowercase).json) == json.loads(reference.backend_tokenizer.to_str())


def test_a_vocabulary_with_a_token_twice_or_without_special_ones():
    base = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
    with pytest.raises(UserError, match="the vocabulary has 'a' 2 times, first as id 5; a token has one id"):
        from_vocabulary([*base, "a"])
    with pytest.raises(UserError, match=r"the tokenizer's vocabulary lacks \[SEP\], which BERT needs"):
        from_vocabulary([token for token in base if token != "[SEP]"])
