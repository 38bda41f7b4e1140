"""Preparation: byte-identical whatever the number of workers; nothing half-written."""

import dataclasses

import pytest

from trainer import experiment, files, preparation
from trainer.data.sources import Row
from trainer.errors import UserError


@pytest.fixture
def resolved(config_file):
    return preparation.learned(experiment.load(str(config_file)))


def prepare(resolved, tokenizer, folder, **data):
    changed = dataclasses.replace(resolved, data=dataclasses.replace(resolved.data, **data))
    return preparation.ensure_records(changed, str(folder), tokenizer)


def test_shards_are_identical_whatever_the_workers(resolved, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "ROWS_PER_CHUNK", 7)
    digests = {}
    for workers in (1, 2, 3):
        manifest = prepare(resolved, tokenizer, tmp_path / str(workers), workers=workers, shards=3)
        digests[workers] = [shard["sha256"] for split in manifest.splits.values() for shard in split["shards"]]
    assert len(digests[1]) == 6 and digests[1] == digests[2] == digests[3]


def test_the_manifest_counts(resolved, tokenizer, tmp_path):
    train = prepare(resolved, tokenizer, tmp_path).splits["train"]
    assert (train["rows"], train["examples"], train["rejected"]) == (64, 64, 0)
    assert sum(train["values"]["label"].values()) == 64 and train["longest"] <= 64
    assert sum(shard["examples"] for shard in train["shards"]) == 64


def test_an_interrupted_preparation_leaves_no_shard(resolved, tokenizer, tmp_path, monkeypatch):
    class Stop(BaseException):
        pass

    def stop(*_):
        raise Stop

    monkeypatch.setattr(preparation, "encode_example", stop)
    with pytest.raises(Stop):
        prepare(resolved, tokenizer, tmp_path)
    assert files.list_dir(f"{tmp_path}/records") == []


def test_fewer_shards_leave_none_of_the_old(resolved, tokenizer, tmp_path):
    prepare(resolved, tokenizer, tmp_path, shards=4)
    manifest = prepare(resolved, tokenizer, tmp_path, shards=2)
    names = [name for name in files.list_dir(f"{tmp_path}/records") if name.endswith(".tfrecord")]
    assert names == sorted(shard["file"] for split in manifest.splits.values() for shard in split["shards"])


def test_a_full_disk_is_told(resolved, tokenizer, tmp_path, monkeypatch):
    from trainer.data.records import ShardWriter

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ShardWriter, "write", full)
    with pytest.raises(UserError, match="the disk is full: writing "):
        prepare(resolved, tokenizer, tmp_path)


def test_class_names_are_learned_from_training_rows(resolved):
    assert resolved.task.class_names == ("negative", "positive")
    without = dataclasses.replace(resolved, data=dataclasses.replace(resolved.data, train=None))
    assert preparation.learned(without) is without


def test_rejected_rows_show_their_content():
    rejected = preparation.rejected_row(Row({"text": "ü"}, "f.csv", 3), ValueError("why"))
    assert (rejected.path, rejected.line, rejected.reason, rejected.content) == ("f.csv", 3, "why", '{"text": "ü"}')
