import pytest
import tensorflow as tf

from tests.conftest import tiny_config
from trainer.models.encoder import BertEncoder
from trainer.serving import signatures
from trainer.tasks.base import TextFields
from trainer.tasks.classification import Config, Task


def test_signatures_have_dynamic_batch_and_length(exported):
    model = tf.saved_model.load(str(exported))
    assert set(model.signatures) == {"serving_default", "tokens", "examples"}
    serve = model.signatures["serving_default"]
    for texts in ([], ["good"], ["bad thing", "x " * 500, ""]):
        reply = serve(text=tf.constant(texts, tf.string))
        assert reply["probabilities"].shape == [len(texts), 2] and reply["label"].shape == [len(texts)]
        assert reply["probabilities"].numpy().sum(1) == pytest.approx(1.0, abs=1e-5)


def test_packed_texts_reply_as_texts_alone_in_their_order(exported, reviews):
    serve = tf.saved_model.load(str(exported)).signatures["serving_default"]
    texts = [row["text"] for row in reviews[:600]]  # about 13,000 tokens: more than one piece
    together = serve(text=tf.constant(texts))["probabilities"].numpy()
    for number in range(0, 600, 20):
        alone = serve(text=tf.constant([texts[number]]))["probabilities"].numpy()[0]
        assert abs(together[number] - alone).max() < 1e-5
    assert together.std(axis=0).min() > 0


def test_a_model_too_large_for_one_graph_keeps_its_variables(tokenizer, monkeypatch):
    task = Task(Config(class_names=("no", "yes")), TextFields(("text",), "label", 32, 4), tokenizer)
    model = task.build_model(BertEncoder(tiny_config()))
    ids = tf.constant([[101, 2204, 102]])
    inputs = {"input_ids": ids, "token_type_ids": ids * 0, "position_ids": tf.range(3)[None], "segment_ids": ids * 0 + 1}
    inputs["cls_positions"] = tf.zeros([1, 1], tf.int32)
    held, variables = signatures._traced(model, task, native=False)
    monkeypatch.setattr(signatures, "MAX_HELD_BYTES", 0)
    following, all_variables = signatures._traced(model, task, native=False)
    assert len(variables) < 20 < 30 < len(all_variables)
    assert abs(held(inputs)["logits"] - following(inputs)["logits"]).numpy().max() < 1e-6


def test_tokens_longer_than_the_limit_are_cut_and_padding_is_ignored(exported):
    tokens = tf.saved_model.load(str(exported)).signatures["tokens"]

    def call(ids, mask):
        ids = tf.constant([ids], tf.int32)
        return tokens(input_ids=ids, attention_mask=tf.constant([mask]), token_type_ids=tf.zeros_like(ids))[
            "probabilities"
        ].numpy()

    ids = [101, 2204, 3185, 102]
    assert call(ids, [1] * 4) == pytest.approx(call(ids + [5] * 9, [1] * 4 + [0] * 9), abs=1e-6)
    assert call(ids * 50, [1] * 200) == pytest.approx(call((ids * 50)[:64], [1] * 64), abs=1e-6)
