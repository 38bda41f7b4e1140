import json

import pytest

from tests.conftest import calls_here, write_csv
from trainer.commands import crossvalidate


@pytest.fixture
def here(monkeypatch):
    return calls_here(monkeypatch, crossvalidate)


def test_every_row_is_predicted_by_a_run_that_has_not_seen_it(cli, here, tmp_path, tiny_encoder, reviews):
    rows = [*reviews[:21], reviews[0]]  # one twice
    write_csv(tmp_path / "rows.csv", rows)
    keys = {"encoder.init_from": tiny_encoder, "data.train": tmp_path / "rows.csv", "data.max_seq_length": 32}
    keys |= {"train.steps": 2, "train.batch_size": 4, "data.quoting": "standard"}
    flags = ("crossvalidate", f"--workdir={tmp_path}/cv", "--folds=2", *[f"--set={k}={v}" for k, v in keys.items()])
    status, out, _ = cli(*flags)
    assert status == 0 and [call[0] for call in here] == ["train", "evaluate", "predict"] * 2
    scores = json.loads((tmp_path / "cv/scores.json").read_text())
    assert len(scores["accuracy"]["folds"]) == 2 and f"| accuracy | {scores['accuracy']['mean']:.4f} |" in out
    assert (tmp_path / "cv/scores.md").read_text() in out
    lines = [json.loads(line) for line in (tmp_path / "cv/predictions.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == [row["text"] for row in rows], "in the rows' order"
    assert lines[0]["fold"] == lines[-1]["fold"] and {line["fold"] for line in lines} == {1, 2}
    for fold in (1, 2):
        train, validation = (
            [json.loads(line)["text"] for line in (tmp_path / f"cv/fold-{fold}/{name}.jsonl").read_text().splitlines()]
            for name in ("train", "validation")
        )
        assert len(train) + len(validation) == 22 and not set(train) & set(validation)
    assert cli(*flags)[0] == 0 and len(here) == 6, "what is done is not done again"
    status, _, error = cli(*flags, "--set=train.steps=3")
    assert status == 1 and "was run with another config, --set or --folds" in error


def test_what_stops_a_fold_stops_the_command(cli, monkeypatch, tmp_path, tiny_encoder, reviews):
    monkeypatch.setattr(crossvalidate, "call", lambda arguments: 130)
    write_csv(tmp_path / "rows.csv", reviews[:10])
    keys = (f"--set=encoder.init_from={tiny_encoder}", f"--set=data.train={tmp_path}/rows.csv")
    status, _, error = cli("crossvalidate", f"--workdir={tmp_path}/cv", *keys)
    assert status == 130 and "fold 1 ended with status 130; rerun the same command to resume" in error


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([], "data.train is not given"),
        (["data.train={rows}", "task.name=pretraining"], "learns from a corpus, which is not cross-validated"),
        (["data.train={rows}", "task.text_columns=[x]"], "no column 'x' (task.text_columns)"),
        (["data.train={rows}"], "--folds=5: data.train has only 2 different texts"),
    ],
)
def test_what_cannot_be(cli, tmp_path, tiny_encoder, reviews, sets, message):
    rows = write_csv(tmp_path / "rows.csv", reviews[:2])
    given = [f"--set={key.format(rows=rows)}" for key in (f"encoder.init_from={tiny_encoder}", *sets)]
    status, _, error = cli("crossvalidate", f"--workdir={tmp_path}/cv", *given)
    assert status == 1 and message in error, error
