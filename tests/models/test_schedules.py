import math

import numpy as np
import pytest

from trainer.models.schedules import WarmupDecay


def rates(schedule, steps):
    return np.array([float(schedule(step)) for step in steps])


def test_warm_up_is_linear_and_never_zero():
    schedule = WarmupDecay(1.0, 10, 110)
    assert np.allclose(rates(schedule, range(10)), np.arange(1, 11) / 10)


@pytest.mark.parametrize(
    ("decay", "middle"),
    [("linear", 0.5), ("cosine", 0.5 * (1 + math.cos(math.pi / 2))), ("polynomial", 0.25), ("constant", 1.0)],
)
def test_decay_by_hand(decay, middle):
    schedule = WarmupDecay(1.0, 10, 110, decay)
    assert float(schedule(10)) == 1.0
    assert float(schedule(60)) == pytest.approx(middle, abs=1e-6)
    assert float(schedule(110)) == pytest.approx(1.0 if decay == "constant" else 0.0, abs=1e-6)
    assert float(schedule(500)) == float(schedule(110))


def test_no_warm_up():
    assert float(WarmupDecay(1.0, 0, 100)(0)) == 1.0
