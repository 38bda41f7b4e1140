"""Faults that a run handles: a second run in the same workdir, signals to stop, a loss that is NaN or infinite."""

import fcntl
import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Sequence
from types import FrameType
from typing import IO, Any

from trainer import files
from trainer.errors import UserError

log = logging.getLogger(__name__)


class WorkdirLock:
    """Holds a workdir for one run; the system drops the lock when the process ends, however it ends.

    Local folders only: object stores have no locks.
    """

    def __init__(self, workdir: str):
        self._workdir = workdir
        self._file: IO[str] | None = None

    def __enter__(self) -> "WorkdirLock":
        if files.is_remote(self._workdir):
            return self
        files.make_dirs(self._workdir)
        path = files.join(self._workdir, "lock")
        file = open(path, "a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise UserError(
                f"--workdir: {self._workdir} is in use by {holder}; wait for it, stop it, or choose another --workdir"
            ) from None
        except OSError as error:  # some network file systems have no locks
            log.warning("%s: no lock is possible (%s); do not start a second run in it", self._workdir, error.strerror)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        self._file = file
        return self

    def __exit__(self, *_) -> None:
        if self._file:
            self._file.truncate(0)
            self._file.close()


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
    """Raises UserError where a loss is NaN or infinite: the step, what the run had, what to try.

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
            raise UserError(
                f"the loss is {loss} {where}. Nothing is saved from there on; earlier checkpoints and the best model stay. "
                f"Try {', '.join(tries)}, or look at the rows of these steps"
            )
