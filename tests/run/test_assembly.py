import numpy as np
import pytest

from tests.conftest import tiny_config
from trainer.errors import UserError
from trainer.models.kernels.inference import ExportKernels
from trainer.run import assembly, experiment


def load(*sets):
    return experiment.load(None, sets)


def test_dropout_rates_of_the_run_win(tiny_encoder, tokenizer):
    resolved = load(f"encoder.init_from={tiny_encoder}", "encoder.dropout_rate=0.25", "encoder.attention_dropout_rate=0")
    bert_config = assembly.bert_config_of(resolved, tokenizer)
    assert (bert_config.hidden_dropout_prob, bert_config.attention_probs_dropout_prob) == (0.25, 0.0)
    assert assembly.bert_config_of(load(f"encoder.init_from={tiny_encoder}"), tokenizer).hidden_dropout_prob == 0.1


def test_float16_scales_its_loss_and_all_state_is_named(tiny_encoder, tokenizer):
    resolved = load(f"encoder.init_from={tiny_encoder}", "task.class_names=[a, b]", "train.precision=float16")
    assembled = assembly.build(resolved, tokenizer, tiny_config())
    optimizer = assembly.build_optimizer(resolved, assembled.encoder, 10, 5)
    optimizer.build(assembled.model.trainable_variables)
    names = assembly.optimizer_variables(optimizer)
    assert {"optimizer/iterations", "optimizer/loss_scale", "optimizer/good_steps"} <= set(names)
    assert len(names) == 3 + 2 * len(assembled.model.trainable_variables)
    assert len(assembled.variables()) == 41 and "head/dense/kernel" in assembled.variables()


def test_auto_is_no_precision_to_restore_in(run_copy):
    with pytest.raises(UserError, match="train.precision=auto is for train and benchmark; name float32, bfloat16 or float16"):
        assembly.restore(str(run_copy), ("train.precision=auto",))


def test_a_rebuilt_model_shares_the_encoder_and_has_an_equal_head(finished_run):
    restored = assembly.restore(str(finished_run))
    kernels = ExportKernels()
    again = restored.rebuilt(kernels)
    assert again.encoder.model is restored.assembled.encoder.model and again.encoder.kernels is kernels
    before, after = restored.assembled.variables(), again.variables()
    assert set(before) == set(after)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert after["head/dense/kernel"] is not before["head/dense/kernel"]
