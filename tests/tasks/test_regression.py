"""Regression: the contract, targets that are learned from or rejected, scores, and the model for transformers."""

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks.contract import WHOLE_STORY, TaskContract
from trainer.config import FieldError
from trainer.data.sources import Row, RowError
from trainer.errors import NothingToLearnError
from trainer.metrics.regression import regression_scores
from trainer.run import experiment
from trainer.tasks.base import Window
from trainer.tasks.regression import Config, Task

SENTENCES = [
    ("the screen broke after one week", -2.5), ("i love this player", 3.1), ("it never worked", -3.0),
    ("excellent sound, easy to use", 2.7), ("do not buy it", -2.0), ("a great gift for everyone in the family", 2.2),
]  # fmt: skip


class TestOneTarget(TaskContract):
    slow = (WHOLE_STORY,)
    name = "regression"
    config = {"head_dropout_rate": 0.0, "means": (0.1,), "scales": (2.6,)}
    rows = [{"text": text, "label": rating} for text, rating in SENTENCES]


class TestPairsAndTwoTargets(TaskContract):
    is_variant = True
    name = "regression"
    config = {
        "head_dropout_rate": 0.0, "target_columns": ("likeness", "length"), "means": (0.0, 30.0), "scales": (2.0, 9.0),
        "loss": "huber", "pooling": "mean", "text_columns": ("first", "second"),
    }  # fmt: skip
    rows = [
        {"first": a, "second": b, "likeness": x - y, "length": len(a + b) / 2}
        for (a, x), (b, y) in zip(SENTENCES, SENTENCES[2:] + SENTENCES[:2], strict=True)
    ]


def task_of(tokenizer, **config):
    return Task(Config(**{"means": (0.0,), "scales": (1.0,), **config}), tokenizer, 16)


def rows_of(*labels):
    return [Row({"text": "x", "label": label}, "f.csv", i + 2) for i, label in enumerate(labels)]


def learn(*labels, **config):
    return Task.learn(Config(**config), rows_of(*labels))


def test_mean_and_deviation_are_learned_from_the_numbers():
    found = learn("1", 2.0, None, "7.5", "many", float("nan"), -4)
    numbers = [1, 2, 7.5, -4]
    assert found.means == pytest.approx((np.mean(numbers),)) and found.scales == pytest.approx((np.std(numbers),))
    assert Task.to_learn(Config()) == ("means", "scales") and Task.to_learn(found) == ()
    assert learn(1, 2, scales=(5.0,)).scales == (5.0,), "what is given stays"
    assert learn(3, 3).scales == (1.0,), "a constant target is not divided by 0"
    with pytest.raises(
        NothingToLearnError, match="no row has a number in 'label'; the first row, f.csv:2: column 'label' holds"
    ):
        learn("many", None)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "no column 'label'; the row has 'text'"),
        ({"label": "many"}, "column 'label' holds 'many' where a number belongs"),
        ({"label": "inf"}, "column 'label' holds 'inf' where a number belongs"),
        ({"label": True}, "column 'label' holds 'True' where a number belongs"),
        ({"label": None}, "column 'label' holds 'None' where a number belongs"),
    ],
)
def test_targets_that_are_no_numbers_are_rejected(tokenizer, values, reason):
    with pytest.raises(RowError, match=reason):
        task_of(tokenizer).examples(Row({"text": "x", **values}, "f", 1))
    assert task_of(tokenizer).examples(Row({"text": "x", **values}, "f", 1), labelled=False)[0]["target_0"] == 0.0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"target_columns": ()}, "one column or more"),
        ({"target_columns": ("a", "a")}, "'a' is listed twice"),
        ({"head_dropout_rate": 1.0}, r"must be in \[0, 1\), got 1.0"),
        ({"scales": (0.0,)}, r"must be over 0, got \[0.0\]"),
    ],
)
def test_contradictions_are_refused(config, message):
    with pytest.raises(FieldError, match=message):
        Config(**config)


OUTPUTS = np.array([[0.5], [-1.0], [2.0]], np.float32)


def scored(outputs, *targets):
    """Rows as `score` and `decode` have them."""
    features = ({f"target_{number}": value for number, value in enumerate(row)} for row in zip(*targets, strict=True))
    return [(Row({}, "", 0), [Window({"scaled": one}, row)]) for one, row in zip(outputs, features, strict=True)]


def test_predictions_are_in_the_targets_units(tokenizer):
    task = task_of(tokenizer, means=(10.0,), scales=(4.0,))
    predictions = [task.decode(*row) for row in scored(OUTPUTS, [0, 0, 0])]
    assert predictions == [{"value": 12.0}, {"value": 6.0}, {"value": 18.0}]
    two = task_of(tokenizer, target_columns=("a", "b"), means=(0.0, 1.0), scales=(1.0, 2.0))
    (row,) = scored(np.array([[1.0, 2.0]], np.float32), [0], [0])
    assert two.decode(*row) == {"values": {"a": 1.0, "b": 5.0}} and two.as_reply(two.decode(*row)) == {"values": [1.0, 5.0]}


def test_scores_are_of_the_targets_units_and_means_over_several(tokenizer):
    task, targets = task_of(tokenizer, means=(10.0,), scales=(4.0,)), np.array([11.0, 7.0, 16.0])
    assert task.score(iter(scored(OUTPUTS, targets))) == {
        "examples": 3, **regression_scores(targets, np.array([12.0, 6.0, 18.0]))
    }  # fmt: skip
    two = task_of(tokenizer, target_columns=("a", "b"), means=(0.0, 0.0), scales=(1.0, 1.0))
    outputs = np.array([[1.0, 0.0], [2.0, 0.0], [4.0, 0.0]], np.float32)
    scores = two.score(iter(scored(outputs, [1.0, 2.0, 3.0], [1.0, 2.0, 4.0])))
    assert scores["pearson"] == scores["per_target"]["a"]["pearson"], "the constant prediction has none"
    assert scores["mean_absolute_error"] == pytest.approx((1 / 3 + 7 / 3) / 2)


def test_a_share_is_held_out_of_all_rows(tmp_path):
    """Numbers are no classes: each value would be one of its own."""
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"text {number},{number / 7}\n" for number in range(300)))
    sets = ["task.name=regression", "encoder.init_from=x", f"data.train={path}", "data.validation=20%"]
    loaded = experiment.load(None, sets)
    train, validation = (len(list(loaded.rows(split))) for split in ("train", "validation"))
    assert train + validation == 300 and 40 < validation < 80


def test_losses_by_hand(tokenizer):
    batch = {"target_0": tf.constant([[3.0, 9.0]])}
    outputs = {"scaled": tf.constant([[[1.0], [1.0]]])}  # targets in units of the scale: 0.5 and 3.5
    for loss, expected in (("squared", [0.25, 6.25]), ("huber", [0.125, 2.0])):
        found = task_of(tokenizer, loss=loss, means=(2.0,), scales=(2.0,)).loss(batch, outputs)[0]["target"]
        assert found.numpy().tolist() == [expected]


def test_the_head_for_transformers_gives_the_numbers(tokenizer):
    task = task_of(tokenizer, means=(10.0,), scales=(4.0,))
    model = TestOneTarget().build(task)
    kernel, bias = (weight.numpy() for weight in model.get_layer("head").weights)
    name, head = task.hugging_face_head(model)
    pooled = np.random.default_rng(0).normal(size=(2, 32))
    expected = (pooled @ kernel + bias) * 4.0 + 10.0
    assert name == "BertForSequenceClassification"
    assert np.allclose(pooled @ head["classifier.weight"].T + head["classifier.bias"], expected, atol=1e-5)
