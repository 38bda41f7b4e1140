"""A command of this program in a process of its own, as commands that make several runs start each of them."""

import subprocess
import sys
from collections.abc import Sequence


def call(arguments: Sequence[str]) -> int:
    """Runs a command and returns its exit status; Ctrl-C reaches it as well, and it saves before it ends."""
    process = subprocess.Popen([sys.executable, "-m", "trainer", *arguments])
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue
