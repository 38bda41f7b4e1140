"""run_tpu.sh, as text: what it would do, and what it refuses."""

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
    ("arguments", "message"),
    [
        (GOOD[1:], "error: --name is needed"),
        ([*GOOD[:2], "--workdir=/local", *GOOD[3:]], "the workdir must be on gs://"),
        ([*GOOD[:3], "--config=/no/file", "--dry-run"], "error: --config: no file /no/file"),
        ([*GOOD, "--type=v4-32"], "error: --type=v4-32 has several hosts; this script drives one"),
        ([*GOOD, "--zoen=x"], "error: unknown option --zoen=x"),
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
