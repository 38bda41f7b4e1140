"""Multi-label: the contract, the ways of writing labels, thresholds, weights, and what cannot be used."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks.contract import WHOLE_STORY, TaskContract
from trainer.config import FieldError
from trainer.data.sources import Row, RowError
from trainer.errors import NothingToLearnError, UserError
from trainer.run import experiment
from trainer.serving.windows import Request
from trainer.tasks.base import Window
from trainer.tasks.multi_label import Config, Task, sigmoid

NAMES = ("anger", "joy", "surprise")
TEXTS = [
    ("what a lovely day", ["joy"]), ("leave me alone", ["anger"]), ("you won? wonderful!", ["joy", "surprise"]),
    ("it is a table", []), ("how dare you", ["anger", "surprise"]), ("nothing to say", []),
]  # fmt: skip


class TestLists(TaskContract):
    slow = (WHOLE_STORY,)
    name = "multi_label"
    config = {"class_names": NAMES, "head_dropout_rate": 0.0, "thresholds": (0.5,)}
    rows = [{"text": text, "labels": labels} for text, labels in TEXTS]


class TestPairsWithAColumnForEachLabel(TaskContract):
    is_variant = True
    name = "multi_label"
    config = {
        "class_names": NAMES, "label_columns": NAMES, "head_dropout_rate": 0.0, "thresholds": (0.4, 0.5, 0.6), "pooling": "mean",
        "text_columns": ("a", "b"), "class_weights": {"joy": 2.0},
    }  # fmt: skip
    rows = [
        {"a": one, "b": other, **{name: int(name in labels) for name in NAMES}}
        for (one, labels), (other, _) in zip(TEXTS, TEXTS[1:] + TEXTS[:1], strict=True)
    ]


def task_of(tokenizer, **config):
    return Task(Config(**{"class_names": NAMES, **config}), tokenizer, 16)


def labels_of(example):
    return [example[f"label_{number}"] for number in range(len(NAMES))]


@pytest.mark.parametrize(
    ("value", "labels"),
    [
        (["joy", "anger"], [1, 1, 0]), ("joy,anger", [1, 1, 0]), (" joy , anger ", [1, 1, 0]), ('["joy", "anger"]', [1, 1, 0]),
        (np.array(["surprise"]), [0, 0, 1]), ("", [0, 0, 0]), ([], [0, 0, 0]), ("[]", [0, 0, 0]), ("1", [0, 1, 0]),
        ([0, 2], [1, 0, 1]), ("0,2", [1, 0, 1]), (2, [0, 0, 1]), (["joy", "joy"], [0, 1, 0]),
    ],
)  # fmt: skip
def test_the_ways_to_write_labels(tokenizer, value, labels):
    (example,) = task_of(tokenizer).examples(Row({"text": "x", "labels": value}, "f", 1))
    assert labels_of(example) == labels


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "no column 'labels'; the row has 'text'"),
        ({"labels": None}, "column 'labels' is null; a row without labels has an empty list"),
        ({"labels": ["fear"]}, "label 'fear' is not one of anger, joy, surprise"),
        ({"labels": "3"}, "label '3' is not one of"),
        ({"labels": "[joy"}, "column 'labels' begins as a JSON list and is none"),
        ({"labels": [["joy"]]}, "where a list of labels belongs"),
    ],
)
def test_labels_that_cannot_be_used(tokenizer, values, reason):
    with pytest.raises(RowError, match=reason):
        task_of(tokenizer).examples(Row({"text": "x", **values}, "f", 1))


def test_a_column_for_each_label(tokenizer):
    task = task_of(tokenizer, label_columns=NAMES)
    row = Row({"text": "x", "anger": "1", "joy": True, "surprise": "FALSE"}, "f", 1)
    assert labels_of(task.examples(row)[0]) == [1, 1, 0]
    with pytest.raises(RowError, match="column 'joy' holds 'maybe' where 1 or 0 belongs"):
        task.examples(Row({**row.values, "joy": "maybe"}, "f", 1))
    assert Task.learn(Config(label_columns=("a", "b")), []).class_names == ("a", "b")


def test_numbers_that_are_names_are_not_places(tokenizer):
    task = Task(Config(class_names=("10", "20", "30")), tokenizer, 16)
    with pytest.raises(RowError, match="label '0' is not one of 10, 20, 30"):
        task.examples(Row({"text": "x", "labels": [0]}, "f", 1))


def test_labels_are_learned(monkeypatch):
    rows = [Row({"labels": value}, "f", number) for number, value in enumerate(["10,9", ["x"], None, "9"], 1)]
    assert Task.learn(Config(), rows).class_names == ("9", "10", "x")
    assert Task.to_learn(Config()) == ("class_names",) and Task.to_learn(Config(class_names=("a",))) == ()
    with pytest.raises(NothingToLearnError, match="no row has a label in column 'labels'; the first row, f:1: no column"):
        Task.learn(Config(), [Row({}, "f", 1)])
    monkeypatch.setattr("trainer.tasks.multi_label.MAX_LABELS", 2)
    with pytest.raises(
        UserError, match="'labels' has over 2 different labels; is it the labels' column, and task.label_separator=','"
    ):
        Task.learn(Config(), rows)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"class_names": ("a", "a")}, "'a' is listed twice"),
        ({"label_separator": ""}, "one character or more"),
        ({"head_dropout_rate": 1.0}, r"must be in \[0, 1\), got 1.0"),
        ({"thresholds": (2.0,)}, r"must be in \[0, 1\], got \[2.0\]"),
        ({"thresholds": (0.5, 0.5), "class_names": NAMES}, "one, or one for each of the 3 labels, got 2"),
        ({"class_weights": {"a": 1.0}, "balance": "class_weights"}, "given by hand, while task.balance=class_weights"),
        ({"class_weights": {"a": 1.0}, "class_names": NAMES}, "'a' is not one of task.class_names"),
    ],
)
def test_contradictions_are_refused(config, message):
    with pytest.raises(FieldError, match=message):
        Config(**config)


def scored(logits, labels):
    features = [{f"label_{number}": value for number, value in enumerate(row)} for row in labels]
    return [(Row({}, "", 0), [Window({"logits": one}, row)]) for one, row in zip(logits, features, strict=True)]


LOGITS = np.log([[0.9 / 0.1, 0.3 / 0.7, 0.1 / 0.9], [0.2 / 0.8, 0.35 / 0.65, 0.1 / 0.9]]).astype(np.float32)


def test_thresholds_decide_in_prediction_and_reply(tokenizer):
    task = task_of(tokenizer, thresholds=(0.5, 0.29, 0.2))
    found = [task.decode(*row)["labels"] for row in scored(LOGITS, [[0] * 3] * 2)]
    assert found == [["anger", "joy"], ["joy"]]
    reply = task.reply(Request((), {"logits": tf.constant(LOGITS)}))
    assert reply["labels"].numpy().tolist() == [[b"anger", b"joy"], [b"joy", b""]]
    assert reply["probabilities"].numpy()[0] == pytest.approx([0.9, 0.3, 0.1], abs=1e-6)
    assert task_of(tokenizer).decode(*scored(LOGITS, [[0] * 3] * 2)[1])["labels"] == [], "0.5 where nothing was tuned"


@pytest.mark.parametrize("tuned", ["per_label", "global", "none"])
def test_thresholds_are_tuned(tokenizer, tuned):
    task = task_of(tokenizer, tune_thresholds=tuned)
    rows = scored(LOGITS, [[1, 0, 0], [0, 1, 0]])
    assert "tuned" not in task.score(iter(rows)), "an evaluation scores what predict predicts"
    scores = task.score(iter(rows), tune=True)
    if tuned == "none":
        assert "tuned" not in scores and scores["micro"]["f1"] == pytest.approx(2 / 3)
        return
    thresholds = scores["tuned"]["thresholds"]
    assert scores["micro"]["f1"] == 1.0 and len(thresholds) == 3 and len(set(thresholds)) == (3 if tuned == "per_label" else 1)


def test_balance_works_on_the_counts(tokenizer):
    counts = {"label_0": {"0": 30, "1": 10}, "label_1": {"0": 20, "1": 20}, "label_2": {"0": 40}}
    task = task_of(tokenizer, balance="class_weights").for_training(counts)
    assert task.config.class_weights == {"anger": 3.0, "joy": 1.0, "surprise": 40.0}
    plain = task_of(tokenizer)
    assert plain.for_training(counts) is plain


def test_losses_by_hand(tokenizer):
    batch = {f"label_{number}": tf.constant([[label]]) for number, label in enumerate([1, 0, 0])}
    outputs = {"logits": tf.constant([[[0.0, 0.0, 2.0]]])}
    loss = task_of(tokenizer, class_weights={"anger": 3.0}).loss(batch, outputs)[0]["label"].numpy()
    assert loss == pytest.approx((3 * np.log(2) + np.log(2) + np.log(1 + np.exp(2))) / 3, rel=1e-5)
    assert sigmoid(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]


def test_a_run_keeps_the_tuned_thresholds(cli, tmp_path, tiny_encoder):
    rows = [{"text": text, "labels": labels} for text, labels in TEXTS] * 6
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, out, _ = cli("init", f"--from={tmp_path}/x.jsonl", f"--output={tmp_path}/c.yaml", f"--encoder={tiny_encoder}")
    assert status == 0 and "labels: labels, 3 different" in out and "joy: 12 (33.3%)" in out
    keys = [f"data.validation={tmp_path}/x.jsonl", "train.epochs=1", "train.best_score=macro.f1"]
    assert cli("train", f"--config={tmp_path}/c.yaml", f"--workdir={tmp_path}/run", *[f"--set={key}" for key in keys])[0] == 0
    best = json.loads((tmp_path / "run/checkpoints/best.json").read_text())
    assert len(best["tuned"]["thresholds"]) == 3 and experiment.load_workdir(f"{tmp_path}/run").task.thresholds == ()
    assert cli("evaluate", f"--workdir={tmp_path}/run")[0] == 0
    scores = json.loads((tmp_path / "run/evaluation/validation.json").read_text())
    assert scores["macro"]["f1"] == best["score"] and "tuned" not in scores
