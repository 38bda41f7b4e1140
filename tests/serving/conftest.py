import shutil

import pytest

from tests.conftest import run_cli


@pytest.fixture(scope="session")
def exported_run(finished_run, tmp_path_factory):
    """A copy of the finished run, exported."""
    folder = shutil.copytree(finished_run, tmp_path_factory.mktemp("exported") / "run")
    assert run_cli("export", f"--workdir={folder}") == 0
    return folder


@pytest.fixture(scope="session")
def exported(exported_run):
    """The folder of its SavedModel."""
    return exported_run / "exports/1"
