"""The Beam pipeline, on its DirectRunner: the local runner's shards byte by byte."""

import subprocess
import sys

import pytest

from tests.runtime.test_distribution import free_ports
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


@pytest.mark.slow
def test_a_job_server_gives_the_same_records(corpus, tokenizer, tmp_path):
    """Beam's own job server: Flink's and Spark's, which are no Python packages, are spoken to in the same way."""
    pytest.importorskip("apache_beam", reason="pip install -e '.[beam]'")
    (port,) = free_ports(1)
    module = "apache_beam.runners.portability.local_job_service_main"
    server = subprocess.Popen([sys.executable, "-m", module, f"--job_port={port}"], stderr=subprocess.PIPE, text=True)
    try:
        next(line for line in server.stderr if "job service" in line.lower() or "listening" in line.lower())
        here = preparation.ensure_records(corpus, str(tmp_path / "here"), tokenizer)
        sink = beam_sink(f"--runner=PortableRunner --job_endpoint=localhost:{port} --environment_type=LOOPBACK")
        there = preparation.ensure_records(corpus, str(tmp_path / "there"), tokenizer, sink)
    finally:
        server.kill()
    assert there.splits == here.splits


def test_a_runner_that_cannot_start_is_told(corpus, tokenizer, tmp_path):
    pytest.importorskip("apache_beam", reason="pip install -e '.[beam]'")
    flags = "--runner=FlinkRunner --flink_job_server_jar=/no/such.jar"
    with pytest.raises(UserError, match="--runner=beam: Beam could not run the pipeline .*FlinkRunner.*"):
        preparation.ensure_records(corpus, str(tmp_path), tokenizer, beam_sink(flags))


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
