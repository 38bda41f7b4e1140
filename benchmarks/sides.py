"""A side of a benchmark: a process with a Python of its own that answers a JSON line to each line it is asked.

While it waits for a line it takes no time from the others.
"""

import json
import subprocess
import tempfile
from typing import Any


class Side:
    """A running side.

    Attributes:
      ready: what it said when it was ready.
    """

    def __init__(self, name: str, command: list[str]):
        self.name = name
        self._errors = tempfile.TemporaryFile("w+")  # a file: a pipe that nobody empties would stop a side that says much
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True)
        self.ready = self._answer()

    def ask(self, question: Any) -> dict[str, Any]:
        """Returns the answer to one line."""
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise SystemExit(f"{self.name} failed:\n{self._errors.read()[-3000:]}")
        return json.loads(line)
