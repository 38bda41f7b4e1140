"""Windows over tokens, and their twin in the graph."""

import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.text.windows import token_windows

SIZES = st.tuples(st.integers(0, 60), st.integers(1, 12), st.integers(1, 12)).map(lambda t: (t[0], t[1], min(t[1], t[2])))


@given(SIZES)
def test_every_token_is_one_windows_own_with_context_on_both_sides(sizes):
    length, size, stride = sizes
    windows = token_windows(length, size, stride)
    own = [place for window in windows for place in range(window.own_start, window.own_end)]
    assert own == list(range(length)) and len(windows) >= 1
    for window in windows:
        assert window.start <= window.own_start <= window.own_end <= window.end <= length and window.end - window.start <= size
    for before, after in zip(windows, windows[1:], strict=False):
        assert after.start - before.start == stride and before.own_end == after.own_start
        assert abs((before.end - before.own_end) - (after.own_start - after.start)) <= 1, "half of the overlap each"


def test_what_fits_is_one_window():
    assert [tuple(window) for window in token_windows(6, 6, 3)] == [(0, 6, 0, 6)]
    assert [tuple(window) for window in token_windows(0, 6, 3)] == [(0, 0, 0, 0)]


@settings(max_examples=50, deadline=None)
@given(st.lists(SIZES, min_size=1, max_size=6))
def test_the_graph_makes_the_same_windows(rows):
    from trainer.text.in_graph_windows import graph_windows

    lengths, sizes, strides = (tf.constant(values) for values in zip(*rows, strict=True))
    tokens = tf.ragged.range(lengths)
    found = graph_windows(lengths, sizes, strides)
    expected = [(row, *window) for row, given_sizes in enumerate(rows) for window in token_windows(*given_sizes)]
    assert list(zip(*[values.numpy().tolist() for values in found], strict=True)) == expected
    assert found.cut(tokens).to_list() == [list(range(start, end)) for _, start, end, _, _ in expected]
    assert found.positions().to_list() == found.cut(tokens).to_list()
    assert found.is_own().to_list() == [[a <= i < b for i in range(start, end)] for _, start, end, a, b in expected]
