"""What a run takes, by what the compiler says: rooflines by hand, bisection and knobs by a compiler that can be foreseen."""

import dataclasses

import pytest

from trainer.data.records import Manifest
from trainer.features import Feature
from trainer.run import compilation, experiment
from trainer.run.compilation import Subject
from trainer.runtime.pjrt import Devices
from trainer.runtime.topology import Chip, Compiled, Topology

CHIP = Chip("v5e", 16e9, 100e12, 1e12, 400e9, 1.2, "by hand")


def topology(devices=4):
    class Device:
        platform, device_kind = "tpu", "TPU v5 lite"

    found = tuple(Device() for _ in range(devices))
    return Topology("v5e:2x2", CHIP, Devices(found, found, 0, 1), 1)


def subject(*sets, devices=4):
    spec = {"input_ids": Feature("int32", "token"), "label": Feature("int32", "example")}
    split = {"examples": 10_000, "tokens": 320_000, "longest": 120, "values": {}}
    loaded = experiment.load(None, ["data.train=train.csv", "encoder.init_from=a/hub-id", *sets])
    return Subject(loaded, None, None, Manifest("records", spec, {}, {"train": split}, {}), topology(devices))


def test_a_roofline_by_hand():
    found = Compiled(
        0, 12_000_000, 0, flops=5e12, moved_bytes=10e9, accessed_bytes=30e9, all_reduced_bytes=1_000_000_000, seconds=1.0
    )
    line = compilation.roofline(found, topology(), replicas=4)
    assert line.compute_seconds == pytest.approx(0.05) and line.memory_seconds == pytest.approx(0.01)
    assert line.sum_seconds == pytest.approx(2 * 3 / 4 * 1e9 / 200e9)
    assert line.step_seconds == pytest.approx(0.05 + 0.0075) and line.bound == "compute"
    twice = compilation.roofline(found, topology(), replicas=4, parts=2)
    assert twice.compute_seconds == pytest.approx(0.1), "the body of the loop runs twice"
    assert twice.memory_seconds == pytest.approx((0.024e9 + 2 * (10e9 - 0.024e9)) / 1e12), "the optimizer only once"


def test_what_the_run_takes():
    run = subject("train.batch_size=64", "train.epochs=2")
    found = compilation.run_figures(run, compilation.Roofline(0.1, 0.2, 0.05))
    assert found["steps"] == 312 and found["epochs"] == pytest.approx(312 * 64 / 10_000)
    assert found["tokens_per_second"] == pytest.approx(64 * 32 / 0.25)
    assert found["hours"] == pytest.approx(312 * 0.25 / 3600) and found["dollars"] == pytest.approx(found["hours"] * 1.2 * 4)
    shape = run.shape()
    assert found["useful_cell_fraction"] == pytest.approx(64 * 32 / (shape.micro_rows * 128 * 4))
    no_price = dataclasses.replace(
        run, topology=dataclasses.replace(run.topology, chip=dataclasses.replace(CHIP, dollars_per_hour=None))
    )
    assert compilation.run_figures(no_price, compilation.Roofline(0.1, 0.2, 0.05))["dollars"] is None


@pytest.mark.parametrize("most", [4, 36, 100, 1020])
def test_the_largest_batch_is_found_by_bisection(monkeypatch, most):
    asked = []

    def fits(one):
        asked.append(one.experiment.train.batch_size)
        return asked[-1] <= most

    monkeypatch.setattr(compilation, "fits", fits)
    found = compilation.largest_batch(subject("train.batch_size=1024"), most_tries=9)
    assert found <= most < found * 17 / 16 + 4 and found % 4 == 0 and len(asked) <= 9


def test_nothing_fits(monkeypatch):
    monkeypatch.setattr(compilation, "fits", lambda one: False)
    assert compilation.largest_batch(subject("train.batch_size=32")) is None


def test_each_knob_is_tried(monkeypatch):
    tried = []

    def fits(one):
        train = one.experiment.train
        tried.append((train.gradient_accumulation_steps, train.recompute_activations, one.manifest.splits["train"]["longest"]))
        return train.gradient_accumulation_steps >= 4 or one.manifest.splits["train"]["longest"] <= 64

    monkeypatch.setattr(compilation, "fits", fits)
    assert compilation.knobs(subject("train.batch_size=64")) == {
        "train.gradient_accumulation_steps=2": False,
        "train.gradient_accumulation_steps=4": True,
        "train.recompute_activations=true": False,
        "data.max_seq_length=64": True,
    }
    assert tried == [(2, False, 120), (4, False, 120), (1, True, 120), (1, False, 64)]
