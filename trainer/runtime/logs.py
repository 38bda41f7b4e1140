"""The log of a run: a line every so many steps on the console, in metrics.jsonl and in TensorBoard."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from trainer import files

REMOTE_SECONDS = 60  # between writes of metrics.jsonl to an object store, which cannot append


class MetricsLog:
    """Writes numbers of steps to `metrics.jsonl` and `tensorboard/`.

    A local file is appended to. An object store rewrites a file whole, so lines are collected there until `flush`, or until
    REMOTE_SECONDS have passed.

    Args:
      workdir: the run's folder.
      first_step: where the run begins; lines from later steps, which a resumed run repeats, are dropped.
    """

    def __init__(self, workdir: str, first_step: int = 0):
        self._path = files.join(workdir, "metrics.jsonl")
        lines = files.read_text(self._path).splitlines() if files.exists(self._path) else []
        self._lines = [line for line in lines if _is_up_to(line, first_step)]
        self._file = None
        self._written = time.monotonic()
        if not files.is_remote(self._path):
            files.write_text(self._path, "".join(f"{line}\n" for line in self._lines))
            self._file = open(self._path, "a", encoding="utf8")
        self._writer = tf.summary.create_file_writer(files.join(workdir, "tensorboard"))

    def write(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Adds one line: {"step", "kind": "start", "train" or "validation", values}."""
        line = json.dumps({"step": step, "kind": kind, **values})
        if self._file is not None:
            with files.explain_full_disk(self._path):
                self._file.write(f"{line}\n")
                self._file.flush()
        else:
            self._lines.append(line)
            if time.monotonic() - self._written > REMOTE_SECONDS:
                self.flush()
        if kind == "start":  # no curve: in TensorBoard it would only stand before the others
            return
        with self._writer.as_default(step=step):
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    tf.summary.scalar(f"{kind}/{name}", value)
        self._writer.flush()

    def flush(self) -> None:
        """Writes the lines that were collected for an object store; call it with each checkpoint and at the end."""
        if self._file is None:
            files.write_text(self._path, "".join(f"{line}\n" for line in self._lines))
            self._written = time.monotonic()


def _is_up_to(line: str, step: int) -> bool:
    """Whether a line of metrics.jsonl is of a step up to this one; a line that a kill cut short is not."""
    try:
        return json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False


class StartUp:
    """Measures what comes before the first step, phase after phase.

    Args:
      begun: when the first phase began, of `time.monotonic`.
    """

    def __init__(self, begun: float):
        self._begun = self._last = begun
        self.seconds: dict[str, float] = {}

    def done(self, phase: str) -> None:
        """Ends a phase; the next one begins."""
        now = time.monotonic()
        self.seconds[phase] = now - self._last
        self._last = now

    def line(self) -> str:
        """Returns the phases as one console line."""
        phases = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in self.seconds.items())
        return f"first step done {self._last - self._begun:.1f} s after the start: {phases}"


class Meter:
    """Measures the time, tokens and cells between two log lines.

    Args:
      total_steps, first_step: of the run.
      flops_per_token: model FLOPs of a token, forward and backward.
    """

    def __init__(self, total_steps: int, first_step: int, flops_per_token: float):
        self._total, self._step, self._time = total_steps, first_step, time.monotonic()
        self._flops_per_token = flops_per_token

    def lap(self, step: int, tokens: float, cells: float, waited_seconds: float, peak_flops: float) -> dict[str, float]:
        """Returns the rates since the last lap.

        Args:
          step: the last that is done.
          tokens, cells, waited_seconds: of the steps since then.
          peak_flops: FLOP/s of the devices' matrix product, all of them together.

        Returns:
          {"tokens_per_second", "padding_efficiency", "data_wait_fraction", "gflops_per_second", "model_flops_utilization",
          "seconds_per_step", "seconds_left"}. There is no utilization above 1: the peak was then measured on a busy machine.
        """
        now = time.monotonic()
        seconds, steps = max(now - self._time, 1e-9), max(step - self._step, 1)
        self._time, self._step = now, step
        flops = tokens * self._flops_per_token / seconds
        return {
            "tokens_per_second": tokens / seconds,
            "padding_efficiency": tokens / max(cells, 1),
            "data_wait_fraction": waited_seconds / seconds,
            "gflops_per_second": flops / 1e9,
            **({"model_flops_utilization": flops / peak_flops} if flops <= peak_flops else {}),
            "seconds_per_step": seconds / steps,
            "seconds_left": seconds / steps * (self._total - step),
        }

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out the time spent inside: a validation, a checkpoint."""
        begun = time.monotonic()
        yield
        self._time += time.monotonic() - begun


def training_line(step: int, total_steps: int, means: dict[str, float], values: dict[str, Any]) -> str:
    """Returns a step's numbers as one console line.

    Args:
      step, total_steps: where the run is.
      means: the loss, and the other values that the task logs.
      values: the learning rate, and what `Meter.lap` gives.
    """
    shown = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
    utilization = f"{values['model_flops_utilization']:.0%} MFU  " if "model_flops_utilization" in values else ""
    return (
        f"step {step:,}/{total_steps:,}  {shown}  lr {values['learning_rate']:.2e}  "
        f"{values['tokens_per_second']:,.0f} tokens/s  {values['gflops_per_second']:,.0f} GFLOP/s  {utilization}"
        f"{values['padding_efficiency']:.0%} useful  {values['data_wait_fraction']:.1%} waiting for data  "
        f"{duration(values['seconds_left'])} left"
    )


def duration(seconds: float) -> str:
    """Returns a duration for people: "45 s", "3 min 20 s", "2 h 5 min".

    >>> duration(200), duration(7500)
    ('3 min 20 s', '2 h 5 min')
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


class ProgressBar:
    """A bar on the terminal's last line; silent where standard error is no terminal."""

    def __init__(self, total: int):
        self._total, self._shown = total, sys.stderr.isatty()

    def update(self, step: int) -> None:
        """Draws the bar."""
        if self._shown:
            done = 30 * step // self._total
            sys.stderr.write(f"\r[{'#' * done}{'.' * (30 - done)}] {step:,}/{self._total:,}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Takes the bar off, so that a line can be printed."""
        if self._shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
