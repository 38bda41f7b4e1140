"""`train.precision: auto`: what is chosen on which devices, and what it says."""

import types

import pytest

from trainer.runtime import precision
from trainer.runtime.distribution import Placement


def placement(kind="default", workers=1):
    return Placement(types.SimpleNamespace(num_replicas_in_sync=1), kind, "", workers=workers)


@pytest.mark.parametrize(
    ("seconds", "chosen", "told"), [(0.5, "bfloat16", "2.0 x"), (0.9, "float32", "1.1 x"), (2.0, "float32", "0.5 x")]
)
def test_on_a_cpu_it_is_measured(monkeypatch, seconds, chosen, told):
    monkeypatch.setattr(precision, "best_seconds", lambda dtype: seconds if dtype.name == "bfloat16" else 1.0)
    assert precision.choose(placement()) == (chosen, f"products in bfloat16 are {told} as fast as in float32 here")


def test_the_real_measurement_gives_one_of_both():
    chosen, told = precision.choose(placement())
    assert chosen in ("float32", "bfloat16") and "as fast" in told


def test_workers_choose_alike():
    assert precision.choose(placement("multi_worker", workers=2)) == ("float32", "several workers on CPUs")


@pytest.mark.parametrize(("capability", "chosen"), [((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")])
def test_gpus_have_it_from_ampere_on(monkeypatch, capability, chosen):
    monkeypatch.setattr("tensorflow.config.list_logical_devices", lambda kind: ["GPU:0"] if kind == "GPU" else [])
    monkeypatch.setattr("tensorflow.config.list_physical_devices", lambda kind: ["GPU:0"])
    monkeypatch.setattr("tensorflow.config.experimental.get_device_details", lambda gpu: {"compute_capability": capability})
    assert precision.choose(placement()) == (chosen, f"a GPU of compute capability {capability[0]}.{capability[1]}")


def test_a_tpu_has_it():
    assert precision.choose(placement("tpu")) == ("bfloat16", "a TPU")
