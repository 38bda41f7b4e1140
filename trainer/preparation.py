"""Rows → examples → records: what `prepare` does, and `train` by itself when records are missing or stale."""

import collections
import contextlib
import dataclasses
import gc
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from trainer import files
from trainer.chunks import CHARACTERS_PER_CHUNK, Chunk, NamedChunk, Totals, named_chunks, prepared_chunks
from trainer.config import FieldError, plain
from trainer.data.records import FORMAT_VERSION, MAX_BYTES_HASHED_ON_OPEN, Manifest
from trainer.data.shards import CorpusShards, ShardWriter, progress_path
from trainer.data.sources import Rejected, Row
from trainer.errors import UserError
from trainer.experiment import ROWS_KEYS, DataConfig, Experiment
from trainer.tasks import task_module
from trainer.tasks.base import Task
from trainer.text.tokenizer import Tokenizer

REJECTED_FILE = "rejected.jsonl"
CHUNKS_IN_ONE_PROCESS = {"rows": 15, "corpus": 1}  # for so few, starting processes costs more than it saves
EXAMPLES_PER_SHARD, MAX_AUTO_SHARDS = 1024, 16
CORPUS_SHARDS, MOST_CHUNKS_PER_SHARD = 64, 64  # a larger corpus than 16 GB has more
CORPUS_CHUNKS_PER_SHARD = 8  # of a source whose size is not known
UNPACKED_TIMES = 3  # what text takes more than its .gz, about
TFDS_TEMPLATE = "{SPLIT}-{SHARD_X_OF_Y}.{FILEFORMAT}"  # the name that shards.shard_name gives
TFDS_FEATURES = "tensorflow_datasets.core.features"
DECIDING_DATA_KEYS = ("text_columns", "label_column", "format", "column_names", "delimiter", "quoting", "max_seq_length")

log = logging.getLogger(__name__)
# (experiment, split, folder, task, chunks of a shard) → the entries of `CorpusShards.finished`
CorpusRunner = Callable[[Experiment, str, str, Task, int], list[dict[str, Any]]]


def learned(experiment: Experiment) -> Experiment:
    """Returns the experiment with its task config completed (class names): from the training rows, or by records only.

    Raises:
      UserError: the rows do not allow it, or the records do not tell.
    """
    task, data = experiment.task, experiment.data
    task_class = task_module(task.name).Task
    fields = task_class.to_learn(task)
    if not fields or (data.train is None and not data.names_records_only):
        return experiment
    try:
        if data.names_records_only:
            completed = dataclasses.replace(task, **_told_by_records(data, fields))
        else:
            rows = (row for row in experiment.rows("train") if isinstance(row, Row))
            completed = task_class.learn(task, experiment.fields(), rows)
    except FieldError as error:  # what was learned contradicts what was given
        raise UserError(f"task.{error.field}: {error}") from None
    return dataclasses.replace(experiment, task=completed)


def _told_by_records(data: DataConfig, fields: Iterable[str]) -> dict[str, tuple]:
    stored = manifest_alone(data).task
    for field in fields:
        if not stored.get(field):
            raise UserError(
                f"data.records_dir: the records in {data.records_dir} do not tell task.{field}, and no rows are named to learn "
                "it from; run prepare with this config where the rows are"
            )
    return {field: tuple(stored[field]) for field in fields}


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


def ensure_records(
    experiment: Experiment, workdir: str, tokenizer: Tokenizer, run_corpus: CorpusRunner | None = None
) -> Manifest:
    """Returns the manifest of records that fit the experiment, preparing them first (see `prepare`) if missing or stale.

    Raises:
      UserError: no sources, too many rejected rows, or a damaged shard; no rows are named, and the records do not fit.
    """
    folder = records_dir(experiment, workdir)
    task = experiment.build_task(tokenizer)
    wanted = _made_from(experiment, task)
    if experiment.data.names_records_only:
        return _as_they_are(manifest_alone(experiment.data), wanted)
    manifest = Manifest.load(folder)
    if manifest is not None:
        reasons = manifest.stale_because(wanted)
        if not reasons:
            return _checked(manifest, "up to date")
        log.info("records: %s are stale, preparing again:\n  %s", folder, "\n  ".join(reasons))
    return prepare(experiment, folder, task, wanted, run_corpus)


def _as_they_are(manifest: Manifest, wanted: dict[str, Any]) -> Manifest:
    """Returns records whose rows nobody names, if all else that decides them is as wanted."""
    rows = {key: value for key, value in manifest.made_from.items() if key.startswith((*ROWS_KEYS, "file "))}
    reasons = manifest.stale_because(wanted | rows)
    if reasons:
        told = "\n  ".join(reasons)
        raise UserError(
            f"data.records_dir: the records in {manifest.folder} are not what the config asks for, and no rows are named to "
            f"prepare them from again:\n  {told}\nset these keys back, or run prepare with this config where the rows are"
        )
    return _checked(manifest, "as they are (no rows are named)")


def _checked(manifest: Manifest, how: str) -> Manifest:
    for split in manifest.splits:
        manifest.check(split)
    log.info("records: %s, %s", manifest.folder, how)
    return manifest


def require_training_examples(manifest: Manifest) -> None:
    """Raises UserError where records hold nothing to train on."""
    if "train" not in manifest.splits:
        splits = ", ".join(manifest.splits)
        raise UserError(f"data.records_dir: {manifest.folder} holds records of {splits} only, none to train on")
    if manifest.splits["train"]["examples"] == 0:
        raise UserError("data.train: every row was rejected; there is nothing to train on")


def _made_from(experiment: Experiment, task: Task) -> dict[str, Any]:
    """Returns everything that decides the bytes of the records, as the manifest stores it."""
    data = experiment.data
    made_from = {"format": FORMAT_VERSION, "tokenizer": task.tokenizer.fingerprint}
    made_from |= {f"data.{key}": plain(getattr(data, key)) for key in DECIDING_DATA_KEYS}
    made_from |= {"data.shards": data.shards}
    for split, source in data.sources().items():
        made_from[f"data.{split}"] = source
        if not source.startswith("tfds:"):
            for path in files.expand(source, f"data.{split}"):
                made_from[f"file {path}"] = f"{files.size(path)} bytes, {_identity(path)}"
    return made_from | task.made_from() | {"task.name": task.config.name}


def _identity(path: str) -> str:
    """Returns what tells a source from an altered one: a hash, or the date of one that would take minutes to read."""
    if files.size(path) > MAX_BYTES_HASHED_ON_OPEN:
        return f"modified {files.modified(path)}"
    return f"sha256 {files.sha256(path)[:16]}"


def prepare(
    experiment: Experiment, folder: str, task: Task, made_from: dict[str, Any], run_corpus: CorpusRunner | None = None
) -> Manifest:
    """Writes the records of every split, then the manifest that makes them count.

    Args:
      experiment: the run.
      folder: of the records.
      task: the run's.
      made_from: what decides the records.
      run_corpus: writes a corpus' shards instead of this process and its workers, as `beam_preparation.corpus_runner`'s.

    Raises:
      UserError: no sources, no rows, or more rejected rows than data.max_rejected_rate allows.
    """
    data = experiment.data
    data.require_rows()
    files.make_dirs(folder)
    files.remove_tree(files.join(folder, "manifest.json"))
    rejected_path = files.join(folder, REJECTED_FILE)
    splits, rejected = {}, []
    with files.explain_full_disk(folder), _without_garbage_collection():
        for split in data.sources():
            summary, refused = _prepare_split(experiment, split, folder, task, made_from, run_corpus)
            splits[split] = summary
            rejected += [{"split": split, **dataclasses.asdict(row)} for row in refused]
            files.write_text(rejected_path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rejected))
            _check_rejected(split, summary, refused, data.max_rejected_rate, rejected_path)
        manifest = Manifest(folder, task.features(), made_from, splits, plain(task.config))
        _write_tfds_metadata(manifest)
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


def _prepare_split(
    experiment: Experiment, split: str, folder: str, task: Task, made_from: dict[str, Any], run_corpus: CorpusRunner | None
) -> tuple[dict[str, Any], list[Rejected]]:
    """Writes one split; returns what the manifest says of it, and the rejected rows."""
    if task.is_corpus and run_corpus:
        writer = CorpusShards(folder, split, made_from)
        writer.finished = run_corpus(experiment, split, folder, task, chunks_per_shard(experiment, split))
        totals, shards = _finished(writer)
    else:
        totals, shards = _prepare_here(experiment, split, folder, task, made_from)
    _remove_other_shards(folder, split, {shard["file"] for shard in shards})
    log.info(
        "prepared %s: %s rows → %s examples, %s tokens, %s rejected, %s shard(s)",
        split,
        f"{totals.rows:,}",
        f"{totals.examples:,}",
        f"{totals.tokens:,}",
        len(totals.rejected),
        len(shards),
    )
    summary = totals.summary()
    if totals.rows > len(totals.rejected) and not totals.examples:
        cases = "".join(f"; {name}: {count}" for name, count in totals.special_cases.items())
        raise UserError(f"data.{split}: {totals.rows} row(s) gave not one example{cases}")
    for remark in task.remarks(summary):
        log.warning("data.%s: %s", split, remark)
    return {**summary, "shards": shards}, totals.rejected


def _prepare_here(
    experiment: Experiment, split: str, folder: str, task: Task, made_from: dict[str, Any]
) -> tuple[Totals, list[dict]]:
    """Writes one split in this process and its workers."""
    named = named_chunks(split, experiment.rows(split), task.is_corpus)
    in_one_process = CHUNKS_IN_ONE_PROCESS["corpus" if task.is_corpus else "rows"]
    first = list(itertools.islice(named, in_one_process + 1))
    workers = experiment.data.workers or (1 if len(first) <= in_one_process else os.cpu_count() or 1)
    named = itertools.chain(first, named)
    if task.is_corpus:
        writer = CorpusShards(folder, split, made_from)
        return _write_corpus(writer, named, task, workers, chunks_per_shard(experiment, split))
    count = experiment.data.shards or min(max(sum(len(chunk) for _, chunk in first) // EXAMPLES_PER_SHARD, 1), MAX_AUTO_SHARDS)
    return _write_rows(ShardWriter(folder, split, count), named, task, workers)


def _write_rows(writer: ShardWriter, named: Iterator[NamedChunk], task: Task, workers: int) -> tuple[Totals, list[dict]]:
    """Deals the examples of rows to the shards in turn."""
    totals = Totals()
    try:
        for chunk in prepared_chunks(named, task, workers):
            writer.write(chunk.records)
            totals.add(chunk.totals)
        return totals, writer.finish()
    except BaseException:
        writer.discard()
        raise


def _write_corpus(
    writer: CorpusShards, named: Iterator[NamedChunk], task: Task, workers: int, chunks_per_shard: int
) -> tuple[Totals, list[dict]]:
    """Writes a corpus shard after shard, going on after those that an earlier, interrupted preparation finished."""
    if writer.finished:
        log.info("%s: going on after %d finished shard(s)", writer.split, len(writer.finished))
    named = itertools.islice(named, len(writer.finished) * chunks_per_shard, None)
    prepared = prepared_chunks(named, task, workers)
    while first := next(prepared, None):
        writer.write_shard(*shard_of(itertools.chain([first], itertools.islice(prepared, chunks_per_shard - 1))))
    return _finished(writer)


def shard_of(chunks: Iterable[Chunk]) -> tuple[Iterator[bytes], Callable[[], dict[str, Any]]]:
    """Returns the records of a shard's chunks, one chunk at a time, and what gives their totals afterwards."""
    totals = Totals()

    def records() -> Iterator[bytes]:
        for chunk in chunks:
            totals.add(chunk.totals)
            yield from chunk.records

    return records(), totals.to_json


def _finished(writer: CorpusShards) -> tuple[Totals, list[dict]]:
    totals = Totals()
    for shard in writer.finished:
        totals.add(Totals.from_json(shard["totals"]))
    return totals, writer.finish()


def chunks_per_shard(experiment: Experiment, split: str) -> int:
    """Returns how many chunks make a shard: a function of the source's size, so that a second run cuts the same."""
    source = experiment.data.sources()[split]
    if source.startswith("tfds:"):
        return CORPUS_CHUNKS_PER_SHARD
    paths = files.expand(source, f"data.{split}")
    size = sum(files.size(path) * (UNPACKED_TIMES if path.endswith(".gz") else 1) for path in paths)
    chunks = max(size // CHARACTERS_PER_CHUNK, 1)
    return min(max(-(-chunks // (experiment.data.shards or CORPUS_SHARDS)), 1), MOST_CHUNKS_PER_SHARD)


def _remove_other_shards(folder: str, split: str, kept: set[str]) -> None:
    """Removes shards that an earlier preparation left under another count."""
    for name in files.list_dir(folder):
        if name.startswith(f"{split}-") and name.endswith((".tfrecord", ".partial")) and name not in kept:
            files.remove_tree(files.join(folder, name))


def _check_rejected(split: str, summary: dict, refused: list[Rejected], allowed: float, path: str) -> None:
    """Says which rows were rejected and why; raises UserError where they are too many or all."""
    if summary["rows"] == 0:
        raise UserError(f"data.{split}: no rows: the source has a header at most")
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
        raise UserError(
            f"{told}\nthat is a share of {rate:.3g}, over data.max_rejected_rate={allowed:g}: "
            "mend the rows or the columns, or allow more with --set data.max_rejected_rate=..."
        )
    log.warning("%s", told)


def _write_tfds_metadata(manifest: Manifest) -> None:
    """Writes what `tfds.builder_from_directory` reads beside the manifest, as `tfds.folder_dataset.write_metadata` would."""
    features = {}
    for name, feature in sorted(manifest.spec.items()):
        shape = {"dimensions": ["-1"]} if feature.per == "token" else {}
        tensor = {"shape": shape, "dtype": "int64" if feature.dtype == "int32" else "float32", "encoding": "none"}
        features[name] = {"pythonClassName": f"{TFDS_FEATURES}.tensor_feature.Tensor", "tensor": tensor}
    class_name = f"{TFDS_FEATURES}.features_dict.FeaturesDict"
    path = files.join(manifest.folder, "features.json")
    files.write_json(path, {"pythonClassName": class_name, "featuresDict": {"features": features}})
    splits = [
        {
            "name": split,
            "shardLengths": [str(shard["examples"]) for shard in summary["shards"]],
            "numBytes": str(sum(shard["bytes"] for shard in summary["shards"])),
            "filepathTemplate": TFDS_TEMPLATE,
        }
        for split, summary in manifest.splits.items()
    ]
    info = {"fileFormat": "tfrecord", "version": "1.0.0", "splits": splits}
    files.write_json(files.join(manifest.folder, "dataset_info.json"), info)
