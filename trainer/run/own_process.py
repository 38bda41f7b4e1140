"""A command of this program in a process of its own, as commands that make several runs start each of them."""

import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from trainer import files
from trainer.errors import UserError


def call(arguments: Sequence[str]) -> int:
    """Runs a command and returns its exit status; Ctrl-C reaches it as well, and it saves before it ends."""
    process = subprocess.Popen([sys.executable, "-m", "trainer", *arguments])
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def train_arguments(config: str | None, workdir: str, keys: Iterable[str]) -> list[str]:
    """Returns the arguments of `train` for a run with a config, where one is named, and changed keys."""
    named = [f"--config={config}"] if config else []
    return ["train", *named, f"--workdir={workdir}", *(f"--set={key}" for key in keys)]


def common_scores(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the names of the scores that are numbers in all runs."""
    return [name for name in scores[0] if all(isinstance(each.get(name), float) for each in scores)]


def keep_flags(folder: str, name: str, flags: Any, refused: Callable[[Any], str]) -> None:
    """Keeps the flags that decide the runs in a folder, so that they are finished with the same ones.

    Args:
      folder: of the runs.
      name: of the file that holds the flags.
      flags: JSON-able.
      refused: gives the message for other flags, from those that were kept.

    Raises:
      UserError: the folder was begun with other flags.
    """
    path = files.join(folder, name)
    if files.exists(path):
        kept = files.read_json(path)
        if kept != flags:
            raise UserError(refused(kept))
    files.write_json(path, flags)
