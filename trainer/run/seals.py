"""Hashes of what a run saved of itself, its config, tokenizer and sizes: later changes are reported."""

import logging
from collections.abc import Iterable

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


def check(workdir: str) -> None:
    """Compares the files with what was saved; a workdir without seals passes. A file that people may edit only gives a warning.

    Raises:
      UserError: another file is missing or was changed.
    """
    seals = files.join(workdir, SEALS_FILE)
    stored = files.read_json_object(seals) if files.exists(seals) else {}
    for name, digest in stored.items():
        path = files.join(workdir, name)
        if files.exists(path) and files.sha256(path) == digest:
            continue
        problem = f"{path} is not what the run saved" if files.exists(path) else f"{path} is missing"
        if name not in EDITABLE:
            raise UserError(f"--workdir: {problem}: it is damaged; restore it from a copy, or train again")
        log.warning("%s (edited by hand, or damaged)", problem)
