import sys

import pytest

from trainer.errors import UserError
from trainer.text.sentences import sentence_splitter


def test_sentences_of_two_languages():
    split = sentence_splitter("en")
    text = "Dr. Smith went to Washington, D.C. on Jan. 5. He said hello.\n\nThen he left!"
    assert list(split(text)) == ["Dr. Smith went to Washington, D.C. on Jan. 5.", "He said hello.", "Then he left!"]
    assert list(sentence_splitter("zh")("你好。我很好！")) == ["你好。", "我很好！"]
    assert list(split(" \n ")) == []


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencex", None)
    with pytest.raises(
        UserError, match=r"needs the package sentencex: in the project's folder, run: pip install -e '.\[pretraining\]'"
    ):
        sentence_splitter("en")
