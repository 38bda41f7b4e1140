"""augment: what is written, and what it refuses."""

import json

import pytest

from tests.conftest import write_csv
from tests.run.test_masked_words import with_head  # noqa: F401  a fixture

ROWS = [
    {"text": "the battery died after two days", "label": "negative", "id": "7"},
    {"text": "!", "label": "positive", "id": "8"},
]


@pytest.fixture
def rows(tmp_path):
    return write_csv(tmp_path / "rows.csv", ROWS)


def test_rows_and_their_copies(cli, tmp_path, rows, with_head, tiny_encoder):  # noqa: F811
    keys = [f"--set=data.train={rows}", f"--set=encoder.init_from={tiny_encoder}", "--set=data.max_seq_length=32"]
    flags = ["augment", *keys, f"--masked_lm={with_head}", "--copies=3", "--word_prob=0.5"]
    found = []
    for name in ("a", "b"):
        status, out, log = cli(*flags, f"--output={tmp_path}/{name}.jsonl")
        assert status == 0 and f"--set data.train={tmp_path}/{name}.jsonl" in out, log
        assert "2 row(s), 3 with other words" in log
        found.append((tmp_path / f"{name}.jsonl").read_text())
    assert found[0] == found[1], "a function of the seed"
    lines = [json.loads(line) for line in found[0].splitlines()]
    assert lines[0] == ROWS[0] and lines[4:] == [ROWS[1]], "no copies of a row without words"
    for line in lines[1:4]:
        assert line["label"] == "negative" and line["id"] == "7" and line["text"] != ROWS[0]["text"]
        assert len(line["text"].split()) == 6
    other = cli(*flags, f"--output={tmp_path}/c.jsonl", "--set=train.seed=5")
    assert other[0] == 0 and (tmp_path / "c.jsonl").read_text() != found[0]
    config = [
        f"--set={key}" for key in (f"data.train={tmp_path}/a.jsonl", f"encoder.init_from={tiny_encoder}", "train.steps=2")
    ]
    assert cli("train", f"--workdir={tmp_path}/run", *config, "--set=train.batch_size=4")[0] == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--masked_lm is needed"),
        (["--masked_lm=x"], "--output is needed"),
        (["--masked_lm=x", "--output=more.csv"], "name a file that ends in .jsonl, not more.csv"),
        (["--masked_lm=x", "--output=m.jsonl", "--word_prob=0"], "--word_prob: must be over 0 and up to 1, got 0"),
        (["--masked_lm=x", "--output=m.jsonl", "--set=data.validation=20%"], "a row and its copies would be on both sides"),
        (
            ["--masked_lm=x", "--output=m.jsonl", "--set=task.name=tagging"],
            "augment: word_starts says something of single tokens; augmentation is for tasks on whole texts",
        ),
    ],
)
def test_what_it_refuses(cli, rows, tiny_encoder, flags, message):
    keys = [f"--set=data.train={rows}", f"--set=encoder.init_from={tiny_encoder}"]
    status, _, error = cli("augment", *keys, *flags)
    assert status == 1 and message in error, error
