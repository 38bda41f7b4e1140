"""One run at a time: locks of the system on local folders, leases on remote ones; a killed run holds nothing for long."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest
import tensorflow as tf

from trainer import files
from trainer.errors import UserError
from trainer.runtime import locks
from trainer.runtime.locks import WorkdirLock


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(locks, "RENEWED_EVERY_SECONDS", 0.1)
    monkeypatch.setattr(locks, "SILENT_AFTER_SECONDS", 0.6)
    monkeypatch.setattr(locks, "SETTLED_AFTER_SECONDS", 0.1)


def test_a_workdir_serves_one_run_at_a_time(tmp_path):
    workdir = str(tmp_path / "run")
    with (
        WorkdirLock(workdir),
        pytest.raises(UserError, match=f"is in use by process {os.getpid()} on .*; wait for it") as caught,
    ):
        WorkdirLock(workdir).__enter__()
    assert str(caught.value).startswith(f"--workdir: {workdir}")
    with WorkdirLock(workdir):
        pass


def test_a_killed_run_leaves_no_lock(tmp_path):
    script = f"import os, signal; from trainer.runtime.locks import WorkdirLock; WorkdirLock({str(tmp_path)!r}).__enter__(); " \
             "os.kill(os.getpid(), signal.SIGKILL)"  # fmt: skip
    assert subprocess.run([sys.executable, "-c", script], cwd=os.getcwd()).returncode == -signal.SIGKILL
    with WorkdirLock(str(tmp_path)):
        pass


def test_a_file_system_without_locks(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("trainer.runtime.locks.fcntl.flock", refuse)
    with WorkdirLock(str(tmp_path)):
        pass
    assert "no lock is possible (No locks available); do not start a second run in it" in caplog.text


def test_a_remote_workdir_serves_one_run_at_a_time(tmp_path, quick):
    workdir = f"ram://lock/{tmp_path.name}"
    with (
        WorkdirLock(workdir),
        pytest.raises(UserError, match=f"is in use by process {os.getpid()} on .* since 20.*; wait for it"),
    ):
        WorkdirLock(workdir).__enter__()
    assert not tf.io.gfile.exists(f"{workdir}/lock.json"), "who leaves takes the lease along"
    with WorkdirLock(workdir):
        pass


def test_a_lease_that_nobody_renews_is_taken_over(tmp_path, quick, caplog):
    workdir = f"ram://lock/{tmp_path.name}"
    tf.io.gfile.makedirs(workdir)
    with tf.io.gfile.GFile(f"{workdir}/lock.json", "w") as file:
        file.write(
            json.dumps({"owner": "process 7 on a VM that is gone", "token": "other", "since": "yesterday", "renewed": 5})
        )
    with WorkdirLock(workdir):
        held = json.loads(tf.io.gfile.GFile(f"{workdir}/lock.json").read())
        assert held["owner"] == locks.owner()
    assert "nobody renews the lease of process 7 on a VM that is gone; taking it over" in caplog.text


def test_of_two_at_the_same_moment_the_later_writer_has_it(tmp_path, quick, monkeypatch):
    workdir = f"ram://lock/{tmp_path.name}"

    def other_writes(seconds):
        files.write_json(f"{workdir}/lock.json", {"owner": "the other", "token": "other", "since": "now", "renewed": 1})

    monkeypatch.setattr(locks.time, "sleep", other_writes)
    with pytest.raises(UserError, match="is in use by the other since now"):
        WorkdirLock(workdir).__enter__()
