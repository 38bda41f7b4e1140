"""The Beam pipeline, on its DirectRunner: the local runner's shards byte by byte."""

import sys

import pytest

from trainer import files
from trainer.errors import UserError
from trainer.preparation import chunks
from trainer.preparation import corpus as corpus_sink
from trainer.preparation import splits as preparation
from trainer.preparation.beam import _read_entries, beam_sink
from trainer.run import experiment

SAMPLE = "configs/tiny/sotu/train.txt"


@pytest.fixture
def corpus(tiny_encoder):
    keys = ("task.name=pretraining", f"encoder.init_from={tiny_encoder}", f"data.train={SAMPLE}", "data.shards=3")
    return experiment.load(None, keys)


def test_the_same_records_as_the_local_runner(corpus, tokenizer, tmp_path, monkeypatch):
    pytest.importorskip("apache_beam", reason="pip install -e '.[beam]'")
    for module in (chunks, corpus_sink):
        monkeypatch.setattr(module, "CHARACTERS_PER_CHUNK", 60_000)
    here = preparation.ensure_records(corpus, str(tmp_path / "here"), tokenizer)
    (tmp_path / "there/records").mkdir(parents=True)
    (tmp_path / "there/records/train-00009.json").write_text("{}")  # of a run that was killed
    there = preparation.ensure_records(corpus, str(tmp_path / "there"), tokenizer, beam_sink("--direct_num_workers=1"))
    assert len(here.splits["train"]["shards"]) == 3
    assert there.splits == here.splits
    assert files.list_dir(there.folder) == files.list_dir(here.folder)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--no_such_flag=1", "--beam_flags: Beam does not know --no_such_flag"),
        ("--streaming=x=y --type_check_strictness=?", "Beam"),
    ],
)
def test_flags_that_beam_does_not_know(flags, message):
    pytest.importorskip("apache_beam", reason="pip install -e '.[beam]'")
    with pytest.raises(UserError, match=message):
        beam_sink(flags)


def test_missing_shards_are_told(tmp_path):
    files.write_json(f"{tmp_path}/train-00000.json", {})
    for count in ("unknown", 2):
        with pytest.raises(UserError, match=f"1 of train's {count} shards; all workers must see data.records_dir"):
            _read_entries(str(tmp_path), "train")
        files.write_json(f"{tmp_path}/train-shards.json", 2)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(
        UserError, match=r"needs the package apache-beam: in the project's folder, run: pip install -e '.\[beam\]'"
    ):
        beam_sink("")


def test_the_command_line(cli, config_file, tmp_path):
    status, _, error = cli("prepare", f"--config={config_file}", f"--workdir={tmp_path}/x", "--runner=beam")
    assert (
        status == 1 and "--runner=beam prepares corpora (task.name=pretraining), not rows of task.name=classification" in error
    )
    status, _, error = cli("prepare", f"--config={config_file}", f"--workdir={tmp_path}/x", "--beam_flags=--runner=X")
    assert status == 1 and "--beam_flags goes with --runner=beam" in error
