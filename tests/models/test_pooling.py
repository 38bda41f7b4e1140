import numpy as np
import pytest
import tensorflow as tf

from trainer.models.pooling import PoolMax, PoolMean

SEQUENCE = np.random.default_rng(0).normal(size=[2, 6, 4]).astype(np.float32)
SEGMENTS = np.array([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 0, 0]], np.int32)
FIRST = np.array([[0, 2], [0, 0]], np.int32)


@pytest.mark.parametrize(
    ("layer", "pool"),
    [
        (PoolMean(), lambda tokens: tokens.mean(0)),
        (PoolMax(), lambda tokens: tokens.max(0)),
        (PoolMean(by_position=True), lambda tokens: np.average(tokens, axis=0, weights=1 + np.arange(len(tokens)))),
    ],
)
def test_each_example_is_pooled_over_its_own_tokens(layer, pool):
    found = layer(tf.constant(SEQUENCE), tf.constant(SEGMENTS), tf.constant(FIRST)).numpy()
    assert found.shape == (2, 2, 4) and found.dtype == np.float32
    assert np.allclose(found[0, 0], pool(SEQUENCE[0, :2]), atol=1e-6)
    assert np.allclose(found[0, 1], pool(SEQUENCE[0, 2:5]), atol=1e-6)
    assert np.allclose(found[1, 0], pool(SEQUENCE[1, :4]), atol=1e-6)
    assert not found[1, 1].any(), "an empty slot"
