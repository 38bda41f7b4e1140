"""Hashes of what a run saved of itself, its config, tokenizer and sizes: what differs later is told."""

import logging
from collections.abc import Iterable, Iterator

from trainer import files
from trainer.errors import UserError

log = logging.getLogger(__name__)
SEALS_FILE = "seals.json"
EDITABLE = ("config.yaml", "versions.json")  # people may change these by hand; the rest only damage changes


def seal(workdir: str, names: Iterable[str]) -> None:
    """Notes the hashes of files of a workdir.

    Args:
      workdir: of the run.
      names: paths in it.
    """
    path = files.join(workdir, SEALS_FILE)
    stored = files.read_json_object(path) if files.exists(path) else {}
    hashes = {name: files.sha256(files.join(workdir, name)) for name in names}
    files.write_json(path, {**stored, **hashes})


def warn(workdir: str) -> None:
    """Logs which of the files that people may change are not what was saved."""
    for name, problem in _problems(workdir):
        if name in EDITABLE:
            log.warning("%s (edited by hand, or damaged)", problem)


def check(workdir: str) -> None:
    """Raises UserError where one of the other files is not what was saved; a workdir without seals passes."""
    for name, problem in _problems(workdir):
        if name not in EDITABLE:
            raise UserError(f"--workdir: {problem}: it is damaged; restore it from a copy, or train again")


def _problems(workdir: str) -> Iterator[tuple[str, str]]:
    seals = files.join(workdir, SEALS_FILE)
    stored = files.read_json_object(seals) if files.exists(seals) else {}
    for name, digest in stored.items():
        path = files.join(workdir, name)
        if not files.exists(path):
            yield name, f"{path} is missing"
        elif files.sha256(path) != digest:
            yield name, f"{path} is not what the run saved"
