import numpy as np
import pytest
import tensorflow as tf

from trainer.runtime.randomness import drop, dropout, random_bits, random_scope, shared_seed, step_seed


def test_seeds_differ_in_every_part():
    seeds = {
        tuple(step_seed(s, tf.constant(t), r, m).numpy())
        for s in range(3)
        for t in range(3)
        for r in range(3)
        for m in range(3)
    }
    assert len(seeds) == 81


def test_dropout_is_a_function_of_seed_and_place():
    values = tf.ones([1000])
    with random_scope(tf.constant([1, 2])):
        first, second = dropout(values, 0.25, True), dropout(values, 0.25, True)
    with random_scope(tf.constant([1, 2])):
        again = dropout(values, 0.25, True)
    assert np.array_equal(first, again) and not np.array_equal(first, second)
    assert np.allclose(sorted(set(first.numpy())), [0, 4 / 3])
    assert 0.2 < np.mean(first.numpy() == 0) < 0.3


def test_dropout_is_off_where_it_should_be():
    values = tf.ones([4])
    assert dropout(values, 0.5, False) is values and dropout(values, 0.0, True) is values
    with pytest.raises(RuntimeError, match="needs a random_scope"):
        dropout(values, 0.5, True)


def test_bits_are_even_and_unrelated():
    """Each bit is set half of the time, whatever its neighbours' and whatever the next seed's."""
    bits = np.stack(
        [random_bits(tf.constant(seed), tf.constant([40_000])).numpy() for seed in ((1, 2), (1, 3), (2, 2), (0, 0))]
    )
    flags = (bits[:, :, None] >> np.arange(32, dtype=np.uint32)) & 1  # [seeds, elements, bits]
    spread = 5 * 0.5 / np.sqrt(40_000)  # five standard deviations
    assert np.abs(flags.mean(1) - 0.5).max() < spread
    for shift in (1, 2, 64, 384):
        assert np.abs((flags[:, shift:] == flags[:, :-shift]).mean(1) - 0.5).max() < 1.2 * spread
    for other in range(1, 4):
        assert np.abs((flags[0] == flags[other]).mean(0) - 0.5).max() < spread
    assert len(np.unique(bits[0])) > 39_990


def test_bits_are_the_published_hash():
    """lowbias32 with two keys, computed here with Python's integers."""

    def lowbias32(x):
        x = ((x ^ (x >> 16)) * 0x7FEB352D) % 2**32
        x = ((x ^ (x >> 15)) * 0x846CA68B) % 2**32
        return x ^ (x >> 16)

    found = random_bits(tf.constant([7, -3]), tf.constant([2, 3])).numpy().ravel()
    assert found.tolist() == [lowbias32(lowbias32(i ^ 7) ^ (2**32 - 3)) for i in range(6)]


def test_a_compiled_program_holds_no_number_for_each_element():
    """TensorFlow works out constants when it compiles: numbers of elements would be read from memory in each step."""
    values = tf.ones([8, 64, 512])
    program = tf.function(lambda values, seed: drop(values, 0.1, seed), jit_compile=True)
    text = program.experimental_get_compiler_ir(values, tf.constant([1, 2]))(stage="stablehlo")
    assert len(text) < values.shape.num_elements() / 8


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_drop_keeps_the_mean(rate):
    kept = drop(tf.ones([200, 500]), rate, tf.constant([3, 4])).numpy()
    assert abs((kept == 0).mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / kept.size)
    assert np.allclose(np.unique(kept), [0, 1 / (1 - rate)])


def test_the_seed_of_a_step_is_shared():
    with random_scope(tf.constant([1, 2]), tf.constant([3, 4])):
        assert shared_seed().numpy().tolist() == [3, 4]
    with random_scope(tf.constant([1, 2])):
        assert shared_seed().numpy().tolist() == [1, 2]
    with pytest.raises(RuntimeError, match="needs? a random_scope"):
        shared_seed()
