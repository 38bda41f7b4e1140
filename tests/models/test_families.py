"""The encoders of the family against PyTorch's (figures in family_outputs.json) and against their own TF classes."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from tests.models.family_golden import CONFIGS, IDS, values_of
from trainer.errors import UserError
from trainer.models.encoder import PACKED_INPUTS, BertEncoder, Pooler, check_fits
from trainer.models.families import FAMILIES
from trainer.models.initialization import config_of, load_encoder_weights, read_bert_config
from trainer.models.kernels.inference import ExportKernels
from trainer.models.kernels.native import NativeKernels
from trainer.models.kernels.native_inference import NativeExportKernels
from trainer.models.kernels.xla import XlaKernels
from trainer.runtime.randomness import random_scope
from trainer.serving.hugging_face import write_hugging_face
from trainer.tasks import pretraining

GOLDEN = json.loads(Path(__file__).with_name("family_outputs.json").read_text())
KINDS = list(CONFIGS)


def folder_of(kind, path, wrapper=""):
    """Writes a folder as the Hub has it, in PyTorch's layout."""
    weights = {wrapper + name: values_of(name, tuple(shape)) for name, shape in GOLDEN[kind]["shapes"].items()}
    safetensors.numpy.save_file(weights, path / "model.safetensors", {"format": "pt"})
    (path / "config.json").write_text(json.dumps({"model_type": kind, **CONFIGS[kind]}))
    return str(path)


def loaded(kind, path, kernels=None, wrapper="", **config):
    folder = folder_of(kind, path, wrapper)
    bert_config = read_bert_config(folder)
    for name, value in config.items():
        setattr(bert_config, name, value)
    encoder = BertEncoder(bert_config, kernels=kernels)
    report = load_encoder_weights(encoder, folder)
    assert not report.unused and not report.missing
    return encoder


def inputs_of(rows, positions, segments):
    values = (rows, np.ones_like(rows), positions, segments)  # token types that an encoder without them must not see
    return {name: tf.constant(np.array(value, np.int32)) for name, value in zip(PACKED_INPUTS, values, strict=True)}


def unpacked(kind):
    rows = np.array(IDS)
    inputs = inputs_of(rows, np.tile(np.arange(6), (2, 1)), np.array([[1] * 6, [1, 1, 1, 0, 0, 0]]))
    return without_types(kind, inputs)


def packed(kind):
    """Both texts in one row, with padding after them."""
    rows = np.array([[*IDS[0], *IDS[1][:3], 0, 0]])
    positions = np.array([[*range(6), *range(3), 0, 0]])
    return without_types(kind, inputs_of(rows, positions, np.array([[1] * 6 + [2] * 3 + [0] * 2])))


def without_types(kind, inputs):
    if FAMILIES[kind].has_types:
        inputs["token_type_ids"] = tf.zeros_like(inputs["token_type_ids"])
    return inputs


@pytest.mark.parametrize("kernels", [XlaKernels, NativeKernels, ExportKernels, NativeExportKernels])
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_pytorchs_packed_and_unpacked(kind, kernels, tmp_path, native, native_inference):
    first, second = (np.array(values) for values in GOLDEN[kind]["outputs"])
    problem = kernels.unfit(config_of({"model_type": kind, **CONFIGS[kind]}), "float32")
    if problem:
        assert kind in ("albert", "electra") or not FAMILIES[kind].packs, problem
        pytest.skip(problem)
    encoder = loaded(kind, tmp_path, kernels())
    found = encoder(unpacked(kind)).numpy()[..., :4]
    assert np.allclose(found[0], first, atol=1e-5) and np.allclose(found[1, :3], second, atol=1e-5)
    if not FAMILIES[kind].packs:
        return
    (row,) = encoder(packed(kind)).numpy()[..., :4]
    assert np.allclose(row[:6], first, atol=1e-5) and np.allclose(row[6:9], second, atol=1e-5)


@pytest.mark.parametrize("kernels", [XlaKernels, NativeKernels])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if FAMILIES[kind].packs])  # others are computed by that class
def test_gradients_are_those_of_the_tf_class(kind, kernels, tmp_path, native):
    if kernels.unfit(config_of({"model_type": kind, **CONFIGS[kind]}), "float32"):
        pytest.skip("the activation is not supported")
    encoder = loaded(kind, tmp_path, kernels(), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    inputs, mask = unpacked(kind), tf.constant([[1] * 6, [1, 1, 1, 0, 0, 0]])
    weigh = tf.random.stateless_normal([2, 6, 32], [1, 2]) * tf.cast(mask, tf.float32)[..., None]
    variables = encoder.model.trainable_variables
    found = []
    for is_ours in (True, False):
        with tf.GradientTape() as tape, random_scope(tf.constant([1, 2])):
            outputs = (
                encoder(inputs, training=True)
                if is_ours
                else encoder.model(tf.constant(IDS), attention_mask=mask, training=False).last_hidden_state
            )
            loss = tf.reduce_sum(outputs * weigh)
        found.append(tape.gradient(loss, variables))
    compared = 0
    for variable, ours, theirs in zip(variables, *found, strict=True):
        assert (ours is None) == (theirs is None), variable.name
        if ours is not None:
            ours, theirs = (tf.convert_to_tensor(gradient).numpy() for gradient in (ours, theirs))
            assert np.allclose(ours, theirs, atol=2e-5 * max(np.abs(theirs).max(), 1)), variable.name
            compared += 1
    assert compared >= 18


@pytest.mark.parametrize("kind", KINDS)
def test_weights_go_out_by_pytorchs_names(kind, tmp_path, tokenizer):
    (tmp_path / "in").mkdir()
    encoder = loaded(kind, tmp_path / "in", wrapper=f"{FAMILIES[kind].attribute}.")
    write_hugging_face(str(tmp_path / "out"), encoder, tokenizer, "BertModel", {}, ())
    written = safetensors.numpy.load_file(tmp_path / "out/model.safetensors")
    assert {name: list(array.shape) for name, array in written.items()} == GOLDEN[kind]["shapes"]
    assert all(np.array_equal(array, values_of(name, array.shape)) for name, array in written.items())
    stored = json.loads((tmp_path / "out/config.json").read_text())
    assert stored["model_type"] == kind and stored["architectures"] == [f"{FAMILIES[kind].prefix}Model"]
    again = BertEncoder(read_bert_config(str(tmp_path / "out")))
    (tmp_path / "out/model.safetensors").unlink()
    assert load_encoder_weights(again, str(tmp_path / "out")).source.endswith("tf_model.h5")
    assert np.allclose(again(unpacked(kind)), encoder(unpacked(kind)), atol=1e-6)


def test_heads_keep_their_class_where_it_is_the_same(tmp_path, tokenizer):
    head = {"classifier.weight": np.zeros([3, 32], np.float32), "classifier.bias": np.zeros(3, np.float32)}
    (tmp_path / "in").mkdir()
    encoder = loaded("roberta", tmp_path / "in")
    for architecture, expected, is_kept in (
        ("BertForTokenClassification", "RobertaForTokenClassification", True),
        ("BertForSequenceClassification", "RobertaModel", False),
    ):
        write_hugging_face(str(tmp_path / "out"), encoder, tokenizer, architecture, head, ("a", "b", "c"))
        assert json.loads((tmp_path / "out/config.json").read_text())["architectures"] == [expected]
        names = safetensors.numpy.load_file(tmp_path / "out/model.safetensors").keys()
        assert ("classifier.weight" in names) is is_kept and ("roberta.pooler.dense.bias" in names) is is_kept


def test_freezing_and_depths(tmp_path):
    distilbert = loaded("distilbert", tmp_path)
    assert distilbert.freeze(2) == ["embeddings", "layer 0", "layer 1"]
    names = [variable.name for variable in distilbert.trainable_variables]
    assert names and all("layer_._2" in name for name in names)
    assert {distilbert.depth_of(variable.name) for variable in distilbert.variables} == {0, 1, 2, 3}
    albert = BertEncoder(config_of({"model_type": "albert", **CONFIGS["albert"]}))
    with pytest.raises(ValueError, match="this encoder's layers share their weights; -1 freezes all of it"):
        albert.freeze(1)
    with pytest.raises(ValueError, match="this encoder's layers share their weights"):
        albert.reinitialize(1)
    assert albert.freeze(-1) == ["the whole encoder"] and not albert.trainable_variables


def test_what_an_encoder_has_not(tokenizer):
    electra = config_of({"model_type": "electra", **CONFIGS["electra"]})
    with pytest.raises(UserError, match="task.pooling: an encoder of type electra has no pooler; use mean or cls"):
        Pooler(BertEncoder(electra))
    roberta = config_of({"model_type": "roberta", **CONFIGS["roberta"]})
    with pytest.raises(UserError, match="task.name=pretraining trains encoders of type bert here; this one is of type roberta"):
        pretraining.Task(pretraining.Config(), tokenizer, 32).build_model(BertEncoder(roberta))
    assert check_fits(roberta, 120, 40, 2) is None, "a pair needs no types, and two positions are padding's"
    assert "is over the encoder's 40 positions" in check_fits(roberta, 120, 41, 2)
