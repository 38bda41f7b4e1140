import pytest
import tensorflow as tf

from tests.conftest import tiny_config
from trainer.models.encoder import BertEncoder
from trainer.models.kernels.inference import ExportKernels
from trainer.models.kernels.xla import XlaKernels
from trainer.serving import signatures
from trainer.serving.signatures import ServingModule
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


def test_an_export_without_strings_takes_ids_twice(tokenizer):
    task = Task(Config(class_names=("no", "yes")), tokenizer, 32)
    kernels = ExportKernels()
    model = task.build_model(BertEncoder(tiny_config(), kernels=kernels))
    found = ServingModule(model, kernels, task, inputs=None).signatures()
    ids = tf.constant([[101, 2204, 102]])
    replies = [call(input_ids=ids, attention_mask=ids * 0 + 1, token_type_ids=ids * 0) for call in found.values()]
    assert set(found) == {"serving_default", "tokens"}
    assert replies[0]["probabilities"].numpy().tolist() == replies[1]["probabilities"].numpy().tolist()


def test_a_model_too_large_for_one_graph_keeps_its_variables(tokenizer):
    task = Task(Config(class_names=("no", "yes")), tokenizer, 32)
    encoder = BertEncoder(tiny_config())
    ids = tf.constant([[101, 2204, 102]])
    inputs = {"input_ids": ids, "token_type_ids": ids * 0, "position_ids": tf.range(3)[None], "segment_ids": ids * 0 + 1}
    inputs["cls_positions"] = tf.zeros([1, 1], tf.int32)
    found = []
    for kernels in (ExportKernels(), XlaKernels()):
        tf.keras.utils.set_random_seed(1)
        model = task.build_model(BertEncoder(encoder.bert_config, kernels=kernels, model=encoder.model))
        traced, variables = signatures._traced(model, kernels, task)
        found.append((traced(inputs)["logits"].numpy(), len(variables)))
    assert found[0][1] < 20 < 30 < found[1][1]
    assert abs(found[0][0] - found[1][0]).max() < 1e-6


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
