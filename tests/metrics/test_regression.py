"""Scores equal to scipy's and scikit-learn's, ties and constants too."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from trainer.metrics.regression import pearson, regression_scores

NUMBERS = st.integers(-4, 4).map(float)  # few values, so that there are ties


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=3, max_size=60))
def test_scores_are_scipys_and_scikit_learns(pairs):
    targets, values = (np.array(side) for side in zip(*pairs, strict=True))
    found = regression_scores(targets, values)
    if np.ptp(targets) and np.ptp(values):
        assert found["pearson"] == pytest.approx(scipy.stats.pearsonr(targets, values)[0], abs=1e-9)
        assert found["spearman"] == pytest.approx(scipy.stats.spearmanr(targets, values)[0], abs=1e-9)
    else:
        assert found["pearson"] is None and found["spearman"] is None
    expected = sklearn.metrics.r2_score(targets, values) if np.ptp(targets) else None
    assert found["r2"] == (pytest.approx(expected, abs=1e-9) if expected is not None else None)
    assert found["mean_squared_error"] == pytest.approx(sklearn.metrics.mean_squared_error(targets, values), abs=1e-9)
    assert found["mean_absolute_error"] == pytest.approx(sklearn.metrics.mean_absolute_error(targets, values), abs=1e-9)


def test_one_number_has_no_correlation():
    assert pearson(np.array([1.0]), np.array([2.0])) is None
