"""Multi-label scores against scikit-learn's, and thresholds against every threshold there is."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.metrics.multi_label import best_thresholds, label_ranking_average_precision, multi_label_scores

LABELS = np.array([[1, 0, 1, 0], [0, 0, 1, 0], [1, 1, 1, 0], [0, 0, 1, 0], [1, 0, 1, 0]])  # "d" never, "c" always
PROBABILITIES = np.array(
    [[0.9, 0.4, 0.8, 0.4], [0.5, 0.6, 0.6, 0.1], [0.5, 0.7, 0.2, 0.3], [0.3, 0.6, 0.9, 0.7], [0.7, 0.1, 0.7, 0.2]]
)
NAMES = ["a", "b", "c", "d"]
THRESHOLDS = np.array([0.5, 0.6, 0.5, 0.5])
# Computed by scikit-learn 1.9.1 with zero_division=0.
GOLDEN: dict[str, Any] = {
    "examples": 5,
    "subset_accuracy": 0.4,
    "hamming_loss": 0.25,
    "label_ranking_average_precision": 0.8833333333333332,
    "macro": {
        "precision": 0.5208333333333333,
        "recall": 0.7,
        "f1": 0.5615079365079365,
        "average_precision": 0.9722222222222222,
        "roc_auc": 0.9583333333333333,
    },
    "micro": {
        "precision": 0.6666666666666666,
        "recall": 0.8888888888888888,
        "f1": 0.7619047619047619,
        "average_precision": 0.8264550264550264,
    },
    "samples": {"precision": 0.7333333333333333, "recall": 0.9333333333333332, "f1": 0.76},
    "weighted": {"precision": 0.8425925925925927, "recall": 0.8888888888888888, "f1": 0.8350970017636684},
    "per_label": {
        "a": {"precision": 0.75, "recall": 1.0, "f1": 0.8571428571428571, "average_precision": 0.9166666666666665, "rows": 3},
        "b": {"precision": 0.3333333333333333, "recall": 1.0, "f1": 0.5, "average_precision": 1.0, "rows": 1},
        "c": {"precision": 1.0, "recall": 0.8, "f1": 0.8888888888888888, "average_precision": 1.0, "rows": 5},
        "d": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "average_precision": None, "rows": 0},
    },
}


@st.composite
def predictions(draw):
    rows, count = draw(st.integers(1, 12)), draw(st.integers(2, 5))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    # Few distinct values, so that ties are common; few rows, so that labels that no row or every row has occur.
    labels = generator.random((rows, count)) < generator.choice([0.0, 0.3, 0.7, 1.0], count)
    return labels, generator.integers(0, 7, (rows, count)) / 6


def counted_f1(labels, probabilities, threshold):
    predicted = probabilities >= threshold
    return 2 * np.sum(labels & predicted) / max(np.sum(labels) + np.sum(predicted), 1)


def test_scores_are_those_scikit_learn_gave():
    scores = multi_label_scores(LABELS, PROBABILITIES, NAMES, THRESHOLDS)
    assert scores.keys() == GOLDEN.keys()
    for key, expected in GOLDEN.items():
        if key != "per_label":
            assert scores[key] == pytest.approx(expected, abs=1e-9), key
    for name, expected in GOLDEN["per_label"].items():
        assert scores["per_label"][name] == pytest.approx(expected, abs=1e-9), name
    assert json.loads(json.dumps(scores)) == scores


@settings(max_examples=100, deadline=None)
@given(predictions())
@pytest.mark.filterwarnings("ignore")
def test_scores_are_scikit_learns(data):
    reference = pytest.importorskip("sklearn.metrics")
    labels, probabilities = data
    count = labels.shape[1]
    # Equal to some of the probabilities: such a probability is predicted.
    thresholds = np.arange(1, count + 1) / 6
    names = [f"l{i}" for i in range(count)]
    scores = multi_label_scores(labels, probabilities, names, thresholds)
    predicted = probabilities >= thresholds

    for average in ("macro", "micro", "samples", "weighted"):
        expected = reference.precision_recall_fscore_support(labels, predicted, average=average, zero_division=0)
        assert [scores[average][k] for k in ("precision", "recall", "f1")] == pytest.approx(expected[:3], abs=1e-9)
    expected = reference.precision_recall_fscore_support(labels, predicted, zero_division=0)
    for key, values in zip(("precision", "recall", "f1", "rows"), expected, strict=True):
        assert [scores["per_label"][name][key] for name in names] == pytest.approx(values, abs=1e-9)
    assert scores["subset_accuracy"] == pytest.approx(reference.accuracy_score(labels, predicted), abs=1e-9)
    assert scores["hamming_loss"] == pytest.approx(reference.hamming_loss(labels, predicted), abs=1e-9)
    ranking = reference.label_ranking_average_precision_score(labels, probabilities)
    assert scores["label_ranking_average_precision"] == pytest.approx(ranking, abs=1e-9)

    occurs, varies = labels.any(axis=0), labels.any(axis=0) & ~labels.all(axis=0)
    for defined, key, function in (
        (occurs, "average_precision", reference.average_precision_score),
        (varies, "roc_auc", reference.roc_auc_score),
    ):
        of_labels = [function(labels[:, i], probabilities[:, i]) for i in np.flatnonzero(defined)]
        expected = pytest.approx(np.mean(of_labels), abs=1e-9) if of_labels else None
        assert scores["macro"][key] == expected
    micro = reference.average_precision_score(labels.ravel(), probabilities.ravel()) if labels.any() else None
    assert scores["micro"]["average_precision"] == (None if micro is None else pytest.approx(micro, abs=1e-9))


def test_a_label_never_or_always_present():
    scores = multi_label_scores(LABELS, PROBABILITIES, NAMES, THRESHOLDS)
    never, always = scores["per_label"]["d"], scores["per_label"]["c"]
    assert never == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "average_precision": None, "rows": 0}
    assert always["average_precision"] == 1.0 and always["rows"] == len(LABELS)
    only_always = multi_label_scores(LABELS[:, 2:3], PROBABILITIES[:, 2:3], ["c"], [0.5])
    assert only_always["macro"]["roc_auc"] is None and only_always["macro"]["average_precision"] == 1.0


def test_no_rows():
    empty = np.zeros((0, 2))
    scores = multi_label_scores(empty, empty, ["a", "b"], [0.5, 0.5])
    zeros = {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    undefined = ("subset_accuracy", "hamming_loss", "label_ranking_average_precision")
    assert scores["examples"] == 0 and all(scores[key] is None for key in undefined)
    assert scores["macro"] == zeros | {"average_precision": None, "roc_auc": None}
    assert scores["micro"] == zeros | {"average_precision": None}
    assert scores["samples"] == scores["weighted"] == zeros
    for per_label in (True, False):
        assert best_thresholds(empty, empty, per_label).tolist() == [0.5, 0.5]


def test_rows_with_no_label_or_all_labels_rank_perfectly():
    probabilities = np.array([[0.1, 0.9], [0.1, 0.9]])
    assert label_ranking_average_precision(np.array([[0, 0], [1, 1]]), probabilities) == 1.0
    assert label_ranking_average_precision(np.array([[1, 0], [0, 1]]), probabilities) == 0.75


def test_equal_probabilities_share_the_last_rank():
    labels = np.array([[1, 0, 0, 1]])
    assert label_ranking_average_precision(labels, np.full((1, 4), 0.5)) == 0.5
    # The first label is second of two, the last is fourth of four.
    assert label_ranking_average_precision(labels, np.array([[0.7, 0.7, 0.2, 0.2]])) == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_a_probability_equal_to_its_threshold_is_predicted():
    # 0.3 is not a float32: the comparison is one of float32 numbers, as in the served model.
    probabilities = np.array([[0.3], [0.2]], np.float32)
    scores = multi_label_scores(np.array([[1], [0]]), probabilities, ["a"], [0.3])
    assert scores["subset_accuracy"] == 1.0


@settings(max_examples=200, deadline=None)
@given(predictions())
def test_no_threshold_is_better(data):
    labels, probabilities = data
    # On each of the sixths, between them, below all and above all.
    everywhere = np.arange(-1, 15) / 12
    found = best_thresholds(labels, probabilities, per_label=True)
    for label, values, threshold in zip(labels.T, probabilities.T, found, strict=True):
        best = max(counted_f1(label, values, other) for other in everywhere)
        assert not label.any() or counted_f1(label, values, threshold) == best
    shared = best_thresholds(labels, probabilities, per_label=False)
    assert len(set(shared)) == 1
    best = max(counted_f1(labels, probabilities, other) for other in everywhere)
    assert not labels.any() or counted_f1(labels, probabilities, shared[0]) == best


@settings(max_examples=100, deadline=None)
@given(predictions(), st.integers(0, 2**32))
def test_the_order_of_the_rows_does_not_matter(data, seed):
    labels, probabilities = data
    order = np.random.default_rng(seed).permutation(len(labels))
    for per_label in (True, False):
        expected = best_thresholds(labels, probabilities, per_label)
        assert best_thresholds(labels[order], probabilities[order], per_label).tolist() == expected.tolist()


def one_threshold(labels, probabilities):
    return best_thresholds(np.array([labels]).T, np.array([probabilities]).T, per_label=True).item()


def test_the_threshold_is_a_midpoint():
    assert one_threshold([0, 1], [0.25, 0.5]) == 0.375
    # A label of every row: the midpoint of 0 and the lowest probability.
    assert one_threshold([1, 1], [0.5, 0.75]) == 0.25
    assert one_threshold([1, 1], [0.0, 0.75]) == 0.0
    assert one_threshold([0, 0], [0.25, 0.75]) == 0.5


def test_equally_good_thresholds_resolve_towards_one_half():
    # F1 is 2/3 with the highest row, at 13/16, and with all rows, at 1/16.
    assert one_threshold([1, 0, 0, 1], [0.875, 0.75, 0.25, 0.125]) == 0.8125
    # Here the two thresholds are 0.75 and 0.25, at the same distance: the lower one wins.
    assert one_threshold([1, 0, 0, 1], [0.8125, 0.6875, 0.625, 0.5]) == 0.25


@pytest.mark.parametrize("number_type", [np.float16, np.float32, np.float64])
def test_neighbouring_floats_are_separated(number_type):
    # The midpoint of these two rounds down to the lower one.
    lower = np.nextafter(number_type(0.5), number_type(0))
    lower = np.nextafter(lower, number_type(0))
    upper = np.nextafter(lower, number_type(1))
    probabilities = np.array([[lower], [upper]], number_type)
    found = best_thresholds(np.array([[0], [1]]), probabilities, per_label=True).astype(number_type)
    assert (probabilities >= found).ravel().tolist() == [False, True]


def test_one_threshold_for_all_labels_maximizes_the_micro_f1():
    labels, probabilities = np.array([[1, 0], [0, 1], [0, 1]]), np.array([[0.25, 0.125], [0.125, 0.75], [0.125, 0.75]])
    assert best_thresholds(labels, probabilities, per_label=True).tolist() == [0.1875, 0.4375]
    assert best_thresholds(labels, probabilities, per_label=False).tolist() == [0.1875, 0.1875]


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0, 1], [0.1, 0.2], r"labels have shape \(2,\), probabilities \(2,\); expected both \[rows, labels\]"),
        ([[0, 1]], [[0.1]], r"labels have shape \(1, 2\), probabilities \(1, 1\)"),
        (np.zeros((3, 0)), np.zeros((3, 0)), "at least one label"),
        ([[0, 2]], [[0.1, 0.2]], "labels hold 2; expected 0 or 1"),
        ([[0, 1]], [[0.1, -3.5]], "probabilities hold -3.5; .* apply a sigmoid"),
        ([[0, 1]], [[0.1, np.nan]], "probabilities hold nan"),
    ],
)
def test_arrays_that_are_refused(labels, probabilities, message):
    names = ["a"] * np.shape(labels)[-1]
    for call in (
        lambda: multi_label_scores(labels, probabilities, names, np.full(len(names), 0.5)),
        lambda: label_ranking_average_precision(labels, probabilities),
        lambda: best_thresholds(labels, probabilities, per_label=True),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_names_and_thresholds_are_one_a_label():
    labels, probabilities = np.array([[0, 1]]), np.array([[0.1, 0.2]])
    with pytest.raises(ValueError, match=r"1 names and thresholds of shape \(2,\); expected 2 of each"):
        multi_label_scores(labels, probabilities, ["a"], [0.5, 0.5])
    with pytest.raises(ValueError, match=r"2 names and thresholds of shape \(1,\); expected 2 of each"):
        multi_label_scores(labels, probabilities, ["a", "b"], [0.5])
