"""run_tpu.sh, as text: what it would do, and what it refuses."""

import os
import re
import shutil
import subprocess

import pytest

from tests.conftest import ROOT

GOOD = ["--name=bert", "--zone=us-central2-b", "--workdir=gs://bucket/run", "--config=configs/quickstart.yaml", "--dry-run"]


def call(*arguments):
    done = subprocess.run(["bash", str(ROOT / "run_tpu.sh"), *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_dry_run_shows_the_whole_story_in_order():
    status, out, _ = call(*GOOD, "--set=train.steps=5", "--spot", "--project=mine")
    assert status == 0
    steps = [
        "tpu-vm create bert",
        "tar -C",
        "tpu-vm scp",
        "tensorflow-tpu==2.20.0",
        "--tpu=local",
        "tail",
        "tpu-vm delete bert",
    ]
    places = [out.index(step) for step in steps]
    assert places == sorted(places)
    assert "--spot" in out and "--project=mine" in out and "train.steps=5" in out
    text_and_keras = out[out.index("tensorflow-text") - 40 : out.index("tensorflow-text")]
    assert "--no-deps" in text_and_keras.replace("\\", ""), "their own dependencies would bring a second TensorFlow"
    assert "delete" not in call(*GOOD, "--keep")[1]


@pytest.mark.parametrize(
    ("kind", "image"),
    [
        ("v4-8", "tpu-ubuntu2204-base"),
        ("v5litepod-8", "v2-alpha-tpuv5-lite"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v6e-8", "v2-alpha-tpuv6e"),
    ],
)
def test_the_image_follows_the_type(kind, image):
    assert f"--accelerator-type={kind} --version={image}\n" in call(*GOOD, f"--type={kind}")[1]
    assert "--version=mine\n" in call(*GOOD, f"--type={kind}", "--version=mine")[1]


def test_the_vm_gets_everything_that_setup_py_requires():
    """All of install_requires but TensorFlow, which tensorflow-tpu brings; libtpu at most 0.0.31, or the import aborts."""
    script = (ROOT / "run_tpu.sh").read_text()
    listed = re.search(r"install_requires=\[(.*?)\]", (ROOT / "setup.py").read_text(), re.DOTALL)[1]
    installed = set(
        re.findall(r"(?<=[\s])([a-z][a-z0-9-]+)(?===|\s)", script[script.index("install=") : script.index("on_worker all")])
    )
    for requirement in re.findall(r'"([A-Za-z0-9-]+)', listed):
        assert requirement in installed or requirement == "tensorflow", requirement
    assert "tensorflow-tpu==2.20.0" in script and "libtpu==0.0.31" in script and "FORCE_TF_AVAILABLE=1" in script
    assert "uv python install 3.11" in script, "Ubuntu 22.04 has Python 3.10"
    assert "ppa:deadsnakes/ppa" in call(*GOOD, "--python=deadsnakes")[1]


@pytest.fixture
def gcloud(tmp_path, monkeypatch):
    """A double of gcloud: notes its calls, and answers as a script of (part of the call, exit status, output) says."""
    (tmp_path / "gcloud").write_text(
        '#!/bin/sh\necho "$*" >> "$GCLOUD_CALLS"\nwhile IFS="|" read -r part status output; do\n'
        '  case "$*" in *"$part"*) [ -z "$output" ] || echo "$output"; exit "$status";; esac\ndone < "$GCLOUD_SCRIPT"\n'
    )
    (tmp_path / "gcloud").chmod(0o755)
    (tmp_path / "sleep").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "sleep").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("GCLOUD_CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("GCLOUD_SCRIPT", str(tmp_path / "script"))

    def answer(*lines):
        nothing_there = "value(name)|1|"  # no VM of this name yet, unless a test says otherwise
        (tmp_path / "script").write_text("".join(f"{line}\n" for line in (*lines, nothing_there)))
        (tmp_path / "calls").write_text("")
        done = call(*GOOD[:-1])
        return (*done, (tmp_path / "calls").read_text().splitlines())

    return answer


def test_a_job_that_ends_well_or_badly(gcloud):
    status, out, _, calls = gcloud()
    assert status == 0 and "the run is in gs://bucket/run" in out and "delete bert" in calls[-1]
    status, _, _, calls = gcloud('exit "$(cat bert-trainer/train.status)"|3|')
    assert status == 3 and "delete bert" in calls[-1], "the job's exit status is the script's"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (["tail|75|"], "the job on bert ended without an exit status: it was killed"),
        (
            ["tail|255|", "value(state)|0|PREEMPTED"],
            "the VM bert is PREEMPTED; rerun the same command to resume from gs://bucket/run",
        ),
        (["tail|255|", "value(state)|1|"], "the VM bert is GONE"),
    ],
)
def test_following_ends_when_job_or_vm_is_gone(gcloud, script, message):
    status, _, error, calls = gcloud(*script)
    assert status == 1 and message in error and "delete bert" in calls[-1]


def test_a_vm_that_cannot_be_created_is_deleted_all_the_same(gcloud):
    status, _, _, calls = gcloud("tpu-vm create|1|")
    assert status == 1 and "create bert" in calls[1] and "delete bert" in calls[2] and len(calls) == 3


def test_a_vm_of_another_run_is_left_as_it_is(gcloud):
    status, _, error, calls = gcloud("value(name)|0|bert")
    assert status == 1 and "a VM of this name exists, and its job may be running" in error
    assert len(calls) == 1 and "describe bert" in calls[0]


def test_bfloat16_unless_a_precision_is_named(tmp_path):
    assert "train.precision=bfloat16" not in call(*GOOD)[1], "the quick start's config names auto, which is bfloat16 on a TPU"
    plain = ROOT / "configs/tiny/without_precision_for_a_test.yaml"
    plain.write_text("# a config without a precision\ntask: {name: classification}\n")
    try:
        arguments = [*GOOD[:3], f"--config={plain}", "--dry-run"]
        assert "train.precision=bfloat16" in call(*arguments)[1]
        assert "train.precision=bfloat16" not in call(*arguments, "--set=train.precision=float32")[1]
    finally:
        plain.unlink()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (GOOD[1:], "error: --name is needed"),
        ([*GOOD[:2], "--workdir=/local", *GOOD[3:]], "the workdir must be on gs://"),
        ([*GOOD[:3], "--config=/no/file", "--dry-run"], "error: --config: no file /no/file"),
        ([*GOOD, "--type=v4-32"], "error: --type=v4-32 has several hosts; this script drives one"),
        ([*GOOD, "--zoen=x"], "error: unknown option --zoen=x"),
        ([*GOOD, "--type=v9-8"], "error: --type=v9-8: no base image is known for it; name one with --version"),
        ([*GOOD, "--python=conda"], "error: --python=conda is not one of uv, deadsnakes"),
        ([*GOOD[:3], "--config=/etc/passwd", "--dry-run"], "error: --config: /etc/passwd is outside of"),
    ],
)
def test_wrong_calls_are_told(arguments, message):
    status, _, error = call(*arguments)
    assert status == 2 and message in error


def test_gcloud_must_be_there():
    if shutil.which("gcloud"):
        pytest.skip("gcloud is installed")
    status, _, error = call(*GOOD[:-1])
    assert status == 2 and "error: gcloud is not installed" in error
