"""What makes records stale; that the log says why is in test_splits.py."""

import pytest

from tests.preparation.test_rows import job_of
from trainer.errors import UserError
from trainer.preparation.freshness import made_from_of, manifest_alone, records_dir, require_training_examples
from trainer.run import experiment


def test_the_same_file_by_another_path_is_not_stale(config_file, tmp_path, monkeypatch):
    absolute = job_of(config_file, tmp_path)
    monkeypatch.chdir(tmp_path)
    relative = job_of(config_file, tmp_path, "data.train=train.csv", "data.validation=./validation.csv")
    assert made_from_of(absolute.experiment, absolute.task) == made_from_of(relative.experiment, relative.task)


@pytest.mark.parametrize("change", ["data.max_seq_length=32", "data.encoding=cp1252", "data.validation=10%", "data.shards=2"])
def test_what_decides_the_records(config_file, tmp_path, change):
    before, after = (job_of(config_file, tmp_path, *sets) for sets in ((), (change,)))
    assert made_from_of(before.experiment, before.task) != made_from_of(after.experiment, after.task)


def test_a_folder_without_records(tmp_path):
    data = experiment.load(None, ["encoder.init_from=x", f"data.records_dir={tmp_path}"]).data
    with pytest.raises(UserError, match="holds no prepared records that this machine sees, and no rows are named"):
        manifest_alone(data)


def test_where_records_are():
    resolved = experiment.load(None, ["encoder.init_from=x"])
    assert records_dir(resolved, "run") == "run/records"


def test_records_without_training_examples():
    class Manifest:
        folder, splits = "records", {"test": {"examples": 3}}

    with pytest.raises(UserError, match="records holds records of test only, none to train on"):
        require_training_examples(Manifest)
    Manifest.splits = {"train": {"examples": 0}}
    with pytest.raises(UserError, match="data.train: every row was rejected; there is nothing to train on"):
        require_training_examples(Manifest)
