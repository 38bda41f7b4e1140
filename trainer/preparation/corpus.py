"""The sink of a corpus: shard after shard, each finished before the next, so that a killed preparation resumes."""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from trainer import files
from trainer.data.shards import CorpusShards
from trainer.preparation.chunks import CHARACTERS_PER_CHUNK, Chunk, Totals, prepared_chunks
from trainer.preparation.sinks import Shards, SplitJob
from trainer.run.experiment import Experiment

CHUNKS_IN_ONE_PROCESS = 1
CORPUS_SHARDS, MOST_CHUNKS_PER_SHARD = 64, 64  # a larger corpus than 16 GB has more
CORPUS_CHUNKS_PER_SHARD = 8  # of a source whose size is unknown
UNPACKED_TIMES = 3  # about how much larger text is than its .gz

log = logging.getLogger(__name__)


def write_corpus(job: SplitJob) -> tuple[Totals, Shards]:
    """Writes a split's documents in this process and its workers, after the shards that an interrupted run finished."""
    writer = CorpusShards(job.folder, job.split, job.made_from)
    if writer.finished:
        log.info("%s: continuing after %d finished shard(s)", job.split, len(writer.finished))
    each = chunks_per_shard(job.experiment, job.split)
    _, named, workers = job.chunks_and_workers(CHUNKS_IN_ONE_PROCESS)
    named = itertools.islice(named, len(writer.finished) * each, None)
    prepared = prepared_chunks(named, job.task, workers)
    while first := next(prepared, None):
        writer.write_shard(*shard_of(itertools.chain([first], itertools.islice(prepared, each - 1))))
    return finished(writer)


def shard_of(chunks: Iterable[Chunk]) -> tuple[Iterator[bytes], Callable[[], dict[str, Any]]]:
    """Returns the records of a shard's chunks, one chunk at a time, and what gives their totals afterwards."""
    totals = Totals()

    def records() -> Iterator[bytes]:
        for chunk in chunks:
            totals.add(chunk.totals)
            yield from chunk.records

    return records(), totals.to_json


def finished(writer: CorpusShards) -> tuple[Totals, Shards]:
    """Returns the totals of the finished shards, and what the manifest says of each."""
    totals = Totals()
    for shard in writer.finished:
        totals.add(Totals.from_json(shard["totals"]))
    return totals, writer.finish()


def chunks_per_shard(experiment: Experiment, split: str) -> int:
    """Returns how many chunks make a shard: a function of the source's size, so that a second run cuts the same."""
    source = experiment.source_of(split)
    if source.startswith("tfds:"):
        return CORPUS_CHUNKS_PER_SHARD
    paths = files.expand(source, f"data.{split}")
    size = sum(files.size(path) * (UNPACKED_TIMES if path.endswith(".gz") else 1) for path in paths)
    chunks = max(size // CHARACTERS_PER_CHUNK, 1)
    return min(max(-(-chunks // (experiment.data.shards or CORPUS_SHARDS)), 1), MOST_CHUNKS_PER_SHARD)
