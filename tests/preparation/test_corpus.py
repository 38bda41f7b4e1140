"""How a corpus is cut into shards; that killed preparations resume is in test_splits.py."""

import pytest

from trainer.preparation import corpus
from trainer.run import experiment


@pytest.mark.parametrize(
    ("megabytes", "shards", "expected"), [(1, 0, 1), (40, 5, 2), (40, 1, 10), (2560, 0, 10), (100_000, 0, 64)]
)
def test_chunks_of_a_shard_follow_the_sources_size(tmp_path, monkeypatch, tiny_encoder, megabytes, shards, expected):
    path = tmp_path / "corpus.txt"
    path.write_text("a line\n")
    monkeypatch.setattr("trainer.files.size", lambda _: megabytes * 1_000_000)
    keys = ["task.name=pretraining", f"encoder.init_from={tiny_encoder}", f"data.train={path}", f"data.shards={shards}"]
    assert corpus.chunks_per_shard(experiment.load(None, keys), "train") == expected


def test_a_source_of_unknown_size(tiny_encoder):
    keys = ["task.name=pretraining", f"encoder.init_from={tiny_encoder}", "data.train=tfds:wiki:train"]
    assert corpus.chunks_per_shard(experiment.load(None, keys), "train") == corpus.CORPUS_CHUNKS_PER_SHARD
