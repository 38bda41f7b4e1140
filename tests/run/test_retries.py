"""After NaN: stop, skip or a lower rate; written down, so that a resumed run goes the same way."""

import json

import pytest

from tests.commands.test_train import NO_DROPOUT
from trainer.run import assembly
from trainer.run.retries import Retries, Retry
from trainer.run.schema import TrainConfig
from trainer.runtime.faults import NotFiniteError

ERROR = NotFiniteError("the loss is nan at step 9", 9)


def test_what_the_config_asks_for():
    none = Retries()
    assert none.after(ERROR, TrainConfig(), 5) is None
    skipping = none.after(ERROR, TrainConfig(on_nan="skip"), 5)
    assert skipping.made == (Retry(5, skipped_steps=4),) and skipping.rate_factor == 1.0
    lower = TrainConfig(on_nan="lower_rate", max_nan_retries=2)
    twice = none.after(ERROR, lower, 5).after(ERROR, lower, 5)
    assert twice.rate_factor == 0.25 and twice.skipped_steps == 0
    assert twice.after(ERROR, lower, 5) is None, "bounded"


def test_a_run_that_begins_anew_knows_nothing_of_them(tmp_path, caplog):
    Retries((Retry(0, 2), Retry(10, 0, 0.5))).save(str(tmp_path))
    assert Retries.load(str(tmp_path), 10).made == (Retry(0, 2), Retry(10, 0, 0.5))
    assert "batches of 2 step(s) are left out, the learning rate is multiplied by 0.5" in caplog.text
    assert Retries.load(str(tmp_path), 5).made == (Retry(0, 2),)
    assert Retries.load(str(tmp_path / "other"), 0).made == ()


@pytest.fixture
def nan_once(monkeypatch):
    """Makes a weight NaN at the step that the checkpoint at step 5 is followed by; once."""
    from trainer.run.training import TrainingRhythm

    original, left = TrainingRhythm.on_train_batch_end, [1]

    def break_weights(rhythm, batch, logs=None):
        if rhythm._run.first_step + batch + 1 == 7 and left:
            left.pop()
            rhythm.model.trainable_variables[0].assign_add(float("nan") * rhythm.model.trainable_variables[0])
        original(rhythm, batch, logs)

    monkeypatch.setattr(TrainingRhythm, "on_train_batch_end", break_weights)


def test_a_run_leaves_the_batches_out_and_ends_well(cli, config_file, tmp_path, nan_once):
    status, _, log = cli(
        "train", f"--config={config_file}", f"--workdir={tmp_path}/run", "--set=train.on_nan=skip", *NO_DROPOUT
    )
    assert status == 0, log
    assert "going on from step 5, leaving out the batches of 3 step(s) (train.on_nan=skip, 1 of 3)" in log
    assert "resumed from step 5 of 12" in log and "best validation accuracy" in log
    stored = json.loads((tmp_path / "run/retries.json").read_text())["retries"]
    assert stored == [{"from_step": 5, "skipped_steps": 3, "rate_factor": 1.0}]
    status, _, log = cli("train", f"--workdir={tmp_path}/run")
    assert status == 0 and "the run is complete" in log


def test_a_lower_rate_from_the_checkpoint_on(cli, config_file, tmp_path, nan_once, monkeypatch):
    rates = []
    original = assembly.WarmupDecay

    def schedule(peak, *arguments):
        rates.append(peak)
        return original(peak, *arguments)

    monkeypatch.setattr(assembly, "WarmupDecay", schedule)
    status, _, log = cli("train", f"--config={config_file}", f"--workdir={tmp_path}/run", "--set=train.on_nan=lower_rate")
    assert status == 0 and "going on from step 5, with 0.5 times the learning rate" in log
    assert rates == [1e-3, 5e-4]


def test_a_run_that_stops_says_so(cli, config_file, tmp_path, nan_once):
    status, _, log = cli("train", f"--config={config_file}", f"--workdir={tmp_path}/run")
    assert status == 1 and "error: " in log and not (tmp_path / "run/retries.json").exists()
    status, _, log = cli("train", f"--config={config_file}", f"--workdir={tmp_path}/run")
    assert status == 0 and "resumed from step 5" in log
