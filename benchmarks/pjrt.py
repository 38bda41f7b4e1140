"""Training by PJRT beside TensorFlow's own runtime on this CPU: the same losses and weights? the same time a step?

    python benchmarks/pjrt.py                     (equality, then time in alternating rounds; about 30 minutes on two cores)

Equality: the quick start's encoder and rows, 20 steps with dropout off, by `runtime.distribution=default` and, with PJRT, on 1,
2 and 4 devices, in 2 processes, several steps a call, and resumed under another distribution half-way; with dropout on, 1
device beside one and 2 devices beside MirroredStrategy's 2. Time: seconds a step of `bert-trainer benchmark`, beside the step
that XLA compiles whole for TensorFlow (`train.jit_compile=true`), the same program. Results go to benchmarks/results/pjrt.*.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import report

STEPS = 20
NO_DROPOUT = ("encoder.dropout_rate=0", "encoder.attention_dropout_rate=0", "task.head_dropout_rate=0")
TENSORFLOW = ("runtime.distribution=default", "train.kernels=xla")
PJRT = ("runtime.distribution=pjrt",)
RUNS: dict[str, tuple[tuple[str, ...], ...]] = {  # name: the keys of each part of the run, one after the other
    "TensorFlow": ((*NO_DROPOUT, *TENSORFLOW),),
    "PJRT, 1 device": ((*NO_DROPOUT, *PJRT),),
    "PJRT, 2 devices": ((*NO_DROPOUT, *PJRT, "runtime.cpu_devices=2"),),
    "PJRT, 4 devices, 5 steps a call": ((*NO_DROPOUT, *PJRT, "runtime.cpu_devices=4", "train.steps_per_execution=5"),),
    "PJRT, 2 processes": ((*NO_DROPOUT, *PJRT),),
    "TensorFlow, then PJRT on 2 devices": ((*NO_DROPOUT, *TENSORFLOW), (*NO_DROPOUT, *PJRT, "runtime.cpu_devices=2")),
    "PJRT on 2 devices, then TensorFlow": ((*NO_DROPOUT, *PJRT, "runtime.cpu_devices=2"), (*NO_DROPOUT, *TENSORFLOW)),
    "TensorFlow, dropout": (TENSORFLOW,),
    "PJRT, 1 device, dropout": (PJRT,),
    "MirroredStrategy, 2 devices, dropout": (("runtime.distribution=mirrored", "runtime.cpu_devices=2", "train.kernels=xla"),),
    "PJRT, 2 devices, dropout": ((*PJRT, "runtime.cpu_devices=2"),),
}
BESIDE = {"PJRT, 1 device, dropout": "TensorFlow, dropout", "PJRT, 2 devices, dropout": "MirroredStrategy, 2 devices, dropout"}
REFERENCES = ("TensorFlow", *BESIDE.values())


def train(keys: tuple[str, ...], workdir: Path, processes: int, stop_at: int | None) -> None:
    """Trains in so many processes; with `stop_at`, until the run is stopped after that step."""
    from accuracy import minilm_folder

    all_keys = (
        f"encoder.init_from={minilm_folder()}", "train.precision=float32", f"train.steps={STEPS}", "data.test=null",
        f"runtime.checkpoint_every_steps={STEPS // 2}", "runtime.log_every_steps=1", *keys,
    )  # fmt: skip
    command = ["-m", "trainer", "train", "--config=quickstart", f"--workdir={workdir}", *[f"--set={key}" for key in all_keys]]
    if stop_at is not None:
        command = ["-c", STOPPED.format(stop_at=stop_at, arguments=command[2:])]
    ports = []
    for _ in range(processes):
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            ports.append(one.getsockname()[1])
    started = []
    for index in range(processes):
        cluster = {"cluster": {"worker": [f"127.0.0.1:{port}" for port in ports]}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, **({"TF_CONFIG": json.dumps(cluster)} if processes > 1 else {})}
        started.append(subprocess.Popen([sys.executable, *command], cwd=report.ROOT, env=environment))
    statuses = [process.wait() for process in started]
    if set(statuses) - {0, 143}:
        raise SystemExit(f"{workdir.name} failed")


STOPPED = """
import os, signal, sys
from trainer.commands import train
original = train.TrainingRhythm.on_train_batch_end
def stop(rhythm, batch, logs=None):
    if batch + 1 == {stop_at}:
        os.kill(os.getpid(), signal.SIGTERM)
    original(rhythm, batch, logs)
train.TrainingRhythm.on_train_batch_end = stop
from trainer.cli import main
sys.exit(main({arguments!r}))
"""


def outcome(workdir: Path) -> tuple[dict[str, np.ndarray], list[float]]:
    """Returns the weights after the last step, and each step's loss."""
    sys.path.insert(0, str(report.ROOT))
    import trainer  # noqa: F401  sets Keras 2
    from trainer.runtime.checkpoints import read_variables

    stored = read_variables(str(workdir / f"checkpoints/step-{STEPS:08d}/weights"))
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}
    return {name: value for name, value in stored.items() if not name.startswith("optimizer/")}, [*losses.values()]


def equality() -> list[dict[str, Any]]:
    """Returns each run's largest gaps to the run beside it."""
    found, results = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, parts) in enumerate(RUNS.items()):
            workdir = Path(folder, str(number))
            for part, keys in enumerate(parts):
                train(keys, workdir, 2 if "processes" in name else 1, STEPS // 2 if part < len(parts) - 1 else None)
            found[name] = outcome(workdir)
    for name, (weights, losses) in found.items():
        if name in REFERENCES:
            continue
        beside, beside_losses = found[BESIDE.get(name, "TensorFlow")]
        results.append(
            {
                "run": name,
                "beside": BESIDE.get(name, "TensorFlow"),
                "loss_gap": max(abs(a - b) for a, b in zip(losses, beside_losses, strict=False)),
                "weight_gap": max(float(np.abs(weights[key] - beside[key]).max()) for key in beside),
            }
        )
    return results


def seconds_a_step(keys: tuple[str, ...], steps: int) -> float:
    """Returns the median seconds of a step."""
    from accuracy import minilm_folder

    with tempfile.TemporaryDirectory() as workdir:
        all_keys = (f"encoder.init_from={minilm_folder()}", "train.precision=float32", "data.test=null", *keys)
        report.run_trainer(
            [
                "benchmark",
                "--config=quickstart",
                f"--workdir={workdir}",
                f"--steps={steps}",
                *[f"--set={key}" for key in all_keys],
            ]
        )
        return json.loads(Path(workdir, "benchmark.json").read_text())["seconds_per_step"]


def main() -> None:
    """Measures both, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of the times, in alternation; 0: only equality")
    parser.add_argument("--steps", type=int, default=10, help="timed in each round")
    options = parser.parse_args()
    equal = equality()
    markdown = "Largest gaps after 20 steps of the quick start, float32.\n\n" + report.table(
        ["run", "beside", "loss", "weights"],
        [[one["run"], one["beside"], f"{one['loss_gap']:.1e}", f"{one['weight_gap']:.1e}"] for one in equal],
    )
    times: dict[str, list[float]] = {"TensorFlow": [], "PJRT": []}
    for _ in range(options.rounds):
        times["TensorFlow"].append(seconds_a_step(("runtime.distribution=default", "train.jit_compile=true"), options.steps))
        times["PJRT"].append(seconds_a_step(PJRT, options.steps))
    if options.rounds:
        ratio = report.median_ratio(times["PJRT"], times["TensorFlow"])
        taken = {name: report.spread(values, 3) for name, values in times.items()}
        markdown += f"\nSeconds a step, {options.rounds} alternating rounds: PJRT {taken['PJRT']}, TensorFlow's XLA step "
        markdown += f"{taken['TensorFlow']}; ratio {ratio:.2f}.\n"
    report.keep("pjrt", {"machine": report.machine(), "equality": equal, "seconds_a_step": times}, markdown)


if __name__ == "__main__":
    main()
