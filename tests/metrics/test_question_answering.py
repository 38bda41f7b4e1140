"""Scores against transformers' squad_metrics, and against values worked out by hand or printed by the official scripts' NLTK."""

import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.data.metrics import squad_metrics as reference

from trainer.metrics.question_answering import (
    AnswerScores,
    apply_threshold,
    best_threshold,
    cmrc_exact_match,
    cmrc_f1,
    cmrc_segments,
    exact_match,
    exact_match_or_no_answer,
    f1,
    f1_or_no_answer,
    normalize_answer,
)

# Few distinct words, so that predictions and answers often share some; any text now and then.
WORDS = st.sampled_from(
    ["a", "the", "An", "THE", "cat", "Cat", "dog", "Löwe", "猫", "it's", "U.S.", "-", "...", "", " ", "\t", "５", "İ"]
)
TEXT = st.one_of(
    st.lists(WORDS, max_size=6).map(" ".join), st.text(max_size=8), st.text(string.punctuation + "ae ", max_size=8)
)
SCORE = st.one_of(st.integers(-3, 3).map(float), st.floats(-20, 20))
QUESTION = st.tuples(TEXT, st.lists(TEXT, max_size=3), SCORE)


class Example:
    """What squad_metrics reads of a SquadExample."""

    def __init__(self, number: int, answers: list[str]):
        self.qas_id, self.answers = str(number), [{"text": answer} for answer in answers]


@settings(max_examples=300, deadline=None)
@given(TEXT, TEXT)
def test_normalization_and_one_answer_are_transformers(prediction, answer):
    assert normalize_answer(answer) == reference.normalize_answer(answer)
    assert exact_match(prediction, [answer]) == reference.compute_exact(answer, prediction)
    if normalize_answer(answer) or normalize_answer(prediction):
        assert f1(prediction, [answer]) == pytest.approx(reference.compute_f1(answer, prediction), abs=1e-9)
    assert f1_or_no_answer(prediction, [answer]) == pytest.approx(reference.compute_f1(answer, prediction), abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(st.lists(QUESTION, min_size=1, max_size=12), st.none() | SCORE)
def test_all_scores_of_squad_v2_are_transformers(questions, threshold):
    examples = [Example(number, answers) for number, (_, answers, _) in enumerate(questions)]
    predictions = {str(number): prediction for number, (prediction, _, _) in enumerate(questions)}
    no_answer_scores = {str(number): score for number, (_, _, score) in enumerate(questions)}
    expected = reference.squad_evaluate(examples, predictions, no_answer_scores, np.inf if threshold is None else threshold)
    ours = AnswerScores("squad_v2.0")
    for question in questions:
        ours.add(*question)
    found = ours.scores(threshold)
    found["exact"], found["total"] = found.pop("exact_match"), found.pop("examples")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        is_percent = not name.endswith(("total", "thresh"))
        assert found[name] == pytest.approx(value / 100 if is_percent else value, abs=1e-9), name


def test_the_two_scripts_of_squad_differ_on_answers_without_words():
    # evaluate-v1.1.py: "the" stays a gold answer; an empty bag of words has no overlap.
    assert (exact_match("a", ["the"]), f1("a", ["the"])) == (1.0, 0.0)
    assert (exact_match("", ["the", "cat"]), f1("", ["the", "cat"])) == (1.0, 0.0)
    # evaluate-v2.0.py: "the" is dropped, and if nothing is left, "" is the gold answer.
    assert (exact_match_or_no_answer("a", ["the"]), f1_or_no_answer("a", ["the"])) == (1.0, 1.0)
    assert (exact_match_or_no_answer("", ["the", "cat"]), f1_or_no_answer("", ["the", "cat"])) == (0.0, 0.0)


def test_squad_by_hand():
    assert exact_match("The Broncos!", ["Denver", "broncos"]) == 1.0
    # Two of three predicted words, two of two gold words: 2 · (2/3) · 1 / (2/3 + 1).
    assert f1("Denver Broncos team", ["the Denver Broncos", "Carolina"]) == pytest.approx(0.8)
    assert f1("cat cat", ["cat dog"]) == pytest.approx(0.5)  # a word counts as often as both have it
    assert (exact_match("x", []), f1("x", []), f1("", [])) == (0.0, 0.0, 0.0)


def test_thresholds_by_hand():
    scores, has_answer = np.array([1.0, 0.5, 0.0]), np.array([True, True, False])
    no_answer_scores = np.array([-2.0, 1.0, 3.0])
    assert apply_threshold(scores, no_answer_scores, has_answer, 1.0).tolist() == [1.0, 0.5, 1.0]
    assert apply_threshold(scores, no_answer_scores, has_answer, 0.5).tolist() == [1.0, 0.0, 1.0]
    # No answer to all: 1 of 3 points. Answering the first: 2. Answering the second, too: 2.5. All: 1.5.
    assert best_threshold(scores, no_answer_scores, has_answer, np.array([True] * 3)) == (pytest.approx(2.5 / 3), 1.0)
    assert best_threshold(np.zeros(2), np.ones(2), np.zeros(2, bool), np.ones(2, bool)) == (1.0, 0.0)


def test_a_threshold_needs_scores_and_scores_come_for_all_or_none():
    scores = AnswerScores("squad_v2.0")
    assert scores.scores() == {} and len(scores) == 0
    scores.add("x", ["x"])
    with pytest.raises(ValueError, match="a threshold needs"):
        scores.scores(0.0)
    with pytest.raises(ValueError, match="for all or for none"):
        scores.add("x", ["x"], 0.5)
    assert scores.scores() == {
        "examples": 1,
        "exact_match": 1.0,
        "f1": 1.0,
        "HasAns_exact": 1.0,
        "HasAns_f1": 1.0,
        "HasAns_total": 1,
    }
    scored = AnswerScores("squad_v2.0")
    scored.add("x", ["x"], 0.0)
    with pytest.raises(ValueError, match="for all or for none"):
        scored.add("x", ["x"])


def test_squad_v1_counts_a_question_without_prediction():
    scores = AnswerScores("squad_v1.1")
    scores.add("Denver", ["Denver"])
    scores.add("", ["Denver"])
    assert scores.scores() == {"examples": 2, "exact_match": 0.5, "f1": 0.5}


def test_cmrc_segments_by_hand():
    assert cmrc_segments(" 《战国》是Koei Tecmo公司 ") == ["战", "国", "是", "koei", "tecmo", "公", "司"]
    # Punctuation of the official list joins what it separated; other punctuation is a segment.
    assert cmrc_segments("ω-force") == ["ωforce"]
    assert cmrc_segments("三,四(五)……") == ["三", ",", "四", "(", "五", ")", "……"]
    assert cmrc_segments("1998年3.5%") == ["1998", "年", "3.5", "%"]
    assert cmrc_segments("㐀㐁一") == ["㐀㐁", "一"]  # outside the official range: one word
    assert cmrc_segments("，。") == []


def test_cmrc_scores_by_hand():
    assert cmrc_exact_match("《战国无双》", ["战国 无双", "战国无双"]) == 1.0
    assert cmrc_exact_match("战国无双", ["战国 无双"]) == 0.0  # white space inside counts
    # The longest common run is 战国 (the other common characters are apart): 2 of 4 and 2 of 5.
    assert cmrc_f1("战国四双", ["战国无双三"]) == pytest.approx(2 * 0.5 * 0.4 / 0.9)
    assert cmrc_f1("甲", ["乙", "甲乙"]) == pytest.approx(2 / 3)
    assert cmrc_f1("", ["甲"]) == 0.0 and cmrc_f1("。", ["，"]) == 0.0 and cmrc_exact_match("。", ["，"]) == 1.0
    assert (cmrc_exact_match("", []), cmrc_f1("", []), cmrc_exact_match("甲", []), cmrc_f1("甲", [])) == (1.0, 1.0, 0.0, 0.0)


def test_cmrc_average_is_of_both_figures():
    scores = AnswerScores("cmrc2018")
    scores.add("甲乙", ["甲乙"])
    scores.add("甲", ["甲乙"])
    assert scores.scores() == {"examples": 2, "exact_match": 0.5, "f1": pytest.approx(5 / 6), "average": pytest.approx(2 / 3)}


@settings(max_examples=200, deadline=None)
@given(st.text("甲乙丙", max_size=8), st.text("甲乙丙", max_size=8))
def test_cmrc_f1_is_of_the_longest_common_substring(prediction, answer):
    parts = {answer[start:end] for start in range(len(answer)) for end in range(start + 1, len(answer) + 1)}
    longest = max((len(part) for part in parts if part in prediction), default=0)
    expected = 2 * longest / (len(prediction) + len(answer)) if longest else 0.0
    assert cmrc_f1(prediction, [answer]) == pytest.approx(expected)
