"""preflight on the command line: real steps by the real TPU compiler; what it says where something cannot be."""

import importlib.util
import json

import pytest
import tensorflow as tf

from trainer.run import compilation
from trainer.tasks import classification

pytestmark = pytest.mark.skipif(
    not (importlib.util.find_spec("jax") and importlib.util.find_spec("libtpu")), reason="the extra preflight is not installed"
)


def test_a_config_for_a_slice(cli, config_file, tmp_path, monkeypatch):
    arguments = (
        f"--config={config_file}",
        "--topology=v5e:2x2",
        f"--workdir={tmp_path}/run",
        f"--output={tmp_path}/found.json",
        "--set=runtime.data_service=[grpc://prep-1:5050]",  # a server that this machine need not reach
    )
    status, out, log = cli("preflight", *arguments, "--price=2")
    assert status == 1 and out.splitlines()[-2] == "not ready", log
    for line in ("train ", "train on one ", "evaluation ", "serving "):
        assert any(text.startswith(line) for text in out.splitlines()), line
    assert "v5e:2x2: 4 device(s) on 1 host(s); each v5e, 16.0 GiB, 197 TFLOP/s, 819 GB/s (https://cloud.google.com/tpu" in out
    assert f"workdir={tmp_path}/run is on this machine only; a TPU's workers read gs://" in out
    found = json.loads((tmp_path / "found.json").read_text())
    train, alone = found["steps"]["train"], found["steps"]["train on one"]
    weights = 12 * 1e6
    assert train["replicas"] == 4 and weights < train["arguments_bytes"] < train["peak_bytes"] < 2**30
    assert train["all_reduced_bytes"] > 3.9e6 and alone["all_reduced_bytes"] == 0, "a million gradients in float32"
    assert found["run"]["steps"] == 12 and found["run"]["dollars"] == pytest.approx(found["run"]["hours"] * 8)
    assert 0 < found["run"]["useful_cell_fraction"] <= 1 and found["precision"] == "float32"

    def refuse(tracer, step):
        raise AssertionError("the second time nothing is traced")

    monkeypatch.setattr(compilation.Tracer, "program", refuse)
    status, out, _ = cli("preflight", *arguments, f"--shared={tmp_path},{tmp_path.parent}")
    again = json.loads((tmp_path / "found.json").read_text())
    assert again["steps"]["train"] == {**train, "roofline_seconds": again["steps"]["train"]["roofline_seconds"]}
    unreached = [check["problem"] for check in again["checks"] if check["problem"]]
    assert status == (1 if unreached else 0) and all("encoder.init_from" in problem for problem in unreached)


@pytest.mark.slow
def test_what_does_not_fit_is_told_with_what_would(cli, config_file, tmp_path):
    """A chip of a few megabytes, by a table of one's own: the step for this machine is weighed against it."""
    chips = tmp_path / "chips.yaml"
    chips.write_text(
        "v5e: {memory_gib: 0.016, peak_tflops: 1, memory_gb_per_second: 1, interconnect_gb_per_second: 1, devices: 1}\n"
    )
    arguments = (f"--config={config_file}", "--topology=v5e:1x1", f"--workdir={tmp_path}/run", f"--chips={chips}")
    status, out, _ = cli("preflight", *arguments, f"--output={tmp_path}/found.json", "--set=train.batch_size=16")
    assert status == 1 and "does not fit" in out
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["knobs"]) >= {"train.recompute_activations=true", "data.max_seq_length=32"}
    assert ("the largest batch that fits: train.batch_size=" in out) or ("not even the smallest batch fits" in out)
    for change, works in found["knobs"].items():
        assert f"--set {change}: {'fits' if works else 'does not fit'}" in out


def test_what_cannot_be_a_program_is_named_with_its_line(cli, config_file, tmp_path, monkeypatch):
    original = classification.Task.loss

    def with_a_call_to_the_host(task, batch, outputs):
        losses, measures = original(task, batch, outputs)
        return {part: tf.numpy_function(lambda value: value, [value], tf.float32) for part, value in losses.items()}, measures

    monkeypatch.setattr(classification.Task, "loss", with_a_call_to_the_host)
    monkeypatch.setattr(compilation, "_code_hash", lambda: "with a call to the host")
    arguments = (f"--config={config_file}", "--topology=v6e:1x1", f"--workdir={tmp_path}/run")
    status, out, _ = cli("preflight", *arguments)
    assert status == 1
    assert "train: the train step cannot become one program: " in out and "calls back to the host" in out
    assert "test_preflight.py, line" in out, out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--topology is needed"),
        (("--topology=v5e",), "--topology: 'v5e' is no topology"),
        (("--topology=v6e:2x2", "--set=train.batch_size=9"), "train.batch_size=9 cannot be shared by 4 replicas; use 8"),
        (("--topology=v6e:2x2", "--chips=/no/file"), "/no/file"),
        (("--topology=v6e:2x2", "--price=-1"), "price"),
    ],
)
def test_wrong_calls(cli, config_file, tmp_path, arguments, message):
    status, _, error = cli("preflight", f"--config={config_file}", f"--workdir={tmp_path}/run", *arguments)
    assert status in (1, 2) and message in error
