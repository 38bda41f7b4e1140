import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.tasks.contract import TaskContract
from trainer.config import FieldError
from trainer.data.sources import Row, RowError
from trainer.errors import UserError
from trainer.serving.windows import Request
from trainer.tasks.base import Window
from trainer.tasks.classification import Config, Task

SENTENCES = [
    ("the screen broke after one week", "bad"), ("i love this player", "good"), ("it never worked", "bad"),
    ("excellent sound, easy to use", "good"), ("do not buy it", "bad"), ("a great gift for everyone in the family", "good"),
]  # fmt: skip


class TestSingleText(TaskContract):
    is_typical = True
    name = "classification"
    config = {"class_names": ("bad", "good"), "head_dropout_rate": 0.0}
    rows = [{"text": text, "label": label} for text, label in SENTENCES]


class TestPairOfTextsManyClasses(TaskContract):
    is_variant = True
    name = "classification"
    config = {
        "class_names": ("bad", "good", "mixed"), "threshold": 0.34, "head_dropout_rate": 0.0,
        "text_columns": ("first", "second"), "label_column": "kind",
    }  # fmt: skip
    rows = [
        {"first": a, "second": b, "kind": x if x == y else "mixed"}
        for (a, x), (b, y) in zip(SENTENCES, SENTENCES[2:] + SENTENCES[:2], strict=True)
    ]

    rows[1] = {**rows[1], "second": SENTENCES[2][0], "kind": "mixed"}


class TestMeanPooling(TaskContract):
    is_variant = True
    name = "classification"
    config = {"class_names": ("bad", "good"), "pooling": "mean", "head_dropout_rate": 0.0}
    rows = [{"text": text, "label": label} for text, label in SENTENCES]


def task_of(tokenizer, **config):
    return Task(Config(**config), tokenizer, 16)


def rows_of(*labels):
    return [Row({"text": "x", "label": label}, "f.csv", i + 2) for i, label in enumerate(labels)]


def learn(*labels):
    return Task.learn(Config(), rows_of(*labels)).class_names


def test_class_names_are_learned_in_a_stable_order():
    assert learn("b", "a", "b", "", None) == ("a", "b")
    assert learn("10", "9", "-1") == ("-1", "9", "10")
    assert learn(1, 0, "1") == ("0", "1")
    assert Task.to_learn(Config()) == ("class_names",)
    assert Task.to_learn(Config(class_names=("z", "y"))) == (), "names that are given stay"


@given(st.permutations(["1", "01", "001", "-1", "1.0", "2", "10", "a", "A"]))
def test_the_order_of_classes_is_total(names):
    assert learn(*names) == learn("1", "01", "001", "-1", "1.0", "2", "10", "a", "A")
    numbers = [name for name in names if name not in ("a", "A", "1.0")]
    assert [int(name) for name in learn(*numbers)] == sorted(int(name) for name in numbers)


def test_a_json_object_without_the_label_is_a_missing_label():
    """Other rows have it, so the class names can be learned; the row itself is rejected later."""
    rows = [Row({"text": "x"}, "f.jsonl", 1), *rows_of("a", "b")]
    assert Task.learn(Config(), rows).class_names == ("a", "b")


def test_labels_that_cannot_be_learned_from(monkeypatch):
    with pytest.raises(
        UserError, match=r"one class only, 'a'; a classifier needs at least two. Is task.label_column='label' right"
    ):
        learn("a", "a")
    with pytest.raises(UserError, match="no row has a label in column 'label', so class names cannot be learned"):
        learn()
    with pytest.raises(UserError, match=r"f.csv:2: no column 'target' \(task.label_column\); the columns are 'text', 'label'"):
        Task.learn(Config(label_column="target"), rows_of("a"))
    monkeypatch.setattr("trainer.tasks.classification.MAX_CLASSES", 2)
    with pytest.raises(UserError, match="'label' has over 2 different values; is it the label's column"):
        learn("a", "b", "c")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"class_names": ("a", "b", "a")}, "'a' is listed twice"),
        ({"class_names": ("a",)}, "one class only"),
        ({"focal_gamma": -1.0}, "must be 0 or more, got -1.0"),
        ({"label_smoothing": 1.0}, r"must be in \[0, 1\), got 1.0"),
        ({"head_dropout_rate": 1.0}, r"must be in \[0, 1\), got 1.0"),
        ({"threshold": 1.5}, "must be between 0 and 1, got 1.5"),
        ({"class_weights": {"a": 2.0}, "balance": "class_weights"}, "keep one of the two"),
        ({"class_weights": {"c": 2.0}, "class_names": ("a", "b")}, "'c' is not one of task.class_names"),
    ],
)
def test_contradictions_are_refused(config, message):
    with pytest.raises(FieldError, match=message):
        Config(**config)


def test_unknown_and_missing_labels_are_rejected(tokenizer):
    task = task_of(tokenizer, class_names=tuple("abcdefghijkl"))
    with pytest.raises(RowError) as caught:
        task.examples(Row({"text": "x", "label": "new"}, "f", 1))
    assert str(caught.value).endswith("'i', 'j' and 2 more") and str(caught.value).startswith(
        "label 'new' is not one of the classes"
    )
    with pytest.raises(RowError, match="no label: there is no column 'label'; the row has 'text'"):
        task.examples(Row({"text": "x"}, "f", 1))
    assert task.examples(Row({"text": "x"}, "f", 1), labelled=False)[0]["label"] == 0
    assert task.examples(Row({"text": "x", "label": " b "}, "f", 1))[0]["label"] == 1


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (["a", "b"], "no usable label: column 'label' holds a list or an object; a class is one value"),
        ({"a": 1}, "no usable label: column 'label' holds a list or an object"),
        ("half \ud83d", "no usable label: column 'label' holds half of a surrogate pair"),
        ("NULL", "no label: column 'label' is empty, null or NaN"),
    ],
)
def test_labels_that_are_no_class(tokenizer, value, reason):
    assert learn("a", "b", value) == ("a", "b")
    with pytest.raises(RowError, match=reason):
        task_of(tokenizer, class_names=("a", "b")).examples(Row({"text": "x", "label": value}, "f", 1))


def test_a_class_may_be_called_null(tokenizer):
    task = task_of(tokenizer, class_names=("a", "null"))
    assert task.examples(Row({"text": "x", "label": "null"}, "f", 1))[0]["label"] == 1


LOGITS = np.log(np.array([[0.7, 0.3], [0.55, 0.45], [0.1, 0.9]]))


def scored(logits, labels):
    """Rows as `score` and `decode` have them."""
    rows = zip(logits, labels, strict=True)
    return [(Row({}, "", 0), [Window({"logits": one}, {"label": label})]) for one, label in rows]


def replied(task, logits):
    return task.reply(Request((), {"logits": tf.constant(logits, tf.float32)}))


def test_two_classes_with_threshold(tokenizer):
    task = task_of(tokenizer, class_names=("no", "yes"), threshold=0.4)
    rows = scored(LOGITS, [0, 1, 1])
    predictions = [task.decode(*row) for row in rows]
    assert [p["label"] for p in predictions] == ["no", "yes", "yes"]
    assert [p["probability"] for p in predictions] == pytest.approx([0.7, 0.45, 0.9])
    assert replied(task, LOGITS)["label"].numpy().tolist() == [b"no", b"yes", b"yes"]
    assert task.score(iter(rows))["accuracy"] == 1.0


def test_many_classes_with_threshold_may_say_nothing(tokenizer):
    task = task_of(tokenizer, class_names=("a", "b", "c"), threshold=0.5)
    logits = np.log(np.array([[0.6, 0.2, 0.2], [0.4, 0.3, 0.3]]))
    predictions = [task.decode(*row) for row in scored(logits, [0, 0])]
    assert [p["label"] for p in predictions] == ["a", None]
    assert [task.as_reply(p)["label"] for p in predictions] == ["a", ""]
    assert replied(task, logits)["label"].numpy().tolist() == [b"a", b""]


def test_balance_works_on_the_counts(tokenizer):
    counts = {"label": {"0": 30, "1": 10}}
    weighted = task_of(tokenizer, class_names=("a", "b"), balance="class_weights").for_training(counts)
    assert weighted.config.class_weights == pytest.approx({"a": 40 / 60, "b": 2.0})
    plain = task_of(tokenizer, class_names=("a", "b"))
    assert plain.for_training(counts) is plain and plain.sampling(counts) is None
    sampling = task_of(tokenizer, class_names=("a", "b"), balance="sampling").sampling(counts)
    assert sampling.feature == "label" and sampling.counts.tolist() == [30, 10]
    assert sampling.rates == pytest.approx([2 / 3, 2.0])


def test_focal_loss_and_weights_reach_the_loss(tokenizer):
    task = task_of(tokenizer, class_names=("a", "b"), class_weights={"b": 3.0}, focal_gamma=2.0)
    batch = {"label": tf.constant([[1, 0]]), "example_weights": tf.constant([[1.0, 0.0]])}
    losses = task.loss(batch, {"logits": tf.math.log([[[0.75, 0.25], [0.5, 0.5]]])})[0]["label"]
    assert float(losses[0, 0]) == pytest.approx(0.75**2 * np.log(4))
    assert task.loss_weights(batch)["label"].numpy().tolist() == [[3.0, 0.0]]


def test_hugging_face_head_only_where_it_is_one(tokenizer):
    task = task_of(tokenizer, class_names=("a", "b"), pooling="mean")
    assert task.hugging_face_head(None) == ("BertModel", {}) and task.labels_asset() == ("a", "b")
    assert dataclasses.replace(task.config, pooling="cls").pooling == "cls"


def test_texts_are_cleaned_for_training_and_for_requests(tokenizer):
    task = task_of(tokenizer, class_names=("a", "b"), clean_texts=("urls", "html"))
    plain = task_of(tokenizer, class_names=("a", "b"))
    row, clean = ({"text": text, "label": "a"} for text in ("<b>fine</b> http://x.org/ thing", "fine thing"))
    (example,), (expected,) = task.examples(Row(row, "f", 1)), plain.examples(Row(clean, "f", 1))
    assert example == expected and task.request_examples(Row(row, "f", 1))[0]["input_ids"] == expected["input_ids"]
    assert task.untruncated_length(Row(row, "f", 1)) == plain.untruncated_length(Row(clean, "f", 1))
    assert "task.clean_texts changes texts before they are tokenized" in task.graph_problem() and plain.graph_problem() is None
    assert task.made_from()["task.clean_texts"] == ["urls", "html"] and "task.clean_texts" not in plain.made_from()


def test_what_cannot_be_cleaned_is_refused():
    with pytest.raises(FieldError, match="'html' is listed twice"):
        Config(clean_texts=("html", "html"))
