import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from trainer.errors import UserError
from trainer.runtime import faults
from trainer.runtime.faults import NotFiniteError, StallWatch, StopSignals, check_finite


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


def test_a_loss_that_is_no_number_names_its_step():
    with pytest.raises(NotFiniteError) as caught:
        check_finite([(1, 4, 0.5), (5, 8, float("nan"))], "float32", 1e-3)
    assert caught.value.step == 8


def test_an_input_that_does_not_come_is_named(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(faults, "PROBE_SECONDS", 0.2)
    (tmp_path / "whole").write_text("bytes")
    os.mkfifo(tmp_path / "stuck")  # nobody writes: reading waits for ever
    assert faults.unanswered(str(tmp_path / "whole")) is None
    assert faults.unanswered(str(tmp_path / "gone")).startswith("cannot be read: ")

    def warned(*names):
        caplog.clear()
        with StallWatch([str(tmp_path / name) for name in names], 0.2) as watch:
            watch.beat()
            time.sleep(1.0)
            return [record.message for record in caplog.records]

    (line,) = warned("whole", "stuck")
    assert line.startswith("no step has ended for 0 s: ") and f"{tmp_path}/stuck does not answer within 0 s" in line
    (line,) = warned("whole")
    assert "all records answer, so the step itself is slow, or waits for another worker" in line
    with StallWatch([str(tmp_path / "gone")], 0.2) as watch:
        caplog.clear()
        with watch.paused():
            time.sleep(0.6)
        assert not caplog.records, "a validation may take its time"
