"""What makes records stale: everything that decides their bytes, compared with what the manifest says."""

import logging
from typing import Any

from trainer import files
from trainer.config import plain
from trainer.data.records import FORMAT_VERSION, MAX_BYTES_HASHED_ON_OPEN, Manifest
from trainer.errors import UserError
from trainer.run.experiment import ROWS_KEYS, Experiment
from trainer.run.schema import DataConfig, is_share
from trainer.tasks.base import Task

DECIDING_DATA_KEYS = (
    "holdout_column",
    "format",
    "column_names",
    "delimiter",
    "quoting",
    "encoding",
    "max_seq_length",
)

log = logging.getLogger(__name__)


def records_dir(experiment: Experiment, workdir: str) -> str:
    """Returns the folder of a run's records."""
    return experiment.data.records_dir or files.join(workdir, "records")


def manifest_alone(data: DataConfig) -> Manifest:
    """Returns the manifest of data.records_dir, where no rows are named.

    Raises:
      UserError: there is none.
    """
    manifest = Manifest.load(data.records_dir or "")
    if manifest is None:
        raise UserError(
            f"data.records_dir: {data.records_dir} holds no prepared records that this machine sees, and no rows are named to "
            "prepare them from; run prepare there first, with data.train"
        )
    return manifest


def made_from_of(experiment: Experiment, task: Task) -> dict[str, Any]:
    """Returns everything that decides the bytes of the records, as the manifest stores it."""
    data = experiment.data
    made_from = {"format": FORMAT_VERSION, "tokenizer": task.tokenizer.fingerprint}
    made_from |= {f"data.{key}": plain(getattr(data, key)) for key in DECIDING_DATA_KEYS}
    made_from |= {"data.shards": data.shards}
    for split, source in data.sources().items():
        made_from[f"data.{split}"] = source if is_share(source) else files.absolute(source)
        if not source.startswith("tfds:") and not is_share(source):
            for path in files.expand(source, f"data.{split}"):
                made_from[f"file {files.absolute(path)}"] = f"{files.size(path)} bytes, {_identity(path)}"
    return made_from | task.made_from() | {"task.name": task.config.name}


def _identity(path: str) -> str:
    """Returns what changes when a source changes: a hash; the modification date of a file that takes minutes to read."""
    if files.size(path) > MAX_BYTES_HASHED_ON_OPEN:
        return f"modified {files.modified(path)}"
    return f"sha256 {files.sha256(path)[:16]}"


def as_they_are(manifest: Manifest, wanted: dict[str, Any]) -> Manifest:
    """Returns records whose rows nobody names, if all else that decides them is as wanted."""
    rows = {key: value for key, value in manifest.made_from.items() if key.startswith((*ROWS_KEYS, "file "))}
    reasons = manifest.stale_because(wanted | rows)
    if reasons:
        told = "\n  ".join(reasons)
        raise UserError(
            f"data.records_dir: the records in {manifest.folder} are not what the config asks for, and no rows are named to "
            f"prepare them from again:\n  {told}\nset these keys back, or run prepare with this config where the rows are"
        )
    return checked(manifest, "used unchanged (no rows are named)")


def checked(manifest: Manifest, how: str) -> Manifest:
    """Returns a manifest whose shards are all whole; logs that they are used, and how."""
    for split in manifest.splits:
        manifest.check(split)
    log.info("records: %s, %s", manifest.folder, how)
    return manifest


def require_training_examples(manifest: Manifest) -> None:
    """Raises UserError where records hold nothing to train on."""
    if "train" not in manifest.splits:
        splits = ", ".join(manifest.splits)
        raise UserError(f"data.records_dir: {manifest.folder} holds records of {splits} only, none to train on")
    for split in ("train", "validation"):
        if split in manifest.splits and manifest.splits[split]["examples"] == 0:
            what = "train on" if split == "train" else "validate on"
            raise UserError(f"data.{split}: every row was rejected; there is nothing to {what}")
