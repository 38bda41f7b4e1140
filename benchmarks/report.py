"""What the benchmarks have in common: where the figures were taken, how they are kept."""

import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results"


def machine() -> dict[str, str]:
    """Returns what the figures were taken on."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {"cpu": model[0].partition(":")[2].strip(), "cores": str(len(model)), "platform": platform.platform()}


def versions(python: str, packages: Iterable[str]) -> dict[str, str]:
    """Returns {package: version} of what an environment has of these."""
    code = (
        "import importlib.metadata as m, json, sys\n"
        "found = {d.metadata['Name']: d.version for d in m.distributions()}\n"
        "print(json.dumps({name: found[name] for name in sys.argv[1:] if name in found}))"
    )
    return json.loads(subprocess.run([python, "-c", code, *packages], capture_output=True, text=True, check=True).stdout)


def train(config: str | None, workdir: Path, keys: Iterable[str]) -> list[dict[str, Any]]:
    """Trains, or goes on, with its log to be seen; returns the lines of the run's validations."""
    arguments = [f"--config={config}"] if config else []
    arguments += [f"--workdir={workdir}", *[f"--set={key}" for key in keys]]
    subprocess.run([sys.executable, "-m", "trainer", "train", *arguments], cwd=ROOT, check=True)
    return validations(workdir)


def validations(workdir: Path) -> list[dict[str, Any]]:
    """Returns the lines of a run's validations."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "validation"]


def run_trainer(arguments: Sequence[str]) -> tuple[float, float]:
    """Runs a command of ours to its end; returns its seconds and the most megabytes of memory it held."""
    command = [sys.executable, "-m", "trainer", *arguments]
    begun = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            errors.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{errors.read()[-3000:]}")
    return time.perf_counter() - begun, usage.ru_maxrss / 1e3


def in_own_process(what: str, function: Callable[..., None], *arguments: Any) -> None:
    """Calls a function in a process of its own, whose memory goes with it and whose failure does not end this one."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    print(f"{what}: {'done' if process.exitcode == 0 else 'FAILED'}", flush=True)


def add_line(name: str, record: Mapping[str, Any]) -> None:
    """Adds a line to results/<name>.jsonl."""
    RESULTS.mkdir(exist_ok=True)
    with open(RESULTS / f"{name}.jsonl", "a", encoding="utf8") as file:
        file.write(json.dumps(record) + "\n")


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Returns "median (lowest to highest)"."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Returns the median of the ratios, each taken within a round."""
    return statistics.median(above / below for above, below in zip(numerators, denominators, strict=True))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def keep(name: str, results: Any, markdown: str) -> None:
    """Writes results/<name>.json and .md, and prints the table."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(markdown)
    print(markdown)
