"""The rhythm of a run: what is due when, which model is the best, and when a run stops early."""

import math
from types import SimpleNamespace

import pytest
import tensorflow as tf

from trainer.errors import UserError
from trainer.run.training import TrainingRhythm, check_finite_weights, score_named

SCORES = {
    "examples": 8,
    "accuracy": 0.5,
    "loss": 0.7,
    "macro": {"precision": 0.1, "f1": 0.4},
    "per_class": {"a": {"f1": 0.2}},
}


def test_what_is_due_with_several_steps_a_call():
    rhythm = TrainingRhythm.__new__(TrainingRhythm)
    rhythm._run = SimpleNamespace(total_steps=100)
    due = []
    for before in range(0, 100, 3):
        rhythm._step = min(before + 3, 100)
        if rhythm._is_due(before, 10):
            due.append(rhythm._step)
    assert due == [12, 21, 30, 42, 51, 60, 72, 81, 90, 100]


def test_a_score_is_named_by_its_dotted_name():
    assert score_named(SCORES, "accuracy") == 0.5 and score_named(SCORES, "macro.f1") == 0.4
    assert score_named(SCORES, "per_class.a.f1") == 0.2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "macro.f2",
            r"train.best_score: 'macro.f2': no such score; this task has accuracy, .*macro.f1; did you mean 'macro.f1'",
        ),
        ("macro", "train.best_score: 'macro': no such score"),
        ("loss", "train.best_score: 'loss': lower values of it are better"),
        ("examples", "train.best_score: 'examples': no such score"),
    ],
)
def test_scores_that_cannot_choose(name, message):
    with pytest.raises(UserError, match=message):
        score_named(SCORES, name)


def rhythm_with(patience, stale=0, best=None):
    """A rhythm whose run keeps what it is given as the best."""
    kept = []
    train = SimpleNamespace(best_score="macro.f1", early_stopping_patience=patience)
    rhythm = TrainingRhythm.__new__(TrainingRhythm)
    rhythm._writer = SimpleNamespace(save_best=lambda step, variables, state: kept.append((step, state)))
    rhythm._run = SimpleNamespace(
        experiment=SimpleNamespace(train=train),
        assembled=SimpleNamespace(variables=dict, task=SimpleNamespace(best_score="accuracy")),
    )
    rhythm._best, rhythm._stale, rhythm._stops_early, rhythm._step = best, stale, False, 0
    return rhythm, kept


def validate(rhythm, *scores):
    for score in scores:
        rhythm._step += 10
        rhythm._keep_if_best({"accuracy": 1.0 - score, "macro": {"f1": score}})
        if rhythm._stops_early:
            break
    return rhythm._step


def test_the_named_score_chooses_the_best():
    rhythm, kept = rhythm_with(None)
    validate(rhythm, 0.3, 0.5, 0.4, 0.5, 0.6)
    assert [(step, state["score"]) for step, state in kept] == [(10, 0.3), (20, 0.5), (50, 0.6)]
    assert {state["score_name"] for _, state in kept} == {"macro.f1"} and not rhythm._stops_early


def test_a_score_that_these_rows_do_not_define():
    assert score_named({"accuracy": 0.5, "roc_auc": None}, "roc_auc") is None
    with pytest.raises(UserError, match="'roc': no such score; this task has accuracy, roc_auc"):
        score_named({"accuracy": 0.5, "roc_auc": None}, "roc")
    rhythm, kept = rhythm_with(2)
    for _ in range(2):
        rhythm._keep_if_best({"macro": {"f1": None}})
    assert kept == [] and rhythm._best is None and rhythm._stops_early, "no better than before, twice"


@pytest.mark.parametrize(
    ("signal", "early", "others", "stops", "stops_early"),
    [
        (None, False, [0.0], False, False),
        ("SIGTERM", False, [0.0, 0.0], True, False),
        (None, False, [1.0, 1.0], True, True),  # the chief stops early: this worker does, too, and says so
        (None, True, [0.0, 0.0], True, True),
    ],
)
def test_all_workers_stop_for_one_reason(signal, early, others, stops, stops_early):
    rhythm, _ = rhythm_with(1)
    rhythm._run.placement = SimpleNamespace(sum_over_workers=lambda value: value + others.pop(0))
    rhythm._signals, rhythm._stops_early = SimpleNamespace(received=signal), early
    assert rhythm._all_stop() == stops and rhythm._stops_early == stops_early and others == []


def test_weights_that_are_no_numbers_are_not_saved():
    weights = {"dense/kernel": tf.Variable([1.0, 2.0]), "iterations": tf.Variable(3)}
    check_finite_weights(weights, 7)
    for bad in (math.nan, math.inf):
        weights["dense/kernel"].assign([1.0, bad])
        with pytest.raises(UserError, match="dense/kernel has values that are NaN or infinite after step 7; nothing is saved"):
            check_finite_weights(weights, 7)


def test_it_stops_after_so_many_validations_without_a_better_one():
    rhythm, _ = rhythm_with(2)
    assert validate(rhythm, 0.3, 0.2, 0.4, 0.4, 0.1, 0.9) == 50, "the second in a row that is no better"
    resumed, _ = rhythm_with(2, stale=1, best=0.4)
    assert validate(resumed, 0.4, 0.9) == 10, "a resume counts on"
    assert math.isclose(resumed._best, 0.4)
