"""Shards: whole or not there; a corpus' finished shards outlive a kill, and nothing else does."""

import tensorflow as tf

from trainer import files
from trainer.data.shards import CorpusShards, ShardWriter, progress_path, shard_name


def write_split(folder, shards=3, records=7):
    writer = ShardWriter(str(folder), "train", shards)
    writer.write(b"%d" % i for i in range(records))
    return writer


def test_shards_appear_only_when_finished(tmp_path):
    writer = write_split(tmp_path)
    assert not [name for name in files.list_dir(str(tmp_path)) if not name.endswith(".partial")]
    stored = writer.finish()
    assert files.list_dir(str(tmp_path)) == [shard_name("train", i, 3) for i in range(3)]
    assert [shard["examples"] for shard in stored] == [3, 2, 2]
    records = [r.numpy() for r in tf.data.TFRecordDataset(str(tmp_path / shard_name("train", 1, 3)))]
    assert records == [b"1", b"4"]


def test_discarded_shards_leave_nothing(tmp_path):
    write_split(tmp_path).discard()
    assert files.list_dir(str(tmp_path)) == []


def read(path):
    return [record.numpy() for record in tf.data.TFRecordDataset(str(path))]


def test_finished_shards_of_a_corpus_are_found_again(tmp_path):
    first = CorpusShards(str(tmp_path), "train", {"a": 1})
    first.write_shard([b"x", b"y"], lambda: {"rows": 2})
    (tmp_path / "train-00001.tfrecord.partial").write_bytes(b"half")
    again = CorpusShards(str(tmp_path), "train", {"a": 1})
    assert [shard["totals"] for shard in again.finished] == [{"rows": 2}]
    again.write_shard([b"z"], lambda: {"rows": 1})
    shards = again.finish()
    assert [(shard["file"], shard["examples"]) for shard in shards] == [
        ("train-00000-of-00002.tfrecord", 2),
        ("train-00001-of-00002.tfrecord", 1),
    ]
    assert read(tmp_path / "train-00000-of-00002.tfrecord") == [b"x", b"y"]
    files.remove_tree(progress_path(str(tmp_path), "train"))
    assert not files.exists(f"{tmp_path}/train-progress.json")


def test_a_kill_while_shards_get_their_names_costs_nothing(tmp_path):
    writer = CorpusShards(str(tmp_path), "train", {"a": 1})
    for record in (b"x", b"y", b"z"):
        writer.write_shard([record], dict)
    files.rename(f"{tmp_path}/train-00000.tfrecord", f"{tmp_path}/train-00000-of-00003.tfrecord")
    again = CorpusShards(str(tmp_path), "train", {"a": 1})
    assert len(again.finished) == 3
    assert [shard["file"] for shard in again.finish()] == [shard_name("train", i, 3) for i in range(3)]
    assert [read(tmp_path / shard_name("train", i, 3)) for i in range(3)] == [[b"x"], [b"y"], [b"z"]]


def test_shards_that_are_lost_or_of_something_else_are_written_anew(tmp_path):
    writer = CorpusShards(str(tmp_path), "train", {"a": 1})
    for record in (b"x", b"y"):
        writer.write_shard([record], dict)
    assert CorpusShards(str(tmp_path), "train", {"a": 2}).finished == []
    (tmp_path / "train-00000.tfrecord").unlink()
    assert CorpusShards(str(tmp_path), "train", {"a": 1}).finished == []
