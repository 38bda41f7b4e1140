"""run_tpu.sh against a double of gcloud that checks every argument: each phase with each failure; nothing is left behind."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

from tests.conftest import ROOT

GOOD = ["--name=bert", "--zone=us-central2-b", "--workdir=gs://bucket/run", "--config=configs/quickstart.yaml"]
PHASES = ("scp", "install", "start", "follow")


def call(*arguments, **environment):
    done = subprocess.run(
        ["bash", str(ROOT / "run_tpu.sh"), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
        start_new_session=True,  # so that an interrupt of the script's is not ours
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in what a shell starts in the background
    )
    return done.returncode, done.stdout, done.stderr


def dry(*arguments):
    return call(*arguments, "--dry-run")


@pytest.fixture
def cloud(tmp_path):
    """Runs the script against the double: (status, output, errors); `cloud.calls`, `cloud.left` tell what became of it."""
    programs = tmp_path / "bin"
    programs.mkdir()
    double = f'#!/bin/sh\nexec {sys.executable} -S {ROOT}/tests/doubles/gcloud.py "$@"\n'
    metadata = '#!/bin/sh\ncase "$*" in *agent-worker-number) echo "$DOUBLE_WORKER";; *endpoints) echo a,b;; esac\n'
    for name, text in {"gcloud": double, "sleep": "#!/bin/sh\nexec /bin/sleep 0.05\n", "curl": metadata}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)

    class Cloud:
        folder = tmp_path / "cloud"

        def __call__(self, *arguments, **scenario):
            self.folder.mkdir(exist_ok=True)
            (self.folder / "scenario.json").write_text(json.dumps(scenario))
            path = f"{programs}:{os.environ['PATH']}"
            found = call(*(arguments or GOOD), PATH=path, GCLOUD_DOUBLE=str(self.folder))
            assert not (self.folder / "refused").exists(), (self.folder / "refused").read_text()
            return found

        @property
        def calls(self):
            return (self.folder / "calls").read_text().splitlines()

        @property
        def left(self):
            return json.loads((self.folder / "state.json").read_text())["request"]

        def count(self, part):
            return sum(part in one for one in self.calls)

    return Cloud()


def test_a_job_from_the_request_to_the_end(cloud):
    status, out, error = cloud(workers=2)
    assert status == 0 and "trained" in out and "the run is in gs://bucket/run" in out, error
    kinds = [re.search(r"(create|scp|install|start|follow|delete)", one) for one in cloud.calls]
    order = [kind[1] for kind in kinds if kind]
    assert [one for i, one in enumerate(order) if i == 0 or one != order[i - 1]] == [
        "create",
        "scp",
        "install",
        "start",
        "follow",
        "delete",
    ]
    assert cloud.left is None
    for worker in (0, 1):
        assert "trained" in (cloud.folder / f"bucket/bucket/run/logs/worker-{worker}.log").read_text(), (
            "the log is in the workdir"
        )
        arguments = (cloud.folder / f"arguments-{worker}").read_text().splitlines()
        assert arguments[:3] == ["train", "--config=configs/quickstart.yaml", "--workdir=gs://bucket/run"]
        assert "--tpu=local" in arguments and "--set=runtime.distribution=pjrt" in arguments


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_preemption_in_every_phase_is_survived(cloud, phase, times):
    status, out, error = cloud(*GOOD, "--spot", lost_at=[phase] * times)
    assert status == 0 and "the run is in" in out, error
    assert error.count("was preempted; asking for another one") == times and f"({times} of 10)" in error
    assert cloud.count("create bert") == times + 1 and cloud.left is None
    assert all("--spot" in one for one in cloud.calls if "create" in one)


def test_preemptions_end_where_they_are_bounded(cloud):
    status, _, error = cloud(*GOOD, "--spot", "--max-restarts=2", lost_at=["follow"] * 9)
    assert (
        status == 1 and "bert was preempted, and --max-restarts=2 is used up; gs://bucket/run has the last checkpoint" in error
    )
    assert cloud.count("create bert") == 3 and cloud.left is None


def test_preempted_while_it_is_provisioned(cloud):
    status, _, error = cloud(requests=[["PROVISIONING", "SUSPENDING"], ["ACTIVE"]])
    assert status == 0 and "asking for another one" in error and cloud.count("create bert") == 2 and cloud.left is None


@pytest.mark.parametrize("phase", PHASES)
def test_a_connection_that_breaks_is_tried_again(cloud, phase):
    status, out, error = cloud(ssh_breaks={phase: 2} if phase != "start" else {})
    assert status == 0 and "the run is in" in out, error
    assert cloud.count("create bert") == 1 and cloud.left is None


def test_a_log_is_not_shown_twice(cloud):
    status, out, _ = cloud(follow_breaks=1, job=["for i in 1 2 3 4 5 6 7 8; do echo line $i; sleep 1; done"])
    assert status == 0 and out.count("line 1\n") == 1 and out.count("line 8\n") == 1


def test_an_api_that_does_not_answer_says_nothing_of_the_tpu(cloud):
    status, _, error = cloud(api_silent=2, ssh_breaks={"follow": 3, "status": 3})
    assert status == 0 and error.count("the connection broke; trying again in 30 s") == 3 and cloud.count("create bert") == 1


@pytest.mark.parametrize(
    ("scenario", "expected", "message"),
    [
        ({"job": ["exit 3"]}, 3, "the job on bert ended with status 3; its log is in gs://bucket/run/logs"),
        (
            {"job": ["kill -9 $PPID"]},
            1,
            "the job on bert ended without an exit status: it was killed; gs://bucket/run has its last",
        ),
        ({"create_fails": "RESOURCE_EXHAUSTED: Quota limit 'TPUV4sPerProject' has been exceeded"}, 1, "Quota limit"),
        (
            {"requests": [["WAITING_FOR_RESOURCES", "FAILED"]]},
            1,
            "bert: the request is FAILED (quota, capacity, or --wait ran out)",
        ),
        ({"ssh_breaks": {"install": 99}}, 1, "bert: the workers could not be set up in 5 tries"),
        ({"ssh_breaks": {"scp": 99}}, 1, "bert: the workers could not be set up in 5 tries"),
        ({"ssh_breaks": {"follow": 999, "status": 999}}, 1, "bert cannot be reached; the job may still run"),
    ],
)
def test_what_ends_the_job_is_told_and_nothing_is_left(cloud, scenario, expected, message):
    status, _, error = cloud(**scenario)
    assert status == expected and message in error, error
    assert not running_in(cloud.folder), "not even the worker's uploads go on"
    if "create_fails" not in scenario:
        assert cloud.left is None and cloud.count("create bert") == 1


def running_in(folder):
    """The processes of jobs in a folder that still run, after half a second to end."""
    time.sleep(0.5)
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(process / "cwd").startswith(str(folder)):
                found.append((process / "cmdline").read_bytes())
    return found


def test_an_interrupt_during_create_leaves_nothing(cloud):
    status, _, error = cloud(create_hangs=True)
    assert status == 130, error
    assert cloud.left is None and cloud.count("delete bert") == 1


def test_a_delete_that_fails_is_tried_again_and_at_last_told(cloud):
    assert cloud(delete_fails=3)[0] == 0 and cloud.left is None and cloud.count("delete bert") == 4
    status, _, error = cloud(*[one.replace("=bert", "=other") for one in GOOD], delete_fails=99)
    assert status == 1 and "other could not be deleted AND STILL COSTS MONEY; delete it: gcloud compute tpus" in error


def test_detach_and_attach(cloud):
    status, out, _ = cloud(*GOOD, "--detach", job=["sleep 1; echo trained"])
    assert status == 0 and "which costs money until it is deleted; follow it with the same flags and --attach" in out
    assert cloud.left is not None and cloud.count("delete") == 0
    status, _, error = cloud(*GOOD)
    assert status == 1 and "--name=bert: there is a request of this name, and its job may be running" in error
    assert cloud.left is not None, "another run's TPU is neither used nor deleted"
    status, out, _ = cloud(*GOOD, "--attach")
    assert status == 0 and "trained" in out and cloud.left is None and cloud.count("create") == 1
    status, _, error = cloud(*GOOD, "--attach")
    assert status == 1 and "--attach: bert is ABSENT, not ACTIVE" in error


def test_keep(cloud):
    assert cloud(*GOOD, "--keep")[0] == 0 and cloud.left is not None and cloud.count("delete") == 0


def test_every_flag_travels(cloud, tmp_path):
    config = tmp_path / "my config.yaml"
    config.write_text("# a config outside of the project\ntask: {name: classification}\n")
    flags = [*GOOD[:3], f"--config={config}", "--type=v5p-16", "--project=mine", "--network=net", "--subnetwork=sub",
             "--internal-ips", "--service-account=me@x", "--labels=team=nlp,run=1", "--wait=6h", "--reserved",
             "--set", "data.train=gs://b/a b.csv", "train.steps=5", "--set=task.class_names=[a, b]"]  # fmt: skip
    status, _, error = cloud(*flags)
    assert status == 0, error
    (create,) = [one for one in cloud.calls if "create" in one]
    for part in ("--project=mine", "--network=net", "--subnetwork=sub", "--internal-ips", "--service-account=me@x", "--reserved",
                 "--labels=team=nlp,run=1", "--valid-until-duration=6h", "--runtime-version=v2-alpha-tpuv5 "):  # fmt: skip
        assert part in create + " "
    arguments = (cloud.folder / "arguments-0").read_text().splitlines()
    assert "--config=launched.yaml" in arguments
    for change in ("data.train=gs://b/a b.csv", "train.steps=5", "task.class_names=[a, b]", "train.precision=bfloat16"):
        assert f"--set={change}" in arguments
    life = cloud.folder / "life1-worker0"
    assert (life / "launched.yaml").read_text() == config.read_text()


def test_the_precision_of_a_config_wins(cloud):
    cloud(*GOOD, "--set=train.precision=float32")
    arguments = (cloud.folder / "arguments-0").read_text().splitlines()
    assert "--set=train.precision=float32" in arguments and "--set=train.precision=bfloat16" not in arguments


def test_dry_run_shows_the_commands_and_runs_none():
    status, out, _ = dry(*GOOD, "--spot", "--type=v4-8")
    assert status == 0
    parts = [
        "queued-resources create bert",
        "tpu-vm scp",
        "job.sh\\ install",
        "job.sh\\ start",
        "job.sh\\ follow",
        "resources delete bert",
    ]
    places = [out.index(part) for part in parts]
    assert places == sorted(places) and "--spot" in out
    assert "delete" not in dry(*GOOD, "--keep")[1]


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
    assert f"--accelerator-type={kind} --runtime-version={image}\n" in dry(*GOOD, f"--type={kind}")[1]
    assert "--runtime-version=mine\n" in dry(*GOOD, f"--type={kind}", "--version=mine")[1]


@pytest.mark.parametrize("runtime", ["pjrt", "tensorflow"])
def test_the_vm_gets_everything_that_setup_py_requires(runtime):
    listed = re.search(r"install_requires=\[(.*?)\]", (ROOT / "setup.py").read_text(), re.DOTALL)[1]
    lists = [ROOT / f"configs/tpu/{runtime}.txt", ROOT / f"configs/tpu/{runtime}-no-deps.txt"]
    text = "\n".join(path.read_text() for path in lists if path.exists()).lower().replace("_", "-")
    for requirement in re.findall(r'"([A-Za-z0-9-]+)', listed):
        name = "tensorflow-tpu" if (requirement, runtime) == ("tensorflow", "tensorflow") else requirement
        assert re.search(rf"^{name}==", text, re.MULTILINE), name
    if runtime == "pjrt":
        pinned = (ROOT / "requirements.txt").read_text().splitlines()
        for line in lists[0].read_text().splitlines():
            assert not re.search("==", line) or line in pinned, f"{line} is not what the tests run on"


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["pjrt", "tensorflow"])
def test_the_lists_install_and_import(runtime, tmp_path):
    """In a clean environment, from the package registry, as job.sh installs them."""
    venv.create(tmp_path / "clean", with_pip=True)
    pip = [str(tmp_path / "clean/bin/pip"), "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", str(ROOT / f"configs/tpu/{runtime}.txt")], check=True, timeout=1200)
    rest = ROOT / f"configs/tpu/{runtime}-no-deps.txt"
    if rest.exists():
        subprocess.run([*pip, "--no-deps", "-r", str(rest)], check=True, timeout=600)
    code = "import trainer, tensorflow, tensorflow_text, tf_keras; from transformers import TFBertModel; print(tensorflow.__version__)"
    code += "; import jax; print(jax.devices())" if runtime == "pjrt" else ""
    told = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
    }
    # JAX, once imported in this process, names its own libtpu to all that it starts; a VM's shell does not.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("TPU_", "LIBTPU", "PJRT_"))}
    environment = {**inherited, **told, "FORCE_TF_AVAILABLE": "1", "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [str(tmp_path / "clean/bin/python"), "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0 and done.stdout.startswith("2.20.0"), done.stderr[-2000:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (GOOD[1:], "error: --name is needed"),
        (["--name=Bert_1", *GOOD[1:]], "--name=Bert_1: small letters, digits and -, beginning with a letter"),
        ([*GOOD[:2], "--workdir=/local", GOOD[3]], "the workdir must be on gs://"),
        ([*GOOD[:3], "--config=/no/file"], "error: --config: no file /no/file"),
        ([*GOOD, "--type=v4-32", "--runtime=tensorflow"], "--type=v4-32 has several hosts; with --runtime=tensorflow"),
        (
            [*GOOD, "--type=v6e-8", "--runtime=tensorflow"],
            "TensorFlow's runtime was not made for v6e-8; --runtime=pjrt drives it",
        ),
        ([*GOOD, "--zoen=x"], "error: unknown option --zoen=x"),
        ([*GOOD, "--type=v9-8"], "error: --type=v9-8: no base image is known for it; name one with --version"),
        ([*GOOD, "--type=v4"], "error: --type=v4: a generation and a size, as v5litepod-8"),
        ([*GOOD, "--python=conda"], "error: --python=conda is not one of uv, deadsnakes"),
        ([*GOOD, "--runtime=torch"], "error: --runtime=torch is not one of pjrt, tensorflow"),
        ([*GOOD, "--spot", "--reserved"], "--spot and --reserved: a TPU is one of them"),
        ([*GOOD, "--detach", "--attach"], "--detach and --attach: one starts a job, the other one follows it"),
        ([*GOOD, "--max-restarts=x"], "--max-restarts=x is no number"),
    ],
)
def test_wrong_calls(arguments, message):
    status, _, error = dry(*arguments)
    assert status == 2 and message in error


def test_an_api_that_never_answers_is_told(cloud):
    status, _, error = cloud(api_silent=999)
    assert status == 1 and "the TPU API does not answer; look at: gcloud compute tpus queued-resources list" in error
    assert cloud.count("create") == 0 and cloud.count("delete") == 0
