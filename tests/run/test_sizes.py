import types

from tests.conftest import tiny_config
from trainer.run import assembly, experiment, sizes


def test_flops_and_parameters_by_hand(tiny_encoder, tokenizer):
    resolved = experiment.load(None, [f"encoder.init_from={tiny_encoder}", "task.class_names=[a, b]"])
    assembled = assembly.build(resolved, tokenizer, tiny_config())
    # Two layers of 32 and 64: weights 2 · (4·32² + 2·32·64) = 16384; attention 12 · 2 · 32 · 16.
    assert sizes.training_flops_per_token(assembled, 16) == 6 * 16384 + 12 * 2 * 32 * 16
    # 30,522 words of 32 numbers are nearly all of it.
    assert sizes.describe_size(assembled) == "1.0 M parameters (1.0 M train)"


def test_a_split_in_words():
    manifest = types.SimpleNamespace(splits={"train": {"examples": 10_003, "tokens": 162_049}})
    assert sizes.split_summary(manifest, "train") == "10,003 examples of 16.2 tokens on average"
    assert sizes.mean_length(manifest, "train") == 162_049 / 10_003
