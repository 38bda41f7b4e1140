"""Which devices are chosen and why, and what is said where they are not there."""

import json
import os
import subprocess
import sys

import pytest
import tensorflow as tf

from tests.conftest import ROOT, subprocess_environment
from trainer.errors import UserError
from trainer.runtime import distribution, target
from trainer.runtime.distribution import choose, worker_index


def test_auto_takes_the_cpu_and_says_so():
    placement = choose("auto")
    assert placement.kind == "default" and placement.replicas == 1 and placement.is_chief
    assert placement.reason == "device: the CPU (auto: no TPU named, no TF_CONFIG, no GPU)"
    assert placement.sum_over_workers(2.0) == 2.0


def test_logical_cpu_devices_are_mirrored():
    placement = choose("auto", cpu_devices=2)
    assert isinstance(placement.strategy, tf.distribute.MirroredStrategy) and placement.replicas == 2
    assert placement.reason == "devices: 2 logical CPU devices, mirrored (auto: runtime.cpu_devices=2)"
    with pytest.raises(UserError, match=r"runtime.cpu_devices=5: TensorFlow runs already, with 2 CPU device\(s\)"):
        choose("auto", cpu_devices=5)


def test_a_gpu_that_is_not_there():
    with pytest.raises(UserError, match="runtime.distribution=mirrored: TensorFlow sees no GPU here"):
        choose("mirrored")


def test_a_tpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(target, "TPU_DEVICE_FILES", ("/no/such/device*",))
    with pytest.raises(UserError, match="--tpu=local: this machine has no TPU chip"):
        choose("auto", tpu="local")

    def refuse(name):
        raise RuntimeError("Could not look up TPU\nmore")

    monkeypatch.setattr(distribution, "_connect", refuse)
    with pytest.raises(UserError, match="--tpu=my-tpu: the TPU cannot be reached: Could not look up TPU. Check that it exists"):
        choose("tpu", tpu="my-tpu")


def test_a_tpu_that_never_answers(monkeypatch):
    import threading

    release = threading.Event()
    monkeypatch.setattr(distribution, "_connect", lambda name: release.wait(30))
    with pytest.raises(UserError, match=r"no answer within 1 s \(runtime.tpu_connect_seconds\)"):
        choose("auto", tpu="my-tpu", tpu_connect_seconds=1)
    release.set()


def test_multi_worker_needs_a_cluster(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert worker_index() == 0
    with pytest.raises(UserError, match="runtime.distribution=multi_worker: TF_CONFIG is not set"):
        choose("multi_worker")
    monkeypatch.setenv("TF_CONFIG", "{nonsense")
    assert worker_index() == 0
    with pytest.raises(UserError, match="TF_CONFIG cannot be used: "):
        choose("auto")
    with pytest.raises(UserError, match="TF_CONFIG cannot be used: "):
        choose("pjrt")
    with_chief = {"cluster": {"chief": ["c:1"], "worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(with_chief))
    assert worker_index() == 1, "the chief is number 0"
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}))
    assert worker_index() == 1


def free_ports(count):
    import socket

    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def clusters_of(count):
    """TF_CONFIG of each of so many processes on this machine."""
    workers = [f"127.0.0.1:{port}" for port in free_ports(count)]
    return [{"cluster": {"worker": workers}, "task": {"type": "worker", "index": i}} for i in range(count)]


def train_in_processes(workdir, config_file, sets, clusters, **environment):
    """Runs `train` in one process for each TF_CONFIG; returns the outputs."""
    command = [sys.executable, "-m", "trainer", "train", f"--config={config_file}", f"--workdir={workdir}"]
    command += [f"--set={one}" for one in sets]
    environments = [subprocess_environment(**({"TF_CONFIG": json.dumps(c)} if c else {}), **environment) for c in clusters]
    processes = [
        subprocess.Popen(command, env=e, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for e in environments
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(clusters), "\n".join(outputs)
    return outputs


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_workers_equal_one_process(tmp_path, config_file, count):
    from trainer.runtime.checkpoints import read_variables

    sets = ["encoder.dropout_rate=0", "encoder.attention_dropout_rate=0", "task.head_dropout_rate=0", "train.steps=6"]
    sets += [f"train.batch_size={4 * count}"]
    outputs = train_in_processes(tmp_path / "all", config_file, sets, clusters_of(count))
    assert f"devices: worker 0 of {count}, {count} replicas in all (auto: TF_CONFIG names a cluster)" in outputs[0]
    train_in_processes(tmp_path / "one", config_file, sets, [None])
    one = read_variables(str(tmp_path / "one/checkpoints/step-00000006/weights"))
    several = read_variables(str(tmp_path / "all/checkpoints/step-00000006/weights"))
    assert set(one) == set(several) and os.path.exists(tmp_path / "all/checkpoints/best.json")
    gaps = {name: abs(one[name] - several[name]).max() for name in one if not name.startswith("optimizer/")}
    assert max(gaps.values()) < 2e-4, max(gaps, key=gaps.get)
