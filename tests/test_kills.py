"""Killed for good (SIGKILL) at random moments, `prepare` and `train` go on and give what they give undisturbed."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT, subprocess_environment
from trainer import files
from trainer.data.records import Manifest
from trainer.runtime.checkpoints import read_variables

pytestmark = pytest.mark.slow
KILLS = 10
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SIZES |= {"max_position_embeddings": 64, "vocab_size": 2048}


def start(command, workdir, keys):
    arguments = [f"--workdir={workdir}", "--config=configs/tiny/pretraining.yaml", *[f"--set={key}" for key in keys]]
    with open(f"{workdir}.log", "a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "trainer", command, *arguments],
            cwd=ROOT,
            env=subprocess_environment(),
            stdout=log,
            stderr=log,
        )


def kill_after(process, seconds) -> bool:
    """Kills the program itself, as the out-of-memory killer does, not its workers; returns whether it was still at work."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    return process.wait(60) == -signal.SIGKILL


def finish(command, workdir, keys) -> float:
    begun = time.monotonic()
    process = start(command, workdir, keys)
    assert process.wait(600) == 0, files.read_text(f"{workdir}.log")
    return time.monotonic() - begun


def test_prepare(tmp_path):
    sample = (ROOT / "configs/tiny/sotu/train.txt").read_text()
    with open(tmp_path / "corpus.txt", "w") as file:
        for copy in range(60):  # 22 MB: six chunks, a shard each
            file.write(f"Copy {copy}.\n{sample}\n\n")
    keys = (f"data.train={tmp_path}/corpus.txt", "data.workers=2", "task.split_sentences=false")

    def digests(workdir):
        manifest = Manifest.load(f"{workdir}/records")
        return [shard["sha256"] for split in manifest.splits.values() for shard in split["shards"]]

    seconds = finish("prepare", tmp_path / "whole", keys)
    expected, draw = digests(tmp_path / "whole"), random.Random(1)
    assert len(expected) >= 5
    killed = 0
    for kill in range(KILLS):
        workdir = tmp_path / f"killed-{kill}"
        killed += kill_after(start("prepare", workdir, keys), draw.uniform(0.1, 0.95) * seconds)
        finish("prepare", workdir, keys)
        assert digests(workdir) == expected
        left = [name for name in files.list_dir(f"{workdir}/records") if "partial" in name or "progress" in name]
        assert not left
    assert killed > KILLS // 2
    assert "continuing after" in "".join((tmp_path / f"killed-{kill}.log").read_text() for kill in range(KILLS))


def test_train(tmp_path):
    """One run, killed ten times: in its steps, its validations, its checkpoints, and while it starts."""
    (tmp_path / "sizes.json").write_text(json.dumps(SIZES))
    keys = (
        "task.split_sentences=false",
        f"encoder.config_path={tmp_path}/sizes.json",
        "data.max_seq_length=48",
        "train.batch_size=8",
        "train.steps=1500",
        "train.validate_every_steps=100",
        "runtime.checkpoint_every_steps=10",
    )

    def stored(workdir):
        folder = workdir / "checkpoints"
        return read_variables(str(folder / json.loads((folder / "latest.json").read_text())["name"] / "weights"))

    finish("train", tmp_path / "whole", keys)
    draw, run, log = random.Random(1), tmp_path / "killed", tmp_path / "killed.log"
    killed = 0
    for kill in range(KILLS):
        told = len(log.read_text()) if log.exists() else 0
        process = start("train", run, keys)
        if kill % 4 != 3:  # else while it starts
            while process.poll() is None and "first step done" not in log.read_text()[told:]:
                time.sleep(0.05)
        killed += kill_after(process, draw.uniform(0.0, 4.0))
    finish("train", run, keys)
    assert killed > KILLS // 2 and log.read_text().count("resumed from step ") >= KILLS // 2
    expected, found = stored(tmp_path / "whole"), stored(run)
    assert all((expected[name] == found[name]).all() for name in expected)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["kind"] == "validation"]
    assert steps == list(range(100, 1600, 100))  # what was done twice is told once
