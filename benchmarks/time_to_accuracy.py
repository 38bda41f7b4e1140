"""Time to the same accuracy: this project and its peer train on SST-2 in alternation, a few steps each, scored in between.

    python benchmarks/time_to_accuracy.py --data=../shared/data --peer_python=PEER/bin/python

The same weights, examples, batch, rate and schedule; the peer at its best settings on the machine (`--peer`). What counts is
the time of the training steps alone, until a side first has the accuracy that the peer has at its end. Evaluation stops the
clock. Each seed is a run of its own. Results go to benchmarks/results/time_to_accuracy.json, .md and .png.
"""

import argparse
import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

import report
import speed
from accuracy import minilm_folder
from sides import Side

CASE = speed.Case(32, 128, steps=25, file="glue/SST-2/train.tsv", text_column="sentence")
TEST_FILE = "glue/SST-2/dev.tsv"


def run_seed(seed: int, options: argparse.Namespace, case: Path, encoder: Path) -> dict[str, list[tuple[float, float]]]:
    """Trains both sides; returns each one's [(seconds of training, accuracy)], a point for each block of steps."""
    more = [f"--learning_rate={options.learning_rate}", f"--total_steps={options.steps}", f"--seed={seed}"]
    sides = [Side(name, [*speed.command_of(name, options, case, encoder), *more]) for name in ("ours", options.peer)]
    seconds = {side.name: 0.0 for side in sides}
    curves: dict[str, list[tuple[float, float]]] = {side.name: [] for side in sides}
    for block in range(options.steps // CASE.steps):
        for side in sides:
            seconds[side.name] += side.ask(CASE.steps)["seconds"]
            curves[side.name].append((seconds[side.name], side.ask("evaluate")["accuracy"]))
        told = {name: f"{curve[-1][1]:.4f} after {curve[-1][0]:.0f} s" for name, curve in curves.items()}
        print(f"seed {seed}, step {(block + 1) * CASE.steps}: {told}", flush=True)
    for side in sides:
        side.close()
    return curves


def seconds_to(curve: list[tuple[float, float]], accuracy: float) -> float | None:
    """Returns when a curve first is at an accuracy; None if never."""
    return next((seconds for seconds, found in curve if found >= accuracy), None)


def markdown(runs: dict[str, dict[str, list[tuple[float, float]]]], peer: str) -> str:
    """Returns a line for each seed, and the median of the ratios."""
    rows, ratios = [], []
    for seed, curves in runs.items():
        target = curves[peer][-1][1]
        ours, theirs = (seconds_to(curves[side], target) for side in ("ours", peer))
        ratio = theirs / ours if ours and theirs else None
        ratios.append(ratio or 0.0)  # one that never gets there
        finals = [f"{curves[side][-1][1]:.4f} in {curves[side][-1][0]:.0f} s" for side in ("ours", peer)]
        reached = [f"{ours:.0f} s" if ours else "never", f"{theirs:.0f} s"]
        rows.append([seed, f"{target:.4f}", *reached, f"{ratio:.2f} ×" if ratio else "", *finals])
    header = ["seed", "the peer's final accuracy", "ours has it after", "the peer first after", "ours is", "ours at its end"]
    told = report.table([*header, "the peer at its end"], rows)
    return told + f"\nMedian of {len(ratios)} seeds, 0 for one that never has it: {report.spread(ratios, 2)} ×.\n"


def plot(runs: dict[str, dict[str, list[tuple[float, float]]]], path: Path) -> None:
    """Draws accuracy over seconds of training, a line for each side and seed."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for number, curves in enumerate(runs.values()):
        for side, curve in curves.items():
            label = side if number == 0 else None
            axis.plot(*zip(*curve, strict=True), color="tab:orange" if side == "ours" else "tab:gray", label=label)
    axis.set(title="SST-2, dev", xlabel="seconds of training", ylabel="accuracy", ylim=(0.7, None))
    axis.legend()
    figure.savefig(path, dpi=120)


def case_with_test(options: argparse.Namespace, encoder: Path, folder: Path) -> Path:
    """Writes the case, with the dev set beside it."""
    path = speed.case_file(CASE, Path(options.data), encoder, folder, count=options.steps * CASE.batch_size)
    test, labels = speed.read_examples(CASE, Path(options.data) / TEST_FILE, encoder)
    content: dict[str, Any] = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"test_examples": test, "test_labels": labels}))
    return path


def main() -> None:
    """Runs the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="the folder of the data sets")
    parser.add_argument("--peer_python", required=True, help="python of an environment with peers/requirements.txt")
    parser.add_argument("--peer", default="pytorch-bf16-grouped", choices=speed.SIDES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=400, help="of each run; one epoch of as many batches of SST-2")
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    options = parser.parse_args()
    if importlib.util.find_spec("matplotlib") is None:
        parser.error("the plot needs matplotlib: pip install -e '.[bench]'")
    encoder = minilm_folder()
    with tempfile.TemporaryDirectory() as folder:
        case = case_with_test(options, encoder, Path(folder))
        runs = {str(seed): run_seed(seed, options, case, encoder) for seed in options.seeds}
    asked = {"peer": options.peer, "steps": options.steps, "learning_rate": options.learning_rate}
    report.keep("time_to_accuracy", {"machine": report.machine(), **asked, "runs": runs}, markdown(runs, options.peer))
    plot(runs, report.RESULTS / "time_to_accuracy.png")


if __name__ == "__main__":
    main()
