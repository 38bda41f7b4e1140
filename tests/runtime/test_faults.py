import errno
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from trainer.errors import UserError
from trainer.runtime.faults import StopSignals, WorkdirLock, check_finite


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
    script = f"import os, signal; from trainer.runtime.faults import WorkdirLock; WorkdirLock({str(tmp_path)!r}).__enter__(); " \
             "os.kill(os.getpid(), signal.SIGKILL)"  # fmt: skip
    assert subprocess.run([sys.executable, "-c", script], cwd=os.getcwd()).returncode == -signal.SIGKILL
    with WorkdirLock(str(tmp_path)):
        pass


def test_remote_workdirs_have_no_lock(tmp_path):
    with WorkdirLock(f"ram://lock/{tmp_path.name}"), WorkdirLock(f"ram://lock/{tmp_path.name}"):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_becomes_a_wish_and_a_second_one_acts(number):
    before = signal.getsignal(number)
    signal.signal(number, signal.default_int_handler)
    try:
        with StopSignals() as signals:
            assert signals.received is None
            signal.raise_signal(number)
            assert signals.received == signal.Signals(number).name
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
    finally:
        signal.signal(number, before)


def test_a_file_system_without_locks(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("trainer.runtime.faults.fcntl.flock", refuse)
    with WorkdirLock(str(tmp_path)):
        pass
    assert "no lock is possible (No locks available); do not start a second run in it" in caplog.text


def test_signals_are_left_alone_outside_the_main_thread():
    with ThreadPoolExecutor() as pool:
        assert pool.submit(lambda: StopSignals().__enter__().received).result() is None


def test_numbers_that_are_none():
    check_finite([(1, 1, 0.5), (2, 2, 0.25)], "float32", 1e-3)
    with pytest.raises(UserError) as caught:
        check_finite([(11, 11, 0.5), (12, 12, float("nan")), (13, 13, 0.1)], "float16", 1e-3)
    message = str(caught.value)
    assert message.startswith(
        "the loss is nan at step 12. Nothing is saved from there on; earlier checkpoints and the best model stay"
    )
    assert "Try train.precision=bfloat16, a smaller train.learning_rate than 0.001" in message
    with pytest.raises(UserError, match="the loss is inf at step 5"):
        check_finite([(5, 5, float("inf"))], "float32", 1e-3)
    with pytest.raises(UserError, match=r"the loss is nan in steps 9 to 12 \(train.steps_per_execution\)"):
        check_finite([(5, 8, 0.5), (9, 12, float("nan"))], "float32", 1e-3)
