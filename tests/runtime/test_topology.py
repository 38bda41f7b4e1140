"""The real TPU compiler makes programs for slices that are not here; wrong names and tables give a clear error."""

import importlib.util

import pytest
import tensorflow as tf

from trainer.errors import UserError
from trainer.runtime import topology
from trainer.runtime.program import trace
from trainer.runtime.replicas import replica_context

pytest.importorskip("jax")
needs_libtpu = pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason="libtpu is not installed: the extra preflight brings it"
)


def step_of(size):
    weights = tf.Variable(tf.ones([size, size]))

    def step(batch):
        gradient = tf.matmul(batch["x"], weights)
        weights.assign_add(replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradient))
        return {"loss": tf.reduce_sum(weights)}

    return step, {"x": tf.TensorSpec([size, size])}


@needs_libtpu
@pytest.mark.parametrize(
    ("name", "devices"), [("v5e:2x2", 4), ("v6e:1x1", 1), ("v4:2x2x1", 8), ("v5p:2x2x1", 4), ("tpu7x:1x1x1", 2)]
)
def test_every_generation_compiles_a_step_with_its_sums(name, devices):
    found = topology.find(name)
    assert len(found.devices.all) == devices and found.hosts == 1 and not found.is_here
    step, spec = step_of(128)
    compiled = topology.compile_for(found, trace("train", step, spec, "tpu", devices))
    assert compiled.arguments_bytes == 2 * 128 * 128 * 4 and compiled.over_memory is None
    assert compiled.all_reduced_bytes == (128 * 128 * 4 if devices > 1 else 0)
    assert compiled.flops == pytest.approx(2 * 128**3, rel=0.05)


@needs_libtpu
def test_a_step_too_large_for_the_chip_is_told_with_both_numbers():
    def square(batch):
        return {"product": tf.matmul(batch["x"], batch["x"], transpose_b=True)}  # 40 GB

    program = trace("train", square, {"x": tf.TensorSpec([100_000, 64])}, "tpu")
    compiled = topology.compile_for(topology.find("v5e:1x1"), program)
    needed, there = compiled.over_memory
    assert needed > there and there == pytest.approx(15.75 * 2**30, rel=0.01)


def test_this_machine_is_a_topology_too():
    found = topology.find("local", price=2.0, cpu_devices=2)
    assert found.is_here and found.chip.name == "CPU" and found.chip.source == "measured now, in float32"
    assert found.chip.dollars_per_hour == 1.0 and found.chip.peak_flops > 1e9 and found.chip.memory_bytes > 2**28
    step, spec = step_of(64)
    assert topology.compile_for(found, trace("train", step, spec, "cpu", 2)).arguments_bytes == 2 * 64 * 64 * 4


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 24.81G of 15.75G hbm.", (24.81, 15.75)),
        ("the total memory required for HLO temporaries (178.06G) exceeds available HBM (15.75G)", (178.06, 15.75)),
        ("INTERNAL: something else", None),
        ("RESOURCE_EXHAUSTED: quota", None),
    ],
)
def test_what_the_compiler_says_of_memory(message, found):
    sizes = topology.over_memory(message)
    assert sizes == (tuple(pytest.approx(size * 2**30) for size in found) if found else None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e", "--topology: 'v5e' is no topology; write a generation and its shape, as v5e:2x2, or local"),
        ("v5g:2x2", "--topology: no figures for 'v5g'; did you mean"),
        pytest.param("v5e:0x2", "--topology=v5e:0x2: the TPU compiler knows no such slice", marks=needs_libtpu),
    ],
)
def test_a_topology_that_is_none_is_told(name, message):
    with pytest.raises(UserError, match=message):
        topology.find(name)


def test_a_table_of_ones_own(tmp_path):
    path = tmp_path / "chips.yaml"
    path.write_text("v5e: {memory_gib: 16}\n")
    with pytest.raises(UserError, match=r"--chips: .*chips.yaml is no table of chips \('peak_tflops'\); copy .* and edit it"):
        topology.chips_in(str(path))
    path.write_text("[1, 2\n")
    with pytest.raises(UserError, match="is no table of chips"):
        topology.chips_in(str(path))
    assert {"v4", "v5e", "v5p", "v6e", "tpu7x"} <= set(topology.chips_in(None))
    assert all(figures["source"].startswith("https://") for figures in topology.chips_in(None).values())


@needs_libtpu
@pytest.mark.parametrize(
    ("name", "peak"), [("v5e:2x2", 4 * 197e12), ("v5p:1x1x1", 459e12), ("v6e:1x1", 918e12), ("v4:1x1x1", 275e12)]
)
def test_the_published_peak_of_devices_that_jax_names(name, peak):
    """As JAX names them: "TPU v5 lite" is not "TPU v5"."""
    assert topology.published_peak_flops(topology.find(name).devices) == peak


def test_devices_that_no_table_has():
    class Device:
        platform, device_kind = "tpu", "TPU v99"

    assert topology.published_peak_flops(topology.pjrt.Devices((Device(),), (Device(),), 0, 1)) == float("inf")
