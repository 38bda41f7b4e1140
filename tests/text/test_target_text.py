"""Targets: spaces survive the ids, in Python and in the graph; Chinese has none; what the vocabulary lacks falls back."""

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.text.target_text import TargetText
from trainer.text.tokenizer import from_vocabulary

SENTENCES = [
    "a man in a t-shirt.",
    'the man\'s dog (brown) said: "woof, woof!"',
    "it cost 3.50 - or 4,000?",
    "e-mail me@home.org - now",
]


@pytest.mark.parametrize("text", SENTENCES)
def test_spaces_survive(tokenizer, text):
    target = TargetText(tokenizer)
    ids = target.ids(text)
    assert target.text(ids) == text
    assert target.text_in_graph(tf.constant([ids])).numpy()[0].decode() == text


def test_first_words_are_the_tokenizers_own(tokenizer):
    assert TargetText(tokenizer).ids("two dogs play") == tokenizer.encode("two dogs play")


def test_special_tokens_are_no_text(tokenizer):
    target = TargetText(tokenizer)
    ids = [tokenizer.cls_id, *target.ids("a [SEP] b"), tokenizer.sep_id, tokenizer.pad_id]
    assert tokenizer.sep_id not in target.ids("a [SEP] b") and target.text(ids) == "a b"


def test_chinese_has_no_spaces():
    target = TargetText(from_vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"你好，。世界", "ok", "##ok"]))
    ids = target.ids("你好，世界。ok")
    assert target.text(ids) == "你好，世界。ok" == target.text_in_graph(tf.constant(ids)).numpy().decode()


def test_a_mark_without_a_continuation_is_itself():
    target = TargetText(from_vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "-", "##a"]))
    assert target.text(target.ids("a-a")) == "a -a"


@given(st.lists(st.integers(0, 30521), min_size=1, max_size=20))
@settings(max_examples=25, deadline=None)
def test_the_graph_writes_what_python_writes(tokenizer, ids):
    target = _target(tokenizer)
    assert target.text_in_graph(tf.constant(ids)).numpy().decode() == target.text(ids)


_made: dict = {}


def _target(tokenizer):
    return _made.setdefault(id(tokenizer), TargetText(tokenizer))
