"""glue: files as GLUE has them, seeds, the table, submissions, and going on after a stop."""

import json

import pytest

from tests.conftest import calls_here
from trainer.commands import glue
from trainer.commands.glue import TASKS, table

SHORT = ("train.epochs=1", "train.batch_size=4", "data.max_seq_length=16")
SENTENCES = ["The cat sat.", "Sat cat the.", "He sleeps well.", "Well sleeps."] * 4


@pytest.fixture
def data(tmp_path):
    """CoLA without a header, MRPC with its own column names, STS-B with numbers; each with a test file."""
    folder = tmp_path / "glue_data"
    for name in ("CoLA", "MRPC", "STS-B"):
        (folder / name).mkdir(parents=True)
    cola = "".join(f"x\t{number % 2}\t\t{text}\n" for number, text in enumerate(SENTENCES))
    mrpc = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    mrpc += "".join(f"{number % 2}\t1\t2\t{text}\tother text\n" for number, text in enumerate(SENTENCES))
    stsb = "index\tsentence1\tsentence2\tscore\n"
    stsb += "".join(f"{number}\t{text}\tother text\t{number / 3}\n" for number, text in enumerate(SENTENCES))
    for split in ("train", "dev"):
        for name, content in (("CoLA", cola), ("MRPC", mrpc), ("STS-B", stsb)):
            (folder / name / f"{split}.tsv").write_text(content)
    (folder / "CoLA/test.tsv").write_text("index\tsentence\n0\tA test.\n1\tAnother one.\n")
    return folder


@pytest.fixture
def here(monkeypatch):
    return calls_here(monkeypatch, glue)


def test_a_table_over_seeds_that_goes_on_where_it_stopped(cli, tmp_path, data, here, tiny_encoder):
    flags = [f"--data={data}", f"--workdir={tmp_path}/run", f"--encoder={tiny_encoder}", *[f"--set={key}" for key in SHORT]]
    assert cli("glue", *flags, "--seeds=2", "--tasks=CoLA")[0] == 0
    first = len(here)
    status, out, log = cli("glue", *flags, "--seeds=1")
    assert status == 0 and "| CoLA | Matthews |" in out and "| MRPC | F1 |" in out and "| STS-B | Spearman |" in out
    assert "QNLI is left out: there is no" in log and "QNLI/train.tsv" in log
    trained = [arguments[2] for arguments in here[first:] if arguments[0] == "train"]
    assert sorted(path.partition("/run/")[2] for path in trained) == ["MRPC/seed-1", "STS-B/seed-1"]
    scores = json.loads((tmp_path / "run/glue.json").read_text())
    assert {name: list(found) for name, found in scores.items()} == {
        "CoLA": ["Matthews"], "MRPC": ["F1", "accuracy"], "STS-B": ["Pearson", "Spearman"],
    }  # fmt: skip
    assert (tmp_path / "run/glue.md").read_text() in out
    submission = (tmp_path / "run/submission/CoLA.tsv").read_text().splitlines()
    assert submission[0] == "index\tprediction" and [line[0] for line in submission[1:]] == ["0", "1"]
    assert all(line.split("\t")[1] in "01" for line in submission[1:])
    done = len(here)
    assert cli("glue", *flags, "--seeds=1")[0] == 0 and len(here) == done, "nothing is left to do"
    status, _, error = cli("glue", *flags, "--seeds=1", "--tasks=CoLA", "--set=train.seed=9")
    assert status == 1 and "CoLA/seed-1 was run with other keys: train.seed=9; choose another --workdir" in error


def test_a_run_that_stops_stops_all(cli, tmp_path, data, monkeypatch):
    monkeypatch.setattr(glue, "call", lambda _: 130)
    status, _, log = cli("glue", f"--data={data}", f"--workdir={tmp_path}/run")
    assert status == 130 and "CoLA with seed 1 ended with status 130; the same command goes on from there" in log


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data=/no/such"], "--data: /no/such has none of GLUE's folders CoLA, SST-2"),
        (["--data=/no/such", "--tasks=CoLa"], "--tasks: 'CoLa' is not one of CoLA, SST-2, MRPC"),
        ([], "--data is needed"),
    ],
)
def test_what_cannot_be_is_told(cli, tmp_path, flags, message):
    status, _, error = cli("glue", f"--workdir={tmp_path}/run", *flags)
    assert status == 1 and message in error


def test_the_sources_of_tensorflow_datasets():
    from trainer.cli import Options

    keys = glue._keys("MRPC", "tfds", 3, Options(encoder="x", set=("train.epochs=1",)))
    assert "data.validation=tfds:glue/mrpc:validation" in keys and "train.best_score=per_class.equivalent.f1" in keys
    assert keys[-2:] == ["encoder.init_from=x", "train.epochs=1"] and "train.seed=3" in keys
    assert "data.train=tfds:glue/mnli:train" in glue._keys("MNLI", "tfds", 1, Options())
    assert glue._source("MNLI", "tfds", "dev_matched") == "tfds:glue/mnli:validation_matched"
    assert len(TASKS) == 9


def test_the_table_shows_median_and_spread():
    shown = table({"CoLA": {"Matthews": [0.4, 0.6, 0.5]}, "MRPC": {"F1": [0.9], "accuracy": [0.7]}})
    assert shown.splitlines()[2:] == [
        "| CoLA | Matthews | 0.5000 | 0.4000 to 0.6000 | 3 |",
        "| MRPC | F1 | 0.9000 | 0.9000 to 0.9000 | 1 |",
        "| MRPC | accuracy | 0.7000 | 0.7000 to 0.7000 | 1 |",
        "| mean of 2 tasks | | 0.6500 | | |",
    ]
