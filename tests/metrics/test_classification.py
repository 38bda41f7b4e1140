"""Scores against scikit-learn, on hypothesis' data and on values worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from trainer.metrics.classification import (
    average_precision,
    classification_scores,
    confusion_matrix,
    expected_calibration_error,
    matthews_correlation,
    precision_recall_f1,
    roc_auc,
)


@st.composite
def predictions(draw, classes=st.integers(2, 5)):
    count, examples = draw(classes), draw(st.integers(1, 40))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels = generator.integers(0, count, examples)
    # Few distinct values, so that ties are common.
    probabilities = generator.integers(1, 6, (examples, count)).astype(np.float64)
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True)


@settings(max_examples=80, deadline=None)
@given(predictions())
@pytest.mark.filterwarnings("ignore")
def test_all_scores_are_scikit_learns(data):
    labels, probabilities = data
    classes = probabilities.shape[1]
    names = [f"c{i}" for i in range(classes)]
    scores = classification_scores(labels, probabilities, names)
    predicted = probabilities.argmax(axis=1)
    assert scores["accuracy"] == pytest.approx(reference.accuracy_score(labels, predicted))
    assert scores["matthews_correlation"] == pytest.approx(reference.matthews_corrcoef(labels, predicted))
    assert scores["confusion_matrix"] == reference.confusion_matrix(labels, predicted, labels=range(classes)).tolist()
    for average in ("macro", "micro", "weighted"):
        expected = reference.precision_recall_fscore_support(
            labels, predicted, labels=range(classes), average=average, zero_division=0
        )
        assert [scores[average][k] for k in ("precision", "recall", "f1")] == pytest.approx(expected[:3])
    per_class = reference.precision_recall_fscore_support(labels, predicted, labels=range(classes), zero_division=0)
    assert [scores["per_class"][name]["f1"] for name in names] == pytest.approx(per_class[2])
    assert [scores["per_class"][name]["support"] for name in names] == per_class[3].tolist()


@settings(max_examples=80, deadline=None)
@given(predictions(classes=st.just(2)))
@pytest.mark.filterwarnings("ignore")
def test_ranking_scores_are_scikit_learns(data):
    labels, probabilities = data
    scores = probabilities[:, 1]
    if len(set(labels)) == 2:
        assert roc_auc(labels == 1, scores) == pytest.approx(reference.roc_auc_score(labels, scores))
    else:
        assert roc_auc(labels == 1, scores) is None
    if labels.any():
        assert average_precision(labels == 1, scores) == pytest.approx(reference.average_precision_score(labels, scores))
    else:
        assert average_precision(labels == 1, scores) is None


def test_calibration_error_by_hand():
    # Two bins of 15: confidence 0.9 twice, one hit (gap 0.4); confidence 0.6 twice, two hits (gap 0.4).
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    assert expected_calibration_error(np.array([0, 1, 0, 0]), probabilities) == pytest.approx(0.4)
    assert expected_calibration_error(np.array([0, 0]), np.array([[1.0, 0.0]] * 2)) == 0.0


def test_a_threshold_changes_the_prediction_not_the_ranking():
    labels = np.array([0, 1, 1])
    probabilities = np.array([[0.7, 0.3], [0.6, 0.4], [0.2, 0.8]])
    scores = classification_scores(labels, probabilities, ["no", "yes"], predicted=np.array([0, 1, 1]))
    assert scores["accuracy"] == 1.0 and scores["roc_auc"] == 1.0


def test_undefined_scores_are_zero():
    confusion = confusion_matrix(np.array([0, 0]), np.array([0, 0]), 2)
    assert matthews_correlation(confusion) == 0.0
    precision, recall, f1 = precision_recall_f1(confusion)
    assert precision[1] == recall[1] == f1[1] == 0.0
