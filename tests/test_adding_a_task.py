"""docs/adding-a-task.md at its word: its blocks become files beside the package, and its test runs; no existing file changes."""

import atexit
import importlib.util
import re
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

import trainer.tasks
from tests.conftest import ROOT
from trainer.run import experiment

PAGE = (ROOT / "docs/adding-a-task.md").read_text()
BLOCKS = dict(re.findall(r"```\w+ file=(\S+)\n(.*?)```", PAGE, re.DOTALL))
FOLDER = Path(tempfile.mkdtemp(prefix="bert-trainer-task-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
for name, content in BLOCKS.items():
    path = FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", autouse=True)
def added():
    """The package with one more file in it."""
    trainer.tasks.__path__.append(str(FOLDER / "trainer/tasks"))
    yield
    trainer.tasks.__path__.pop()


trainer.tasks.__path__.append(str(FOLDER / "trainer/tasks"))  # for what is imported here; tests get it by the fixture
page_test = load("page_test_ordinal", FOLDER / "tests/tasks/test_ordinal.py")
trainer.tasks.__path__.pop()


class TestOrdinal(page_test.TestOrdinal):
    """The page's test of the contract; most of it is slow here, as of a variant of another task."""

    is_variant = True


test_what_is_no_rating_is_rejected = page_test.test_what_is_no_rating_is_rejected
test_one_rating_is_refused = page_test.test_one_rating_is_refused


def test_the_task_is_found_and_its_config_loads():
    assert "ordinal" in trainer.tasks.task_names()
    assert experiment.load(str(FOLDER / "configs/tiny/ordinal.yaml")).task.highest == 5
    assert set(BLOCKS) == {"trainer/tasks/ordinal.py", "tests/tasks/test_ordinal.py", "configs/tiny/ordinal.yaml"}
