"""Packing, by its properties: nothing lost, nothing shared, rows nearly full."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.packing import assign_rows, pack, pack_evenly, rounded_rows
from trainer.features import ROW_ID, TOKENS, Feature

SPEC = {**TOKENS, "tags": Feature("int32", "token"), "label": Feature("int32", "example"), **ROW_ID}
ROW_LENGTH = 16


def features_of(lengths: list[int]) -> dict:
    """Examples whose tokens tell where they belong: example i has tokens 100·(i+1) + position."""
    ids = [[100 * (i + 1) + p for p in range(length)] for i, length in enumerate(lengths)]
    ragged = tf.ragged.constant(ids, dtype=tf.int32)
    return {
        "input_ids": ragged,
        "token_type_ids": ragged * 0 + 1,
        "tags": ragged % 7,
        "label": tf.range(len(lengths)) + 10,
        "row_id": tf.range(len(lengths)) + 1000,
    }


_pack = tf.function(
    lambda features, k, multiple, static: pack(features, SPEC, ROW_LENGTH, k, multiple, static), reduce_retracing=True
)


def packed_of(lengths, k=4, multiple=1, static=None):
    return {name: value.numpy() for name, value in _pack(features_of(lengths), k, multiple, static).items()}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, ROW_LENGTH), min_size=1, max_size=40), st.sampled_from([1, 2, 4]), st.sampled_from([1, 3]))
def test_every_example_is_there_once_whole_and_alone(lengths, k, multiple):
    packed = packed_of(lengths, k, multiple)
    rows = packed["input_ids"].shape[0]
    assert rows % multiple == 0 and packed["label"].shape == (rows, k)
    seen = []
    for row, slot in np.argwhere(packed["example_weights"] == 1):
        number = packed["row_id"][row, slot] - 1000
        seen.append(number)
        start, length = packed["cls_positions"][row, slot], lengths[number]
        where = slice(start, start + length)
        assert packed["input_ids"][row, where].tolist() == [100 * (number + 1) + p for p in range(length)]
        assert packed["position_ids"][row, where].tolist() == list(range(length))
        assert set(packed["segment_ids"][row, where]) == {slot + 1}
        assert packed["tags"][row, where].tolist() == [(100 * (number + 1) + p) % 7 for p in range(length)]
        assert packed["label"][row, slot] == number + 10
    assert sorted(seen) == list(range(len(lengths)))
    assert (packed["segment_ids"] > 0).sum() == sum(lengths), "no token is written twice or lost"
    empty = packed["segment_ids"] == 0
    assert not packed["input_ids"][empty].any() and (packed["row_id"][packed["example_weights"] == 0] == -1).all()


@given(st.lists(st.integers(1, ROW_LENGTH), min_size=1, max_size=60))
@settings(max_examples=40, deadline=None)
def test_rows_are_those_of_first_fit_decreasing(lengths):
    free: list[int] = []
    expected = [0] * len(lengths)
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        row = next((row for row, left in enumerate(free) if left >= lengths[number]), len(free))
        free += [ROW_LENGTH] if row == len(free) else []
        free[row] -= lengths[number]
        expected[number] = row
    rows, _, _, used = assign_rows([tf.constant(lengths)], [ROW_LENGTH], 60)
    assert rows.numpy().tolist() == expected and int(used) == len(free)


@given(st.lists(st.tuples(st.integers(1, ROW_LENGTH), st.integers(1, 8)), min_size=1, max_size=40))
@settings(max_examples=25, deadline=None)
def test_sequences_beside_each_other_share_rows_and_slots(pairs):
    spec = {
        name: Feature("int32", "token", name[0], aligned_with=lead)
        for name, lead in (("a_input_ids", None), ("b_input_ids", "a"))
    }
    ids = {
        name: tf.ragged.constant(
            [[100 * number + name_number + 1] * pair[name_number] for number, pair in enumerate(pairs)], tf.int32
        )
        for name_number, name in enumerate(spec)
    }
    packed = {name: value.numpy() for name, value in pack(ids, spec, ROW_LENGTH, 4, aligned_length=12).items()}
    assert packed["a_input_ids"].shape[1] == ROW_LENGTH and packed["b_input_ids"].shape[1] == 12
    assert len(packed["a_input_ids"]) == len(packed["b_input_ids"])
    places = {}
    for sequence, name in enumerate(spec):
        segments = packed[f"{name[0]}_segment_ids"]
        for row, slot in {(row, segments[row, cell]) for row, cell in zip(*np.nonzero(segments), strict=True)}:
            (value,) = set(packed[name][row][segments[row] == slot].tolist())
            assert (segments[row] == slot).sum() == pairs[value // 100][sequence]
            places.setdefault(value // 100, set()).add((row, slot))
    assert len(places) == len(pairs) and all(len(found) == 1 for found in places.values())


def test_one_example_a_row_keeps_the_order():
    packed = packed_of([3, 16, 5], k=1)
    assert packed["row_id"].ravel().tolist() == [1000, 1001, 1002]


@pytest.mark.parametrize("multiple", [1, 2])
def test_row_counts_are_few_and_never_far_off(multiple):
    counts = tf.range(1, 2000)
    rounded = np.array([int(rounded_rows(c, multiple)) for c in counts])
    assert (rounded >= counts.numpy()).all() and (rounded % multiple == 0).all()
    big = counts.numpy() > 64 * multiple
    assert (rounded[big] <= counts.numpy()[big] * (1 + 1 / 32) + multiple).all()
    assert len(set(rounded[:1024])) < 200
    assert rounded[: 64 * multiple : multiple].tolist() == [multiple * (i + 1) for i in range(64)]


@pytest.mark.parametrize(("batch", "least"), [(32, 0.88), (64, 0.92), (256, 0.97), (512, 0.97)])
def test_hardly_a_cell_is_padding(batch, least, tokenizer, reviews):
    """The quick start's sentences: 23 tokens on average, 64 at the most."""
    lengths = [min(len(tokenizer.encode(row["text"])) + 2, 64) for row in reviews]
    batches = [lengths[i : i + batch] for i in range(0, len(lengths) - batch + 1, batch)]
    rows = tf.function(lambda one: rounded_rows(assign_rows([one], [64], 16)[3], 1))
    cells = sum(64 * int(rows(tf.constant(one))) for one in batches)
    assert sum(map(sum, batches)) / cells >= least


def test_static_rows_are_the_least_multiple_that_holds_the_examples():
    assert packed_of([16] * 3, static=8)["input_ids"].shape == (8, ROW_LENGTH)
    assert packed_of([16] * 9, static=8)["input_ids"].shape == (16, ROW_LENGTH)


def test_absent_token_types_are_zero():
    features = features_of([3, 4])
    del features["token_type_ids"]
    spec = {name: feature for name, feature in SPEC.items() if name != "token_type_ids"}
    assert not pack(features, spec, ROW_LENGTH, 4)["token_type_ids"].numpy().any()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=0, max_size=50), st.sampled_from([1, 8, 64]))
def test_dealt_rows_hold_every_example_once_and_are_about_equally_long(lengths, width):
    features = {
        "input_ids": tf.ragged.constant([[i + 1] * length for i, length in enumerate(lengths)], ragged_rank=1, dtype=tf.int32),
        "row_id": tf.range(len(lengths)),
    }
    packed, layout = pack_evenly(features, {"input_ids": TOKENS["input_ids"], **ROW_ID}, width)
    packed = {name: value.numpy() for name, value in packed.items()}
    rows, slots = packed["row_id"].shape
    places = layout.places
    assert packed["row_id"].reshape(-1)[places.numpy()].tolist() == list(range(len(lengths)))
    for i, place in enumerate(places.numpy()):
        row, slot = divmod(int(place), slots)
        start = packed["cls_positions"][row, slot]
        cells = slice(start, start + lengths[i])
        assert packed["input_ids"][row, cells].tolist() == [i + 1] * lengths[i]
        assert packed["position_ids"][row, cells].tolist() == list(range(lengths[i]))
        assert (packed["segment_ids"][row] == slot + 1).sum() == lengths[i]
    if width == 1:
        assert slots == 1, "an example a row"
    filled = (packed["segment_ids"] > 0).sum(axis=1)
    assert filled.sum() == sum(lengths) and rows >= 1
    longest = max(lengths, default=0)
    assert filled.max() - filled.min() <= longest, "back and forth, two rows differ by one example at the most"
    assert packed["input_ids"].shape[1] == max(filled.max(), 1) and filled.max() <= max(width, longest) + longest
