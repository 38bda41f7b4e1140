import subprocess
import sys

from tests.conftest import ROOT, subprocess_environment


def test_the_module_runs():
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "nonsense"], cwd=ROOT, env=subprocess_environment(), capture_output=True, text=True
    )
    assert done.returncode == 2 and "error: unknown command 'nonsense'" in done.stderr
