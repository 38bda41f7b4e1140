"""The pipeline: a seeded order, exact resume, shares that add up to the whole."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from trainer.data.pipeline import (
    WINDOW_BATCHES,
    Packing,
    StreamPosition,
    length_grouped,
    packed_batches,
    read_records,
    serialized_examples,
    training_stream,
)
from trainer.data.records import encode_example
from trainer.data.sampling import Sampling
from trainer.data.shards import ShardWriter
from trainer.errors import UserError
from trainer.features import ROW_ID, TOKENS, Feature

SPEC = {"input_ids": TOKENS["input_ids"], "label": Feature("int32", "example"), **ROW_ID}
COUNT = 50


def encoded(number: int) -> bytes:
    length = number % 7 + 2
    return encode_example({"input_ids": [number + 1] * length, "label": number % 3, "row_id": number}, SPEC)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    writer = ShardWriter(str(folder), "train", 4)
    writer.write(encoded(i) for i in range(COUNT))
    return [str(folder / shard["file"]) for shard in writer.finish()]


def row_of(record) -> int:
    return tf.train.Example.FromString(record.numpy()).features.feature["row_id"].int64_list.value[0]


def first_rows(stream, count):
    return [row_of(record) for record in itertools.islice(stream, count)]


def stream_of(paths, **options):
    return training_stream(paths, COUNT, options.pop("seed", 3), options.pop("shuffle_buffer", 1000), **options)


def test_shards_give_back_the_order_of_writing(paths):
    assert [row_of(record) for record in read_records(paths)] == list(range(COUNT))


def test_each_epoch_is_every_example_in_an_order_of_its_own(paths):
    rows = first_rows(stream_of(paths), 3 * COUNT)
    epochs = [rows[i * COUNT : (i + 1) * COUNT] for i in range(3)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert rows == first_rows(stream_of(paths), 3 * COUNT), "the same seed gives the same order"
    assert rows != first_rows(stream_of(paths, seed=4), 3 * COUNT)
    assert first_rows(stream_of(paths, shuffle_buffer=0), COUNT) == list(range(COUNT))


@pytest.mark.parametrize("first", [1, 49, 50, 77, 130])
def test_resume_goes_on_with_the_next_example(paths, first):
    whole = first_rows(stream_of(paths), 200)
    assert first_rows(stream_of(paths, position=StreamPosition(first)), 200 - first) == whole[first:]


def test_shares_together_are_the_whole_step_by_step(paths):
    whole = first_rows(stream_of(paths), 40)
    shares = [first_rows(stream_of(paths, position=StreamPosition().share(i, 2)), 20) for i in range(2)]
    for step in range(10):  # a step of four examples: two from each share
        together = shares[0][2 * step : 2 * step + 2] + shares[1][2 * step : 2 * step + 2]
        assert sorted(together) == sorted(whole[4 * step : 4 * step + 4])


def test_batches_are_packed_full_and_endless(paths):
    batches = packed_batches(stream_of(paths), SPEC, 8, Packing(16, 4))
    seen = []
    for batch in itertools.islice(batches, 20):
        rows = batch["row_id"].numpy()
        seen += sorted(rows[rows >= 0])
        assert (batch["example_weights"].numpy() > 0).sum() == 8
        assert batch["input_ids"].shape[1] == 16
    assert len(seen) == 160


def test_evaluation_has_every_example_once(paths):
    batches = packed_batches(read_records(paths), SPEC, 8, Packing(16, 4))
    rows = np.concatenate([batch["row_id"].numpy().ravel() for batch in batches])
    assert sorted(rows[rows >= 0]) == list(range(COUNT))


def test_static_rows_give_one_shape_and_lose_nothing(paths):
    batches = list(packed_batches(read_records(paths), SPEC, 16, Packing(16, 4, static_rows=4)))
    assert {tuple(batch["input_ids"].shape) for batch in batches} == {(4, 16)}
    rows = np.concatenate([batch["row_id"].numpy().ravel() for batch in batches])
    assert sorted(rows[rows >= 0]) == list(range(COUNT))


def test_static_rows_in_training_give_one_shape_with_all_examples(paths):
    batches = list(packed_batches(read_records(paths), SPEC, 16, Packing(16, 4, static_rows=4, pieces=4)))
    assert {tuple(batch["input_ids"].shape) for batch in batches} == {(16, 16)}
    assert [int((batch["row_id"].numpy() >= 0).sum()) for batch in batches] == [16, 16, 16, 2], "a batch stays one batch"
    used = [batch["segment_ids"].numpy().any(axis=1) for batch in batches]
    assert all(rows[: rows.sum()].all() for rows in used), "rows are filled from the first one on"


def test_a_position_of_the_stream_by_hand():
    position = StreamPosition.of_step(7, 10, window_steps=3)
    assert (position.step, position.skipped_steps, position.first) == (6, 1, 60)
    assert StreamPosition.of_step(7, 10).first == 70
    shares = [position.share(index, 2).numbers(tf.constant(1, tf.int64), 5, tf.constant(5, tf.int64)) for index in range(2)]
    assert sorted(np.concatenate(shares)) == list(range(70, 80)), "the second batch of both pipelines: the second step"


def test_a_sampled_stream_resumes_exactly(paths):
    sampling = Sampling("label", np.array([17, 17, 16]), np.array([2.0, 0.5, 0.0]))
    whole = first_rows(stream_of(paths, sampling=sampling), 200)
    for first in (1, 41, 42, 43, 130):
        resumed = stream_of(paths, sampling=sampling, position=StreamPosition(first))
        assert first_rows(resumed, 200 - first) == whole[first:]
    epochs, taken = [], 0
    for size in sampling.sizes(3, tf.range(4, dtype=tf.int64)).numpy():
        epochs.append(sorted(whole[taken : taken + size]))
        taken += size
    for rows in epochs:
        assert [row for row in rows if row % 3 == 0] == sorted([*range(0, COUNT, 3)] * 2), "label 0 twice"
        assert len([row for row in rows if row % 3 == 1]) in (8, 9) and not [row for row in rows if row % 3 == 2]
    assert len({tuple(rows) for rows in epochs}) > 1, "another half of label 1 in another epoch"


def test_examples_that_belong_together_stay_together(paths):
    together, count = 5, 200
    position = StreamPosition(together=together)
    rows = first_rows(stream_of(paths, position=position), count)
    groups = [tuple(rows[i : i + together]) for i in range(0, count, together)]
    assert all(group == tuple(range(group[0], group[0] + together)) and group[0] % together == 0 for group in groups)
    assert sorted(rows[:COUNT]) == list(range(COUNT)) and groups[:10] != groups[10:20] != sorted(groups[:10])
    begun = StreamPosition.of_step(6, 10, together=together)
    assert first_rows(stream_of(paths, position=begun), count - 60) == rows[60:]
    for index in range(2):
        share = begun.share(index, 2)
        mine = first_rows(stream_of(paths, position=share), 40)
        numbers = share.numbers(tf.constant(0, tf.int64), 40, tf.constant(40, tf.int64)).numpy()
        assert mine == [rows[number] for number in numbers], "an example's number is its place in the whole stream"


def test_python_examples_stream():
    records = [encoded(i) for i in range(3)]
    assert [record.numpy() for record in serialized_examples(lambda: records)] == records


def test_no_examples_is_told(paths):
    with pytest.raises(UserError, match="there are no training examples"):
        training_stream(paths, 0, 1, 0)


def grouped_of(paths, window=0):
    first = window * WINDOW_BATCHES * BATCH
    return length_grouped(stream_of(paths, position=StreamPosition(first)), BATCH // 2, 2, seed=3, window=window)


BATCH = 4


def test_buckets_hold_each_windows_examples_by_length(paths):
    size = WINDOW_BATCHES * BATCH
    plain, grouped = first_rows(stream_of(paths), 2 * size), first_rows(grouped_of(paths), 2 * size)
    for window in (slice(0, size), slice(size, 2 * size)):
        assert sorted(grouped[window]) == sorted(plain[window]), "no example is lost or taken twice"
    lengths = np.array([row % 7 + 2 for row in grouped]).reshape(-1, BATCH)
    assert (lengths.max(axis=1) - lengths.min(axis=1)).mean() < 0.2, "the lengths of a batch are alike"
    steps = lengths[:WINDOW_BATCHES].mean(axis=1)
    assert abs(np.corrcoef(steps, np.arange(WINDOW_BATCHES))[0, 1]) < 0.5, "lengths neither rise nor fall with the steps"
    assert grouped == first_rows(grouped_of(paths), 2 * size)
    assert grouped[size:] == first_rows(grouped_of(paths, window=1), size), "a resumed run begins with a later window"


def test_a_buckets_rows_are_as_long_as_its_longest_example(paths):
    packing = Packing(row_length=20, max_examples_per_row=1, length_unit=4)
    batches = list(itertools.islice(packed_batches(grouped_of(paths), SPEC, BATCH, packing), 30))
    for batch in batches:
        longest = int(tf.reduce_max(tf.math.count_nonzero(batch["segment_ids"], axis=1)))
        assert batch["input_ids"].shape == [BATCH, -(-longest // 4) * 4]
    assert {batch["input_ids"].shape[1] for batch in batches} == {4, 8}
