"""Checkpoints that are whole or do not count: written aside, read back, then named the latest.

A run's `checkpoints/` holds `step-00001000/` folders and `latest.json`; the best model, weights only, is in `best-*/`
with `best.json`. Variables are stored by name, so a checkpoint can be read without building the model.
"""

import concurrent.futures
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from trainer import files
from trainer.errors import UserError

Variables = Mapping[str, tf.Variable]
log = logging.getLogger(__name__)


INDEX = "weights.index"  # has the checksum of every weight
PATTERN_CHARACTERS = "[]*?\\"  # TensorFlow takes a checkpoint's path as a pattern when it reads it


def check_folder(folder: str, key: str = "--workdir") -> None:
    """Raises UserError where TensorFlow could write checkpoints into a folder but not read them back."""
    full = files.absolute(folder)
    if key == "--workdir" and files.exists(folder) and not files.is_dir(folder):
        raise UserError(f"{key}: {folder} is a file, where a folder belongs")
    found = [character for character in PATTERN_CHARACTERS if character in full]
    if found:
        raise UserError(
            f"{key}: {full} contains {found[0]!r}, and TensorFlow cannot read checkpoints from such a path; choose a path "
            f"without {' '.join(PATTERN_CHARACTERS)}"
        )


class CheckpointStore:
    """The checkpoints of one run.

    Args:
      folder: the run's `checkpoints/`.
      keep: how many are kept, besides the best.
    """

    def __init__(self, folder: str, keep: int = 2):
        self.folder, self._keep = folder, keep

    def has_latest(self) -> bool:
        """Returns whether a checkpoint to resume from was ever finished here."""
        return files.exists(files.join(self.folder, "latest.json"))

    def latest_step(self) -> int:
        """Returns the step of the latest checkpoint that was finished; 0 where there is none."""
        path = files.join(self.folder, "latest.json")
        return int(files.read_sealed(path)["step"]) if files.exists(path) else 0

    def save(self, step: int, variables: Variables, state: Mapping[str, Any]) -> str:
        """Writes a checkpoint, reads it back, and only then names it the latest; older ones beyond `keep` go."""
        name = f"step-{step:08d}"
        self._write(name, variables, {**state, "step": step}, "latest.json")
        kept = [entry for entry in self._steps() if entry <= name][-self._keep :]
        for entry in self._steps():
            if entry not in kept:
                files.remove_tree(files.join(self.folder, entry))
        return files.join(self.folder, name)

    def save_best(self, step: int, variables: Variables, state: Mapping[str, Any]) -> None:
        """Writes the weights of the best model so far; the one before is removed once this one is complete."""
        name = f"best-{step:08d}"
        if files.exists(files.join(self.folder, name)):  # of before a kill: whole until this one is
            name += "-again"
        self._write(name, variables, {**state, "step": step}, "best.json")
        for entry in files.list_dir(self.folder):
            if entry.startswith("best-") and entry != name:
                files.remove_tree(files.join(self.folder, entry))

    def forget_best(self) -> None:
        """Removes the best model of an earlier run that ended before its first checkpoint."""
        for entry in files.list_dir(self.folder):
            if entry.startswith("best"):
                files.remove_tree(files.join(self.folder, entry))

    def _write(self, name: str, variables: Variables, state: Mapping[str, Any], pointer: str) -> None:
        folder = files.join(self.folder, name)
        with files.explain_full_disk(folder):
            files.make_dirs(folder)
            tf.train.Checkpoint(values=dict(variables)).write(files.join(folder, "weights"))
            problem = self._problem_with_weights(name, variables)
            if problem:
                raise UserError(f"the checkpoint just written, {folder}, does not read back: {problem}; is the disk failing?")
            state = {**state, INDEX: files.sha256(files.join(folder, INDEX))}
            files.write_sealed(files.join(folder, "state.json"), state)
            files.write_sealed(files.join(self.folder, pointer), {**state, "name": name})

    def problem_with(self, name: str, variables: Variables) -> str | None:
        """Reads a checkpoint whole, its checksums with it; returns what is wrong, or None.

        Raises:
          UserError: it is whole, but of another model.
        """
        folder = files.join(self.folder, name)
        try:
            index = files.read_sealed(files.join(folder, "state.json")).get(INDEX)
            if index is not None and files.sha256(files.join(folder, INDEX)) != index:
                return f"{files.join(folder, INDEX)} is not what was written: its SHA-256 differs"
        except (UserError, OSError, tf.errors.OpError) as error:
            return str(error).strip().splitlines()[0]
        return self._problem_with_weights(name, variables)

    def _problem_with_weights(self, name: str, variables: Variables) -> str | None:
        prefix = files.join(self.folder, name, "weights")
        try:
            stored = read_variables(prefix)
        except Exception as error:  # a damaged file shows as any of TensorFlow's and Python's errors
            return str(error).strip().splitlines()[0]
        for key, variable in variables.items():
            if key not in stored or stored[key].shape != tuple(variable.shape):
                found = f"shape {list(stored[key].shape)}" if key in stored else "no such weight"
                raise UserError(
                    f"{prefix} is a checkpoint of another model: for {key} of shape {list(variable.shape)} it has {found}. "
                    "Choose another --workdir, or train with the config that is saved in this one"
                )
        return None

    def restore_latest(self, variables: Variables) -> dict[str, Any] | None:
        """Restores the latest checkpoint that is whole.

        Returns:
          Its state, or None if there is no checkpoint to resume from.

        Raises:
          UserError: checkpoints are there, and not one is whole; or they are of another model.
        """
        damaged = []
        for name in reversed(self._steps()):
            if not files.exists(files.join(self.folder, name, "state.json")):
                damaged.append(f"{name}: it was never finished")
                continue
            problem = self.problem_with(name, variables)
            if problem is None:
                for line in damaged:
                    log.warning("checkpoint left aside: %s", line)
                return self._read(name, variables)
            damaged.append(f"{name}: {problem}")
        if damaged and self.has_latest():
            raise UserError(
                f"no checkpoint in {self.folder} is whole ({'; '.join(damaged)}); remove that folder to start afresh"
            )
        return None

    def restore_best(self, variables: Variables) -> dict[str, Any]:
        """Restores the best model, or the latest where no validation chose one.

        Raises:
          UserError: nothing was saved yet, or it is damaged, or of another model.
        """
        name, problem = self._best_name(), None
        while name:
            problem = self.problem_with(name, variables)
            if problem is None:
                return self._read(name, variables)
            before, name = name, self._best_name()
            if name == before:  # else the run that trains here has just replaced it by a better one
                raise UserError(f"{files.join(self.folder, name)} cannot be read: {problem}")
        raise UserError(f"{self.folder}: no checkpoint there yet; run train first")

    def _best_name(self) -> str | None:
        """Returns the folder of the best model; of the latest checkpoint where no validation chose one."""
        paths = [files.join(self.folder, pointer) for pointer in ("best.json", "latest.json")]
        return next((files.read_sealed(path)["name"] for path in paths if files.exists(path)), None)

    def best_state(self) -> dict[str, Any] | None:
        """Returns the state saved with the best model, or None."""
        path = files.join(self.folder, "best.json")
        return files.read_sealed(path) if files.exists(path) else None

    def _steps(self) -> list[str]:
        return [name for name in files.list_dir(self.folder) if name.startswith("step-")]

    def _read(self, name: str, variables: Variables) -> dict[str, Any]:
        prefix = files.join(self.folder, name, "weights")
        tf.train.Checkpoint(values=dict(variables)).read(prefix).assert_existing_objects_matched().expect_partial()
        state = files.read_sealed(files.join(self.folder, name, "state.json"))
        state.pop(INDEX, None)
        return state


class BackgroundWriter:
    """Writes checkpoints while the training goes on: of copies, one after the other, each read back before it counts.

    A copy of all variables is held until it is written, and only one: who saves again waits for the one before.

    Args:
      store: to write into.
      is_on: False: each is written at once.
    """

    def __init__(self, store: CheckpointStore, is_on: bool = True):
        self._store = store
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "checkpoints") if is_on else None
        self._pending: concurrent.futures.Future | None = None

    def save(self, step: int, variables: Variables, state: Mapping[str, Any]) -> None:
        """As CheckpointStore's.

        Raises:
          UserError: the one before could not be written.
        """
        self._write(self._store.save, step, variables, state)

    def save_best(self, step: int, variables: Variables, state: Mapping[str, Any]) -> None:
        """As CheckpointStore's; raises as `save`."""
        self._write(self._store.save_best, step, variables, state)

    def wait(self) -> None:
        """Waits until all is written; raises UserError where it could not be."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, write: Callable[..., Any], step: int, variables: Variables, state: Mapping[str, Any]) -> None:
        if self._pool is None:
            write(step, variables, state)
            return
        self.wait()
        copies = {name: np.array(variable.numpy()) for name, variable in variables.items()}

        def write_copies() -> None:
            # In this thread no strategy is active: one of several workers would wait for the others to make a variable.
            with tf.device("CPU:0"):
                held = {name: tf.Variable(copies.pop(name), trainable=False) for name in list(copies)}
            write(step, held, state)

        self._pending = self._pool.submit(write_copies)


def read_variables(prefix: str) -> dict[str, np.ndarray]:
    """Returns {name: array} of everything in a checkpoint of ours."""
    # Not tf.train.load_checkpoint: it takes a prefix on some remote file systems for a folder.
    reader = tf.compat.v1.train.NewCheckpointReader(prefix)
    reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")  # damage there would show only when variables are restored
    found = {}
    for key in reader.get_variable_to_shape_map():
        if key.startswith("values/") and key.endswith("/.ATTRIBUTES/VARIABLE_VALUE"):
            name = key.removeprefix("values/").removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")
            found[unescaped(name)] = reader.get_tensor(key)
    return found


def unescaped(name: str) -> str:
    """Returns a name of TensorFlow's object graph as it was given: a slash is written ".S" there, a dot "..".

    >>> unescaped("next_sentence..pooler_dense/output_bias.Sbias")
    'next_sentence.pooler_dense/output_bias/bias'
    """
    return re.sub(r"\.([S.])", lambda escape: "/" if escape[1] == "S" else ".", name)
