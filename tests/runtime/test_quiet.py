"""XLA's notices stay off the user's standard error."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("level", "says"), [("3", False), ("0", True)])
def test_xla_is_quiet_unless_verbose(level, says):
    code = (
        "import tensorflow as tf; from trainer.runtime.fusion import compiled; from trainer.runtime.quiet import quieten;"
        "quieten(); compiled(tf.exp)(tf.zeros([2]))"
    )
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": level}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ("Compiled cluster" in done.stderr) == says
