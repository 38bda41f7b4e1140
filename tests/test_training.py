from types import SimpleNamespace

from trainer.training import TrainingRhythm


def test_what_is_due_with_several_steps_a_call():
    rhythm = TrainingRhythm.__new__(TrainingRhythm)
    rhythm._run = SimpleNamespace(total_steps=100)
    due = []
    for before in range(0, 100, 3):
        rhythm._step = min(before + 3, 100)
        if rhythm._is_due(before, 10):
            due.append(rhythm._step)
    assert due == [12, 21, 30, 42, 51, 60, 72, 81, 90, 100]
