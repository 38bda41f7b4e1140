"""Start-up and growth: seconds to the first step; time and memory against length, batch, rows and corpus.

    python benchmarks/growth.py --data=../shared/data

Every point is a process of its own, `rounds` of them, medians in the table. Length grows at the same number of tokens a step,
so that what grows is attention; rows and corpus grow by doubling. Results: benchmarks/results/growth.json, .md and .png.
"""

import argparse
import csv
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import preparation
import report
from accuracy import minilm_folder

TOKENS_OF_A_STEP = 4096
LENGTHS, BATCHES, ROWS = (64, 128, 256, 512), (8, 16, 32, 64, 128, 256), (25_000, 50_000, 100_000, 200_000)
RECOMPUTE = "train.recompute_activations=true"


def start_up(data: Path, folder: Path) -> dict[str, float]:
    """Runs two steps on records that are there; returns the seconds of the phases that `train` itself logs."""
    settings = _settings(data / "glue/SST-2/train.tsv", folder / "records", 32, 128, text="sentence")
    workdir = folder / f"run-{len(list(folder.iterdir()))}"
    report.run_trainer(["train", f"--workdir={workdir}", "--set", *settings, "train.steps=2", "runtime.log_every_steps=1"])
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    (phases,) = [line for line in lines if line["kind"] == "start"]
    found = {name.removesuffix("_seconds"): value for name, value in phases.items() if name.endswith("_seconds")}
    return {**found, "all": sum(found.values())}


def step(folder: Path, rows: int, length: int, *more: str) -> dict[str, float]:
    """Returns {"seconds", "megabytes", "utilization"} of a step of so many rows, each one example of `length` tokens."""
    source = folder / f"long-{length}.csv"
    if not source.exists():
        _write_rows(source, 512, words=length * 2)
    settings = _settings(source, folder / f"records-{length}", rows, length)
    workdir = folder / f"benchmark-{rows}-{length}-{len(more)}"
    measured = ["benchmark", f"--config={_empty(folder)}", f"--workdir={workdir}", "--steps=5", "--synthetic"]
    report.run_trainer([*measured, "--set", *settings, *more])
    found = json.loads((workdir / "benchmark.json").read_text())
    utilization = found["model_flops_utilization"]
    return {"seconds": found["seconds_per_step"], "megabytes": found["peak_memory_bytes"] / 1e6, "utilization": utilization}


def prepared(data: Path, folder: Path, rows: int) -> dict[str, float]:
    """Returns {"seconds", "megabytes"} of `prepare` on so many rows of SST-2, repeated where the set is smaller."""
    source = folder / f"rows-{rows}.csv"
    if not source.exists():
        preparation.sst2(data, folder / "sst2.csv")
        with open(folder / "sst2.csv", encoding="utf8", newline="") as file:
            header, *found = csv.reader(file)
        with open(source, "w", encoding="utf8", newline="") as file:
            csv.writer(file).writerows([header, *(found[i % len(found)] for i in range(rows))])
    target = folder / f"prepared-{rows}-{time.time_ns()}"
    settings = _settings(source, target, 32, 128)
    seconds, megabytes = report.run_trainer(["prepare", f"--workdir={target}", "--set", *settings])
    return {"seconds": seconds, "megabytes": megabytes}


def _write_rows(source: Path, rows: int, words: int) -> None:
    with open(source, "w", encoding="utf8", newline="") as file:
        csv.writer(file).writerows([["text", "label"], *([" ".join(["word"] * words), str(i % 2)] for i in range(rows))])


def _empty(folder: Path) -> Path:
    path = folder / "empty.yaml"
    path.write_text("{}\n")
    return path


def _settings(source: Path, records: Path, batch: int, length: int, text: str = "text") -> list[str]:
    return [
        f"data.train={source}",
        f"task.text_columns=[{text}]",
        f"data.records_dir={records}",
        f"data.max_seq_length={length}",
        f"encoder.init_from={minilm_folder()}",
        f"train.batch_size={batch}",
        "train.precision=bfloat16",
    ]


def shown_rate(point: dict[str, float]) -> str:
    """Returns a point's model FLOPs utilization, where it has one."""
    return f"{point['utilization']:.0%}" if "utilization" in point else ""


def measure(point: Callable[[], dict[str, float]], rounds: int) -> dict[str, float]:
    """Returns the medians of a point."""
    found = [point() for _ in range(rounds)]
    return {key: statistics.median(one[key] for one in found) for key in found[0]}


def plot(curves: dict[str, Any], path: Path) -> None:
    """Draws time and memory of each curve."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(curves), figsize=(4 * len(curves), 6), squeeze=False, layout="constrained")
    for column, (name, curve) in enumerate(curves.items()):
        for line, unit in enumerate(("seconds", "megabytes")):
            axes[line][column].plot(list(map(int, curve)), [point[unit] for point in curve.values()], "o-", color="tab:orange")
            axes[line][column].set(title=name, ylabel=unit, ylim=(0, None))
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measures start-up and all curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    data = options.data.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        start_up(data, folder)  # prepares the records: the cache is warm from here on
        startup = [start_up(data, folder) for _ in range(options.rounds)]
        print("start-up", startup, flush=True)
        curves: dict[str, dict[int, Any]] = {
            f"length, {TOKENS_OF_A_STEP:,} tokens a step": {
                length: measure(lambda n=length: step(folder, TOKENS_OF_A_STEP // n, n), options.rounds) for length in LENGTHS
            },
            "the same, activations computed again": {
                length: measure(lambda n=length: step(folder, TOKENS_OF_A_STEP // n, n, RECOMPUTE), options.rounds)
                for length in LENGTHS
            },
            "batch of examples of 64 tokens": {
                batch: measure(lambda n=batch: step(folder, n, 64), options.rounds) for batch in BATCHES
            },
            "rows prepared": {rows: measure(lambda n=rows: prepared(data, folder, n), options.rounds) for rows in ROWS},
        }
    rows = [
        [name, f"{size:,}", f"{point['seconds']:.2f}", f"{point['megabytes']:,.0f}", shown_rate(point)]
        for name, curve in curves.items()
        for size, point in curve.items()
    ]
    phases = [[phase, report.spread([one[phase] for one in startup])] for phase in startup[0]]
    markdown = (
        report.table(["start-up: phase", "seconds"], phases)
        + "\n"
        + report.table(["curve", "size", "seconds", "MB at the most", "MFU"], rows)
    )
    versions = report.versions(sys.executable, ("tensorflow", "tokenizers", "transformers"))
    kept = {"machine": report.machine(), "versions": versions, "startup": startup, "curves": curves}
    report.keep("growth", kept, markdown)
    plot(curves, report.RESULTS / "growth.png")


if __name__ == "__main__":
    main()
