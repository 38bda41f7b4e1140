import random

import pytest

from trainer.run.inference import Numbered, grouped
from trainer.tasks.base import Window


def windows_of(sizes):
    """Numbered windows of rows that have so many; their outputs are their numbers."""
    row_ids = [row_id for row_id, size in sizes.items() for _ in range(size)]
    return [Numbered(number, row_id, Window({"n": number}, {})) for number, row_id in enumerate(row_ids)]


@pytest.mark.parametrize("shuffled", [1, 3, 100])
def test_windows_come_back_by_row_in_order_however_packing_mixed_them(shuffled):
    sizes = {0: 1, 2: 4, 3: 1, 7: 9, 8: 2}  # rows 1 and 4 to 6 gave no example
    windows = windows_of(sizes)
    mixed = []
    for start in range(0, len(windows), shuffled):
        part = windows[start : start + shuffled]
        random.Random(start).shuffle(part)
        mixed += part
    found = list(grouped(mixed))
    assert [row_id for row_id, _ in found] == list(sizes)
    assert [[window.outputs["n"] for window in of_row] for _, of_row in found] == [
        [0],
        [1, 2, 3, 4],
        [5],
        list(range(6, 15)),
        [15, 16],
    ]


def test_no_window_is_lost_silently():
    windows = windows_of({0: 2, 1: 1})
    with pytest.raises(RuntimeError, match="example 1 is missing"):
        list(grouped([windows[0], windows[2]]))
    assert list(grouped([])) == []
