"""Records: TensorFlow reads them, they hold no padding, and a damaged shard is told."""

import array
import json
import re

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.records import Manifest, encode_example
from trainer.data.shards import ShardWriter, shard_name
from trainer.errors import UserError
from trainer.features import Feature

SPEC = {
    "input_ids": Feature("int32", "token"),
    "rates": Feature("float32", "token"),
    "label": Feature("int32", "example"),
    "score": Feature("float32", "example"),
}
integers = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(width=32, allow_nan=False)


@given(st.lists(integers, max_size=20), integers, st.lists(floats, max_size=20), floats)
def test_tensorflow_reads_what_is_encoded(ids, label, rates, score):
    encoded = encode_example({"input_ids": ids, "label": label, "rates": rates, "score": score}, SPEC)
    feature = tf.train.Example.FromString(encoded).features.feature
    assert list(feature["input_ids"].int64_list.value) == ids
    assert list(feature["label"].int64_list.value) == [label]
    assert list(feature["rates"].float_list.value) == rates
    assert list(feature["score"].float_list.value) == [score]


AROUND_VARINT_SIZES = [number + offset for number in (1 << 7, 1 << 14, 1 << 18, 1 << 21, 1 << 28) for offset in (-1, 0, 1)]


@given(st.lists(st.sampled_from([0, *AROUND_VARINT_SIZES, (1 << 32) - 1]) | st.integers(0, 1 << 17), max_size=20))
def test_an_array_is_written_as_a_list(ids):
    others = {"label": 0, "rates": [], "score": 0.0}
    from_array = encode_example({"input_ids": array.array("I", ids), **others}, SPEC)
    assert from_array == encode_example({"input_ids": ids, **others}, SPEC)


@pytest.mark.parametrize("kind", "bBhHiqQ")
def test_arrays_of_other_sizes_are_written_as_lists_too(kind):
    ids = array.array(kind, [1, 100, 0])
    others = {"label": 0, "rates": [], "score": 0.0}
    assert encode_example({"input_ids": ids, **others}, SPEC) == encode_example({"input_ids": list(ids), **others}, SPEC)


def test_no_padding_is_stored():
    short = encode_example({"input_ids": [101, 102], "label": 0, "rates": [], "score": 0.0}, SPEC)
    long = encode_example({"input_ids": [101] * 128, "label": 0, "rates": [], "score": 0.0}, SPEC)
    assert len(long) - len(short) < 135


def write_split(folder, shards=3, records=7):
    writer = ShardWriter(str(folder), "train", shards)
    writer.write(b"%d" % i for i in range(records))
    return writer


def manifest_of(folder):
    stored = write_split(folder).finish()
    counts = {"examples": 7, "rows": 7, "rejected": 0, "tokens": 70, "longest": 10, "values": {}}
    manifest = Manifest(str(folder), SPEC, {"data.max_seq_length": 64}, {"train": {"shards": stored, **counts}}, {})
    manifest.save()
    return manifest


def test_manifest_round_trip_and_staleness(tmp_path):
    assert Manifest.load(str(tmp_path)) is None
    manifest_of(tmp_path)
    loaded = Manifest.load(str(tmp_path))
    assert loaded.spec == SPEC and loaded.splits["train"]["examples"] == 7
    loaded.check("train")
    assert loaded.stale_because({"data.max_seq_length": 64}) == []
    assert loaded.stale_because({"data.max_seq_length": 128, "file x": "y"}) == [
        "data.max_seq_length was 64, is 128",
        "file x was absent, is 'y'",
    ]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-3]), "it was cut short"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x00"), "is not what was written: its SHA-256 differs"),
        (lambda path: path.unlink(), "is missing"),
    ],
)
def test_damaged_shards_are_told(tmp_path, damage, message):
    manifest = manifest_of(tmp_path)
    damage(tmp_path / shard_name("train", 1, 3))
    with pytest.raises(UserError, match=message) as caught:
        manifest.check("train")
    assert "train-00001-of-00003.tfrecord" in str(caught.value) and "run prepare again" in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda stored: stored.pop("features"), "lacks 'features'"),
        (lambda stored: stored.update(splits=[]), "'list' object has no attribute 'items'"),
        (lambda stored: stored["splits"]["train"].update(examples=-1), "train.examples is -1"),
        (lambda stored: stored["splits"]["train"].update(tokens="x"), "train.tokens is 'x'"),
        (lambda stored: stored["splits"]["train"].update(values=3), "train.values is 3"),
        (
            lambda stored: stored["splits"]["train"]["shards"][0].update(file="../../etc/passwd"),
            "no shard can be called '../../etc",
        ),
        (
            lambda stored: stored["splits"]["train"]["shards"][0].update(file="/etc/passwd"),
            "no shard can be called '/etc/passwd'",
        ),
        (lambda stored: stored["splits"]["train"]["shards"][0].update(bytes="x"), "the size or hash of a shard is 'x'"),
    ],
)
def test_a_manifest_that_is_none_is_told(tmp_path, damage, reason):
    manifest_of(tmp_path)
    path = tmp_path / "manifest.json"
    stored = json.loads(path.read_text())
    damage(stored)
    path.write_text(json.dumps(stored))
    with pytest.raises(UserError, match=re.escape(reason)) as caught:
        Manifest.load(str(tmp_path))
    assert str(caught.value).endswith(f"it is damaged; remove {tmp_path} and run prepare again")
