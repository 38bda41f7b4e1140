"""The launch recipes: Slurm's script on two stand-in nodes trains as one process does; Kubernetes' by their schemas."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.runtime.test_distribution import free_ports

LAUNCH = ROOT / "docs/launch"
JOB_SET = {  # the fields of jobset.x-k8s.io/v1alpha2 that are used here, by its CRD
    "spec": {
        "failurePolicy",
        "network",
        "replicatedJobs",
        "successPolicy",
        "startupPolicy",
        "suspend",
        "ttlSecondsAfterFinished",
    },
    "failurePolicy": {"maxRestarts", "rules", "restartStrategy"},
    "network": {"enableDNSHostnames", "subdomain", "publishNotReadyAddresses"},
    "replicatedJobs": {"name", "replicas", "template", "groupName", "dependsOn"},
}


@pytest.mark.parametrize("name", ["gke-tpu.yaml", "gke-gpu.yaml"])
def test_kubernetes_takes_the_manifest(name):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    manifest = yaml.safe_load((LAUNCH / name).read_text())
    assert manifest["apiVersion"] == "jobset.x-k8s.io/v1alpha2" and manifest["kind"] == "JobSet"
    spec = manifest["spec"]
    assert set(spec) <= JOB_SET["spec"]
    for field in ("failurePolicy", "network"):
        assert set(spec.get(field, {})) <= JOB_SET[field]
    for replicated in spec["replicatedJobs"]:
        assert set(replicated) <= JOB_SET["replicatedJobs"]
        job = {**replicated["template"], "metadata": {"name": "job"}}
        kubernetes_validate.validate(job, "1.34", strict=True)
        (container,) = job["spec"]["template"]["spec"]["containers"]
        assert "bert-trainer" in str(container["command"]) and "--workdir=gs://" in str(container["command"])


def test_the_command_of_the_gpu_recipe_names_its_place():
    manifest = yaml.safe_load((LAUNCH / "gke-gpu.yaml").read_text())
    (container,) = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
    script = container["command"][-1].replace(
        "exec bert-trainer", f"exec {sys.executable} -c 'import os; print(os.environ[\"TF_CONFIG\"])' #"
    )
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, "JOB_COMPLETION_INDEX": "1"}, capture_output=True, text=True
    )
    told = yaml.safe_load(done.stdout)
    assert told["task"] == {"type": "worker", "index": 1}
    hosts = [address.partition(".")[0] for address in told["cluster"]["worker"]]
    jobs = manifest["spec"]["replicatedJobs"][0]
    assert hosts == [
        f"{manifest['metadata']['name']}-{jobs['name']}-0-{i}" for i in range(jobs["template"]["spec"]["completions"])
    ]


def stand_ins(folder: Path, ports: list[int]) -> None:
    """scontrol that names this machine twice, srun that starts the tasks here."""
    programs = {
        "scontrol": "#!/bin/sh\necho 127.0.0.1; echo 127.0.0.1\n",
        "srun": '#!/bin/sh\nSLURM_PROCID=0 "$@" & first=$!\nSLURM_PROCID=1 "$@" & second=$!\nwait $first && wait $second\n',
        "bert-trainer": f'#!/bin/sh\nexec {sys.executable} -m trainer "$@"\n',
    }
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    script = (LAUNCH / "slurm.sbatch").read_text()
    assert "port=12300" in script
    (folder / "job.sbatch").write_text(script.replace("port=12300", f"port={ports[0]}"))


@pytest.mark.slow
@pytest.mark.parametrize("distribution", ["multi_worker", "pjrt"])
def test_slurm_starts_the_workers_of_one_run(distribution, config_file, tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    first = next(port for port in free_ports(20) if port < 65000)
    stand_ins(programs, [first])
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "PYTHONPATH": str(ROOT),
    }
    environment |= {"JAX_NUM_CPU_DEVICES": "1"}
    arguments = [str(config_file), str(tmp_path / "run"), f"--set=runtime.distribution={distribution}", "--set=train.steps=3"]
    done = subprocess.run(
        ["bash", str(programs / "job.sbatch"), *arguments], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"worker 0 of 2, 2 replicas|2 x cpu of 2 processes", done.stderr)
    assert (tmp_path / "run/checkpoints/step-00000003").is_dir()


def test_the_slurm_script_is_sound():
    shellcheck = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([str(shellcheck), "-s", "bash", str(LAUNCH / "slurm.sbatch")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
