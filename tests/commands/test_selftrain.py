import json
import re

import pytest

from tests.conftest import calls_here, write_csv
from trainer.commands import selftrain
from trainer.tasks import multi_label


@pytest.fixture
def here(monkeypatch):
    return calls_here(monkeypatch, selftrain)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def flags(tmp_path, tiny_encoder, reviews):
    rows = write_csv(tmp_path / "rows.csv", reviews[:40])
    more = tmp_path / "more.txt"
    more.write_text("\n".join([row["text"] for row in reviews[40:70]]) + "\n")
    keys = {"encoder.init_from": tiny_encoder, "data.train": rows, "data.validation": "20%", "data.unlabelled": more}
    keys |= {"data.max_seq_length": 32, "train.epochs": 1, "train.precision": "float32"}
    return ["selftrain", f"--workdir={tmp_path}/self", *[f"--set={k}={v}" for k, v in keys.items()]]


def test_students_learn_from_what_the_run_before_was_sure_of(cli, here, tmp_path, flags, reviews):
    status, out, log = cli(*flags, "--confidence=0.5")
    assert status == 0 and out.endswith(f"run: {tmp_path}/self/round-1\n"), log
    assert [call[0] for call in here] == ["train", "evaluate", "predict", "train", "evaluate"]
    assert "| teacher | " in out and "| round-1 | " in out and "| run | accuracy | " in out
    train, validation = (lines_of(tmp_path / f"self/{split}.jsonl") for split in ("train", "validation"))
    assert len(train) + len(validation) == 40 and len(validation) >= 6
    added = lines_of(tmp_path / "self/round-1/train.jsonl")[len(train) :]
    predictions = lines_of(tmp_path / "self/round-1/predictions.jsonl")
    texts = [row["text"] for row in reviews[40:70]]
    assert added == [{"text": text, "label": p["label"]} for text, p in zip(texts, predictions, strict=False)]
    assert "self/round-1: 30 of 30 rows got a label" in log
    assert all(f"--set=data.validation={tmp_path}/self/validation.jsonl" in call for call in here if call[0] == "train")
    begun = len(here)
    assert cli(*flags, "--confidence=0.5")[0] == 0 and len(here) == begun, "nothing is done twice"
    status, _, error = cli(*flags, "--confidence=0.6")
    assert status == 1 and "self/round-1 was begun with another one; choose another --workdir" in error
    status, _, error = cli(*flags, "--set=train.epochs=9")
    assert status == 1 and "was run with another config or --set" in error


@pytest.mark.slow
def test_a_run_that_is_sure_of_nothing(cli, here, flags):
    status, _, error = cli(*flags, "--confidence=1.5")
    assert status == 1 and re.search(
        r"--confidence=1.5: none of 30 rows is predicted as surely: half of them reach 0.\d\d; ask", error
    )
    status, out, _ = cli(*flags, "--confidence=0.5")
    assert status == 0 and "| round-1 | " in out and [call[0] for call in here].count("predict") == 1, "it went on from there"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--set=data.unlabelled=null"], "data.unlabelled is not given"),
        (["--set=data.train=null", "--set=data.validation=null"], "data.train is not given"),
        (["--set=task.name=regression"], "selftrain is for classification and multi_label; task.name is regression"),
    ],
)
def test_what_cannot_be(cli, flags, changes, message):
    status, _, error = cli(*flags, *changes)
    assert status == 1 and message in error, error


def test_what_stops_a_training_stops_the_command(cli, monkeypatch, flags):
    monkeypatch.setattr(selftrain, "call", lambda arguments: 143)
    status, _, error = cli(*flags)
    assert status == 143 and "ended with status 143; rerun the same command to resume" in error


def test_labels_of_several_count_where_all_are_sure():
    label_of, lists, flags = multi_label.Task.label_of, multi_label.Config(), multi_label.Config(label_columns=("a", "b"))
    sure, unsure = ({"labels": [], "probabilities": {"a": 0.95, "b": b}} for b in (0.04, 0.4))
    assert label_of(lists, sure, 0.9) == {"labels": ["a"]} and label_of(flags, sure, 0.9) == {"a": 1, "b": 0}
    assert label_of(lists, unsure, 0.9) is None and label_of(lists, None, 0.9) is None
