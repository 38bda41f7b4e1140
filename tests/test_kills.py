"""Killed at random moments, every command goes on when it is given again, and leaves what it leaves undisturbed.

    KILLS=200 pytest -m slow tests/test_kills.py      (about an hour on two cores; 40 kills by default)

SIGKILL, as the out-of-memory killer sends it, and SIGTERM, as a scheduler does. A run is killed again and again until it comes
to its end; then the next one begins.
"""

import collections
import dataclasses
import functools
import hashlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import forked
from tests.conftest import ROOT, write_config
from tests.runtime.test_distribution import clusters_of
from trainer import files
from trainer.data.records import Manifest
from trainer.runtime.checkpoints import read_variables

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("KILLS", 40))
GRACE_SECONDS = 60
STEPS, EXAMPLES, BATCH = 120, 64, 8
SEEN = "seen.txt"


@dataclasses.dataclass
class Case:
    """A command that is killed.

    Attributes:
      share: of all kills.
      arguments: (the workdir) → the command line.
      outcome: (the workdir) → what must be the same as undisturbed.
      begin: makes a workdir for it.
      workers: processes that run it together.
      examples_are_noted: whether each step adds the examples that it saw to SEEN, beside the workdirs.
    """

    share: float
    arguments: Callable[[Path], list[str]]
    outcome: Callable[[Path], Any]
    begin: Callable[[Path], None] = lambda workdir: None
    workers: int = 1
    examples_are_noted: bool = False

    def start(self, workdir: Path) -> list:
        environments: list[dict[str, str]] = [{}]
        if self.workers > 1:
            clusters = clusters_of(self.workers)
            environments = [{"TF_CONFIG": json.dumps(one), "JAX_NUM_CPU_DEVICES": "1"} for one in clusters]
        log = f"{workdir}.log"
        prepared_by = functools.partial(note_examples, str(workdir.parent / SEEN)) if self.examples_are_noted else None
        return [forked.start(self.arguments(workdir), log, one, prepared_by) for one in environments]


def end(processes, number: int, draw: random.Random) -> bool:
    """Kills one of a command's processes, and the others as a scheduler would; returns whether they were still at work."""
    victim = draw.choice(processes)
    if all(process.exitcode is not None for process in processes):
        return False
    if victim.exitcode is None:
        os.kill(victim.pid, number)
    victim.join(GRACE_SECONDS)
    assert victim.exitcode is not None, f"still at work {GRACE_SECONDS} s after signal {number}"
    for process in processes:
        if process is not victim:
            process.join(1.0)
        if len(processes) > 1 and process.exitcode is None:
            process.kill()
            process.join(GRACE_SECONDS)
    return any(process.exitcode != 0 for process in processes)


def finished(case: Case, workdir: Path) -> float:
    """Runs a case to its end; returns the seconds."""
    begun = time.monotonic()
    processes = case.start(workdir)
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes] == [0] * case.workers, files.read_text(f"{workdir}.log")
    return time.monotonic() - begun


def same(left, right) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[name], right[name]) for name in left)
    return bool(np.array_equal(left, right)) if isinstance(left, np.ndarray) else left == right


def storm(case: Case, folder: Path, kills: int) -> collections.Counter:
    """Kills a case so many times, each run to its end in between; returns what happened."""
    draw, told = random.Random(kills), collections.Counter()
    case.begin(folder / "whole")
    seconds = finished(case, folder / "whole")
    expected = case.outcome(folder / "whole")
    workdir = folder / "run-0"
    case.begin(workdir)
    while told["kills"] < kills:
        processes, number = case.start(workdir), draw.choice([signal.SIGKILL, signal.SIGTERM])
        for_at_most = time.monotonic() + draw.uniform(0.0, 1.1) * seconds
        while time.monotonic() < for_at_most and any(process.exitcode is None for process in processes):
            time.sleep(0.01)
        if end(processes, number, draw):
            told["kills"] += 1
            told[number.name] += 1
        elif [process.exitcode for process in processes] == [0] * case.workers:
            told["runs"] += 1
            assert same(expected, case.outcome(workdir)), f"{workdir} differs from the undisturbed run"
            shutil.rmtree(workdir)
            workdir = folder / f"run-{told['runs']}"
            case.begin(workdir)
        else:
            pytest.fail(files.read_text(f"{workdir}.log"))
    finished(case, workdir)
    told["runs"] += 1
    assert same(expected, case.outcome(workdir)), f"{workdir} differs from the undisturbed run"
    logs = "".join(files.read_text(str(path)) for path in folder.glob("*.log"))
    assert "Traceback" not in logs and "fault of the program" not in logs
    told["resumed"] = logs.count("resumed from step ")
    return told


def weights(workdir: Path) -> dict[str, np.ndarray]:
    """All of the last checkpoint: weights, moments, averages; and nothing half-written beside it."""
    folder = workdir / "checkpoints"
    latest = json.loads((folder / "latest.json").read_text())["name"]
    assert latest == f"step-{STEPS:08d}"
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["kind"] == "train"]
    assert steps == sorted(set(steps)), "a step that is made again has one line"
    return read_variables(str(folder / latest / "weights"))


def note_examples(path: str) -> None:
    """Has every step add the examples that it saw to a file."""
    import tensorflow as tf

    from trainer.models.task_model import TaskModel

    step = TaskModel._train_step

    def noted(model, batch):
        def note(number, ids):
            with open(path, "a") as file:
                file.write(f"{int(number)} {' '.join(map(str, sorted(ids[ids >= 0])))}\n")

        with tf.control_dependencies([tf.numpy_function(note, [model.optimizer.iterations, batch["row_id"]], [])]):
            return step(model, batch)

    TaskModel._train_step = noted


def examples_of_steps(path: Path) -> dict[int, set[int]]:
    """{step: the examples that it saw, however often it was made and by how many replicas}."""
    found = collections.defaultdict(set)
    for line in path.read_text().splitlines():
        step, *ids = map(int, line.split())
        found[step] |= set(ids)
    return found


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture(scope="module")
def cases(tmp_path_factory, tiny_encoder, reviews, finished_run) -> dict[str, Case]:
    folder = tmp_path_factory.mktemp("cases")
    forked.start(["describe"], str(folder / "first.log")).join()  # the server imports everything: no case is to wait for it
    config = write_config(folder, tiny_encoder, reviews)
    sample = (ROOT / "configs/tiny/sotu/train.txt").read_text()
    with open(folder / "corpus.txt", "w") as file:
        for copy in range(30):  # 11 MB: three chunks, a shard each
            file.write(f"Copy {copy}.\n{sample}\n\n")

    def training(*sets):
        # Kernels and precision by name: measured anew, another run might choose others.
        keys = ("train.kernels=xla", "train.precision=float32", f"train.steps={STEPS}", "data.workers=1",
                "runtime.checkpoint_every_steps=7", "train.validate_every_steps=40", *sets)  # fmt: skip
        return lambda workdir: ["train", f"--config={config}", f"--workdir={workdir}", *[f"--set={key}" for key in keys]]

    def digests(workdir):
        manifest = Manifest.load(f"{workdir}/records")
        left = [name for name in files.list_dir(f"{workdir}/records") if "partial" in name or "progress" in name]
        return {"shards": [one["sha256"] for split in manifest.splits.values() for one in split["shards"]], "left": left}

    def trained(workdir):
        shutil.copytree(finished_run, workdir)

    def exported(workdir):
        """What stands in each version: a kill after the last file, before the command told so, has a second one written."""
        versions = [files_of(version) for version in (workdir / "exports").iterdir()]
        assert all(one == versions[0] for one in versions)
        weights = hashlib.sha256((workdir / "huggingface/model.safetensors").read_bytes()).hexdigest()
        return {"files": versions[0], "hugging_face": files_of(workdir / "huggingface"), "weights": weights}

    keys = [f"data.train={folder}/corpus.txt", "data.workers=2", "task.split_sentences=false"]
    prepare = ["prepare", "--config=configs/tiny/pretraining.yaml", *[f"--set={key}" for key in keys]]
    return {
        "prepare": Case(0.15, lambda workdir: [*prepare, f"--workdir={workdir}"], digests),
        "train": Case(0.25, training(), weights, examples_are_noted=True),
        "train on two replicas": Case(0.1, training("runtime.cpu_devices=2"), weights, examples_are_noted=True),
        "train in two processes": Case(0.1, training("runtime.distribution=multi_worker"), weights, workers=2),
        "train by PJRT": Case(0.15, training("runtime.distribution=pjrt", "runtime.cpu_devices=2"), weights),
        "train by PJRT in two processes": Case(0.05, training("runtime.distribution=pjrt"), weights, workers=2),
        "evaluate": Case(
            0.1,
            lambda workdir: ["evaluate", f"--workdir={workdir}"],
            lambda workdir: json.loads((workdir / "evaluation/validation.json").read_text()),
            begin=trained,
        ),
        "export": Case(0.1, lambda workdir: ["export", f"--workdir={workdir}"], exported, begin=trained),
    }


NAMES = ["prepare", "train", "train on two replicas", "train in two processes", "train by PJRT",
         "train by PJRT in two processes", "evaluate", "export"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_killed_and_gone_on(cases, tmp_path, name):
    case = cases[name]
    told = storm(case, tmp_path, max(round(case.share * KILLS), 1))
    print(f"{name}: {dict(told)}")
    if case.examples_are_noted:
        by_step = examples_of_steps(tmp_path / SEEN)
        assert sorted(by_step) == list(range(STEPS)), "no step was left out"
        for epoch in range(STEPS * BATCH // EXAMPLES):
            steps = range(epoch * EXAMPLES // BATCH, (epoch + 1) * EXAMPLES // BATCH)
            assert sorted(one for step in steps for one in by_step[step]) == list(range(EXAMPLES)), "each example once an epoch"
