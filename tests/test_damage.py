"""Each file of a workdir truncated, with one bit flipped, removed, swapped with another: told by name, or of no consequence.

A resumed `train` and an `evaluate` read everything that decides a run. What only people read, as the log of a run, is excepted.
"""

import json
import re
import shutil

import pytest

READ_BY_PEOPLE = ("metrics.jsonl", "tensorboard/", "lock", "records/rejected", "records/dataset_info.json", "records/features.json",
                  "evaluation/", "seals.json")  # fmt: skip
DAMAGES = ("truncated", "flipped", "removed", "swapped")


def damage(path, kind, others):
    content = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "flipped":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :])
    elif kind == "removed":
        path.unlink()
    else:
        other = next(one for one in others if one != path and one.read_bytes() != content)
        path.write_bytes(other.read_bytes())


def files_of(run):
    """The files that decide a run, by their place in its workdir."""
    found = sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())
    return [name for name in found if not name.startswith(READ_BY_PEOPLE)]


def outcome(cli, run):
    """What a resumed train and an evaluate say: (the statuses, all that was said, the scores)."""
    first, _, told = cli("train", f"--workdir={run}")
    shutil.rmtree(run / "evaluation", ignore_errors=True)
    second, _, more = cli("evaluate", f"--workdir={run}")
    scores = run / "evaluation/validation.json"
    return (first, second), told + more, json.loads(scores.read_text()) if scores.exists() else None


def check(cli, finished_run, tmp_path, name, kind, whole):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    beside = [path for path in (run / name).parent.iterdir() if path.is_file()]
    same_kind = [path for path in run.rglob((run / name).name) if path.is_file()]
    damage(run / name, kind, [*same_kind, *beside])
    statuses, told, scores = outcome(cli, run)
    assert "Traceback" not in told and "fault of the program" not in told, told
    usual, usual_scores = whole
    news = "\n".join(line for line in told.replace(str(run), "RUN").splitlines() if line not in usual)
    checkpoint = re.fullmatch(r"checkpoints/((?:step|best)-\d+)/.*", name)
    named = (run / name).name in news or bool(checkpoint and checkpoint[1] in news)
    healed = statuses == (0, 0) and scores == usual_scores
    assert named or healed, f"{name} {kind}: {statuses}\n{told}"
    if statuses[1] == 0:
        assert scores == usual_scores, f"{name} {kind}: other scores, and nobody said so\n{told}"


@pytest.fixture
def whole(cli, finished_run, tmp_path):
    """(The lines that the run as it is has said of it, its scores.)"""
    copy = tmp_path / "whole"
    shutil.copytree(finished_run, copy)
    statuses, told, scores = outcome(cli, copy)
    assert statuses == (0, 0)
    return set(told.replace(str(copy), "RUN").splitlines()), scores


@pytest.mark.parametrize("name", ["config.yaml", "tokenizer/vocab.txt", "checkpoints/best.json", "records/manifest.json"])
def test_a_bit_in_what_decides_a_run(cli, finished_run, tmp_path, name, whole):
    check(cli, finished_run, tmp_path, name, "flipped", whole)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGES)
def test_every_file(cli, finished_run, tmp_path, kind, whole):
    names = files_of(finished_run)
    assert len(names) > 15
    for number, name in enumerate(names):
        check(cli, finished_run, tmp_path / str(number), name, kind, whole)
        shutil.rmtree(tmp_path / str(number))
