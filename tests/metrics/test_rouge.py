"""Against google-research's rouge-score, by hypothesis and on real summaries."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from trainer.errors import UserError
from trainer.metrics import rouge as ours

SCORERS = {
    "english": rouge_scorer.RougeScorer(ours.TYPES, use_stemmer=False),
    "stemmed_english": rouge_scorer.RougeScorer(ours.TYPES, use_stemmer=True),
}
WORDS = st.lists(st.sampled_from(["a", "the", "running", "runs", "ran", "B2", "näher", "-", "it's"]), max_size=12).map(" ".join)


def check(summary, reference, words):
    split = ours.splitter(words)
    found = ours.rouge(split(summary), split(reference))
    for name, score in SCORERS[words].score(reference, summary).items():
        assert found[name].f1 == pytest.approx(score.fmeasure) and found[name].precision == pytest.approx(score.precision)
        assert found[name].recall == pytest.approx(score.recall)


@pytest.mark.parametrize("words", list(SCORERS))
@given(WORDS, WORDS)
@settings(max_examples=100, deadline=None)
def test_equals_rouge_score(words, summary, reference):
    check(summary, reference, words)


@pytest.mark.parametrize("words", list(SCORERS))
def test_equals_rouge_score_on_real_texts(shared_data, words):
    with open(shared_data / "scitldr/dev.jsonl", encoding="utf8") as file:
        rows = [json.loads(next(file)) for _ in range(40)]
    for row in rows:
        check(" ".join(row["source"][:2]), row["target"][0], words)


def test_other_scripts():
    assert ours.best_rouge("我喜欢你", ["我 喜欢 她"], ours.splitter("any_language"))["rouge1"] == 0.75
    assert ours.best_rouge("我喜欢你", ["我 喜欢 她"], ours.splitter("english"))["rouge1"] == 0.0


def test_the_best_reference_counts():
    assert ours.best_rouge("a b", ["c d", "a b c"], ours.splitter("english"))["rouge1"] == pytest.approx(0.8)


def test_the_oracle_takes_what_raises_the_score():
    split = ours.splitter("english")
    sentences = ["the weather was fine", "the cat sat on the mat", "a dog barked", "on the mat"]
    assert ours.oracle(sentences, ["the cat sat on the mat while a dog barked"], 3, split) == [1, 2]
    assert ours.oracle(sentences, ["the cat sat on the mat while a dog barked"], 1, split) == [1]
    assert ours.oracle(sentences, ["nothing of it", "a dog barked"], 3, split) == [2]
    assert ours.oracle(sentences, ["zebra"], 3, split) == []


def test_oracles_of_real_papers_are_good(shared_data):
    """The labels that SciTLDR comes with choose one sentence by ROUGE; ours of one sentence scores as high or higher."""
    split, better = ours.splitter("english"), 0
    with open(shared_data / "scitldr/dev.jsonl", encoding="utf8") as file:
        rows = [json.loads(next(file)) for _ in range(50)]
    for row in rows:
        (chosen,) = ours.oracle(row["source"], row["target"], 1, split)
        labelled = row["source"][row["source_labels"].index(1)]
        found, theirs = (ours.best_rouge(text, row["target"], split) for text in (row["source"][chosen], labelled))
        better += found["rouge1"] + found["rouge2"] >= theirs["rouge1"] + theirs["rouge2"] - 1e-9
    assert better == 50


def test_the_stemmer_is_an_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "nltk.stem", None)
    with pytest.raises(UserError, match="stemmed_english needs the package nltk: .*summaries"):
        ours.splitter("stemmed_english")
