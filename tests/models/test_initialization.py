import json

import numpy as np
import pytest
import safetensors.numpy

from tests.conftest import tiny_config
from trainer.errors import UserError
from trainer.models import initialization
from trainer.models.encoder import BertEncoder
from trainer.models.initialization import assign, load_encoder_weights, read_bert_config, variable_key


def test_every_weight_of_minilm_is_loaded_and_told(minilm):
    encoder = BertEncoder(read_bert_config(str(minilm)))
    report = load_encoder_weights(encoder, str(minilm))
    assert len(report.loaded) == 103 == len(encoder.model.weights) and not report.missing and not report.unused
    assert report.lines()[0].startswith("encoder weights: 103 loaded from ")
    stored = safetensors.numpy.load_file(minilm / "model.safetensors")
    assert np.array_equal(
        encoder.bert.encoder.layer[3].intermediate.dense.kernel, stored["encoder.layer.3.intermediate.dense.weight"].T
    )


def weights_of(encoder):
    return {variable_key(variable.name): variable.numpy() for variable in encoder.model.weights}


def test_a_partial_load_must_be_allowed_by_name():
    encoder = BertEncoder(tiny_config(vocab_size=10))
    weights = weights_of(encoder)
    del weights["pooler/dense/kernel"], weights["pooler/dense/bias"]
    weights["cls/predictions/bias"] = np.zeros(1)
    with pytest.raises(
        UserError, match=r"lacks 2 of the encoder's 39 weights: pooler/dense/kernel, pooler/dense/bias; .*\[pooler/\*\]"
    ):
        assign(encoder, weights, "file", ())
    report = assign(encoder, weights, "file", ("pooler/*",))
    assert report.missing == ("pooler/dense/kernel", "pooler/dense/bias") and report.unused == ("cls/predictions/bias",)
    assert "left random: pooler/dense/kernel, pooler/dense/bias" in "\n".join(report.lines())
    assert "not part of this model: cls/predictions/bias" in "\n".join(report.lines())


def test_another_shape_is_told():
    weights = weights_of(BertEncoder(tiny_config(vocab_size=10)))
    with pytest.raises(
        UserError, match=r"word_embeddings/weight has shape \[10, 32\], the encoder's config asks for \[11, 32\]"
    ):
        assign(BertEncoder(tiny_config(vocab_size=11)), weights, "file", ())


def test_quantized_weights_are_refused():
    encoder = BertEncoder(tiny_config(vocab_size=10))
    weights = {**weights_of(encoder), "pooler/dense/kernel": np.zeros([32, 32], np.int8)}
    with pytest.raises(UserError, match="file: pooler/dense/kernel holds integers: the weights are quantized"):
        assign(encoder, weights, "file", ())


def test_a_damaged_workdir_names_itself(run_copy):
    for path in (run_copy / "checkpoints").glob("best-*/weights.index"):
        path.write_bytes(b"damage")
    with pytest.raises(UserError, match="encoder.init_from: .*weights cannot be read: "):
        load_encoder_weights(BertEncoder(tiny_config()), str(run_copy))
    renamed = run_copy.rename(run_copy.with_name("run[1]"))
    with pytest.raises(UserError, match=r"encoder.init_from: .*run\[1\] contains '\[', and TensorFlow cannot read"):
        load_encoder_weights(BertEncoder(tiny_config()), str(renamed))


def test_configs_of_other_models_are_refused(tmp_path, minilm):
    with pytest.raises(UserError, match="has no config.json or bert_config.json"):
        read_bert_config(str(tmp_path))
    stored = json.loads((minilm / "config.json").read_text())
    (tmp_path / "bert_config.json").write_text(json.dumps({**stored, "model_type": "bert"}))
    assert read_bert_config(str(tmp_path)).hidden_size == 384
    (tmp_path / "config.json").write_text(json.dumps({**stored, "model_type": "gpt2"}))
    with pytest.raises(UserError, match="is a 'gpt2' model; supported are bert, roberta"):
        read_bert_config(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({**stored, "position_embedding_type": "relative_key"}))
    with pytest.raises(UserError, match="position_embedding_type 'relative_key'; BERT's is 'absolute'"):
        read_bert_config(str(tmp_path))


def test_an_earlier_workdir_gives_its_encoder(finished_run):
    encoder = BertEncoder(read_bert_config(str(finished_run)))
    report = load_encoder_weights(encoder, str(finished_run))
    assert len(report.loaded) == 23 and set(report.unused) == {"head/dense/kernel", "head/dense/bias"}


@pytest.mark.parametrize("other", ["tf_bert_decoder", "generator", "start/tf_bert_model", "optimizer/m/tf_bert_model"])
def test_an_earlier_workdir_gives_no_weight_of_another_model(finished_run, monkeypatch, other):
    """A decoder's weights are called as the encoder's."""
    key = "bert/encoder/layer_._0/intermediate/dense/bias"
    read = initialization.read_variables
    monkeypatch.setattr(initialization, "read_variables", lambda path: {**read(path), f"{other}/{key}": np.full([64], 7.0)})
    encoder = BertEncoder(read_bert_config(str(finished_run)))
    load_encoder_weights(encoder, str(finished_run))
    assert not (encoder.bert.encoder.layer[0].intermediate.dense.bias.numpy() == 7.0).any()


def test_a_workdir_without_checkpoint_is_told(run_copy):
    encoder = BertEncoder(read_bert_config(str(run_copy)))
    for name in ("best.json", "latest.json"):
        (run_copy / "checkpoints" / name).unlink()
    with pytest.raises(UserError, match="has no checkpoint yet"):
        load_encoder_weights(encoder, str(run_copy))
