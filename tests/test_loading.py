"""The Python API: the commands' own functions, in a notebook's words."""

import json
import subprocess
import sys

import pytest

import trainer
from tests.conftest import ROOT, assert_close, run_cli, subprocess_environment
from trainer.errors import UserError


def test_importing_the_package_starts_no_tensorflow():
    script = "import sys, trainer; assert 'tensorflow' not in sys.modules; assert callable(trainer.load)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=subprocess_environment(), check=True)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        trainer.lod  # noqa: B018


def test_predictions_and_scores_are_the_commands(run_copy, tmp_path, reviews):
    run = trainer.load(str(run_copy))
    texts = [row["text"] for row in reviews[:6]]
    found = run.predict([*texts, ""])
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, ""]))
    assert run_cli("predict", f"--workdir={run_copy}", f"--input={tmp_path}/in.jsonl", f"--output={tmp_path}/out.jsonl") == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert_close(found[:6], lines[:6])
    assert "is empty" in found[6]["error"]
    scores = run.evaluate("test")
    assert run_cli("evaluate", f"--workdir={run_copy}", "--split=test") == 0
    assert_close(json.loads((run_copy / "evaluation/test.json").read_text()), scores)
    assert run.step == scores["step"] and run.config.task.class_names == ("negative", "positive")
    assert_close(run.predict([{"text": texts[0]}])[0], found[0])


def test_what_cannot_be_is_refused(run_copy):
    run = trainer.load(str(run_copy))
    with pytest.raises(UserError, match=r"predict takes a list of texts, as run.predict\(\['...'\]\)"):
        run.predict("one text")
    with pytest.raises(UserError, match="overrides: a list of strings, as \\['a=1'\\], got one string"):
        trainer.load(str(run_copy), "a=1")
    assert repr(run).startswith("<run of classification in ")
    with pytest.raises(UserError, match="row 1 has 2 texts; this run reads 1: text"):
        run.predict([("a", "b")])
    with pytest.raises(UserError, match=r"predict takes a list of rows, not a table: run.predict\(table\['text'\]\)"):
        run.predict({"text": ["a", "b"]})
    missing = run.predict([float("nan"), None])
    assert all("error" in line for line in missing)
    with pytest.raises(
        UserError, match="--split: 'tset' is not one of this run's splits train, validation, test; did you mean 'test'"
    ):
        run.evaluate("tset")
    with pytest.raises(UserError, match="there is no folder /no/run; train there first"):
        trainer.load("/no/run")


def test_training_and_exports(config_file, tmp_path):
    run = trainer.train(str(config_file), str(tmp_path / "run"), ["train.steps=2"])
    assert run.step == 2 and (tmp_path / "run/metrics.jsonl").exists()
    assert run.export_hugging_face() == f"{tmp_path}/run/huggingface"
    again = trainer.train(None, str(tmp_path / "run"), ["train.steps=2", *overrides_of(config_file)])
    assert again.step == 2, "the run is complete"


def overrides_of(config_file):
    """The keys of a config as overrides."""
    from trainer.config import read_leaves

    leaves = read_leaves(config_file.read_text(), "config")
    return [f"{key}={leaf.node.value}" for key, leaf in leaves.items() if key != "train.steps"]
