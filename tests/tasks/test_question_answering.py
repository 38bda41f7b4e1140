"""Question answering: the contract, answers to the character, windows, no answer, and what cannot be used."""

import collections
import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tasks.contract import LENGTH, TaskContract
from trainer.config import FieldError
from trainer.data.sources import Row, RowError, read_rows
from trainer.errors import NothingToLearnError
from trainer.models.losses import place_cross_entropy
from trainer.run import experiment
from trainer.tasks.base import Window
from trainer.tasks.question_answering import Config, Task

SMALL = {"metric": "squad_v1.1", "max_question_tokens": 8, "window_stride_tokens": 9, "max_answer_tokens": 6}


def row_of(question, context, *answers):
    found = [{"text": text, "start": context.index(text)} for text in answers]
    return {"question": question, "context": context, "answers": found}


ROWS = [
    row_of("Who leads Apple?", "Tim Cook leads Apple.", "Tim Cook"),
    row_of("Where?", "Zoë 😀 moved to Köln.", "Köln"),
    row_of("谁在北京？", "小明在北京。", "小明"),
    row_of("Which number?", "It is 12,5 %.", "12,5", "5"),
]
LONG = "The city of Rome is old. " * 9 + "Paris is in France. " + "Nothing else is told here. " * 6


class TestSpans(TaskContract):
    name = "question_answering"
    config = SMALL
    rows = ROWS
    long_row = row_of("What is in France?", LONG, "Paris")


class TestNoAnswers(TaskContract):
    is_variant = True
    name = "question_answering"
    config = {**SMALL, "metric": "squad_v2.0", "best_answers": 4, "no_answer_threshold": 0.05}
    rows = [*ROWS, row_of("Who sleeps?", "Tim Cook leads Apple.")]
    long_row = row_of("What is green?", LONG)


def task_of(tokenizer, length=LENGTH, **config):
    return Task(Config(**{**SMALL, **config}), tokenizer, length)


def outputs_of(task, row, start, end):
    """Windows whose model is sure of the context's tokens `start` to `end` (None: of no answer)."""
    windows = []
    asked = len(task._question_ids(row.values["question"]))
    for cut, example in zip(
        task._cut(asked, len(task._tokens_of(row.values["context"]).ids)), task.request_examples(row), strict=True
    ):
        logits = np.zeros([2, len(example["input_ids"])], np.float32)
        logits[:, 0] = 5 if start is None else 1
        for edge, place in enumerate((start, end)):
            if place is not None and cut.start <= place < cut.end:
                logits[edge, asked + 2 + place - cut.start] = 4
        windows.append(Window({"start_logits": logits[0], "end_logits": logits[1]}, {}))
    return windows


def test_the_metric_is_learned():
    assert Task.to_learn(Config()) == ("metric",) and Task.to_learn(Config(metric="cmrc2018")) == ()

    def learned(*rows):
        return Task.learn(Config(), [Row(values, "f", 1) for values in rows]).metric

    assert learned(ROWS[0], ROWS[1]) == "squad_v1.1"
    assert learned(ROWS[0], row_of("x", "y")) == "squad_v2.0"
    assert learned(ROWS[2]) == "cmrc2018"
    with pytest.raises(
        NothingToLearnError, match="no row has a question with answers; the first row, f:1: no column 'answers'"
    ):
        learned({"question": "x", "context": "y"})


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "no column 'question'; the row has nothing"),
        ({"question": "x"}, "no column 'context'"),
        ({"question": " ", "context": "y", "answers": []}, "the text in column 'question' is empty"),
        ({"question": "x", "context": "\u200b", "answers": []}, "the text in column 'context' has no token"),
        ({"question": "x", "context": "y"}, "no column 'answers'"),
        ({"question": "x", "context": "y", "answers": []}, "the question has no answer; task.metric=squad_v2.0 is for such"),
        ({"question": "x", "context": "y", "answers": ["z"]}, 'the answer "z" does not occur in its context'),
        ({"question": "x", "context": "y \u200b", "answers": ["\u200b"]}, "the tokenizer drops every character of the answer"),
        ({"question": "x", "context": "y", "answers": 7}, "answers is a number, not a list of answers"),
    ],
)
def test_rows_that_cannot_be_used(tokenizer, values, reason):
    with pytest.raises(RowError, match=reason):
        task_of(tokenizer).examples(Row(values, "f", 1))


def test_one_misplaced_answer_of_several_costs_nothing(tokenizer):
    values = {"question": "x", "context": "a b c", "answers": [{"text": "z", "start": 0}, {"text": "c", "start": 1}]}
    (example,) = task_of(tokenizer).examples(Row(values, "f", 1))
    assert example["answer_start"] == example["answer_end"] == len(example["input_ids"]) - 2


def test_labels_are_where_the_answer_is(tokenizer):
    task = task_of(tokenizer)
    row = Row(row_of("What is in France?", LONG, "Paris"), "f", 1)
    examples = task.examples(row)
    holding = [example for example in examples if example["answer_start"]]
    assert 1 <= len(holding) < len(examples)
    for example in holding:
        ids = example["input_ids"][example["answer_start"] : example["answer_end"] + 1]
        assert tokenizer.backend.decode(ids) == "paris" and example["token_type_ids"][example["answer_start"]] == 1
    assert all(example["answer_end"] == 0 for example in examples if not example["answer_start"])


@pytest.mark.parametrize("values", ROWS)
def test_answers_are_exact_to_the_character(tokenizer, values):
    task, row = task_of(tokenizer), Row(values, "f", 1)
    text, start = values["answers"][0]["text"], values["answers"][0]["start"]
    offsets = task._tokens_of(values["context"]).offsets
    touched = [i for i, (a, b) in enumerate(offsets) if a < start + len(text) and b > start]
    found = task.decode(row, outputs_of(task, row, touched[0], touched[-1]))
    assert (found["answer"], found["start"], found["end"]) == (text, start, start + len(text))
    assert found["answers"][0]["probability"] == found["probability"] > 0.5
    assert sum(answer["probability"] for answer in found["answers"]) <= 1 + 1e-6


def test_a_span_comes_once_whatever_windows_see_it(tokenizer):
    task = task_of(tokenizer)
    row = Row(row_of("What is in France?", LONG, "Paris"), "f", 1)
    place = [i for i, (a, b) in enumerate(task._tokens_of(LONG).offsets) if LONG[a:b] == "Paris"][0]
    found = task.decode(row, outputs_of(task, row, place, place))
    assert found["answer"] == "Paris" and len({(a["start"], a["end"]) for a in found["answers"]}) == len(found["answers"])


def test_no_answer_where_its_score_is_over_the_threshold(tokenizer):
    row = Row({**ROWS[0], "id": "q7"}, "f", 1)
    sure, unsure = 0.5, 11.0
    for threshold, answer in ((sure, ""), (unsure, "Tim")):
        task = task_of(tokenizer, metric="squad_v2.0", no_answer_threshold=threshold)
        found = task.decode(row, outputs_of(task, row, None, None))
        assert (found["answer"] == "") == (answer == "") and found["id"] == "q7"
        assert found["no_answer_score"] == pytest.approx(10.0 if threshold == sure else found["no_answer_score"])


def test_the_threshold_is_tuned_and_kept(tokenizer):
    task = task_of(tokenizer, metric="squad_v2.0")
    rows = [Row({**ROWS[0], "answers": []}, "f", 1), Row({**ROWS[0], "answers": ["Tim Cook"]}, "f", 2)]
    scored = [(rows[0], outputs_of(task, rows[0], None, None)), (rows[1], outputs_of(task, rows[1], 0, 1))]
    assert "tuned" not in task.score(iter(scored))
    scores = task.score(iter(scored), tune=True)
    assert scores["f1"] == scores["exact_match"] == scores["HasAns_f1"] == scores["NoAns_f1"] == 1.0
    threshold = scores["tuned"]["no_answer_threshold"]
    tuned = task_of(tokenizer, metric="squad_v2.0", no_answer_threshold=threshold)
    again = tuned.score(iter(scored))
    assert "tuned" not in again and again["f1"] == 1.0


def test_a_run_keeps_the_tuned_threshold(cli, tmp_path, tiny_encoder):
    rows = [*ROWS, row_of("Who sleeps?", "Tim Cook leads Apple.")] * 4
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = ["task.name=question_answering", f"encoder.init_from={tiny_encoder}", "train.steps=2", "data.max_seq_length=48"]
    keys += [f"data.train={tmp_path}/x.jsonl", f"data.validation={tmp_path}/x.jsonl"]
    assert cli("train", f"--workdir={tmp_path}/run", *[f"--set={key}" for key in keys])[0] == 0
    best = json.loads((tmp_path / "run/checkpoints/best.json").read_text())
    assert experiment.load_workdir(f"{tmp_path}/run").task.metric == "squad_v2.0"
    assert cli("evaluate", f"--workdir={tmp_path}/run")[0] == 0
    scores = json.loads((tmp_path / "run/evaluation/validation.json").read_text())
    assert scores["f1"] == best["score"] and "tuned" not in scores and "no_answer_threshold" in best["tuned"]
    override = f"--set=task.no_answer_threshold={best['tuned']['no_answer_threshold'] + 100}"
    assert cli("evaluate", f"--workdir={tmp_path}/run", override)[0] == 0
    changed = json.loads((tmp_path / "run/evaluation/validation.json").read_text())
    assert changed["NoAns_f1"] == 0.0, "what the command line says counts"


def test_answers_that_stand_elsewhere_are_counted(tokenizer):
    task, counts = task_of(tokenizer), collections.Counter()
    rows = [Row({**ROWS[0], "answers": [{"text": "Apple", "start": start}]}, "f", 1) for start in (15, 3)]
    assert [number for number, _ in task.chunk_examples(rows, "x", counts)] == [0, 1] and counts == {"answers_moved": 1}
    (remark,) = task.remarks({"special_cases": counts})
    assert remark == "1 answers do not stand where they say; the nearest place was taken" and task.remarks({}) == []


def test_an_id_is_what_json_can_hold(tokenizer):
    row = Row({**ROWS[0], "id": b"\x01"}, "f", 1)
    task = task_of(tokenizer)
    assert task.decode(row, outputs_of(task, row, 0, 1))["id"] == "b'\\x01'"


def test_a_score_is_checked_before_training_also_where_rows_have_windows(cli, tmp_path, tiny_encoder):
    (tmp_path / "x.jsonl").write_text(
        "".join(json.dumps(row_of("What is in France?", LONG, "Paris")) + "\n" for _ in range(30))
    )
    keys = ["task.name=question_answering", f"encoder.init_from={tiny_encoder}", "train.steps=1", "data.max_seq_length=32"]
    keys += [f"data.train={tmp_path}/x.jsonl", f"data.validation={tmp_path}/x.jsonl", "runtime.static_rows=2"]
    flags = [f"--set={key}" for key in keys]
    assert cli("train", f"--workdir={tmp_path}/run", *flags, "--set=train.best_score=exact_match")[0] == 0
    status, _, error = cli("train", f"--workdir={tmp_path}/other", *flags, "--set=train.best_score=exact")
    assert status == 1 and "'exact': no such score" in error


@pytest.mark.parametrize("field", ["max_question_tokens", "window_stride_tokens", "max_answer_tokens", "best_answers"])
def test_contradictions_are_refused(field):
    with pytest.raises(FieldError, match="must be 1 or more, got 0"):
        Config(**{field: 0})


def test_losses_by_hand():
    """Two examples in a row: each one's softmax is over its own tokens."""
    logits = tf.constant([[1.0, 2.0, 0.5, 3.0, 9.0]])
    batch = {"segment_ids": tf.constant([[1, 1, 2, 2, 0]]), "cls_positions": tf.constant([[0, 2]])}
    found = place_cross_entropy(tf.constant([[1, 0]]), logits, batch).numpy()[0]
    assert found == pytest.approx([np.log(1 + np.exp(-1)), np.log(1 + np.exp(2.5))], abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab中é\u0301 .,'\u200b😀\n-", min_size=1, max_size=90), st.integers(0, 40), st.integers(0, 5))
def test_any_context_gives_an_answer_that_stands_in_it(tokenizer, context, first, longer):
    task = task_of(tokenizer, length=20, window_stride_tokens=4)
    row = Row({"question": "what?", "context": context}, "f", 1)
    found = task.decode(row, outputs_of(task, row, first, first + longer))
    if found["answer"]:
        assert context[found["start"] : found["end"]] == found["answer"]
    else:
        assert found["start"] == -1 and not tokenizer.encode(context)


def test_real_files(shared_data, tokenizer):
    """Every answer of SQuAD's and CMRC's files comes back from its labels."""
    for name, metric, questions in (
        ("squad_v1.1_dev_by_article/dev.json", "squad_v1.1", 1988),
        ("cmrc2018/cmrc2018_trial.json", "cmrc2018", 1002),
    ):
        rows = [row for row in read_rows(str(shared_data / name), "data.train") if isinstance(row, Row)]
        assert abs(len(rows) - questions) <= 2 and Task.learn(Config(), rows).metric == metric
        task = task_of(tokenizer, length=384, max_question_tokens=64, window_stride_tokens=128)
        for row in rows[::40]:
            (start, end) = task._true_span(row, row.values["context"])
            assert row.values["context"][start:end] in [answer["text"].strip() for answer in row.values["answers"]]
            assert any(example["answer_start"] for example in task.examples(row))
