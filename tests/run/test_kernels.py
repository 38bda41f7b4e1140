"""What computes a run: chosen by config, devices and measurements, once, and the same for all workers and after a resume."""

import types

import pytest
from transformers import BertConfig

from tests.conftest import tiny_config
from trainer.errors import UserError
from trainer.models.kernels.native import NativeKernels
from trainer.models.kernels.native_library import NativeLibrary
from trainer.models.kernels.xla import XlaKernels
from trainer.run import experiment, kernels
from trainer.run.schema import ExportConfig, TrainConfig
from trainer.runtime.distribution import Placement


def load(*sets):
    return experiment.load(None, ["encoder.init_from=x", *sets])


def placement(kind="default", workers=1, replicas=1, worker=0):
    return Placement(types.SimpleNamespace(num_replicas_in_sync=replicas), kind, "", worker=worker, workers=workers)


def devices_of(monkeypatch, kind, names):
    monkeypatch.setattr("tensorflow.config.list_logical_devices", lambda k: [name for name in names if name.startswith(k)])
    return placement(kind, replicas=len(names))


def measured(monkeypatch, seconds):
    """Makes `seconds[kernels' class]`, or a function of class and dtype, the time of a product."""
    found = seconds if callable(seconds) else lambda kind, dtype: seconds[kind]
    monkeypatch.setattr(kernels, "product_seconds", lambda *products: tuple(found(*product) for product in products))


def no_compiler(monkeypatch):
    monkeypatch.setattr("trainer.models.kernels.native.library", lambda _: NativeLibrary(None, "no C++ compiler here"))


@pytest.mark.parametrize(
    ("asked", "kind", "devices", "is_whole", "line"),
    [
        ("null", "default", ["CPU:0"], False, "matrix products by oneDNN, XLA kernels between them (train.kernels=xla)"),
        ("true", "default", ["CPU:0"], True, "compiled whole by XLA (train.jit_compile=true)"),
        ("null", "default", ["GPU:0"], True, "compiled whole by XLA (auto: a GPU)"),
        ("false", "default", ["GPU:0"], False, "matrix products by the GPU's library, XLA kernels between them (train.jit"),
        ("null", "mirrored", ["GPU:0", "GPU:1"], False, "matrix products by the GPU's library"),
        ("null", "tpu", ["TPU:0"], True, "compiled whole by XLA (a TPU)"),
    ],
)
def test_what_xla_compiles(monkeypatch, asked, kind, devices, is_whole, line):
    where = devices_of(monkeypatch, kind, devices)
    resolved, step = kernels.choose_step(load(f"train.jit_compile={asked}", "train.kernels=xla"), tiny_config(), where)
    assert step.whole == is_whole and isinstance(step.kernels, XlaKernels) and step.line.startswith(line)
    assert step.target == devices[0][:3].lower() and resolved.train.kernels == "xla"


@pytest.mark.parametrize(
    ("asked", "ours", "chosen", "line"),
    [
        ("auto", 1.0, "native", "native kernels for the layers and AdamW (native float32 products run at 1.10 x the speed"),
        ("auto", 4.4, "xla", "matrix products by oneDNN, XLA kernels between them (native float32 products run at 0.25 x"),
        ("native", 4.4, "native", "native kernels for the layers and AdamW (train.kernels=native)"),
        ("xla", 1.0, "xla", "matrix products by oneDNN, XLA kernels between them (train.kernels=xla)"),
    ],
)
def test_native_kernels_are_chosen_by_their_products(monkeypatch, native, asked, ours, chosen, line):
    measured(monkeypatch, {NativeKernels: ours, XlaKernels: 1.1})
    resolved, step = kernels.choose_step(load(f"train.kernels={asked}"), tiny_config(), placement())
    assert not step.whole and step.kernels.name == chosen == resolved.train.kernels and step.line.startswith(line)


@pytest.mark.parametrize("saved", ["native", "xla"])
def test_a_resumed_run_keeps_its_kernels_whatever_is_measured(monkeypatch, native, saved):
    measured(monkeypatch, {NativeKernels: 9.0 if saved == "native" else 0.1, XlaKernels: 1.0})
    begun_with = TrainConfig(kernels=saved)
    resolved, step = kernels.choose_step(load(), tiny_config(), placement(), begun_with)
    assert step.kernels.name == saved == resolved.train.kernels and "(as the run began)" in step.line
    other = "xla" if saved == "native" else "native"
    assert kernels.choose_step(load(f"train.kernels={other}"), tiny_config(), placement(), begun_with)[1].kernels.name == other


def test_native_kernels_that_are_not_available(monkeypatch):
    no_compiler(monkeypatch)
    _, step = kernels.choose_step(load(), tiny_config(), placement())
    assert step.kernels.name == "xla" and step.line.endswith("(native kernels are not available: no C++ compiler here)")
    with pytest.raises(UserError, match=r"train.kernels=native: native .*: no C\+\+ compiler here; train.kernels=auto takes"):
        kernels.choose_step(load("train.kernels=native"), tiny_config(), placement())
    for asked in ("auto", "native"):  # the saved config names what was chosen
        with pytest.raises(UserError, match="this run began with train.kernels=native, which cannot .*--set train.kernels=xla"):
            kernels.choose_step(load(f"train.kernels={asked}"), tiny_config(), placement(), TrainConfig(kernels="native"))


def test_native_kernels_do_not_go_with_a_step_compiled_whole(monkeypatch):
    with pytest.raises(UserError, match="train.kernels: native kernels cannot run in a step that XLA compiles whole"):
        load("train.kernels=native", "train.jit_compile=true")
    for names, kind, problem in ((["GPU:0"], "default", "XLA compiles the whole step"), (["GPU:0"] * 2, "mirrored", "on GPUs")):
        where = devices_of(monkeypatch, kind, names)
        with pytest.raises(UserError, match=f"train.kernels=native, but .*{problem}.*; --set train.kernels=xla"):
            kernels.choose_step(load("train.kernels=native"), tiny_config(), where)


def test_several_replicas_cannot_be_compiled_whole():
    with pytest.raises(UserError, match="train.jit_compile=true: XLA cannot compile the whole step for 2 replicas"):
        kernels.choose_step(load("train.jit_compile=true"), tiny_config(), placement("mirrored", replicas=2))


class Worker(Placement):
    """One of two workers, whose collectives are played by a script of the other one's values."""

    def sum_over_workers(self, value):
        return value + self.others.pop(0)


@pytest.mark.parametrize(
    ("worker", "others", "chosen"),
    [
        (0, [1.0, 0.0], "native"),  # the chief finds its products fast enough
        (1, [1.0, 1.0], "native"),  # another worker takes the chief's choice, whatever it measures itself
        (1, [1.0, 0.0], "xla"),
        (0, [0.0, 0.0], "xla"),  # the other worker has no compiler
    ],
)
def test_all_workers_take_the_chiefs_choice(monkeypatch, native, worker, others, chosen):
    measured(monkeypatch, {NativeKernels: 1.0 if worker == 0 else 9.0, XlaKernels: 1.0})
    where = Worker(types.SimpleNamespace(num_replicas_in_sync=2), "multi_worker", "", worker=worker, workers=2)
    object.__setattr__(where, "others", list(others))
    assert kernels.choose_step(load(), tiny_config(), where)[1].kernels.name == chosen
    assert where.others == [], "all workers meet in the same collectives"


@pytest.mark.parametrize(
    ("asked", "ours", "has_compiler", "chosen"),
    [("auto", 1.0, True, "native"), ("xla", 1.0, True, "xla"), ("auto", 9.0, True, "xla"), ("native", 1.0, False, "xla")],
)
def test_evaluation_takes_native_kernels_where_it_can(monkeypatch, native, asked, ours, has_compiler, chosen):
    """A run that was trained with them is scored without, where there is no compiler."""
    measured(monkeypatch, {NativeKernels: ours, XlaKernels: 1.0})
    if not has_compiler:
        no_compiler(monkeypatch)
    assert kernels.for_inference(TrainConfig(kernels=asked), tiny_config()).name == chosen


def test_a_precision_is_chosen_once(monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(kernels, "best_precision", lambda placement: ("bfloat16", "because"))
    asked = load("train.precision=auto")
    assert kernels.with_precision(asked, None).train.precision == "bfloat16"
    assert kernels.with_precision(asked, None, begun_with="float32").train.precision == "float32"
    assert kernels.with_precision(load(), None).train.precision == "float32"
    assert [record.message for record in caplog.records] == [
        "precision: bfloat16 (auto: because)",
        "precision: float32 (auto: as the run began)",
    ]


@pytest.mark.parametrize(
    ("seconds", "chosen", "speedup"), [(0.5, "bfloat16", "2.00 x"), (0.9, "float32", "1.11 x"), (2.0, "float32", "0.50 x")]
)
def test_precision_on_a_cpu_is_measured(monkeypatch, native, seconds, chosen, speedup):
    measured(monkeypatch, lambda kind, dtype: seconds if dtype.name == "bfloat16" and kind is NativeKernels else 1.0 + seconds * (
        dtype.name == "bfloat16"))  # fmt: skip
    expected = f"products in bfloat16 are {speedup} as fast as in float32 here"
    assert kernels.best_precision(placement()) == (chosen, expected)


def test_the_real_measurement_favours_the_faster_product():
    chosen, reason = kernels.best_precision(placement())
    speedup = float(reason.split()[4])
    assert (chosen == "bfloat16") == (speedup >= kernels.WORTH_IT) or abs(speedup - kernels.WORTH_IT) < 0.06


def test_workers_on_cpus_choose_the_same_precision():
    assert kernels.best_precision(placement("multi_worker", workers=2)) == ("float32", "several workers on CPUs")


@pytest.mark.parametrize(("capability", "chosen"), [((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")])
def test_gpus_have_bfloat16_from_ampere_on(monkeypatch, capability, chosen):
    where = devices_of(monkeypatch, "default", ["GPU:0"])
    monkeypatch.setattr("tensorflow.config.list_physical_devices", lambda kind: ["GPU:0"])
    monkeypatch.setattr("tensorflow.config.experimental.get_device_details", lambda gpu: {"compute_capability": capability})
    assert kernels.best_precision(where) == (chosen, f"a GPU of compute capability {capability[0]}.{capability[1]}")


def test_a_tpu_has_bfloat16():
    assert kernels.best_precision(placement("tpu")) == ("bfloat16", "a TPU")


def test_an_export_holds_its_weights_unless_they_are_too_large(native_inference):
    section = load().export
    for size, name in ((1 << 20, "export"), (kernels.MAX_HELD_BYTES + 1, "xla")):
        found = kernels.for_export(section, BertConfig(), "float32", size)
        assert found.kernels.name == name and found.library is None
    found = kernels.for_export(load("export.kernels=native").export, BertConfig(), "float32", 1 << 40)
    assert found.kernels.name == "native export" and found.library.exists()


def test_an_export_that_is_not_possible_is_known_before_training(native_inference):
    native = ExportConfig(kernels="native")
    assert kernels.export_problem(native, tiny_config(), "float32") is None
    problem = kernels.export_problem(native, tiny_config(hidden_act="relu"), "float32")
    assert problem.startswith("export.kernels=native: ") and problem.endswith("export.kernels=tensorflow works everywhere")
    assert kernels.export_problem(ExportConfig(), tiny_config(hidden_act="relu"), "float32") is None
    with pytest.raises(UserError, match="export.kernels=native: "):
        kernels.for_export(native, tiny_config(hidden_act="relu"), "float32", 0)
