import json
import pickle
import re

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizerFast

from trainer import files
from trainer.errors import UserError
from trainer.text.tokenizer import Tokenizer, from_vocabulary, load_tokenizer, load_vocabulary

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


def test_offsets_are_hugging_faces(minilm, tokenizer):
    reference = BertTokenizerFast.from_pretrained(str(minilm))
    for text in ("Unaffable!", "e\u0301t\x00e\u0301, 你好", "a [MASK] b", ""):
        expected = reference(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = tokenizer.encode_with_offsets(text)
        assert ids == expected["input_ids"] == tokenizer.encode(text) and offsets == expected["offset_mapping"]


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
    monkeypatch.setattr("trainer.text.word_cache.MAX_WORDS", 2)
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


def test_a_null_token_has_its_usual_name(tmp_path):
    folder = encoder_folder(tmp_path / "encoder", {"tokenizer_config.json": {"mask_token": None}})
    assert load_tokenizer(str(folder)).mask_id == BASE.index("[MASK]")


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


BASE = [
    *SPECIAL,
    "the",
    "The",
    "nation",
    "##al",
    "café",
    "cafe",
    "covid",
    "-",
    "19",
    "中",
    "##国",
    "国",
    "中国",
    "x",
    "has",
    "un",
    "##known",
]
TEXTS = ("the [ENT] has covid-19, The nationalcafé", "Café cafe\u0301 中国 x", "中国x", "[MASK] <mask> [ENT]s unknown", "")
FOLDERS = {
    "bare": {},
    "cased": {"tokenizer_config.json": {"do_lower_case": False}},
    "accents kept": {"tokenizer_config.json": {"do_lower_case": True, "strip_accents": False}},
    "accents stripped": {"tokenizer_config.json": {"do_lower_case": False, "strip_accents": True}},
    "Chinese words": {"tokenizer_config.json": {"tokenize_chinese_chars": False}},
    "added, as {token: id}": {"added_tokens.json": {"[ENT]": 21, "covid-19": 22}},
    "added, as a decoder": {
        "tokenizer_config.json": {
            "added_tokens_decoder": {
                "21": {"content": "[ENT]", "normalized": False, "special": True},
                "22": {"content": "covid-19", "normalized": True, "special": False, "lstrip": False, "single_word": True},
            }
        }
    },
    "additional special": {"special_tokens_map.json": {"additional_special_tokens": ["[ENT]"]}},
    "another mask": {"special_tokens_map.json": {"mask_token": {"content": "<mask>", "normalized": False}}, "added_tokens.json": {"<mask>": 21}},
    "names in the map": {"special_tokens_map.json": {"mask_token": "x", "sep_token": "has"}},
    "no class stated": {"tokenizer_config.json": {"tokenizer_class": None}},
    "never split": {"tokenizer_config.json": {"do_basic_tokenize": True, "never_split": ["[ENT]"]}},
    "a named class": {"tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "model_max_length": 512}},
}  # fmt: skip


def encoder_folder(folder, parts, line_end="\n", vocabulary=None):
    folder.mkdir(exist_ok=True)
    tokens = vocabulary or BASE
    (folder / "vocab.txt").write_bytes("".join(token + line_end for token in tokens).encode())
    for name, content in parts.items():
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("form", ["vocab.txt", "tokenizer.json", "saved again"])
def test_a_folders_ids_are_transformers(tmp_path, name, form):
    folder = encoder_folder(tmp_path / "encoder", {"tokenizer_config.json": {}} | FOLDERS[name])
    reference = BertTokenizerFast.from_pretrained(str(folder))
    if form == "tokenizer.json":
        reference.save_pretrained(str(tmp_path / "converted"))
        folder = tmp_path / "converted"
    ours = load_tokenizer(str(folder))
    if form == "saved again":
        ours.save(str(tmp_path / "again"))
        ours = load_tokenizer(str(tmp_path / "again"))
    for text in TEXTS:
        expected = reference(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text) == expected == ours.encode(text, 1000)
    assert ours.special_ids() == {reference.pad_token_id, reference.unk_token_id, reference.cls_token_id} | {
        reference.sep_token_id,
        reference.mask_token_id,
    }


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("odd", [[], [""], ["the"], [" spaced "], ["\u2028"], ["a\x85"]])
def test_odd_vocabulary_files_are_read_as_transformers_reads_them(tmp_path, line_end, odd):
    folder = encoder_folder(tmp_path / "encoder", {"tokenizer_config.json": {}}, line_end, [*BASE[:8], *odd, *BASE[8:]])
    reference = BertTokenizerFast.from_pretrained(str(folder))
    ours = load_tokenizer(str(folder))
    for text in TEXTS:
        assert ours.encode(text) == reference(text, add_special_tokens=False)["input_ids"]


def test_a_token_of_an_unusual_line_end_shifts_no_id(tmp_path):
    """bert-base-chinese has U+2028 among its tokens; a vocabulary that a config names by itself is read the same way."""
    tokens = [*BASE[:8], "\u2028", "\x0b", *BASE[8:]]
    path = tmp_path / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in tokens))
    assert load_vocabulary(str(path)).tokens() == tokens


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_vocabulary_saved_by_an_editor(tmp_path, encoding):
    folder = encoder_folder(tmp_path / "encoder", {"tokenizer_config.json": {}})
    expected = load_tokenizer(str(folder))
    (folder / "vocab.txt").write_bytes((folder / "vocab.txt").read_text().encode(encoding))
    assert load_tokenizer(str(folder)).tokens() == expected.tokens() and expected.pad_id == 0


@pytest.mark.parametrize("converted", [False, True])
@pytest.mark.parametrize("lowercase", [False, True])
def test_lowercase_changes_nothing_else(tmp_path, converted, lowercase):
    folder = encoder_folder(tmp_path / "encoder", {"tokenizer_config.json": {}, "added_tokens.json": {"[ENT]": 21}})
    if converted:
        BertTokenizerFast.from_pretrained(str(folder)).save_pretrained(str(folder))
    ours = load_tokenizer(str(folder), lowercase)
    loaded = BertTokenizerFast.from_pretrained(str(folder), do_lower_case=lowercase)
    # Read again: transformers looks for added tokens as the former normalizer left them.
    reference = tokenizers.Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    assert ours.lowercase == lowercase
    for text in TEXTS:
        assert ours.encode(text) == reference.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"tokenizer_config.json": {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab"}},
            "the tokenizer is a BertJapaneseTokenizer, which is not supported; supported are BertTokenizer",
        ),
        ({"tokenizer_config.json": {"word_tokenizer_type": "mecab"}}, "asks for word_tokenizer_type 'mecab'"),
        ({"tokenizer_config.json": {"subword_tokenizer_type": "character"}}, "asks for subword_tokenizer_type 'character'"),
        ({"config.json": {"tokenizer_class": "T5Tokenizer"}}, "the tokenizer is a T5Tokenizer"),
        (
            {"tokenizer.json": {"model": {"type": "WordLevel"}}},
            "tokenizer.json holds a WordLevel model; supported are WordPiece",
        ),
        ({"tokenizer.json": {"model": {"type": "BPE"}}}, "tokenizer.json holds a BPE model, which is none of a BertTokenizer"),
        ({"added_tokens.json": ["x"]}, "added_tokens.json: "),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path, parts, message):
    folder = encoder_folder(tmp_path / "encoder", parts)
    with pytest.raises(UserError, match=re.escape(message)):
        load_tokenizer(str(folder))


def test_a_damaged_tokenizer_file_is_named(tmp_path):
    folder = encoder_folder(tmp_path / "encoder", {})
    (folder / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(UserError, match="tokenizer.json:1: not valid JSON"):
        load_tokenizer(str(folder))
    (folder / "tokenizer.json").write_text('{"model": {"type": "WordPiece"}}')
    with pytest.raises(UserError, match="transformers cannot load the tokenizer's files: "):
        load_tokenizer(str(folder))
