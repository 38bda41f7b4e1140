"""Training and inference as programs that PJRT runs: what `fit` and `BatchRunner` are where TensorFlow runs the steps."""

import functools
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from trainer.models.task_model import COUNTS, TaskModel
from trainer.run.inference import BatchRunner
from trainer.runtime.distribution import Placement
from trainer.runtime.pjrt import Loaded, Session
from trainer.tasks.base import Task

STEPS = "steps_of_call"  # the name, in a program's batch, of how many of its steps are to be made


class ProgramStep:
    """Some steps on the batches of an iterator, as `TaskModel.make_train_function` makes them.

    The next batches are taken and copied while the devices compute.

    Args:
      session: the devices.
      model: prepared and compiled.
      spec: {name: TensorSpec} of a replica's batch.
      steps_per_call: of the program; a call can make fewer.
    """

    def __init__(self, session: Session, model: TaskModel, spec: Mapping[str, tf.TensorSpec], steps_per_call: int = 1):
        self._session, self._model, self._spec, self._steps = session, model, spec, steps_per_call
        self._waiting: dict[str, Any] = {}

    @functools.cached_property
    def _program(self) -> Loaded:
        """Compiled by the first call."""
        if self._steps == 1:
            return self._session.program("train", self._model.train_step, self._spec)
        stacked = {name: tf.TensorSpec([self._steps, *one.shape], one.dtype) for name, one in self._spec.items()}
        stacked[STEPS] = tf.TensorSpec([1], tf.int32)
        return self._session.program("train", lambda batch: _several(self._model, batch), stacked)

    def __call__(self, batches: Iterator[Mapping[str, Any]], steps: int = 1, following: int = 1) -> dict[str, Any]:
        """Makes the steps; the devices may still compute when it returns.

        Args:
          batches: one after the other for each step and local replica.
          steps: at most `steps_per_call`; what the call before gave as `following`.
          following: of the next call; 0 if no call follows.

        Returns:
          As `TaskModel.make_train_function`'s.
        """
        waited = 0.0 if self._waiting else self._take(batches, steps)
        logs = self._program(self._waiting)[0]
        waited += self._take(batches, following) if following else 0.0
        return {**logs, "data_wait_seconds": waited}

    def _take(self, batches: Iterator[Mapping[str, Any]], steps: int) -> float:
        """Begins to put the batches of the next call on the devices; returns the seconds that it waited for them."""
        begun = time.perf_counter()
        replicas = len(self._session.devices.local)
        taken = list(itertools.islice(batches, steps * replicas))
        waited = time.perf_counter() - begun
        if self._steps > 1:
            taken = [self._stacked(taken[one::replicas], steps) for one in range(replicas)]
        self._waiting = self._session.put(taken)
        return waited

    def _stacked(self, batches: Sequence[Mapping[str, Any]], steps: int) -> dict[str, np.ndarray]:
        padded = [*batches, *[batches[-1]] * (self._steps - steps)]
        stacked = {name: np.stack([np.asarray(batch[name]) for batch in padded]) for name in padded[0]}
        return {**stacked, STEPS: np.array([steps], np.int32)}

    def experimental_get_tracing_count(self) -> int:
        """Returns 1: a program has one shape."""
        return 1


def _several(model: TaskModel, stacked: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Makes as many steps as `stacked` says; returns the means of their means and the sums of their counts."""
    count = stacked[STEPS][0]
    names = (*model.step_means, *COUNTS)

    def step(i, *sums):
        logs = model.train_step({name: value[i] for name, value in stacked.items() if name != STEPS})
        return i + 1, *[summed + logs[name] for summed, name in zip(sums, names, strict=True)]

    _, *sums = tf.while_loop(lambda i, *_: i < count, step, (0, *[tf.zeros([])] * len(names)), parallel_iterations=1)
    return {
        name: summed / tf.cast(count, tf.float32) if name in model.step_means else summed
        for name, summed in zip(names, sums, strict=True)
    }


def fit(
    session: Session,
    model: TaskModel,
    batches: tf.data.Dataset,
    steps: int,
    steps_per_call: int,
    rhythm: keras.callbacks.Callback,
) -> None:
    """Makes steps until they are done or the rhythm stops them; leaves the variables in TensorFlow's hands.

    Args:
      session: the devices.
      model: prepared and compiled.
      batches: of a replica each, in the order of the local replicas.
      steps: how many.
      steps_per_call: between which nothing is looked at.
      rhythm: told of every call, as Keras tells it.
    """
    step = ProgramStep(session, model, batches.element_spec, min(steps_per_call, steps))
    taken = batches.as_numpy_iterator()
    rhythm.set_model(model)
    model.stop_training = False
    done, now = 0, min(steps_per_call, steps)
    while done < steps and not model.stop_training:
        following = min(steps_per_call, steps - done - now)
        logs = step(taken, now, following)
        done, now = done + now, following
        rhythm.on_train_batch_end(done - 1, logs)
    session.pull()


class ProgramRunner(BatchRunner):
    """Calls a model on packed batches by PJRT, one program for each of their shapes.

    Args:
      session: the devices; what a training changed there is what the model computes with.
      model, task, labelled: see BatchRunner.
    """

    def __init__(self, session: Session, model: TaskModel, task: Task, labelled: bool):
        super().__init__(model, tf.distribute.get_strategy(), task, labelled)
        self._session, self._programs = session, dict[tuple, Loaded]()
        self._replicas = len(session.devices.local)

    def _outputs_of(self, batches: list[dict[str, tf.Tensor]]) -> list[dict[str, Any]]:
        shapes = tuple((name, tuple(value.shape)) for name, value in sorted(batches[0].items()))
        if shapes not in self._programs:
            spec = {name: tf.TensorSpec(value.shape, value.dtype) for name, value in batches[0].items()}
            self._programs[shapes] = self._session.program("evaluation", self._function, spec)
        return self._programs[shapes](self._session.put(batches))


def runner_for(
    placement: Placement, model: TaskModel, task: Task, labelled: bool, session: Session | None = None
) -> BatchRunner:
    """Returns what calls a model on the devices of a placement; see BatchRunner and ProgramRunner."""
    if placement.devices is None:
        return BatchRunner(model, placement.strategy, task, labelled)
    return ProgramRunner(session or Session(placement.devices), model, task, labelled)
