"""A double of gcloud, for run_tpu.sh: accepts only documented arguments, and simulates failures.

Source of the grammar: cloud.google.com/sdk/gcloud/reference/compute/tpus (queued-resources create, describe, delete; tpu-vm
ssh, scp, describe) and storage/cp. A TPU VM's workers are folders; commands for them run there.

Environment: GCLOUD_DOUBLE, a folder with scenario.json; state.json and calls are kept there. In a scenario:
  requests: for each create the states that describe gives, the last one again and again.
  create_fails: a message; nothing is made then. create_hangs: the caller gets SIGINT, with the request made.
  lost_at: [phase of the first life, of the second, ...]: the TPU is preempted when that phase begins; null: never.
  ssh_breaks: {phase: how often the connection breaks}. api_silent: how often describe fails for no reason.
  delete_fails: how often. workers: how many. job: [what the job does in the first life, in the second, ...], a shell line.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

PLACE = {"--zone", "--project"}
GRAMMAR = {  # command: (positional arguments at least, flags with a value, switches, needed)
    "compute tpus queued-resources create": (
        1,
        {*PLACE, "--node-id", "--accelerator-type", "--runtime-version", "--network", "--subnetwork", "--service-account",
         "--labels", "--valid-until-duration"},
        {"--spot", "--reserved", "--internal-ips", "--async", "--guaranteed"},
        {"--zone", "--node-id", "--accelerator-type", "--runtime-version"},
    ),
    "compute tpus queued-resources describe": (1, {*PLACE, "--format"}, set(), {"--zone"}),
    "compute tpus queued-resources delete": (1, PLACE, {"--force", "--quiet", "--async"}, {"--zone"}),
    "compute tpus tpu-vm ssh": (1, {*PLACE, "--worker", "--command"}, {"--internal-ip"}, {"--zone"}),
    "compute tpus tpu-vm scp": (2, {*PLACE, "--worker"}, {"--internal-ip", "--recurse"}, {"--zone"}),
    "compute tpus tpu-vm describe": (1, {*PLACE, "--format"}, set(), {"--zone"}),
    "storage cp": (2, set(), {"--quiet", "--recursive"}, set()),
}  # fmt: skip
ROOT = Path(os.environ.get("GCLOUD_DOUBLE", "."))


def parsed(arguments):
    """Returns (command, positional arguments, {flag: value}); ends with 2 where gcloud would not take them."""
    command = next((one for one in GRAMMAR if arguments[: len(one.split())] == one.split()), None)
    if command is None:
        refuse(f"no such command: {' '.join(arguments[:4])}")
    least, valued, switches, needed = GRAMMAR[command]
    positional, flags = [], {}
    for argument in arguments[len(command.split()) :]:
        name, equals, value = argument.partition("=")
        if not argument.startswith("--"):
            positional.append(argument)
        elif name in valued and equals and value:
            flags[name] = value
        elif argument in switches:
            flags[argument] = True
        else:
            refuse(f"unrecognized argument: {argument}")
    if len(positional) < least or needed - set(flags):
        refuse(f"{command}: missing {needed - set(flags) or 'a name'}")
    if {"--spot", "--reserved"} <= set(flags):
        refuse("--spot and --reserved exclude each other")
    return command, positional, flags


def refuse(message):
    (ROOT / "refused").open("a").write(message + "\n")
    print(f"ERROR: (gcloud) {message}", file=sys.stderr)
    sys.exit(2)


def fail(message, status=1):
    print(f"ERROR: {message}", file=sys.stderr)
    sys.exit(status)


class Cloud:
    """What there is of requests and VMs, kept between calls."""

    def __init__(self):
        self.scenario = json.loads((ROOT / "scenario.json").read_text())
        path = ROOT / "state.json"
        self.state = (
            json.loads(path.read_text()) if path.exists() else {"lives": 0, "request": None, "broken": {}, "failed": {}}
        )

    def save(self):
        (ROOT / "state.json").write_text(json.dumps(self.state))

    def due(self, what, times):
        """Whether something that fails so many times is still to fail."""
        done = self.state["failed"].get(what, 0)
        self.state["failed"][what] = done + 1
        self.save()
        return done < times

    def create(self, flags):
        if self.state["request"]:
            fail("ALREADY_EXISTS: the request exists")
        if self.scenario.get("create_fails"):
            fail(self.scenario["create_fails"])
        sequences = self.scenario.get("requests", [["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]])
        states = sequences[min(self.state["lives"], len(sequences) - 1)]
        self.state["request"] = {"states": states, "lost": False, "flags": flags}
        self.state["lives"] += 1
        for worker in range(self.scenario.get("workers", 1)):
            folder = ROOT / f"life{self.state['lives']}-worker{worker}"
            folder.mkdir()
        self.save()
        if self.scenario.get("create_hangs"):
            os.killpg(os.getpgid(os.getppid()), signal.SIGINT)

    def describe_request(self):
        if self.due("describe", self.scenario.get("api_silent", 0)):
            fail("UNAVAILABLE: the service is not there")
        request = self.state["request"]
        if request is None:
            fail("NOT_FOUND: Resource was not found")
        now = "SUSPENDED" if request["lost"] else request["states"][0]
        if len(request["states"]) > 1:
            request["states"] = request["states"][1:]
        self.save()
        print(now)

    def is_there(self, phase):
        """Loses the TPU, or the connection to it, where the scenario says so."""
        request = self.state["request"]
        if request is None:
            fail("NOT_FOUND: no such TPU")
        lost_at = self.scenario.get("lost_at", [])
        life = self.state["lives"] - 1
        if life < len(lost_at) and lost_at[life] == phase:
            request["lost"] = True
            self.save()
        if request["lost"]:
            fail("ssh: connect to host: Connection timed out", 255)
        if self.due(f"ssh {phase}", self.scenario.get("ssh_breaks", {}).get(phase, 0)):
            fail("ssh: Connection closed by remote host", 255)

    def folders(self, worker):
        every = sorted(ROOT.glob(f"life{self.state['lives']}-worker*"))
        return every if worker == "all" else [every[int(worker)]]

    def ssh(self, flags):
        command = flags["--command"]
        phase = command.removeprefix("bash job.sh ").split()[0]
        self.is_there(phase)
        for number, folder in enumerate(self.folders(flags.get("--worker", "0"))):
            if phase == "install":
                self.install(folder)
                continue
            environment = {
                **os.environ,
                "HOME": str(folder),
                "DOUBLE_WORKER": str(number),
                "DOUBLE_LIFE": str(self.state["lives"]),
            }
            status = subprocess.run(["bash", "-c", command], cwd=folder, env=environment).returncode
            if phase == "follow" and self.due("follow breaks", self.scenario.get("follow_breaks", 0)):
                fail("client_loop: send disconnect: Broken pipe", 255)
            if status:
                sys.exit(status)

    def install(self, folder):
        """What job.sh's install does, but for the downloads: the project and a program of the command's name."""
        subprocess.run(["bash", "-n", "job.sh"], cwd=folder, check=True)
        program = folder / "bert-trainer/.venv/bin/bert-trainer"
        program.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["tar", "-C", str(folder / "bert-trainer"), "-xzf", "project.tgz"], cwd=folder, check=True)
        jobs = self.scenario.get("job", ["echo trained; exit 0"])
        line = jobs[min(self.state["lives"], len(jobs)) - 1]
        program.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > {ROOT}/arguments-$BERT_TRAINER_WORKER\n{line}\n')
        program.chmod(0o755)

    def scp(self, positional, flags):
        self.is_there("scp")
        *sources, target = positional
        if not target.endswith(":"):
            refuse(f"scp to {target}")
        for folder in self.folders(flags.get("--worker", "0")):
            subprocess.run(["cp", *sources, str(folder)], check=True)

    def delete(self):
        if self.due("delete", self.scenario.get("delete_fails", 0)):
            fail("INTERNAL: try again")
        if self.state["request"] is None:
            fail("NOT_FOUND: Resource was not found")
        self.state["request"] = None
        self.save()


def main():
    """Answers one call."""
    command, positional, flags = parsed(sys.argv[1:])
    if command == "storage cp":
        target = ROOT / "bucket" / positional[-1].removeprefix("gs://")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(Path(positional[0]).read_bytes())
        return
    with (ROOT / "calls").open("a") as calls:
        calls.write(" ".join(sys.argv[1:]) + "\n")
    cloud = Cloud()
    kind = command.split()[-1]
    if command.endswith("queued-resources describe"):
        cloud.describe_request()
    elif kind == "describe":
        request = cloud.state["request"]
        print("PREEMPTED" if request and request["lost"] else "READY") if request else fail("NOT_FOUND: no such TPU")
    elif kind == "create":
        cloud.create(flags)
    elif kind == "delete":
        cloud.delete()
    elif kind == "ssh":
        cloud.ssh(flags)
    else:
        cloud.scp(positional, flags)


if __name__ == "__main__":
    main()
