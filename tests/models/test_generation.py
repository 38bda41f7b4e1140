"""The encoder–decoder beside transformers' PyTorch EncoderDecoderModel: logits and every kind of search, also compiled by XLA."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from transformers import BertConfig

from trainer.data.packing import pack
from trainer.features import TOKENS
from trainer.models.decoder import BertDecoder
from trainer.models.encoder import BertEncoder, packed_inputs
from trainer.models.generation import GenerationModel
from trainer.models.heads import PretrainingHeads
from trainer.models.kernels.native import NativeKernels
from trainer.models.search import Search
from trainer.serving.hugging_face import pytorch_name
from trainer.tasks.generation import TARGET_TOKENS

GOLDEN = json.loads((Path(__file__).parent / "generation_outputs.json").read_text())
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CONFIG = BertConfig(vocab_size=60, max_position_embeddings=40, hidden_dropout_prob=0, attention_probs_dropout_prob=0, **SIZES)
SPEC = {"input_ids": TOKENS["input_ids"], **TARGET_TOKENS}


def _fill(variable, name):
    """Gives a variable the weight that PyTorch's parameter of this name has in the golden model."""
    if name.endswith("predictions.bias"):
        value = np.zeros(variable.shape)
        value[3] = 7.5
    elif len(variable.shape) == 1:
        value = np.full(variable.shape, float("LayerNorm.weight" in name))
    else:
        is_kernel = variable.name.endswith("kernel:0")
        shape = variable.shape[::-1] if is_kernel else variable.shape
        value = np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape) * (2.0 if "embeddings" in name else 0.35)
        value = value.T if is_kernel else value
    variable.assign(value)


def model_of(precision="float32", share_embeddings=True, kernels=None, **how):
    sources = packed_inputs()
    names = ("target_input_ids", "target_position_ids", "target_segment_ids")
    targets = {name: keras.Input([None], dtype="int32", name=name) for name in names}
    encoder = BertEncoder(CONFIG, precision, kernels=kernels)
    decoder = BertDecoder(encoder, None, share_embeddings)
    head = PretrainingHeads(decoder, has_pairs=False)
    logits = head(decoder(targets, encoder(sources), sources["segment_ids"]))["masked_lm_logits"]
    model = GenerationModel({**sources, **targets}, {"target_logits": logits})
    for variable in encoder.model.weights:
        _fill(variable, pytorch_name(variable.name.removesuffix(":0").partition("/bert/")[2]))
    for variable in decoder.model.weights:
        if variable is not encoder.bert.embeddings.weight:
            _fill(variable, "bert." + pytorch_name(variable.name.removesuffix(":0").partition("/bert/")[2]))
    for variable in head.weights:
        _fill(variable, pytorch_name(variable.name.removesuffix(":0")))
    ids = {"first_id": 2, "last_id": 14, "pad_id": 0}
    model.generate_with(encoder, decoder, head, Search(**{**ids, "max_new_tokens": 10, **how}))
    return model


def batch_of(slots=3, length=24, targets=True):
    ragged = {"input_ids": tf.ragged.constant(GOLDEN["sources"], dtype=tf.int32)}
    ragged["target_input_ids"] = ragged["target_labels"] = tf.ragged.constant(GOLDEN["targets"], dtype=tf.int32)
    batch = pack(ragged, SPEC, length, slots, aligned_length=16)
    return batch if targets else {name: value for name, value in batch.items() if not name.startswith("target_")}


def found_in(batch, outputs, name):
    """Returns an output of each example, in the order of the sources."""
    rows = {}
    for row, slot in zip(*np.nonzero(batch["example_weights"].numpy()), strict=True):
        start = batch["cls_positions"].numpy()[row, slot]
        segments = batch["segment_ids"].numpy()[row]
        rows[tuple(batch["input_ids"].numpy()[row, start : start + (segments == slot + 1).sum()])] = outputs[name].numpy()[
            row, slot
        ]
    return [rows[tuple(source)] for source in GOLDEN["sources"]]


@pytest.mark.parametrize("slots", [1, 3])
def test_logits_are_transformers(slots):
    model, batch = model_of(), batch_of(slots)
    logits = model({name: batch[name] for name in model.input_names}, training=False)["target_logits"].numpy()
    for source, expected in zip(GOLDEN["sources"], GOLDEN["logits"], strict=True):
        target = GOLDEN["targets"][GOLDEN["sources"].index(source)]
        (row, start) = next(
            (row, start)
            for row in range(len(logits))
            for start in range(16)
            if batch["target_input_ids"].numpy()[row, start : start + len(target)].tolist() == target
        )
        np.testing.assert_allclose(logits[row, start : start + len(target), :8], np.array(expected)[: len(target)], atol=2e-4)


@pytest.mark.parametrize("case", GOLDEN["searches"], ids=lambda case: ",".join(f"{k}={v}" for k, v in case["how"].items()))
@pytest.mark.parametrize("way", ["plain", pytest.param("compiled", marks=pytest.mark.slow), "native"])
def test_searches_are_transformers(case, way, request):
    if way == "native":
        request.getfixturevalue("native_decoding")
    model = model_of(kernels=NativeKernels() if way == "native" else None, **case["how"])
    batch, compiled = batch_of(targets=False), way == "compiled"
    outputs = tf.function(model.outputs_for, jit_compile=compiled)(batch) if compiled else model.outputs_for(batch)
    wanted = case["how"].get("num_return_sequences", 1)
    sequences = np.concatenate(found_in(batch, outputs, "sequences")).astype(int)
    np.testing.assert_array_equal(sequences, case["sequences"])
    if case["scores"]:
        np.testing.assert_allclose(np.concatenate(found_in(batch, outputs, "scores")), case["scores"], atol=1e-4)
    assert len(sequences) == wanted * len(GOLDEN["sources"])


def test_the_loss_of_targets_and_their_number():
    model, batch = model_of(), batch_of()
    outputs = model.outputs_for(batch)
    assert [float(value) for value in found_in(batch, outputs, "target_tokens")] == [4, 3, 4]
    logits = model({name: batch[name] for name in model.input_names}, training=False)["target_logits"]
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["target_labels"], logits)
    total = tf.reduce_sum(tf.where(batch["target_segment_ids"] > 0, losses, 0.0))
    assert float(tf.reduce_sum(outputs["target_loss"])) == pytest.approx(float(total), rel=1e-5)


def test_what_is_drawn_for_a_text_depends_on_nothing_else():
    drawing = {"do_sample": True, "num_return_sequences": 3, "top_k": 20, "top_p": 0.9, "temperature": 0.8}
    model = model_of(**drawing)
    each = [found_in(batch, model.outputs_for(batch), "sequences") for batch in (batch_of(1), batch_of(3))]
    np.testing.assert_array_equal(*each)
    other = batch_of(3)
    assert not np.array_equal(each[0], found_in(other, model_of(**drawing, seed=1).outputs_for(other), "sequences"))
    assert len({tuple(one) for one in each[0][0].astype(int).tolist()}) > 1


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_other_precisions_generate(precision):
    batch = batch_of(targets=False)
    outputs = model_of(precision, num_beams=2).outputs_for(batch)
    assert all(np.isfinite(value.numpy()).all() for value in outputs.values())
