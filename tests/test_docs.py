"""The documentation's commands: every fenced block marked `sh test` runs, in order, in a folder of its own.

The README's run in the default suite, those of pages that train with `make test-slow`.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, minilm_folder

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
WITH_COMMANDS = [
    pytest.param(page, marks=[] if page.name in ("README.md", "tpu.md") else pytest.mark.slow, id=page.name)
    for page in PAGES
    if "```sh test" in page.read_text()
]


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_commands_run(page, tmp_path):
    minilm_folder()
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    shutil.copy(ROOT / "run_tpu.sh", tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/bert-trainer").write_text(f'#!/bin/sh\nexec {sys.executable} -m trainer "$@"\n')
    (tmp_path / "bin/bert-trainer").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    for block in re.findall(r"```sh test\n(.*?)```", page.read_text(), re.DOTALL):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_point_somewhere(page):
    for target in re.findall(r"\]\((?!http)([\w./-]+)[)#]", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_config_keys_that_are_named_exist(page):
    from trainer import config
    from trainer.run import experiment
    from trainer.tasks import task_names

    known = {
        f"{name}.{field}"
        for task in task_names()
        for name, section in experiment.schema(task).items()
        for field in config.fields_of(section)
    }
    # Not the modules that Python code imports, nor what it computes with
    text = re.sub(r"```python.*?```", "", page.read_text(), flags=re.DOTALL)
    named = set(re.findall(r"\b((?:task|encoder|data|train|runtime)\.[a-z_]+)\b", text))
    files_and_typos = {"config.yaml", "train.learning_rat", "data.md", "train.csv", "train.txt", "runtime.md"}
    unknown = {key for key in named - known - files_and_typos if not key.endswith((".md", ".py", ".csv"))}
    assert not unknown


def test_the_places_that_contributing_names_exist():
    """`path/to/module.py:name` in its table: the file, and in it a class or a function of that name."""
    places = re.findall(r"`(trainer/[\w/]+\.py)(?::(\w+))?`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(places) > 15
    for path, name in places:
        source = (ROOT / path).read_text()
        assert not name or re.search(rf"^(class|def) {name}\b", source, re.MULTILINE), f"{path} has no {name}"


def test_help_words_of_the_makefile_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for word in re.findall(r"make ([a-z-]+) ", (ROOT / "Makefile").read_text()):
        assert word in targets, word


def test_every_config_loads():
    from trainer.run import experiment

    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        assert Path(path).read_text().startswith("#"), f"{path} must open with what it is"
        experiment.load(str(path))
