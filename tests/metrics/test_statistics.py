import numpy as np
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from trainer.metrics.statistics import mean_of_known, ranks


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=60))
def test_ranks_are_scipys(values):
    assert np.array_equal(ranks(np.array(values)), scipy.stats.rankdata(values))


def test_what_is_undefined_does_not_count():
    assert mean_of_known([1.0, None, 2.0]) == 1.5 and mean_of_known([None]) is None
