"""Cleaning: each step on texts that are easily got wrong, and the messages."""

import sys

import pytest

from trainer.errors import UserError
from trainer.text.cleaning import cleaner


@pytest.mark.parametrize(
    ("steps", "text", "expected"),
    [
        (["html"], "a<br>b &lt;c&gt; <script>var x = '<p>';</script><b>d</b>e", "a b <c> de"),
        (["html"], "1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        (["html"], "<p>one</p><p>two</p>", "one two"),
        (["urls"], "(see https://a.org/b?c=d#e), or WWW.x.de.", "(see ), or ."),
        (["emails"], "write to a.b+c@d-e.co.uk!", "write to !"),
        (["stop_words"], "This is the DOG of Peter's aunt, isn’t it?", "DOG Peter's aunt, ?"),
        (["stem"], "Running dogs were easily found", "run dog were easili found"),
        (["stem", "html"], "<i>Running</i>  dogs", "run dog"),
        (["html", "urls", "emails", "stop_words", "stem"], "", ""),
    ],
)
def test_steps(steps, text, expected):
    assert cleaner(steps, "english")(text) == expected


def test_other_languages():
    assert cleaner(["stop_words", "stem"], "german")("Die Häuser sind nicht alt") == "haus alt"


@pytest.mark.parametrize(
    ("steps", "language", "message"),
    [
        (["stop_words"], "englisch", "task.clean_language: stop_words knows no 'englisch'; .*did you mean 'english'"),
        (["stem"], "chinese", "task.clean_language: stem knows no 'chinese'; it knows arabic"),
    ],
)
def test_languages_that_are_not_known(steps, language, message):
    with pytest.raises(UserError, match=message):
        cleaner(steps, language)


@pytest.mark.parametrize(("step", "package"), [("stop_words", "stop_words"), ("stem", "snowballstemmer")])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, step, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"task.clean_texts: {step} needs the package .*pip install -e '.\[cleaning\]'"):
        cleaner([step], "english")
