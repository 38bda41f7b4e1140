"""Preparation: byte-identical whatever the number of workers; nothing half-written."""

import dataclasses

import pytest

from trainer import files
from trainer.data import shards
from trainer.errors import UserError
from trainer.preparation import chunks, learning
from trainer.preparation import corpus as corpus_sink
from trainer.preparation import splits as preparation
from trainer.run import experiment


@pytest.fixture
def resolved(config_file):
    return learning.learned(experiment.load(str(config_file)))


def prepare(resolved, tokenizer, folder, **data):
    changed = dataclasses.replace(resolved, data=dataclasses.replace(resolved.data, **data))
    return preparation.ensure_records(changed, str(folder), tokenizer)


def test_shards_are_identical_whatever_the_workers(resolved, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "ROWS_PER_CHUNK", 7)
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


def test_texts_that_were_cut_are_counted_and_told(resolved, tokenizer, tmp_path, caplog):
    train = prepare(resolved, tokenizer, tmp_path, max_seq_length=16).splits["train"]
    texts = [row.values["text"] for row in resolved.rows("train")]
    lengths = [len(tokenizer.encode(text)) + 2 for text in texts]
    assert train["truncated"] == sum(length > 16 for length in lengths) > 0
    assert train["longest_text"] == max(lengths) and train["longest"] == 16
    share = 100 * train["truncated"] / 64
    assert f"{train['truncated']} of 64 texts ({share:.1f}%) are longer than data.max_seq_length=16 and were cut" in caplog.text
    caplog.clear()
    assert prepare(resolved, tokenizer, tmp_path / "whole", max_seq_length=512).splits["train"]["truncated"] == 0
    assert "were cut" not in caplog.text


def test_a_share_of_the_training_rows(resolved, tokenizer, tmp_path):
    splits = prepare(resolved, tokenizer, tmp_path, validation="25%", test="10%").splits
    counts = {name: split["examples"] for name, split in splits.items()}
    assert sum(counts.values()) == 64 and 12 <= counts["validation"] <= 20 and 4 <= counts["test"] <= 9
    again = prepare(resolved, tokenizer, tmp_path / "again", validation="25%", test="10%").splits
    digests = [[[shard["sha256"] for shard in split["shards"]] for split in made.values()] for made in (splits, again)]
    assert digests[0] == digests[1]


def test_an_interrupted_preparation_leaves_no_shard(resolved, tokenizer, tmp_path, monkeypatch):
    class Stop(BaseException):
        pass

    def stop(*_):
        raise Stop

    monkeypatch.setattr(chunks, "encode_example", stop)
    with pytest.raises(Stop):
        prepare(resolved, tokenizer, tmp_path)
    assert files.list_dir(f"{tmp_path}/records") == []


def test_fewer_shards_leave_none_of_the_old(resolved, tokenizer, tmp_path):
    prepare(resolved, tokenizer, tmp_path, shards=4)
    manifest = prepare(resolved, tokenizer, tmp_path, shards=2)
    names = [name for name in files.list_dir(f"{tmp_path}/records") if name.endswith(".tfrecord")]
    assert names == sorted(shard["file"] for split in manifest.splits.values() for shard in split["shards"])


def test_a_full_disk_is_told(resolved, tokenizer, tmp_path, monkeypatch):
    from trainer.data.shards import ShardWriter

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ShardWriter, "write", full)
    with pytest.raises(UserError, match="the disk is full: writing "):
        prepare(resolved, tokenizer, tmp_path)


def test_class_names_are_learned_from_training_rows(resolved):
    assert resolved.task.class_names == ("negative", "positive")
    without = dataclasses.replace(resolved, data=dataclasses.replace(resolved.data, train=None))
    assert learning.learned(without) is without


CORPUS = [
    "\n".join(f"Document {number}, sentence {i}: the {i} ships of {number} sailed on." for i in range(3 + number % 5))
    for number in range(60)
]


@pytest.fixture
def corpus(tmp_path, tiny_encoder):
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(CORPUS) + "\n")
    keys = ("task.name=pretraining", f"encoder.init_from={tiny_encoder}", f"data.train={path}", "data.max_seq_length=32")
    return experiment.load(None, keys)


def digests(manifest):
    return [shard["sha256"] for shard in manifest.splits["train"]["shards"]]


def test_a_corpus_is_the_same_whatever_the_workers(corpus, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHARACTERS_PER_CHUNK", 1500)
    monkeypatch.setattr(corpus_sink, "CHARACTERS_PER_CHUNK", 1500)
    found = [prepare(corpus, tokenizer, tmp_path / str(workers), workers=workers, shards=4) for workers in (1, 2, 3)]
    assert 3 <= len(digests(found[0])) <= 5
    assert digests(found[0]) == digests(found[1]) == digests(found[2])
    train = found[0].splits["train"]
    assert train["rows"] == 60 and set(train["values"]["sentence_label"]) == {"0", "1"}
    assert train["special_cases"]["short"] > 0


@pytest.mark.parametrize("moment", range(6))
def test_a_killed_preparation_goes_on_and_gives_the_same(corpus, tokenizer, tmp_path, monkeypatch, moment):
    """Killed after so many records, or while the shards get their names; what is finished is not made again."""
    monkeypatch.setattr(chunks, "CHARACTERS_PER_CHUNK", 1500)
    monkeypatch.setattr(corpus_sink, "CHARACTERS_PER_CHUNK", 1500)
    expected = digests(prepare(corpus, tokenizer, tmp_path / "whole", workers=1, shards=4))

    class Killed(BaseException):
        pass

    made = []
    encode, rename = chunks.encode_example, shards.files.rename

    def encode_until(example, spec):
        made.append(1)
        if len(made) == 1 + 40 * moment and moment < 5:
            raise Killed
        return encode(example, spec)

    def rename_until(source, target):
        if moment == 5 and target.endswith("train-00001-of-00004.tfrecord"):
            raise Killed
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(chunks, "encode_example", encode_until)
        patch.setattr(shards.files, "rename", rename_until)
        with pytest.raises(Killed):
            prepare(corpus, tokenizer, tmp_path / "killed", workers=1, shards=4)
    before = len(made)
    monkeypatch.setattr(chunks, "encode_example", lambda *arguments: made.append(1) or encode(*arguments))
    manifest = prepare(corpus, tokenizer, tmp_path / "killed", workers=1, shards=4)
    assert digests(manifest) == expected
    total = manifest.splits["train"]["examples"]
    assert len(made) - before < total if moment > 1 else len(made) - before <= total
    names = {name for name in files.list_dir(f"{tmp_path}/killed/records") if name.startswith("train-")}
    assert names == {shard["file"] for shard in manifest.splits["train"]["shards"]}
