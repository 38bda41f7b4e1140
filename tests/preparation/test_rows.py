"""The sink of rows; that records do not depend on the number of workers is in test_splits.py."""

import pytest

from trainer.preparation import rows
from trainer.preparation.sinks import SplitJob
from trainer.run import experiment
from trainer.run.tokenizer import find_tokenizer


def job_of(config_file, tmp_path, *sets):
    resolved = experiment.load(str(config_file), ["task.class_names=[negative, positive]", *sets])
    (tmp_path / "records").mkdir(exist_ok=True)
    return SplitJob(resolved, "train", str(tmp_path / "records"), resolved.build_task(find_tokenizer(resolved)), {})


@pytest.mark.parametrize(("asked", "shards"), [(0, 1), (3, 3)])
def test_examples_are_dealt_to_the_shards(config_file, tmp_path, asked, shards):
    totals, written = rows.write_rows(job_of(config_file, tmp_path, f"data.shards={asked}"))
    assert (totals.rows, totals.examples, len(written)) == (64, 64, shards)
    assert sum(shard["examples"] for shard in written) == 64


def test_an_interrupted_split_leaves_nothing(config_file, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(rows, "prepared_chunks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rows.write_rows(job_of(config_file, tmp_path))
    assert list((tmp_path / "records").iterdir()) == []
