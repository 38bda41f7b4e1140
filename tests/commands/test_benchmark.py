import json

import pytest


def figures(cli, config_file, workdir, *more):
    status, out, error = cli("benchmark", f"--config={config_file}", f"--workdir={workdir}", "--steps=4", *more)
    assert status == 0, error
    return out, json.loads((workdir / "benchmark.json").read_text())


def test_training_steps_are_measured_and_profiled(cli, config_file, tmp_path):
    out, found = figures(cli, config_file, tmp_path / "w", "--profile", "--set=train.kernels=xla")
    assert found["what"] == "training" and found["steps"] == len(found["seconds_of_each_step"]) == 4
    assert found["traces_after_warm_up"] == 0 and 0 <= found["data_wait_fraction"] < 1
    # The layer's 4 · 32² + 2 · 32 · 64 weights, 6 FLOPs each: about 50,000 a token
    assert 4.5e4 < found["model_flops_per_second"] / found["tokens_per_second"] < 1e5
    assert found["model_flops_utilization"] == pytest.approx(found["model_flops_per_second"] / found["matmul_flops_per_second"])
    assert 0 < found["padding_efficiency"] <= 1 and found["peak_memory_bytes"] > 1e8
    assert any("MatMul" in cost["operation"] for cost in found["costliest"]) and len(found["costliest"]) == 10
    assert any(cost["operation"] == "compiled kernels" for cost in found["costliest"])
    assert "useful tokens/s" in out and "costliest operations" in out and f"all figures: {tmp_path}/w/benchmark.json" in out
    assert list((tmp_path / "w/profile").rglob("*.xplane.pb")), "TensorBoard reads the trace"


def test_synthetic_data_is_never_waited_for(cli, config_file, tmp_path):
    sets = ("--set=runtime.cpu_devices=2", "--set=train.steps_per_execution=3", "--set=train.kernels=native")
    out, found = figures(cli, config_file, tmp_path / "w", "--synthetic", "--profile", *sets)
    assert found["what"] == "synthetic" and found["data_wait_fraction"] < 0.01 and "one batch again and again" in out
    assert any("BertLayerGrad" in cost["operation"] for cost in found["costliest"]), "our own operations are seen, too"
    # Steps are counted one by one, whatever a call runs: 4 of 8 examples.
    assert found["steps"] == len(found["seconds_of_each_step"]) == 4
    assert found["examples_per_second"] * sum(found["seconds_of_each_step"]) == pytest.approx(32)


def test_the_input_pipeline_alone(cli, config_file, tmp_path):
    out, found = figures(cli, config_file, tmp_path / "w", "--input-only", "--set=runtime.cpu_devices=2")
    assert found["tokens_per_second"] > 0 and "only the input pipeline, 4 batches" in out


def test_nothing_is_left_without_a_workdir(cli, config_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    status, out, _ = cli("benchmark", f"--config={config_file}", "--steps=1", "--input-only")
    assert status == 0 and "all figures" not in out and sorted(tmp_path.rglob("*")) == before


def test_wrong_calls_are_told(cli, config_file):
    status, _, error = cli("benchmark")
    assert status == 1 and "--config is needed" in error
    status, _, error = cli("benchmark", f"--config={config_file}", "--input_only", "--synthetic")
    assert (
        status == 1 and "--input_only measures only the pipeline; it cannot be combined with --synthetic or --profile" in error
    )
    status, _, error = cli("benchmark", f"--config={config_file}", "--set=data.train=null")
    assert status == 1 and "data.train is not given" in error
    validation = [f"--set=data.records_dir={config_file.parent}/one", "--set=data.train=null"]
    assert cli("prepare", f"--config={config_file}", *validation, "--set=task.class_names=[negative, positive]")[0] == 0
    status, _, error = cli("benchmark", f"--config={config_file}", *validation, "--set=data.validation=null")
    assert status == 1 and "holds records of validation only, none to train on" in error
    status, _, error = cli("benchmark", "--steps=0")
    assert status == 2 and "steps" in error
