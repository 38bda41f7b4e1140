"""Faults that a run handles: signals to stop, a loss that is NaN or infinite, an input that does not come."""

import contextlib
import logging
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from trainer import files
from trainer.errors import UserError

log = logging.getLogger(__name__)
PROBE_SECONDS = 10.0  # that a file has to answer in


class NotFiniteError(UserError):
    """A loss, or a weight after an update, is NaN or infinite.

    Args:
      message: for the user.
      step: the last one that it may have happened at.
    """

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class StopSignals:
    """Turns Ctrl-C and SIGTERM (preemption) into a wish to stop at the end of the step; a second one acts at once.

    Attributes:
      received: the signal's name, or None.
    """

    def __init__(self):
        self.received: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is not threading.main_thread():
            return self  # Python takes signals in the main thread only; who trains in another one stops it otherwise
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        signal.signal(number, self._before[number])


def check_finite(losses: Sequence[tuple[int, int, float]], precision: str, learning_rate: float) -> None:
    """Raises NotFiniteError where a loss is NaN or infinite: the step, what the run had, what to try.

    Args:
      losses: (first step, last step, their mean loss) of each call into TensorFlow, in order.
      precision, learning_rate: of the run.
    """
    for first, last, loss in losses:
        if not math.isfinite(loss):
            where = f"at step {first:,}" if first == last else f"in steps {first:,} to {last:,} (train.steps_per_execution)"
            tries = [f"a smaller train.learning_rate than {learning_rate:g}", "a longer warm-up (train.warmup_ratio)"]
            if precision == "float16":
                tries.insert(0, "train.precision=bfloat16")
            raise NotFiniteError(
                f"the loss is {loss} {where}. Nothing is saved from there on; earlier checkpoints and the best model stay. "
                f"Try {', '.join(tries)}, or look at the rows of these steps",
                last,
            )


class StallWatch:
    """Says so when no step ends for long, and what it is that does not answer: the step's input is read from files.

    Args:
      paths: of the records that training reads.
      seconds: without a step, after which it says so; once for each pause.
    """

    def __init__(self, paths: Sequence[str], seconds: float):
        self._paths, self._seconds = paths, seconds
        self._last: float | None = None  # when a step ended; None: nothing is expected
        self._ended = threading.Event()
        self._told = False

    def __enter__(self) -> "StallWatch":
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()

    def beat(self) -> None:
        """A step has ended."""
        self._last, self._told = time.monotonic(), False

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Expects no step inside."""
        self._last = None
        try:
            yield
        finally:
            self.beat()

    def _watch(self) -> None:
        while not self._ended.wait(min(self._seconds / 4, 10.0)):
            last = self._last
            if last is not None and not self._told and time.monotonic() - last > self._seconds:
                self._told = True
                log.warning("no step has ended for %.0f s: %s", time.monotonic() - last, self._reason())

    def _reason(self) -> str:
        for path in self._paths:
            problem = unanswered(path)
            if problem:
                return f"{path} {problem}. The run goes on when it answers"
        return "all records answer, so the step itself is slow, or waits for another worker"


def unanswered(path: str) -> str | None:
    """Returns why a file gives no byte, "cannot be read: ..." or "does not answer ..."; None: it does."""
    answer: list[str | None] = []

    def read() -> None:
        try:
            with files.open_binary(path) as file:
                file.read(1)
            answer.append(None)
        except Exception as error:  # of whatever file system it is
            answer.append(f"cannot be read: {str(error).strip().splitlines()[0]}")

    reader = threading.Thread(target=read, daemon=True)  # one that never comes back must not hold the process
    reader.start()
    reader.join(PROBE_SECONDS)
    return answer[0] if answer else f"does not answer within {PROBE_SECONDS:.0f} s"
