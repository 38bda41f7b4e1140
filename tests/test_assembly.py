import types

import pytest

from tests.conftest import tiny_config
from trainer import assembly, experiment
from trainer.errors import UserError
from trainer.experiment import TrainConfig
from trainer.runtime.distribution import Placement
from trainer.runtime.native import Kernels


def load(*sets):
    return experiment.load(None, sets)


def test_dropout_rates_of_the_run_win(tiny_encoder, tokenizer):
    resolved = load(f"encoder.init_from={tiny_encoder}", "encoder.dropout_rate=0.25", "encoder.attention_dropout_rate=0")
    bert_config = assembly.bert_config_of(resolved, tokenizer)
    assert (bert_config.hidden_dropout_prob, bert_config.attention_probs_dropout_prob) == (0.25, 0.0)
    assert assembly.bert_config_of(load(f"encoder.init_from={tiny_encoder}"), tokenizer).hidden_dropout_prob == 0.1


def test_flops_by_hand(tiny_encoder, tokenizer):
    resolved = load(f"encoder.init_from={tiny_encoder}", "task.class_names=[a, b]")
    assembled = assembly.build(resolved, tokenizer, tiny_config())
    # Two layers of 32 and 64: weights 2 · (4·32² + 2·32·64) = 16384; attention 12 · 2 · 32 · 16.
    assert assembly.training_flops_per_token(assembled, 16) == 6 * 16384 + 12 * 2 * 32 * 16


def test_float16_scales_its_loss_and_all_state_is_named(tiny_encoder, tokenizer):
    resolved = load(f"encoder.init_from={tiny_encoder}", "task.class_names=[a, b]", "train.precision=float16")
    assembled = assembly.build(resolved, tokenizer, tiny_config())
    optimizer = assembly.build_optimizer(resolved, assembled.encoder, 10)
    optimizer.build(assembled.model.trainable_variables)
    names = assembly.optimizer_variables(optimizer)
    assert {"optimizer/iterations", "optimizer/loss_scale", "optimizer/good_steps"} <= set(names)
    assert len(names) == 3 + 2 * len(assembled.model.trainable_variables)
    assert len(assembled.variables()) == 41 and "head/dense/kernel" in assembled.variables()


def devices_of(monkeypatch, kind, names):
    monkeypatch.setattr("tensorflow.config.list_logical_devices", lambda k: [name for name in names if name.startswith(k)])
    return Placement(types.SimpleNamespace(num_replicas_in_sync=len(names)), kind, "")


@pytest.mark.parametrize(
    ("asked", "kind", "devices", "is_whole", "line"),
    [
        (None, "default", ["CPU:0"], False, "matrix products by oneDNN, what lies between compiled by XLA (auto: a CPU; train"),
        (True, "default", ["CPU:0"], True, "compiled whole by XLA (train.jit_compile=true)"),
        (None, "default", ["GPU:0"], True, "compiled whole by XLA (auto: a GPU)"),
        (False, "default", ["GPU:0"], False, "matrix products by the GPU's library, what lies between compiled by XLA "),
        (None, "mirrored", ["GPU:0", "GPU:1"], False, "matrix products by the GPU's library"),
        (None, "tpu", ["TPU:0"], True, "compiled whole by XLA (a TPU)"),
    ],
)
def test_what_is_compiled_is_chosen_and_told(monkeypatch, asked, kind, devices, is_whole, line):
    placement = devices_of(monkeypatch, kind, devices)
    step = assembly.step_kernels(TrainConfig(jit_compile=asked, kernels="xla"), tiny_config(), placement)
    assert step.whole == is_whole and not step.native and step.line.startswith(line)


@pytest.mark.parametrize(
    ("asked", "seconds", "is_native", "line"),
    [
        ("auto", {True: 1.0, False: 1.1}, True, "layers and AdamW by operations of our own (our float32 products are 1.10 x"),
        (
            "auto",
            {True: 4.0, False: 1.0},
            False,
            "matrix products by oneDNN, what lies between compiled by XLA (auto: a CPU; our ",
        ),
        ("native", {True: 4.0, False: 1.0}, True, "layers and AdamW by operations of our own (our float32 products are 0.25 x"),
        (
            "xla",
            {True: 1.0, False: 1.1},
            False,
            "matrix products by oneDNN, what lies between compiled by XLA (auto: a CPU; tra",
        ),
    ],
)
def test_our_own_operations_are_chosen_by_their_products(monkeypatch, native, asked, seconds, is_native, line):
    placement = devices_of(monkeypatch, "default", ["CPU:0"])
    monkeypatch.setattr("trainer.runtime.native.product_seconds", lambda dtype, with_ours: seconds[with_ours])
    step = assembly.step_kernels(TrainConfig(kernels=asked), tiny_config(), placement)
    assert (step.whole, step.native) == (False, is_native) and step.line.startswith(line)


@pytest.mark.parametrize(
    ("asked", "ours", "has_compiler", "is_native"),
    [("auto", 1.0, True, True), ("xla", 1.0, True, False), ("auto", 9.0, True, False), ("native", 1.0, False, False)],
)
def test_evaluation_takes_our_own_operations_where_it_can(monkeypatch, native, asked, ours, has_compiler, is_native):
    """A run that was trained by them is scored without, where there is no compiler."""
    monkeypatch.setattr("trainer.runtime.native.product_seconds", lambda dtype, with_ours: ours if with_ours else 1.0)
    if not has_compiler:
        monkeypatch.setattr("trainer.models.native_forward.kernels", lambda _: Kernels(None, "no C++ compiler here"))
    encoder = types.SimpleNamespace(bert_config=tiny_config(), native=None)
    assembly.choose_inference_kernels(types.SimpleNamespace(encoder=encoder), TrainConfig(kernels=asked))
    assert encoder.native == is_native


def test_our_own_operations_that_cannot_be_had_are_told(monkeypatch):
    placement = devices_of(monkeypatch, "default", ["CPU:0"])
    monkeypatch.setattr("trainer.models.native_forward.kernels", lambda _: Kernels(None, "no C++ compiler here"))
    step = assembly.step_kernels(TrainConfig(), tiny_config(), placement)
    assert not step.native and step.line.endswith("(auto: a CPU; none of our own: no C++ compiler here)")
    with pytest.raises(
        UserError, match=r"train.kernels=native: none of our own: no C\+\+ compiler here; train.kernels=auto takes"
    ):
        assembly.step_kernels(TrainConfig(kernels="native"), tiny_config(), placement)
    with pytest.raises(UserError, match="train.kernels=native, but XLA compiles the whole step .*set train.jit_compile=false"):
        assembly.step_kernels(TrainConfig(kernels="native", jit_compile=True), tiny_config(), placement)


def test_a_precision_is_chosen_once(monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(assembly, "choose_precision", lambda placement: ("bfloat16", "because"))
    asked = load("encoder.init_from=x", "train.precision=auto")
    assert assembly.with_precision(asked, None).train.precision == "bfloat16"
    assert assembly.with_precision(asked, None, begun_with="float32").train.precision == "float32"
    assert assembly.with_precision(load("encoder.init_from=x"), None).train.precision == "float32"
    assert [record.message for record in caplog.records] == [
        "precision: bfloat16 (auto: because)",
        "precision: float32 (auto: as the run began)",
    ]


def test_auto_is_no_precision_to_restore_in(run_copy):
    with pytest.raises(UserError, match="train.precision=auto is for train and benchmark; name float32, bfloat16 or float16"):
        assembly.restore(str(run_copy), ("train.precision=auto",))
