"""Rows → examples → records: what `prepare` does, and `train` by itself when records are missing or stale."""

import collections
import contextlib
import dataclasses
import gc
import logging
import math
from collections.abc import Iterator
from typing import Any

from trainer import files
from trainer.config import plain
from trainer.data.records import Manifest, kept_name
from trainer.data.shards import progress_path
from trainer.data.sources import Rejected
from trainer.errors import UserError
from trainer.preparation.chunks import Totals
from trainer.preparation.corpus import write_corpus
from trainer.preparation.freshness import as_they_are, checked, made_from_of, manifest_alone, records_dir
from trainer.preparation.rows import write_rows
from trainer.preparation.sinks import Sink, SplitJob
from trainer.preparation.tfds_metadata import write_tfds_metadata
from trainer.run.experiment import Experiment
from trainer.tasks.base import Task
from trainer.text.tokenizer import Tokenizer

REJECTED_FILE = "rejected.jsonl"

log = logging.getLogger(__name__)


def ensure_records(
    experiment: Experiment, workdir: str, tokenizer: Tokenizer, corpus_sink: Sink | None = None, only: str | None = None
) -> Manifest:
    """Returns the manifest of records that fit the experiment, preparing them first (see `prepare`) if missing or stale.

    Args:
      experiment: the run.
      workdir: of the run; the records are in it unless data.records_dir is given.
      tokenizer: the run's.
      corpus_sink: as `prepare`'s.
      only: the one split that is needed; None: all.

    Raises:
      UserError: no sources, too many rejected rows, or a damaged shard; no rows are named, and the records do not fit.
    """
    folder = records_dir(experiment, workdir)
    task = experiment.build_task(tokenizer)
    wanted = made_from_of(experiment, task)
    if experiment.data.names_records_only:
        return as_they_are(manifest_alone(experiment.data), wanted)
    manifest = Manifest.load(folder)
    if manifest is not None:
        reasons = manifest.stale_because(wanted)
        if not reasons:
            return checked(manifest, "up to date")
        log.info("records: %s are stale, preparing again:\n  %s", folder, "\n  ".join(reasons))
    return prepare(experiment, folder, task, wanted, corpus_sink, only)


def prepare(
    experiment: Experiment,
    folder: str,
    task: Task,
    made_from: dict[str, Any],
    corpus_sink: Sink | None = None,
    only: str | None = None,
) -> Manifest:
    """Writes the records of every split, then the manifest that makes them count.

    Args:
      experiment: the run.
      folder: of the records.
      task: the run's.
      made_from: what decides the records.
      corpus_sink: writes a corpus instead of this process and its workers, as `beam.beam_sink`'s.
      only: the one split to write; None: all.

    Raises:
      UserError: no sources, no rows, or more rejected rows than data.max_rejected_fraction allows.
    """
    data = experiment.data
    data.require_rows()
    files.make_dirs(folder)
    files.remove_tree(files.join(folder, "manifest.json"))
    rejected_path = files.join(folder, REJECTED_FILE)
    splits, rejected = {}, []
    with files.explain_full_disk(folder), _without_garbage_collection():
        for split in [only] if only else data.sources():
            job = SplitJob(experiment, split, folder, task, made_from)
            totals, shards = ((corpus_sink or write_corpus) if task.is_corpus else write_rows)(job)
            _remove_other_shards(folder, split, {shard["file"] for shard in shards})
            kept = files.join(folder, kept_name(split))
            splits[split] = {**totals.summary(), "shards": shards}
            if files.exists(kept):
                splits[split]["kept"] = {"file": kept_name(split), "bytes": files.size(kept), "sha256": files.sha256(kept)}
            rejected += [{"split": split, **dataclasses.asdict(row)} for row in totals.rejected]
            files.write_json_lines(rejected_path, rejected)
            _report(job, totals, len(shards), rejected_path)
        manifest = Manifest(folder, task.features(), made_from, splits, plain(task.config))
        write_tfds_metadata(manifest)
        manifest.save()
        if task.is_corpus:
            for split in splits:
                files.remove_tree(progress_path(folder, split))
    return manifest


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Rows and examples hold no cycles: the collector would go through millions of them to find nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _remove_other_shards(folder: str, split: str, kept: set[str]) -> None:
    """Removes shards that an earlier preparation left under another count."""
    for name in files.list_dir(folder):
        if name.startswith(f"{split}-") and name.endswith((".tfrecord", ".partial")) and name not in kept:
            files.remove_tree(files.join(folder, name))


def _report(job: SplitJob, totals: Totals, shards: int, rejected_path: str) -> None:
    """Logs what became of a split's rows; raises UserError where too little of them is left."""
    split, summary = job.split, totals.summary()
    log.info(
        "prepared %s: %s rows → %s examples, %s tokens, %s rejected, %s shard(s)",
        split,
        f"{totals.rows:,}",
        f"{totals.examples:,}",
        f"{totals.tokens:,}",
        len(totals.rejected),
        shards,
    )
    if totals.rows > len(totals.rejected) and not totals.examples:
        cases = "".join(f"; {name}: {count}" for name, count in totals.special_cases.items())
        raise UserError(f"data.{split}: {totals.rows} row(s) gave not one example{cases}")
    if totals.truncated:
        log.warning(
            "data.%s: %s of %s texts (%.1f%%) are longer than data.max_seq_length=%d and were cut; the longest has %s tokens",
            split,
            f"{totals.truncated:,}",
            f"{totals.examples:,}",
            100 * totals.truncated / totals.examples,
            job.experiment.data.max_seq_length,
            f"{totals.longest_text:,}",
        )
    for remark in job.task.remarks(summary):
        log.warning("data.%s: %s", split, remark)
    _check_rejected(split, summary, totals.rejected, job.experiment.data.max_rejected_fraction, rejected_path)


def _check_rejected(split: str, summary: dict, refused: list[Rejected], allowed: float, path: str) -> None:
    """Says which rows were rejected and why; raises UserError where they are too many or all."""
    if summary["rows"] == 0:
        raise UserError(f"data.{split}: no rows: the source is empty, or holds only a header")
    if not refused:
        return
    reasons = collections.Counter(row.reason for row in refused)
    where = {reason: next(row for row in refused if row.reason == reason) for reason in reasons}
    shown = [f"  {n} × {r} (first: {where[r].path}:{where[r].line})" for r, n in reasons.most_common(5)]
    if len(reasons) > 5:
        shown.append(f"  and {len(reasons) - 5} other reasons")
    told = f"data.{split}: {len(refused)} of {summary['rows']} rows rejected; all are in {path}\n" + "\n".join(shown)
    rate = len(refused) / summary["rows"]
    if rate > allowed:
        allow = f"--set data.max_rejected_fraction={math.ceil(100 * rate + 1) / 100:g}"
        raise UserError(
            f"{told}\nthat is a fraction of {rate:.3g}, over data.max_rejected_fraction={allowed:g}: "
            + ("correct the rows or the columns" if rate > 0.5 else f"correct the rows, or allow them: {allow}")
        )
    log.warning("%s", told)
