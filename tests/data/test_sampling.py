"""Sampling by value: sizes that can be computed, shares that hold, a choice that differs from epoch to epoch."""

import collections

import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.records import encode_example
from trainer.data.sampling import Sampling
from trainer.features import Feature

SPEC = {"label": Feature("int32", "example"), "row": Feature("int32", "example")}


def records_of(labels):
    return tf.data.Dataset.from_tensor_slices(
        [encode_example({"label": label, "row": row}, SPEC) for row, label in enumerate(labels)]
    )


def taken(sampling, labels, seed, epoch):
    """How often each row is taken."""
    found = collections.Counter()
    for record in sampling.sampled(records_of(labels), seed, tf.constant(epoch, tf.int64)):
        found[tf.train.Example.FromString(record.numpy()).features.feature["row"].int64_list.value[0]] += 1
    return found


@settings(max_examples=20, deadline=None)
@given(
    labels=st.lists(st.integers(0, 2), min_size=1, max_size=40),
    rates=st.lists(st.floats(0.0, 5.0), min_size=3, max_size=3),
    seed=st.integers(0, 2**31 - 1),
    epoch=st.integers(0, 10**6),
)
def test_an_epoch_has_the_size_that_is_computed_and_each_value_its_share(labels, rates, seed, epoch):
    counts = np.bincount(labels, minlength=3)
    sampling = Sampling("label", counts, np.array(rates))
    found = taken(sampling, labels, seed, epoch)
    assert sum(found.values()) == int(sampling.sizes(seed, tf.constant([epoch], tf.int64))[0])
    for value, (count, rate) in enumerate(zip(counts, rates, strict=True)):
        copies = [found[row] for row, label in enumerate(labels) if label == value]
        assert abs(sum(copies) - count * rate) <= 1.0 + 1e-4
        assert all(abs(one - rate) < 2.0 for one in copies)


def test_the_place_in_the_stream_is_that_of_the_epochs_before():
    sampling = Sampling("label", np.array([7, 5]), np.array([0.3, 1.7]))
    ends = np.cumsum(sampling.sizes(11, tf.range(10_000, dtype=tf.int64)).numpy())
    for first in (0, 1, ends[0] - 1, ends[0], ends[4095], ends[5000] + 3):
        epoch, within = sampling.place(11, int(first))
        assert (ends[epoch - 1] if epoch else 0) + within == first and first < ends[epoch]


def test_neighbours_are_not_chosen_together():
    """Of rows in pairs, as an original and its paraphrase, half are taken: not always both the same member of the pair."""
    labels, sampling = [0] * 64, Sampling("label", np.array([64]), np.array([0.5]))
    even = [sum(found[row] for row in range(0, 64, 2)) for found in (taken(sampling, labels, 5, epoch) for epoch in range(16))]
    assert len(set(even)) > 4
    chosen = {tuple(sorted(taken(sampling, labels, 5, epoch))) for epoch in range(16)}
    assert len(chosen) > 8, "another half in almost every epoch"
