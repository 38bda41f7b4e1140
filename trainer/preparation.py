"""Rows → examples → records: what `prepare` does, and `train` by itself when records are missing or stale."""

import collections
import contextlib
import dataclasses
import gc
import hashlib
import itertools
import json
import logging
import multiprocessing
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

from trainer import files
from trainer.config import FieldError, plain
from trainer.data.records import FORMAT_VERSION, Manifest, ShardWriter, encode_example
from trainer.data.sources import Rejected, Row, RowError, read_rows
from trainer.errors import UserError
from trainer.experiment import DataConfig, Experiment
from trainer.features import check_example
from trainer.tasks import task_module
from trainer.tasks.base import Task
from trainer.text.tokenizer import Tokenizer

REJECTED_FILE = "rejected.jsonl"
ROWS_PER_CHUNK = 2048
ROWS_IN_ONE_PROCESS = 30_000  # below this, starting processes costs more than it saves
EXAMPLES_PER_SHARD, MAX_AUTO_SHARDS = 1024, 16
MAX_DISTINCT_VALUES = 10_000  # counted in the manifest: at least as many as a task may have classes
TFDS_TEMPLATE = "{SPLIT}-{SHARD_X_OF_Y}.{FILEFORMAT}"  # the name that records.shard_name gives
DECIDING_DATA_KEYS = ("text_columns", "label_column", "format", "column_names", "delimiter", "quoting", "max_seq_length")

log = logging.getLogger(__name__)


def learned(experiment: Experiment) -> Experiment:
    """Returns the experiment with its task config completed from the training rows (class names)."""
    if experiment.data.train is None:
        return experiment
    task_class = task_module(experiment.task.name).Task
    rows = (row for row in _source_rows(experiment.data, "train") if isinstance(row, Row))
    try:
        learned_config = task_class.learn(experiment.task, experiment.fields(), rows)
    except FieldError as error:  # what was learned contradicts what was given
        raise UserError(f"task.{error.field}: {error}") from None
    return dataclasses.replace(experiment, task=learned_config)


def _source_rows(data: DataConfig, split: str) -> Iterator[Row | Rejected]:
    return read_rows(data.sources()[split], f"data.{split}", data.source_format)


def records_dir(experiment: Experiment, workdir: str) -> str:
    """Returns the folder of a run's records."""
    return experiment.data.records_dir or files.join(workdir, "records")


def ensure_records(experiment: Experiment, workdir: str, tokenizer: Tokenizer) -> Manifest:
    """Returns the manifest of records that fit the experiment, preparing them first if they are missing or stale.

    Raises:
      UserError: no sources, too many rejected rows, or a damaged shard.
    """
    folder = records_dir(experiment, workdir)
    task = experiment.build_task(tokenizer)
    wanted = _made_from(experiment, task)
    manifest = Manifest.load(folder)
    if manifest is not None:
        reasons = manifest.stale_because(wanted)
        if not reasons:
            for split in manifest.splits:
                manifest.check(split)
            log.info("records: %s, up to date", folder)
            return manifest
        log.info("records: %s are stale, preparing again:\n  %s", folder, "\n  ".join(reasons))
    return prepare(experiment, folder, task, wanted)


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
                made_from[f"file {path}"] = f"{files.size(path)} bytes, sha256 {files.sha256(path)[:16]}"
    class_names = getattr(task.config, "class_names", None)
    if class_names is not None:
        digest = hashlib.sha256(json.dumps(plain(class_names)).encode()).hexdigest()[:16]
        made_from["task.class_names"] = f"{len(class_names)} classes, sha256 {digest}"
    made_from["task.name"] = task.config.name
    return made_from


def prepare(experiment: Experiment, folder: str, task: Task, made_from: dict[str, Any]) -> Manifest:
    """Writes the records of every split, then the manifest that makes them count.

    Raises:
      UserError: no sources, no rows, or more rejected rows than data.max_rejected_rate allows.
    """
    data = experiment.data
    if not data.sources():
        data.require_train()
    files.make_dirs(folder)
    files.remove_tree(files.join(folder, "manifest.json"))
    rejected_path = files.join(folder, REJECTED_FILE)
    splits, rejected = {}, []
    with files.explain_full_disk(folder), _without_garbage_collection():
        for split in data.sources():
            summary, refused = _prepare_split(data, split, folder, task)
            splits[split] = summary
            rejected += [{"split": split, **dataclasses.asdict(row)} for row in refused]
            files.write_text(rejected_path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rejected))
            _check_rejected(split, summary, refused, data.max_rejected_rate, rejected_path)
        manifest = Manifest(folder, task.features(), made_from, splits)
        _write_tfds_metadata(manifest)
        manifest.save()
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


def _prepare_split(data: DataConfig, split: str, folder: str, task: Task) -> tuple[dict[str, Any], list[Rejected]]:
    """Writes one split; returns what the manifest says of it, and the rejected rows."""
    rows = enumerate(_source_rows(data, split))
    first = list(itertools.islice(rows, ROWS_IN_ONE_PROCESS))
    is_small = len(first) < ROWS_IN_ONE_PROCESS
    shards = data.shards or min(max(len(first) // EXAMPLES_PER_SHARD, 1), MAX_AUTO_SHARDS)
    workers = data.workers or (1 if is_small else os.cpu_count() or 1)
    writer = ShardWriter(folder, split, shards)
    totals = _Totals()
    try:
        for chunk in _prepared_chunks(itertools.chain(first, rows), task, workers):
            writer.write(chunk.records)
            totals.add(chunk)
        stored = writer.finish()
    except BaseException:
        writer.discard()
        raise
    _remove_other_shards(folder, split, {shard["file"] for shard in stored})
    summary = {"examples": writer.records, **totals.summary(), "shards": stored}
    log.info(
        "prepared %s: %s rows → %s examples, %s tokens, %s rejected, %s shard(s)",
        split,
        f"{totals.rows:,}",
        f"{writer.records:,}",
        f"{totals.tokens:,}",
        len(totals.rejected),
        shards,
    )
    return summary, totals.rejected


def _remove_other_shards(folder: str, split: str, kept: set[str]) -> None:
    """Removes shards that an earlier preparation left under another count."""
    for name in files.list_dir(folder):
        if name.startswith(f"{split}-") and name.endswith((".tfrecord", ".partial")) and name not in kept:
            files.remove_tree(files.join(folder, name))


@dataclasses.dataclass
class _Chunk:
    """What a worker made of some rows."""

    rows: int
    records: list[bytes]
    rejected: list[Rejected]
    tokens: int
    longest: int
    values: dict[str, collections.Counter]


class _Totals:
    def __init__(self):
        self.rows = self.tokens = self.longest = 0
        self.rejected: list[Rejected] = []
        self.values: dict[str, collections.Counter] = {}

    def add(self, chunk: _Chunk) -> None:
        """Counts a chunk."""
        self.rows += chunk.rows
        self.tokens += chunk.tokens
        self.longest = max(self.longest, chunk.longest)
        self.rejected += chunk.rejected
        for name, counts in chunk.values.items():
            self.values.setdefault(name, collections.Counter()).update(counts)

    def summary(self) -> dict[str, Any]:
        """Returns what the manifest says of a split, but for its shards."""
        few = {name: counts for name, counts in self.values.items() if len(counts) <= MAX_DISTINCT_VALUES}
        values = {name: {str(value): count for value, count in sorted(counts.items())} for name, counts in few.items()}
        return {
            "rows": self.rows,
            "rejected": len(self.rejected),
            "tokens": self.tokens,
            "longest": self.longest,
            "values": values,
        }


def _prepared_chunks(rows: Iterable[tuple[int, Row | Rejected]], task: Task, workers: int) -> Iterator[_Chunk]:
    """Yields the chunks in row order, from this process or from several."""
    iterator = iter(rows)
    chunks = iter(lambda: list(itertools.islice(iterator, ROWS_PER_CHUNK)), [])
    if workers == 1:
        yield from (_prepare_chunk(task, chunk) for chunk in chunks)
        return
    # "spawn": a forked copy of a process with TensorFlow's threads in it can hang.
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, _start_worker, (task,)) as pool:
        waiting: collections.deque = collections.deque()
        for chunk in chunks:  # a bounded number under way, so that memory stays flat
            waiting.append(pool.apply_async(_work, (chunk,)))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().get()
        while waiting:
            yield waiting.popleft().get()


_worker_task: list[Task] = []


def _start_worker(task: Task) -> None:
    gc.disable()
    _worker_task.append(task)


def _work(chunk: list[tuple[int, Row | Rejected]]) -> _Chunk:
    return _prepare_chunk(_worker_task[-1], chunk)


def _prepare_chunk(task: Task, chunk: list[tuple[int, Row | Rejected]]) -> _Chunk:
    spec = task.features()
    counted = [name for name, feature in spec.items() if feature.per == "example" and name != "row_id"]
    result = _Chunk(len(chunk), [], [], 0, 0, {name: collections.Counter() for name in counted})
    for row_id, row in chunk:
        if isinstance(row, Rejected):
            result.rejected.append(row)
            continue
        try:
            examples = task.examples(row)
        except RowError as error:
            result.rejected.append(rejected_row(row, error))
            continue
        for example in examples:
            example = {**example, "row_id": row_id}
            check_example(example, spec, task.fields.max_seq_length)
            result.records.append(encode_example(example, spec))
            result.tokens += len(example["input_ids"])
            result.longest = max(result.longest, len(example["input_ids"]))
            for name in counted:
                result.values[name][example[name]] += 1
    return result


def rejected_row(row: Row, error: RowError) -> Rejected:
    """Returns a row as `rejected.jsonl` tells it."""
    return Rejected(row.path, row.line, str(error), json.dumps(row.values, ensure_ascii=False, default=str))


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
    """Writes what `tfds.builder_from_directory` reads beside the manifest."""
    import numpy as np
    import tensorflow_datasets as tfds

    features = {}
    for name, feature in manifest.spec.items():
        dtype = np.int64 if feature.dtype == "int32" else np.float32
        features[name] = tfds.features.Tensor(shape=(None,) if feature.per == "token" else (), dtype=dtype)
    # Written locally and copied: tfds knows fewer file systems than TensorFlow.
    with tempfile.TemporaryDirectory() as local:
        infos = [_tfds_split(split, summary, local) for split, summary in manifest.splits.items()]
        for shard in itertools.chain(*[summary["shards"] for summary in manifest.splits.values()]):
            files.write_text(files.join(local, shard["file"]), "")  # it looks for the shards' names, not into them
        tfds.folder_dataset.write_metadata(
            data_dir=local,
            features=tfds.features.FeaturesDict(features),
            split_infos=infos,
            check_data=False,
            filename_template=TFDS_TEMPLATE,
        )
        for name in ("dataset_info.json", "features.json"):
            files.copy(files.join(local, name), files.join(manifest.folder, name))


def _tfds_split(split: str, summary: dict[str, Any], folder: str) -> Any:
    import tensorflow_datasets as tfds

    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, template=TFDS_TEMPLATE, split=split, dataset_name="records", filetype_suffix="tfrecord"
    )
    return tfds.core.SplitInfo(
        name=split,
        shard_lengths=[shard["examples"] for shard in summary["shards"]],
        num_bytes=sum(shard["bytes"] for shard in summary["shards"]),
        filename_template=template,
    )
