"""Runs by PJRT: the same weights as TensorFlow's, on any number of devices and processes, and from one to the other."""

import json

import pytest

from tests.commands.test_train import NO_DROPOUT, StopAfter, assert_equal, losses, weights
from tests.runtime.test_distribution import clusters_of, train_in_processes
from trainer.runtime import jax_library

pytest.importorskip("jax")
PJRT = "--set=runtime.distribution=pjrt"
DEFAULT = "--set=train.kernels=xla"  # whose dropout draws are the same


def train(cli, config_file, workdir, *arguments):
    status, _, log = cli("train", f"--config={config_file}", f"--workdir={workdir}", *arguments)
    assert status == 0, log
    return log


@pytest.fixture(scope="module")
def plain(tmp_path_factory, tiny_encoder, reviews):
    """A run by TensorFlow, with dropout."""
    from tests.conftest import run_cli, write_config

    folder = tmp_path_factory.mktemp("plain")
    config = write_config(folder, tiny_encoder, reviews)
    assert run_cli("train", f"--config={config}", f"--workdir={folder}/run", DEFAULT) == 0
    return folder / "run"


def test_one_device_draws_and_learns_as_tensorflow_does(cli, config_file, tmp_path, plain):
    log = train(cli, config_file, tmp_path / "run", PJRT)
    assert "devices: 1 x cpu, by PJRT (runtime.distribution=pjrt)" in log and "compiled whole by XLA" in log
    assert_equal(weights(plain, 12), weights(tmp_path / "run", 12), 2e-5)
    assert list(losses(plain).values()) == pytest.approx(list(losses(tmp_path / "run").values()), abs=1e-5)
    rates = [
        [line["learning_rate"] for line in map(json.loads, open(run / "metrics.jsonl")) if line["kind"] == "train"]
        for run in (plain, tmp_path / "run")
    ]
    assert rates[0] == pytest.approx(rates[1])


@pytest.mark.slow
def test_several_devices_and_steps_a_call_after_a_stop_elsewhere(cli, config_file, tmp_path):
    """Begun by TensorFlow, gone on on two devices, three steps a call, and finished on four: as if nothing had happened."""
    train(cli, config_file, tmp_path / "one", *NO_DROPOUT, DEFAULT)
    mixed = tmp_path / "mixed"
    with StopAfter(3):
        cli("train", f"--config={config_file}", f"--workdir={mixed}", *NO_DROPOUT, DEFAULT)
    with StopAfter(6):  # of this call, so step 9
        arguments = ["--set=runtime.cpu_devices=2", "--set=train.steps_per_execution=3"]
        _, _, log = cli("train", f"--config={config_file}", f"--workdir={mixed}", *NO_DROPOUT, PJRT, *arguments)
    assert "resumed from step 3" in log and "2 x cpu, by PJRT" in log
    log = train(cli, config_file, mixed, *NO_DROPOUT, PJRT, "--set=runtime.cpu_devices=4")
    assert "resumed from step 9" in log and "4 x cpu, by PJRT" in log
    assert_equal(weights(tmp_path / "one", 12), weights(mixed, 12), 5e-4)


def test_averages_evaluation_and_prediction(cli, config_file, tmp_path, reviews):
    """Two devices, averaged weights: what validation scored is what evaluate scores, by PJRT and by TensorFlow."""
    run, two = tmp_path / "run", "--set=runtime.cpu_devices=2"
    train(cli, config_file, run, PJRT, two, "--set=train.ema_decay=0.9", "--set=train.steps=4")
    best = json.loads((run / "checkpoints/best.json").read_text())
    for arguments in ([], ["--set=runtime.distribution=default"]):
        status, _, log = cli("evaluate", f"--workdir={run}", *arguments)
        assert status == 0, log
        scores = json.loads((run / "evaluation/validation.json").read_text())
        assert scores["accuracy"] == pytest.approx(best["score"])
    answers = [
        [
            json.loads(line)
            for line in cli("predict", f"--workdir={run}", f"--input={tmp_path}/validation.csv", "--output=-", one)[
                1
            ].splitlines()
        ]
        for one in (two, "--set=runtime.distribution=default")
    ]
    assert len(answers[0]) == len(answers[1]) == 32
    for by_pjrt, by_tensorflow in zip(*answers, strict=True):
        assert by_pjrt["label"] == by_tensorflow["label"] and by_pjrt["text"] == by_tensorflow["text"]
        assert by_pjrt["probability"] == pytest.approx(by_tensorflow["probability"], abs=1e-5)


@pytest.mark.slow
def test_replicas_draw_as_those_of_a_strategy(cli, config_file, tmp_path):
    two = "--set=runtime.cpu_devices=2"
    train(cli, config_file, tmp_path / "mirrored", two, DEFAULT, "--set=train.steps=4")
    train(cli, config_file, tmp_path / "pjrt", two, PJRT, "--set=train.steps=4")
    assert_equal(weights(tmp_path / "mirrored", 4), weights(tmp_path / "pjrt", 4), 2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_processes_equal_one(cli, config_file, tmp_path, count):
    same = (*NO_DROPOUT, "--set=train.steps=4", f"--set=train.batch_size={4 * count}")
    sets = [one.removeprefix("--set=") for one in (*same, PJRT)]
    outputs = train_in_processes(tmp_path / "all", config_file, sets, clusters_of(count), JAX_NUM_CPU_DEVICES="1")
    assert f"devices: {count} x cpu of {count} processes, by PJRT" in outputs[0]
    train(cli, config_file, tmp_path / "one", *same, DEFAULT)
    assert_equal(weights(tmp_path / "one", 4), weights(tmp_path / "all", 4), 2e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.kernels=native", "train.kernels=native, but XLA compiles the whole step"),
        ("train.jit_compile=false", "train.jit_compile=false: PJRT runs programs that XLA compiles whole; leave it out"),
        ("data.length_buckets=true data.max_examples_per_row=1", "data.length_buckets: a program takes one shape"),
        ("runtime.cpu_devices=3", "train.batch_size=8 cannot be shared by 3 replicas; use 9"),
        ("runtime.cpu_devices=5", "runtime.cpu_devices=5: JAX runs already, with 4 CPU device(s)"),
    ],
)
def test_what_pjrt_cannot_do_is_told(cli, config_file, tmp_path, change, message):
    status, _, error = cli("train", f"--config={config_file}", f"--workdir={tmp_path}/run", PJRT, "--set", *change.split())
    assert status == 1 and message in error, error


def test_without_jax_the_extra_is_named(cli, config_file, tmp_path, monkeypatch):
    jax_library.jax_library.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "jax", None)
    status, _, error = cli("train", f"--config={config_file}", f"--workdir={tmp_path}/run", PJRT)
    assert status == 1 and "runtime.distribution=pjrt and preflight need JAX" in error and "pip install -e '.[pjrt]'" in error
