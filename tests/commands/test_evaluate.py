import json

import pytest


@pytest.mark.parametrize("sets", [(), ("--set=runtime.cpu_devices=2",)])
def test_scores_are_the_same_on_one_and_two_replicas(cli, run_copy, sets):
    config = run_copy / "config.yaml"
    if sets:
        config.write_text(config.read_text().replace("cpu_devices: 1", "cpu_devices: 2"))
    status, out, log = cli("evaluate", f"--workdir={run_copy}", "--split=test")
    assert status == 0 and "accuracy: " in out and f"all scores: {run_copy}/evaluation/test.json" in out
    scores = json.loads((run_copy / "evaluation/test.json").read_text())
    best = json.loads((run_copy / "checkpoints/best.json").read_text())
    assert scores["examples"] == 32 == sum(map(sum, scores["confusion_matrix"]))
    assert scores["accuracy"] == best["score"] and scores["step"] == best["step"]
    assert ("2 logical CPU devices" in log) == bool(sets)


def test_other_splits_and_folders_are_told(cli, run_copy, tmp_path):
    status, _, error = cli("evaluate", f"--workdir={run_copy}", "--split=tset")
    assert (
        status == 1 and "--split: 'tset' is not one of this run's splits train, validation, test; did you mean 'test'?" in error
    )
    status, _, error = cli("evaluate", f"--workdir={tmp_path}")
    assert status == 1 and "holds no config.yaml; train there first" in error
    (tmp_path / "file").write_text("")
    assert f"--workdir: {tmp_path}/file is a file; train there first" in cli("evaluate", f"--workdir={tmp_path}/file")[2]
    status, _, error = cli("evaluate", f"--workdir={tmp_path}/run_cop")
    assert status == 1 and f"there is no folder {tmp_path}/run_cop; did you mean 'run_copy'?" in error
    (run_copy / "checkpoints/config.json").unlink()
    status, _, error = cli("evaluate", f"--workdir={run_copy}")
    assert status == 1 and f"{run_copy}/checkpoints/config.json is missing: it is damaged" in error
    (run_copy / "seals.json").unlink()
    status, _, error = cli("evaluate", f"--workdir={run_copy}")
    assert status == 1 and "has no trained model yet; run train first" in error


def test_the_runs_records_are_enough(cli, run_copy):
    config = run_copy / "config.yaml"
    config.write_text(config.read_text().replace("train.csv", "gone.csv"))
    assert cli("evaluate", f"--workdir={run_copy}", "--split=test")[0] == 0


def test_a_cluster_is_not_waited_for(cli, run_copy, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}')
    assert cli("evaluate", f"--workdir={run_copy}")[0] == 0


def test_another_test_set_may_be_named(cli, run_copy, tmp_path):
    (tmp_path / "mine.csv").write_text("text,label\ngood thing,positive\nbad thing,negative\n")
    status, out, _ = cli("evaluate", f"--workdir={run_copy}", "--split=test", f"--set=data.test={tmp_path}/mine.csv")
    assert status == 0 and "examples: 2" in out


def test_what_cannot_be_scored_is_told(cli, run_copy, tmp_path):
    (tmp_path / "mine.csv").write_text("text,label\nthing,unknown\n")
    sets = (f"--set=data.test={tmp_path}/mine.csv", "--set=data.max_rejected_fraction=1")
    status, _, error = cli("evaluate", f"--workdir={run_copy}", "--split=test", *sets)
    assert status == 1 and "data.test: every row was rejected; there is nothing to score" in error
    run_copy.rename(run_copy.with_name("run[1]"))
    status, _, error = cli("evaluate", f"--workdir={tmp_path}/run[1]")
    assert status == 1 and "TensorFlow cannot read checkpoints from such a path" in error


@pytest.mark.slow
def test_records_alone_are_scored_wherever_they_are(cli, config_file, tmp_path):
    run, alone = f"--workdir={tmp_path}/run", ["--set=data.train=null", "--set=data.validation=null"]
    assert cli("prepare", f"--config={config_file}", f"--set=data.records_dir={tmp_path}/records")[0] == 0
    assert cli("train", f"--config={config_file}", run, *alone, f"--set=data.records_dir={tmp_path}/records")[0] == 0
    status, out, _ = cli("evaluate", run, "--split=validation")
    assert status == 0 and "examples: 32" in out
    (tmp_path / "records").rename(tmp_path / "moved")
    moved = cli("evaluate", run, "--split=validation", f"--set=data.records_dir={tmp_path}/moved")
    assert moved[:2] == (0, out)
    status, _, error = cli("evaluate", run, "--split=test", f"--set=data.records_dir={tmp_path}/moved")
    assert (
        status == 1
        and "'test' is not one of this run's splits train, validation. Rows of a further one are named with --set" in error
    )
    status, _, log = cli("export", run)
    assert status == 0 and "compared without the run's own rows: none are named" in log


def test_scores_are_not_lost_when_the_workdir_is_read_only(cli, run_copy, monkeypatch):
    def refuse(path, value):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("trainer.commands.evaluate.files.write_json", refuse)
    status, out, error = cli("evaluate", f"--workdir={run_copy}", "--split=test")
    assert status == 1 and "could not be stored in" in error and "Permission denied" in error
    assert json.loads(out.splitlines()[-1])["examples"] == 32 and "accuracy: " in out
