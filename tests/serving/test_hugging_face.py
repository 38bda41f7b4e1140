"""Hugging Face files: transformers loads them back and gives the same outputs."""

import json
import subprocess

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from transformers import AutoTokenizer, TFBertModel

from trainer.models.encoder import BertEncoder
from trainer.models.initialization import load_encoder_weights, read_bert_config
from trainer.run import assembly


@pytest.fixture(scope="module")
def folder(exported_run):
    return exported_run / "huggingface"


@pytest.fixture(scope="module")
def restored(exported_run):
    return assembly.restore(str(exported_run))


def test_tfbertmodel_loads_it_back(folder, restored):
    model = TFBertModel.from_pretrained(folder, use_safetensors=False)
    ids = AutoTokenizer.from_pretrained(folder)("a fine thing", return_tensors="np")["input_ids"]
    expected = restored.assembled.encoder.model(ids).last_hidden_state
    assert np.allclose(model(ids).last_hidden_state, expected, atol=1e-5)


def test_pytorch_layout_loads_back_here_and_names_the_head(folder, restored):
    encoder = BertEncoder(read_bert_config(str(folder)))
    report = load_encoder_weights(encoder, str(folder))
    assert not report.missing and report.unused == ("classifier/bias", "classifier/kernel")
    assert all(
        np.array_equal(a, b)
        for a, b in zip(encoder.model.get_weights(), restored.assembled.encoder.model.get_weights(), strict=True)
    )
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    assert tensors["classifier.weight"].shape == (2, 32)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"] and config["id2label"] == {
        "0": "negative",
        "1": "positive",
    }


def test_pytorch_gives_the_same_probabilities(folder, restored, pytorch_python):
    script = (
        "import sys; from transformers import pipeline; "
        "print(pipeline('text-classification', sys.argv[1], top_k=None)(['a fine thing'])[0])"
    )
    out = subprocess.run([pytorch_python, "-c", script, str(folder)], capture_output=True, text=True, check=True).stdout
    found = {entry["label"]: entry["score"] for entry in eval(out)}
    ids = restored.assembled.task.example_of_texts(["a fine thing"])["input_ids"]
    batch = {
        "input_ids": tf.constant([ids]), "token_type_ids": tf.zeros([1, len(ids)], tf.int32),
        "position_ids": tf.range(len(ids))[None], "segment_ids": tf.ones([1, len(ids)], tf.int32),
        "cls_positions": tf.zeros([1, 1], tf.int32),
    }  # fmt: skip
    expected = tf.nn.softmax(restored.assembled.model.outputs_for(batch)["logits"][0, 0]).numpy()
    assert [found["negative"], found["positive"]] == pytest.approx(expected.tolist(), abs=1e-5)
