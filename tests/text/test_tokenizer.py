import pickle

import pytest
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
