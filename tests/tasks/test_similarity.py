"""Similarity: the contract, rows of all kinds, losses and scores by hand, batches over replicas and in parts."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.tasks.contract import WHOLE_STORY, TaskContract, step_of
from trainer.config import FieldError
from trainer.data.sources import Row, RowError
from trainer.data.table import Table, UnrecognizedError
from trainer.errors import NothingToLearnError, UserError
from trainer.runtime.randomness import random_scope, step_seed
from trainer.tasks.base import Window
from trainer.tasks.similarity import Config, Task

PAIRS = [
    ("How do I bake bread?", "Mix flour, water, salt and yeast, and put it into the oven."),
    ("Where is my train?", "It leaves from the third platform."),
    ("Who won the race?", "The youngest of the runners."),
    ("What is for dinner?", "Soup, and a cake after it."),
]


class TestPairs(TaskContract):
    slow = (WHOLE_STORY,)
    name = "similarity"
    windows_a_row = 2
    config = {"query_prompt": "query: ", "max_query_tokens": 16}
    rows = [{"query": query, "positive": positive} for query, positive in PAIRS]


class TestNegatives(TaskContract):
    is_variant = True
    name = "similarity"
    windows_a_row = 4
    config = {
        "text_columns": ("question", "answer"),
        "negatives_column": "others",
        "negatives": 2,
        "matryoshka_dimensions": (16,),
        "symmetric": True,
        "pooling": "max",
    }
    rows = [
        {"question": query, "answer": positive, "others": [other for _, other in PAIRS if other != positive][:number]}
        for number, (query, positive) in enumerate(PAIRS)
    ]


class TestScored(TaskContract):
    is_variant = True
    name = "similarity"
    windows_a_row = 2
    config = {"text_columns": ("sentence1", "sentence2"), "score_column": "score", "score_range": (0.0, 5.0), "pooling": "cls"}
    rows = [
        {"sentence1": query, "sentence2": positive, "score": score}
        for (query, positive), score in zip(PAIRS, [5, 0.5, "2.5", 4], strict=True)
    ]


def task_of(tokenizer, **config):
    return Task(Config(**config), tokenizer, 32)


def test_the_texts_of_a_row(tokenizer):
    task = task_of(tokenizer, negative_columns=("n1", "n2"), document_prompt="passage: ")
    row = Row({"query": "a b", "positive": "c", "n1": None, "n2": "a b"}, "f", 1)
    examples = task.examples(row)
    assert [one["is_there"] for one in examples] == [1, 1, 0, 1]
    assert [tokenizer.backend.decode(one["input_ids"]) for one in examples] == ["a b", "passage : c", "", "passage : a b"]
    assert examples[0]["hash_low"] == examples[3]["hash_low"] != examples[1]["hash_low"]
    assert [one["target"] for one in examples] == [1.0, 0.0, 0.0, 0.0]
    assert len(task.examples(row, labelled=False)) == 2


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        ({}, {"positive": ""}, "the text in column 'positive' is empty"),
        ({"negative_columns": ("n",)}, {"n": 7}, "column 'n' is a int where text belongs"),
        ({"negatives_column": "n", "negatives": 2}, {"n": "text"}, "column 'n' holds a str where a list of texts belongs"),
        ({"negatives_column": "n", "negatives": 2}, {"n": ["a", 3]}, "an entry of 'n' is a int where text belongs"),
        ({"score_column": "s", "score_range": (0, 1)}, {"s": 2}, r"the score 2 is outside of task.score_range=\[0, 1\]"),
        ({"score_column": "s", "score_range": (0, 1)}, {"s": "good"}, "column 's' holds 'good' where a number belongs"),
    ],
)
def test_rows_that_cannot_be_used(tokenizer, config, values, message):
    with pytest.raises(RowError, match=message):
        task_of(tokenizer, **config).examples(Row({"query": "a", "positive": "b", **values}, "f", 1))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"text_columns": ("a",)}, "two columns, got 1"),
        ({"text_columns": ("a", "b"), "negative_columns": ("b",)}, "'b' is listed twice"),
        ({"negative_columns": ("a",), "negatives_column": "b"}, "given beside negative_columns"),
        ({"negatives": 3}, "goes with a negatives_column"),
        ({"negatives_column": "n", "negatives": -1}, "must be 0 or more, got -1"),
        ({"loss": "cosent"}, "cosent needs a score_column"),
        ({"loss": "triplet"}, "triplet needs negative_columns, or a negatives_column"),
        ({"loss": "multiple_negatives", "score_column": "s"}, "multiple_negatives reads no scores"),
        ({"score_column": "s", "negative_columns": ("n",)}, "rows with negatives have no scores"),
        ({"score_column": "s", "score_range": (5, 0)}, r"the lowest and the highest score, got \[5, 0\]"),
        ({"scale": 0}, "must be over 0, got 0"),
        ({"matryoshka_dimensions": (0,)}, "must be over 0, each"),
        ({"max_query_tokens": 4}, "must be 8 or more, or 0"),
    ],
)
def test_configs_that_cannot_be(config, message):
    with pytest.raises(FieldError, match=message):
        Config(**config)


def test_what_is_learned_from_rows():
    rows = [Row({"score": "1.5", "neg": ["a", " "]}, "f", 1), Row({"score": 4, "neg": ["a", "b", "c"]}, "f", 2)]
    scored = Config(score_column="score")
    assert Task.to_learn(scored) == ("score_range",) and Task.learn(scored, rows).score_range == (1.5, 4.0)
    listed = Config(negatives_column="neg")
    assert Task.to_learn(listed) == ("negatives",) and Task.learn(listed, rows).negatives == 3
    assert Task.to_learn(Config()) == ()
    with pytest.raises(
        NothingToLearnError, match="no two rows with different numbers in 'x'; the first row, f:1: no column 'x'"
    ):
        Task.learn(Config(score_column="x"), rows)
    with pytest.raises(NothingToLearnError, match="no row lists a text in 'x'"):
        Task.learn(Config(negatives_column="x"), rows)


def test_recognized_by_its_columns():
    found = Task.recognize(Table("f", [{"anchor": "a b", "positive": "c", "negative": "d"}] * 3, []))
    assert found.certainty == 3 and found.task == {
        "text_columns": '["anchor", "positive"]', "negative_columns": '["negative"]',
    }  # fmt: skip
    found = Task.recognize(Table("f", [{"query": "a", "pos": "c", "neg": ["d"]}] * 3, []))
    assert found.certainty == 3 and found.task["negatives_column"] == '"neg"'
    found = Task.recognize(Table("f", [{"sentence1": "a", "sentence2": "c", "score": 0.5}] * 3, []))
    assert found.certainty == 1 and found.task["score_column"] == '"score"'
    with pytest.raises(UnrecognizedError, match="no two columns of texts that belong together"):
        Task.recognize(Table("f", [{"text": "a", "label": "c"}] * 3, []))


def test_dimensions_that_the_encoder_lacks(tokenizer):
    task = task_of(tokenizer, matryoshka_dimensions=(64,))
    with pytest.raises(UserError, match="task.matryoshka_dimensions: 64 is over the encoder's 32"):
        TestPairs().build(task)


def window(vector, key, **features):
    vector = np.array(vector, np.float64) / np.linalg.norm(vector)
    return Window({"embedding": vector}, {"hash_low": key, "hash_high": 0, "is_there": 1, "target": 0.0, **features})


def test_scores_of_rankings_and_of_scored_pairs(tokenizer):
    """Two rows with one query, whose positives both count; a query that finds another's positive first."""
    task = task_of(tokenizer, negative_columns=("n",))
    right, wrong, absent = window([1, 0, 0], 1), window([0, 1, 0], 2), window([0, 0, 1], 3, is_there=0)
    rows = [
        [window([1, 0.1, 0], 10), right, wrong],
        [window([1, 0.1, 0], 10), window([0.5, 0.5, 0], 4), absent],
        [window([0.1, 1, 0], 11), window([0.1, 0.2, 1], 5), wrong],
    ]
    scores = task.score(iter((Row({}, "", 0), found) for found in rows))
    assert scores["rows"] == 3 and scores["queries"] == 2 and scores["corpus_texts"] == 4
    assert scores["accuracy@1"] == 0.5 and scores["recall@1"] == 0.25 and scores["triplet_accuracy"] == 0.5
    assert scores["mrr@10"] == pytest.approx((1 + 1 / 3) / 2)
    scored = task_of(tokenizer, score_column="s", score_range=(0, 5))
    pairs = [([1, 0], 1.0), ([1, 1], 0.5), ([0, 1], 0.2)]
    rows = [[window([1, 0], 0, target=target), window(other, 1)] for other, target in pairs]
    scores = scored.score(iter((Row({}, "", 0), found) for found in rows))
    assert scores["spearman"] == 1.0 and scores["pearson"] == pytest.approx(np.corrcoef([1, 0.5**0.5, 0], [1, 0.5, 0.2])[0, 1])


def batch_in_rows(contract, task, rows):
    (batch,) = contract.batches(task, slots=2)
    missing = rows - batch["segment_ids"].shape[0]
    return {
        name: tf.pad(value, [[0, missing], [0, 0]], constant_values=-1 if name == "example_number" else 0)
        for name, value in batch.items()
    }


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "contract", [pytest.param(TestPairs(), marks=SLOW), TestNegatives(), pytest.param(TestScored(), marks=SLOW)]
)
def test_a_batch_in_parts_is_the_whole_batch(tokenizer, contract):
    task = contract.task_with(tokenizer)
    batch = batch_in_rows(contract, task, 9)
    losses, weights = [], []
    for parts in (1, 3):
        model = contract.build(task)
        model.prepare_training(task, seed=1, gradient_accumulation_steps=parts)
        model.compile(optimizer=keras.optimizers.SGD(0.5))
        step = step_of(model, batch)
        losses.append([float(step(batch)["loss"]) for _ in range(3)])
        weights.append(model.get_weights())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert max(np.abs(a - b).max() for a, b in zip(*weights, strict=True)) < 1e-5


def test_cached_gradients_are_those_of_the_same_dropout(tokenizer):
    """The reference holds all parts at once, each with the dropout of its number."""
    contract = TestPairs()
    task = contract.task_with(tokenizer)
    batch = batch_in_rows(contract, task, 9)
    model = contract.build(task, dropout=0.3)
    model.prepare_training(task, seed=5, gradient_accumulation_steps=3)
    model.compile(optimizer=keras.optimizers.SGD(1.0))
    with tf.GradientTape() as tape:
        outputs = []
        for part in range(3):
            with random_scope(step_seed(5, tf.constant(0, tf.int64), 0, part)):
                inputs = {name: batch[name][3 * part : 3 * part + 3] for name in model.input_names}
                outputs.append(model(inputs, training=True)["embedding"])
        losses, _ = task.loss(batch, {"embedding": tf.concat(outputs, 0)})
        loss = tf.reduce_sum(losses["similarity"] * task.loss_weights(batch)["similarity"]) / len(PAIRS)
    gradients = tape.gradient(loss, model.trainable_variables)
    before = [variable.numpy() for variable in model.trainable_variables]
    assert float(step_of(model, batch)(batch)["loss"]) == pytest.approx(float(loss), rel=1e-5)
    for old, variable, gradient in zip(before, model.trainable_variables, gradients, strict=True):
        if gradient is not None:
            assert np.allclose(old - variable.numpy(), tf.convert_to_tensor(gradient).numpy(), atol=1e-5), variable.name


def test_an_export_embeds_single_texts(tokenizer):
    from trainer.models.kernels.inference import ExportKernels
    from trainer.serving.signatures import ServingModule
    from trainer.serving.text_inputs import GraphInputs

    contract = TestPairs()
    task, kernels = contract.task_with(tokenizer), ExportKernels()
    module = ServingModule(contract.build(task, kernels=kernels), kernels, task, GraphInputs)
    signatures = module.signatures()
    expected = contract.windows(task, contract.build(task), labelled=False)
    for signature, number in (("query_embedding", 0), ("embedding", 1)):
        found = signatures[signature](text=tf.constant([pair[number] for pair in PAIRS]))["embedding"].numpy()
        assert np.allclose(found, [windows[number].outputs["embedding"] for _, windows in expected], atol=1e-5)
        assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert json.dumps(task.decode(*expected[0]))
