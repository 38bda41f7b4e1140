import types

import pytest

from trainer.feeding import likely_rows, row_length


@pytest.mark.parametrize(
    ("tokens", "batch", "slots", "expected"),
    [(2000, 32, 16, 8), (2000, 32, 2, 17), (12800, 32, 16, 32), (2000, 1, 16, 1)],
)
def test_static_rows_leave_a_margin_and_never_exceed_the_batch(tokens, batch, slots, expected):
    # 100 examples; rows of 128 tokens: 32 · 20 · 1.25 / 128 = 6.25, one more row, rounded up.
    assert likely_rows({"tokens": tokens, "examples": 100}, batch, 128, slots) == expected


@pytest.mark.parametrize(("longest", "limit", "expected"), [(66, 128, 80), (64, 128, 64), (70, 72, 72), (0, 128, 16)])
def test_rows_are_as_long_as_the_longest_example(longest, limit, expected):
    experiment = types.SimpleNamespace(data=types.SimpleNamespace(max_seq_length=limit))
    manifest = types.SimpleNamespace(splits={"train": {"longest": longest}})
    assert row_length(experiment, manifest, "train") == expected
