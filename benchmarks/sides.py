"""A side of a benchmark: a process with a Python of its own that answers a JSON line to each line it is asked.

While it waits for a line it takes no time from the others.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
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


def in_turn(sides: Sequence[Side], repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Asks all sides in turn for their work, once more than `repeats` times, the first time to warm up; then ends them.

    Returns:
      {side: its answers, which tell the "seconds"}.
    """
    answers: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
    for number in range(repeats + 1):
        for side in sides:
            answer = side.ask("again")
            if number:
                answers[side.name].append(answer)
    for side in sides:
        side.close()
    return answers


def answer_with_seconds(work: Callable[[], Mapping[str, Any]], ready: Mapping[str, Any]) -> None:
    """Is our side of `in_turn`: says that it is ready, then works once for each line that comes, and tells the seconds."""
    print(json.dumps(ready), flush=True)
    for _ in sys.stdin:
        begun = time.perf_counter()
        found = work()
        print(json.dumps({"seconds": time.perf_counter() - begun, **found}), flush=True)
