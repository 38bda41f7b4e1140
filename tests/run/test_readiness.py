"""What a run needs besides its steps: each check passes where it should, and says what to do where it should not."""

import os

import pytest

from trainer.data.records import Manifest
from trainer.run import experiment, readiness


def problems(checks):
    return [check.problem for check in checks if check.problem]


def load(**changes):
    sets = {"data.train": "gs://bucket/train.csv", "encoder.init_from": "a/hub-id", **changes}
    return experiment.load(None, [f"{key}={value}" for key, value in sets.items()])


def test_what_is_on_this_machine_only_is_told(tmp_path, monkeypatch):
    rows = tmp_path / "train.csv"
    rows.write_text("text,label\na,b\n")
    run = load(**{"data.train": rows})
    found = problems(readiness.path_checks(run, str(tmp_path / "run"), ()))
    assert len(found) == 2
    assert found[0].startswith(f"workdir={tmp_path}/run is on this machine only; a TPU's workers read gs://")
    assert found[1].startswith(f"data.train={rows} is on this machine only")
    assert problems(readiness.path_checks(run, str(tmp_path / "run"), (str(tmp_path),))) == [], "a mount that is named"
    assert not (tmp_path / "run").exists(), "the probe leaves nothing behind"
    assert problems(readiness.path_checks(run, None, (str(tmp_path),))) == [
        "--workdir is not given: nothing was checked of where the run writes"
    ]


def test_paths_that_are_not_there(tmp_path):
    run = load(**{"data.train": "ram://nothing/train.csv", "data.validation": "10%"})
    found = problems(readiness.path_checks(run, "ram://run", ("ram://",)))
    assert "data.train=ram://nothing/train.csv: there is nothing" in found
    assert not any("validation" in problem for problem in found), "a share is no path"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    assert readiness.probe(str(tmp_path / "run")).startswith(f"{tmp_path}/run cannot be written: ")


def test_a_file_where_a_folder_belongs(tmp_path):
    (tmp_path / "run").write_text("a file")
    assert readiness.probe(str(tmp_path / "run")).startswith(f"{tmp_path}/run cannot be written: ")


def test_records(run_copy):
    from trainer.run.assembly import saved_encoder

    manifest = Manifest.load(str(run_copy / "records"))
    tokenizer, bert_config = saved_encoder(str(run_copy))
    assert problems(readiness.record_checks(manifest, tokenizer, bert_config, 64, hosts=1)) == []
    assert problems(readiness.record_checks(manifest, tokenizer, bert_config, 64, hosts=4)) == [
        "data.shards: 1 shard(s) for 4 hosts; prepare with data.shards=32, so that each reads its own"
    ]
    bert_config.vocab_size = 100
    of_ids, of_length, of_vocabulary = problems(readiness.record_checks(manifest, tokenizer, bert_config, 8, hosts=1))
    assert of_ids.startswith("a record's input_ids has the id ") and of_ids.endswith("and the encoder has 100 tokens")
    assert of_length.startswith("the longest example has ") and of_length.endswith("tokens, and only 8 are allowed")
    assert of_vocabulary == "the vocabulary has 30,522 tokens, the encoder only 100"
    shard = run_copy / "records" / manifest.splits["train"]["shards"][0]["file"]
    shard.write_bytes(shard.read_bytes()[:-10])
    damaged, unread = problems(readiness.record_checks(manifest, tokenizer, saved_encoder(str(run_copy))[1], 64, hosts=1))
    assert damaged.startswith(f"{shard} has ") and "it was cut short" in damaged
    assert unread.startswith("a record of train cannot be read: ")


def test_versions(monkeypatch):
    checks = list(readiness.version_checks())
    assert any(check.what.startswith("transformers 4.57.6") for check in checks) and problems(checks) == []
    monkeypatch.setattr(readiness.importlib.metadata, "version", lambda name: "1.0")
    assert "transformers is 1.0; transformers==4.57.6 is what was tried" in problems(readiness.version_checks())

    def missing(name):
        raise readiness.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(readiness.importlib.metadata, "version", missing)
    assert "jax is not installed" in problems(readiness.version_checks())
