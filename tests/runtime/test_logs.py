import json

import pytest
import tensorflow as tf

from trainer.runtime.logs import Meter, MetricsLog, ProgressBar, StartUp, duration, training_line


def test_metrics_file_and_tensorboard(tmp_path):
    log = MetricsLog(str(tmp_path))
    log.write(10, "train", {"loss": 0.5})
    log.write(20, "validation", {"accuracy": 0.75})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 10, "kind": "train", "loss": 0.5}, {"step": 20, "kind": "validation", "accuracy": 0.75}]
    events = [e for path in (tmp_path / "tensorboard").iterdir() for e in tf.compat.v1.train.summary_iterator(str(path))]
    values = {v.tag: tf.make_ndarray(v.tensor).item() for event in events for v in event.summary.value}
    assert values == {"train/loss": 0.5, "validation/accuracy": 0.75}


def test_lines_are_appended_and_a_line_cut_by_a_kill_is_dropped(tmp_path):
    log = MetricsLog(str(tmp_path))
    path = tmp_path / "metrics.jsonl"
    log.write(10, "train", {"loss": 0.5})
    inode = path.stat().st_ino
    log.write(20, "train", {"loss": 0.25})
    assert path.stat().st_ino == inode, "the file is not written anew for each line"
    path.write_text(path.read_text() + '{"step": 30, "ki')
    MetricsLog(str(tmp_path), 100)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 20]


def test_an_object_store_gets_the_lines_together(monkeypatch):
    from trainer import files

    writes = []
    write_text = files.write_text
    monkeypatch.setattr(files, "write_text", lambda *arguments: writes.append(1) or write_text(*arguments))
    log = MetricsLog("ram://metrics_of_a_run")
    for step in range(5):
        log.write(step, "train", {"loss": 0.5})
    assert writes == [] and not files.exists("ram://metrics_of_a_run/metrics.jsonl")
    log.flush()
    lines = files.read_text("ram://metrics_of_a_run/metrics.jsonl").splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(5)) and writes == [1]
    monkeypatch.setattr("trainer.runtime.logs.REMOTE_SECONDS", -1)
    log.write(5, "train", {"loss": 0.5})
    assert len(files.read_text("ram://metrics_of_a_run/metrics.jsonl").splitlines()) == 6


def test_a_resumed_log_drops_the_steps_it_repeats(tmp_path):
    for step in (10, 20, 30):
        MetricsLog(str(tmp_path), 100).write(step, "train", {"loss": 1.0})
    MetricsLog(str(tmp_path), 20).write(25, "train", {"loss": 2.0})
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [10, 20, 25]


def test_meter_and_line(monkeypatch):
    clock = iter([0.0, 2.0, 2.5, 102.5, 103.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    meter = Meter(total_steps=30, first_step=0, flops_per_token=1e9)
    values = meter.lap(10, tokens=1000, cells=2000, waited_seconds=0.1, peak_flops=1e12)
    assert values == {
        "tokens_per_second": 500.0, "padding_efficiency": 0.5, "data_wait_fraction": 0.05, "gflops_per_second": 500.0,
        "model_flops_utilization": 0.5, "seconds_per_step": 0.2, "seconds_left": 4.0,
    }  # fmt: skip
    with meter.paused():
        pass
    assert meter.lap(20, 10, 10, 0.0, 1e12)["seconds_per_step"] == pytest.approx(0.1), "a validation's time does not count"
    line = training_line(10, 30, {"loss": 0.5, "masked_lm_loss": 0.25}, {"learning_rate": 1e-4, **values})
    assert (
        line
        == "step 10/30  loss 0.5000  masked_lm_loss 0.2500  lr 1.00e-04  500 tokens/s  500 GFLOP/s  50% MFU  50% useful  5.0% waiting for data  4 s left"
    )


def test_no_utilization_above_one(monkeypatch):
    """The peak was then measured while the machine was busy: a figure over 100 % would say nothing."""
    clock = iter([0.0, 1.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    values = Meter(10, 0, flops_per_token=1e9).lap(1, tokens=1000, cells=1000, waited_seconds=0.0, peak_flops=9e11)
    assert "model_flops_utilization" not in values and values["gflops_per_second"] == 1000.0
    assert "MFU" not in training_line(1, 10, {"loss": 0.5}, {"learning_rate": 1e-4, **values})


def test_start_up_by_phases(monkeypatch):
    clock = iter([12.0, 15.5])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    start_up = StartUp(begun=10.0)
    start_up.done("imports")
    start_up.done("first step")
    assert start_up.seconds == {"imports": 2.0, "first step": 3.5}
    assert start_up.line() == "first step done 5.5 s after the start: imports 2.0, first step 3.5"


def test_durations():
    assert [duration(s) for s in (3, 200, 7500)] == ["3 s", "3 min 20 s", "2 h 5 min"]


def test_progress_bar_is_for_terminals(capsys, monkeypatch):
    ProgressBar(10).update(5)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    bar = ProgressBar(10)
    bar.update(5)
    bar.clear()
    assert "[###############...............] 5/10" in capsys.readouterr().err
