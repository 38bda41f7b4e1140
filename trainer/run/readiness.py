"""What a run needs besides its steps: paths that the workers reach, records that are whole, versions that go together."""

import dataclasses
import importlib.metadata
import os
import re
import uuid
from collections.abc import Iterator

import tensorflow as tf
from transformers import BertConfig

from trainer import files
from trainer.data.pipeline import read_records
from trainer.data.records import Manifest
from trainer.errors import UserError
from trainer.models.families import family_of
from trainer.run import experiment as experiments
from trainer.run.experiment import Experiment
from trainer.run.schema import is_share
from trainer.text.tokenizer import Tokenizer

CHECKED_RECORDS = 1000
SHARED = ("gs://", "hdfs://")


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
      what: in a few words.
      problem: what is wrong and what to do; None: nothing is.
    """

    what: str
    problem: str | None = None


def path_checks(experiment: Experiment, workdir: str | None, shared_folders: tuple[str, ...]) -> Iterator[Check]:
    """Yields whether the workers can reach what the run names: by its kind, and by writing and reading a file.

    Args:
      experiment: the run.
      workdir: where it writes; None: not named.
      shared_folders: local folders that all workers see, as an NFS mount. The project's own folder travels with run_tpu.sh.
    """
    if workdir is None:
        yield Check("workdir", "--workdir is not given: nothing was checked of where the run writes")
    else:
        yield _reachable("workdir", workdir, shared_folders)
        yield Check(f"workdir {workdir} can be written and read", probe(workdir))
    sections = experiment.sections()
    for key in experiments.PATH_KEYS:
        section, field = key.split(".")
        value = getattr(sections[section], field)
        names_path = value and not is_share(value) and (files.is_remote(value) or os.path.exists(value) or "/" in value)
        is_hub = key == "encoder.init_from" and value and not files.is_remote(value) and not os.path.exists(value)
        if names_path and not is_hub and not value.startswith("tfds:"):
            yield _reachable(key, value, shared_folders)
            there = files.matches(value) or files.exists(f"{value}.index")
            yield Check(f"{key} is there", None if there else f"{key}={value}: there is nothing")


def _reachable(what: str, path: str, shared_folders: tuple[str, ...]) -> Check:
    # run_tpu.sh carries the project's folder to every worker.
    travels = [str(experiments.IN_CHECKOUT.parent)] if experiments.IN_CHECKOUT.is_dir() and what != "workdir" else []
    is_shared = path.startswith(SHARED) or any(
        os.path.realpath(path).startswith(os.path.realpath(folder) + os.sep) for folder in (*shared_folders, *travels)
    )
    problem = (
        f"{what}={path} is on this machine only; a TPU's workers read gs:// (or hdfs://), or a folder that --shared names as "
        "mounted on all of them"
    )
    return Check(f"{what} is where workers see it", None if is_shared else problem)


def probe(folder: str) -> str | None:
    """Writes, reads and removes a small file in a folder; returns what went wrong, or None."""
    path = files.join(folder, f".preflight-{uuid.uuid4().hex[:8]}")
    made = not files.exists(folder)
    try:
        files.write_text(path, "preflight")
        if files.read_text(path) != "preflight":
            return f"{folder}: what was written is not what is read"
        files.remove_tree(path)
        if made and not files.is_remote(folder) and not os.listdir(folder):
            os.rmdir(folder)
    except (OSError, UserError, tf.errors.OpError) as error:
        return f"{folder} cannot be written: {str(error).strip().splitlines()[0]}"
    return None


def record_checks(
    manifest: Manifest, tokenizer: Tokenizer, bert_config: BertConfig, length: int, hosts: int
) -> Iterator[Check]:
    """Yields whether the records are whole, enough for the hosts, and fit vocabulary and positions."""
    for split in manifest.splits:
        shards = manifest.splits[split]["shards"]
        problem = None
        try:
            manifest.check(split)
        except UserError as error:
            problem = str(error)
        yield Check(f"records of {split}: {len(shards)} shard(s) are what the manifest says", problem)
    shards = len(manifest.splits["train"]["shards"])
    few = f"data.shards: {shards} shard(s) for {hosts} hosts; prepare with data.shards={hosts * 8}, so that each reads its own"
    yield Check(f"train has {shards} shard(s) for {hosts} host(s)", few if hosts > 1 and shards < hosts else None)
    yield Check(f"token ids of {CHECKED_RECORDS:,} records at most", _id_problem(manifest, bert_config.vocab_size))
    longest = manifest.splits["train"]["longest"]
    allowed = min(length, family_of(bert_config).positions(bert_config))
    problem = f"the longest example has {longest} tokens, and only {allowed} are allowed" if longest > allowed else None
    yield Check(f"longest example: {longest} of {allowed} tokens", problem)
    differ = f"the vocabulary has {tokenizer.vocabulary_size:,} tokens, the encoder only {bert_config.vocab_size:,}"
    yield Check(
        f"vocabulary: {tokenizer.vocabulary_size:,} tokens, the encoder's {bert_config.vocab_size:,}",
        differ if tokenizer.vocabulary_size > bert_config.vocab_size else None,
    )


def _id_problem(manifest: Manifest, vocabulary: int) -> str | None:
    names = [name for name in manifest.spec if name.endswith("input_ids")]
    wanted = {name: tf.io.RaggedFeature(tf.int64) for name in names}
    try:
        for serialized in read_records(manifest.paths("train")).take(CHECKED_RECORDS):
            for name, ids in tf.io.parse_single_example(serialized, wanted).items():
                largest = int(tf.reduce_max(ids)) if tf.size(ids) else 0
                if largest >= vocabulary:
                    return f"a record's {name} has the id {largest:,}, and the encoder has {vocabulary:,} tokens"
    except tf.errors.OpError as error:
        return f"a record of train cannot be read: {str(error).strip().splitlines()[0]}"
    return None


def version_checks() -> Iterator[Check]:
    """Yields whether what is installed is what was tried together: this project's own requirements."""
    pinned = [
        requirement
        for requirement in importlib.metadata.requires("tf-bert-trainer") or []
        if re.search(r"extra == ['\"](pjrt|preflight)['\"]", requirement) or "extra ==" not in requirement
    ]
    for requirement in sorted({one.partition(";")[0].strip() for one in pinned}):
        name = re.split(r"[<>=\[ ]", requirement)[0]
        exact = re.search(r"==([\d.]+)", requirement)
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Check(requirement, f"{name} is not installed")
            continue
        differs = exact and version != exact[1]
        yield Check(f"{name} {version}", f"{name} is {version}; {requirement} is what was tried" if differs else None)
