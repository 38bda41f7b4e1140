import json
import random

import pytest

from tests.conftest import calls_here, write_csv
from trainer.commands import fewshot
from trainer.commands.fewshot import pairs_of


@pytest.fixture
def here(monkeypatch):
    return calls_here(monkeypatch, fewshot)


def some(reviews, count):
    """Returns so many rows of each class."""
    return [row for label in ("negative", "positive") for row in [r for r in reviews if r["label"] == label][:count]]


def test_pairs_of_texts():
    texts = {"a": ["a1", "a2", "a3"], "b": ["b1"], "c": ["c1", "c2"]}
    pairs = list(pairs_of(texts, 4, random.Random(1)))
    class_of = {text: label for label, own in texts.items() for text in own}
    assert all((class_of[p["text"]] == class_of[p["other"]]) == (p["alike"] == 1.0) and p["text"] != p["other"] for p in pairs)
    counts = {text: [p["alike"] for p in pairs if p["text"] == text] for text in class_of}
    assert all(sorted(found) == [0.0] * 4 + [1.0] * 4 * (text != "b1") for text, found in counts.items())
    assert list(pairs_of(texts, 4, random.Random(1))) == pairs


def test_two_trainings_make_a_run(cli, here, tmp_path, tiny_encoder, reviews):
    rows = write_csv(tmp_path / "rows.csv", some(reviews, 6))
    keys = {"encoder.init_from": tiny_encoder, "data.train": rows, "data.max_seq_length": 32, "train.epochs": 2}
    flags = ("fewshot", f"--workdir={tmp_path}/few", "--pairs=2", *[f"--set={k}={v}" for k, v in keys.items()])
    status, out, _ = cli(*flags, "--contrastive=train.batch_size=16 train.learning_rate=1e-3")
    assert status == 0 and out.endswith(f"run: {tmp_path}/few/run\n") and [call[0] for call in here] == ["train", "train"]
    pairs = [json.loads(line) for line in (tmp_path / "few/pairs.jsonl").read_text().splitlines()]
    assert {pair["text"] for pair in pairs} == {row["text"] for row in some(reviews, 6)} and len(pairs) == 48
    assert "--set=train.batch_size=16" in here[0] and f"--set=encoder.init_from={tmp_path}/few/encoder" in here[1]
    config = (tmp_path / "few/run/config.yaml").read_text()
    assert "freeze_layers: -1" in config and "epochs: 2" in config, "--set is of the head's training"
    flags_of_predict = (f"--workdir={tmp_path}/few/run", f"--input={rows}", f"--output={tmp_path}/out.jsonl")
    assert cli("predict", *flags_of_predict)[0] == 0
    status, _, error = cli(*flags)
    assert status == 1 and "was run with other flags" in error


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["task.name=regression"], "fewshot is for classification of one text"),
        (["task.text_columns=[text, label]"], "fewshot is for classification of one text"),
        ([], "data.train is not given"),
        (["data.train={rows}", "task.label_column=none"], "data.train: 0 class(es) in 'none' with a text; two are needed"),
    ],
)
def test_what_cannot_be(cli, tmp_path, tiny_encoder, reviews, sets, message):
    rows = write_csv(tmp_path / "rows.csv", some(reviews, 2))
    given = [f"--set={key.format(rows=rows)}" for key in (f"encoder.init_from={tiny_encoder}", *sets)]
    status, _, error = cli("fewshot", f"--workdir={tmp_path}/few", *given)
    assert status == 1 and message in error, error


def test_what_stops_a_training_stops_the_command(cli, monkeypatch, tmp_path, tiny_encoder, reviews):
    monkeypatch.setattr(fewshot, "call", lambda arguments: 143)
    rows = write_csv(tmp_path / "rows.csv", some(reviews, 2))
    keys = (f"--set=encoder.init_from={tiny_encoder}", f"--set=data.train={rows}")
    status, _, error = cli("fewshot", f"--workdir={tmp_path}/few", *keys)
    assert status == 143 and "ended with status 143; rerun the same command to resume" in error
