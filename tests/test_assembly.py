import types

import pytest

from tests.conftest import tiny_config
from trainer import assembly, experiment
from trainer.runtime.distribution import Placement


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


@pytest.mark.parametrize(
    ("asked", "kind", "devices", "is_whole", "line"),
    [
        (None, "default", ["CPU:0"], False, "matrix products by oneDNN, what lies between compiled by XLA (auto: a CPU)"),
        (True, "default", ["CPU:0"], True, "compiled whole by XLA (train.jit_compile=true)"),
        (None, "default", ["GPU:0"], True, "compiled whole by XLA (auto: a GPU)"),
        (False, "default", ["GPU:0"], False, "matrix products by the GPU's library, what lies between compiled by XLA "),
        (None, "mirrored", ["GPU:0", "GPU:1"], False, "matrix products by the GPU's library"),
        (None, "tpu", ["TPU:0"], True, "compiled whole by XLA (a TPU)"),
    ],
)
def test_what_is_compiled_is_chosen_and_told(monkeypatch, asked, kind, devices, is_whole, line):
    monkeypatch.setattr("tensorflow.config.list_logical_devices", lambda k: [name for name in devices if name.startswith(k)])
    placement = Placement(types.SimpleNamespace(num_replicas_in_sync=len(devices)), kind, "")
    found, told = assembly.step_compilation(asked, placement)
    assert found == is_whole and told.startswith(line)
