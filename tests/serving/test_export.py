"""The export: what lies in it, that it is refused when it differs, and that it serves without this project."""

import json
import subprocess
import sys

import pytest

from tests.conftest import run_cli, subprocess_environment
from trainer.errors import UserError
from trainer.serving import export
from trainer.serving.export import difference, next_version, reload_and_call, requests_for


def test_what_an_export_holds(exported_run, exported):
    names = {str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()}
    assert {"saved_model.pb", "assets/labels.txt", "assets.extra/tf_serving_warmup_requests"} <= names
    assert (exported / "assets/labels.txt").read_text() == "negative\npositive\n"
    assert sorted(path.name for path in (exported_run / "exports").iterdir()) == ["1"]
    assert run_cli("export", f"--workdir={exported_run}") == 0
    assert next_version(str(exported_run / "exports")) == 3


def test_a_clean_process_gives_predicts_answers(exported_run, exported, tmp_path, reviews):
    texts = [row["text"] for row in reviews[100:110]]
    (tmp_path / "in.csv").write_text("text\n" + "".join(json.dumps(text).replace('\\"', '""') + "\n" for text in texts))
    assert run_cli("predict", f"--workdir={exported_run}", f"--input={tmp_path}/in.csv", f"--output={tmp_path}/out.jsonl") == 0
    predicted = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    replies = reload_and_call(str(exported), requests_for([[row["text"] for row in predicted]]))
    for signature in ("serving_default", "examples"):
        assert replies[signature]["label"] == [row["label"] for row in predicted]
        assert replies[signature]["probability"] == pytest.approx([row["probability"] for row in predicted], abs=1e-4)


def test_a_different_export_is_refused_and_leaves_nothing(run_copy, monkeypatch, cli):
    monkeypatch.setattr(export, "reload_and_call", lambda *_: {"serving_default": {"label": [], "probability": [0.0] * 32}})
    status, _, error = cli("export", f"--workdir={run_copy}")
    assert status == 1
    assert "the export is refused: signature serving_default, reloaded in a clean process, differs from the model: " in error
    assert list((run_copy / "exports").iterdir()) == []


def test_an_export_that_does_not_load_is_told(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded in a clean process: .*SavedModel file does not exist"):
        reload_and_call(str(tmp_path), {})


def test_an_export_that_hangs_is_told(tmp_path, monkeypatch):
    def hang(*_, **__):
        raise subprocess.TimeoutExpired("python", 1)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(UserError, match="did not answer within 600 s in a clean process"):
        reload_and_call(str(tmp_path), {})


def test_difference():
    assert difference({"p": [0.5], "label": ["a"]}, {"p": [0.50001], "label": ["b"]}, 1e-4) is None
    assert difference({"p": [0.5]}, {"p": [0.6]}, 1e-4) == "p by up to 0.1, over 0.0001"
    assert difference({"p": [float("nan")]}, {"p": [0.6]}, 1e-4) == "p by up to nan, over 0.0001"
    assert difference({}, {"p": [0.6]}, 1e-4) == "it has no output 'p'"


def test_the_clean_process_has_no_other_package(tmp_path):
    script = (
        "import runpy, sys; sys.argv = ['reload']; m = runpy.run_path({!r}); sys.meta_path.insert(0, m['NotHere']()); import {}"
    )
    for name in ("transformers", "trainer"):
        command = [sys.executable, "-c", script.format(export.reload.__file__, name)]
        done = subprocess.run(command, capture_output=True, text=True, env=subprocess_environment())
        assert f"{name} is not on a server" in done.stderr
