"""Multiple choice: the contract, rows of all kinds, the loss by hand, groups that stay together, and transformers' model."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks.contract import WHOLE_STORY, TaskContract
from trainer.config import FieldError
from trainer.data.sources import Row, RowError
from trainer.data.table import Table, UnrecognizedError
from trainer.errors import NothingToLearnError
from trainer.tasks.base import Window
from trainer.tasks.multiple_choice import Config, Task

STORIES = [
    ("The screen broke.", "She", ["sent it back", "ate the soup", "won the race"], 0),
    ("He was hungry.", "He", ["painted a wall", "ate the soup", "slept all day"], 1),
    ("The runners lined up.", "One of them", ["sang a song", "read a book", "won the race"], 2),
    ("It rained.", "They", ["took an umbrella", "won the race", "drank the sea"], 0),
]


class TestColumns(TaskContract):
    slow = (WHOLE_STORY,)
    name = "multiple_choice"
    windows_a_row = 3
    config = {
        "head_dropout_rate": 0.0, "context_column": "sent1", "question_column": "sent2",
        "choice_columns": ("ending0", "ending1", "ending2"),
    }  # fmt: skip
    rows = [
        {"sent1": text, "sent2": begin, **{f"ending{i}": choice for i, choice in enumerate(choices)}, "label": right}
        for text, begin, choices, right in STORIES
    ]


class TestLists(TaskContract):
    is_variant = True
    name = "multiple_choice"
    windows_a_row = 3
    config = {
        "head_dropout_rate": 0.0,
        "context_column": "question",
        "choices": 3,
        "label_column": "answerKey",
        "pooling": "mean",
    }
    rows = [
        {"question": text, "choices": {"text": choices[: 2 + (right > 1)], "label": ["A", "B", "C"]}, "answerKey": "ABC"[right]}
        for text, _, choices, right in STORIES
    ]


def task_of(tokenizer, **config):
    return Task(Config(**{"choices": 3, **config}), tokenizer, 32)


def row_of(label=0, choices=("yes", "no", "maybe"), **values):
    return Row({"context": "Does it rain?", "choices": choices and list(choices), "label": label, **values}, "f.jsonl", 1)


@pytest.mark.parametrize(
    ("label", "choices", "right"),
    [
        (2, ("a b", "c", "d"), 2),
        ("1", ("a b", "c", "d"), 1),
        ("B", ("a b", "c", "d"), 1),
        ("c", ("a b", "c", "d"), 1),
        (1, ("a b", "c"), 1),
    ],
)
def test_the_right_choice_is_found_by_number_letter_or_text(tokenizer, label, choices, right):
    examples = task_of(tokenizer).examples(row_of(label, choices))
    assert [one["is_right"] for one in examples] == [int(number == right) for number in range(3)]
    assert [one["is_there"] for one in examples] == [1] * len(choices) + [0] * (3 - len(choices))


def test_choices_own_labels_go_first(tokenizer):
    labelled = row_of("1", None)
    labelled.values["choices"] = {"text": ["a b", "c"], "label": ["1", "2"]}
    assert [one["is_right"] for one in task_of(tokenizer).examples(labelled)] == [1, 0, 0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (row_of(7), "the label is '7', which is none of the row's 3 choices"),
        (row_of(2, ("yes", "no")), "the label is '2', which is none of the row's 2 choices"),
        (row_of(0, ("yes",)), "fewer than two choices in 'choices'"),
        (row_of(0, ("yes", " ")), "fewer than two choices in 'choices'"),
        (row_of(0, ("a", "b", "c", "d")), "4 choices, more than task.choices=3"),
        (row_of(0, ("yes", 7)), "a choice is a int where text belongs"),
        (row_of(0, ("yes", "\ud83d")), "a choice is not valid Unicode"),
        (row_of(0, None), "column 'choices' holds a NoneType where a list of choices belongs"),
        (Row({"context": "x", "label": 0}, "f", 1), "fewer than two choices in 'choices'"),
    ],
)
def test_rows_that_cannot_be_used(tokenizer, row, message):
    with pytest.raises(RowError, match=message):
        task_of(tokenizer).examples(row)


def test_the_number_of_choices_is_learned():
    assert Task.learn(Config(), [row_of(0, ("a", "b")), row_of(0, ("a", "b", "c", "d"))]).choices == 4
    assert Task.to_learn(Config()) == ("choices",) and Task.to_learn(Config(choice_columns=("a", "b"))) == ()
    with pytest.raises(
        NothingToLearnError, match="no row lists two choices or more in 'choices'; the first row, f.jsonl:1: column"
    ):
        Task.learn(Config(), [row_of(0, None)])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"choices": 1}, "must be 2 or more, or 0, got 1"),
        ({"choice_columns": ("a",)}, "two columns or more, or none"),
        ({"choice_columns": ("a", "a")}, "listed twice"),
        ({"choice_columns": ("a", "b"), "choices": 3}, "choice_columns names 2, got 3; leave it out"),
    ],
)
def test_configs_that_cannot_be(config, message):
    with pytest.raises(FieldError, match=message):
        Config(**config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.batch_size=8", "the 3 examples of a row are learned from together, by one replica; use a multiple of 3"),
        ("data.length_buckets=true data.max_examples_per_row=1", "data.length_buckets: this task learns from the 3 examples"),
    ],
)
def test_batches_that_would_take_a_row_apart(cli, tiny_encoder, tmp_path, change, message):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in TestColumns.rows))
    config = {f"task.{key}": json.dumps(value) for key, value in TestColumns.config.items()}
    keys = {
        "task.name": "multiple_choice",
        "encoder.init_from": tiny_encoder,
        "data.train": rows,
        "train.batch_size": 6,
        **config,
    }
    keys |= {"train.steps": 1, "data.max_seq_length": 32}
    status, _, error = cli(
        "train", f"--workdir={tmp_path}/run", *[f"--set={k}={v}" for k, v in keys.items()], "--set", *change.split()
    )
    assert status == 1 and message in error, error


def test_the_loss_by_hand(tokenizer):
    """Two rows of three choices, packed in any order, one choice not there, an empty slot."""
    batch = {
        "example_number": tf.constant([[4, 0, 1], [2, 3, 5], [-1, -1, -1]]),
        "is_right": tf.constant([[1, 0, 1], [0, 0, 0], [0, 0, 0]]),
        "is_there": tf.constant([[1, 1, 1], [0, 1, 1], [0, 0, 0]]),
        "example_weights": tf.constant([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]),
    }
    scores = {"score": tf.constant([[0.5, 1.0, 2.0], [9.0, -1.0, 0.0], [5.0, 5.0, 5.0]])}
    task = task_of(tokenizer)
    weights, losses = task.loss_weights(batch)["choice"].numpy(), task.loss(batch, scores)[0]["choice"].numpy()
    assert weights.sum() == 2 and weights[0, 0] == weights[0, 2] == 1
    assert losses[0, 2] == pytest.approx(np.log(np.exp(1.0) + np.exp(2.0)) - 2.0)
    assert losses[0, 0] == pytest.approx(np.log(np.exp([0.5, -1.0, 0.0]).sum()) - 0.5)


def test_scores_and_predictions(tokenizer):
    task = task_of(tokenizer)

    def windows(scores, right, there=(1, 1, 1)):
        features = zip(scores, range(3), there, strict=True)
        return [
            Window({"score": np.float32(score)}, {"is_right": int(n == right), "is_there": is_there})
            for score, n, is_there in features
        ]

    rows = [(row_of(), windows([2.0, 0.0, 0.0], 0)), (row_of(), windows([0.0, 1.0, 9.0], 1, (1, 1, 0)))]
    scores = task.score(iter([*rows, (row_of(), windows([0.0, 1.0, 0.0], 2))]))
    assert scores["rows"] == 3 and scores["accuracy"] == pytest.approx(2 / 3)
    prediction = task.decode(*rows[1])
    assert prediction["choice"] == 1 and prediction["text"] == "no" and prediction["probabilities"][2] == 0.0


def test_recognized_by_its_columns():
    swag = {"sent1": "a b", "sent2": "c", "ending0": "d", "ending1": "e", "label": 1}
    found = Task.recognize(Table("f.csv", [swag] * 3, []))
    assert found.certainty == 3 and found.task == {
        "context_column": '"sent1"', "label_column": '"label"', "question_column": '"sent2"',
        "choice_columns": '["ending0", "ending1"]',
    }  # fmt: skip
    arc = {"question": "a b", "choices": {"text": ["c", "d"], "label": ["A", "B"]}, "answerKey": "A"}
    assert Task.recognize(Table("f.jsonl", [arc] * 3, [])).task == {
        "context_column": '"question"', "label_column": '"answerKey"', "choices_column": '"choices"',
    }  # fmt: skip
    for columns in ({"text": "a", "label": 1}, {"ending0": "a", "ending1": "b", "label": 1}):
        with pytest.raises(UnrecognizedError):
            Task.recognize(Table("f.csv", [columns] * 3, []))
