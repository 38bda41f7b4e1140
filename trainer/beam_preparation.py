"""A corpus prepared by many machines: the chunks and shards of `preparation` as an Apache Beam pipeline.

One worker reads the text and cuts it into chunks; they are spread over all workers, which turn them into records; the chunks of
a shard come together again, in order, and are written by one worker. So the shards are those of the local runner, byte by byte.
"""

import re
import shlex
from collections.abc import Iterable, Iterator
from typing import Any

from trainer import files
from trainer.chunks import Chunk, NumberedRow, named_chunks, prepare_chunk
from trainer.data.shards import write_corpus_shard
from trainer.errors import UserError
from trainer.experiment import Experiment
from trainer.preparation import CorpusRunner, shard_of
from trainer.tasks.base import Task

NumberedChunk = tuple[int, tuple[int, str, list[NumberedRow]]]  # shard, (number, name, rows)


def corpus_runner(flags: str) -> CorpusRunner:
    """Returns what `preparation.prepare` lets write a corpus.

    Args:
      flags: of the pipeline, as "--runner=DataflowRunner --project=my-project"; Beam's own runner where there are none.

    Raises:
      UserError: apache-beam is not installed, or does not know a flag's value.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions
    except ImportError:
        raise UserError("--runner=beam needs the package apache-beam: pip install 'bert-trainer[beam]'") from None
    try:
        options = PipelineOptions(shlex.split(flags))
        options.view_as(SetupOptions).save_main_session = False
        unknown = sorted(set(_names(flags)) - set(options.get_all_options()))
    except SystemExit:  # argparse has told what it does not take
        raise UserError(f"--beam_flags: Beam does not take {flags!r}") from None
    if unknown:
        raise UserError(f"--beam_flags: Beam does not know --{unknown[0]}")

    def run(experiment: Experiment, split: str, folder: str, task: Task, chunks_per_shard: int) -> list[dict[str, Any]]:
        for path in (*_entries(folder, split), _count_path(folder, split)):  # of a run that was killed
            files.remove_tree(path)
        with beam.Pipeline(options=options) as pipeline:
            (
                pipeline
                | "split" >> beam.Create([split])
                | "read" >> beam.FlatMap(numbered_chunks, experiment, chunks_per_shard, folder)
                | "spread" >> beam.Reshuffle()
                | "prepare" >> beam.Map(_prepared, task)
                | "shards" >> beam.GroupByKey()
                | "write" >> beam.Map(_written, folder, split)
            )
        return _read_entries(folder, split)

    return run


def _names(flags: str) -> list[str]:
    return [flag[2:].partition("=")[0] for flag in shlex.split(flags) if flag.startswith("--")]


def numbered_chunks(split: str, experiment: Experiment, chunks_per_shard: int, folder: str) -> Iterator[NumberedChunk]:
    """Yields a split's chunks, each with its shard; then writes how many shards there are."""
    number = -1
    for number, (name, chunk) in enumerate(named_chunks(split, experiment.rows(split), is_corpus=True)):
        yield number // chunks_per_shard, (number, name, chunk)
    files.write_json(_count_path(folder, split), -(-(number + 1) // chunks_per_shard))


def _count_path(folder: str, split: str) -> str:
    return files.join(folder, f"{split}-shards.json")


def _prepared(chunk: NumberedChunk, task: Task) -> tuple[int, tuple[int, Chunk]]:
    shard, (number, name, rows) = chunk
    return shard, (number, prepare_chunk(task, name, rows))


def _written(gathered: tuple[int, Iterable[tuple[int, Chunk]]], folder: str, split: str) -> int:
    """Writes a shard, and beside it what the main program is to know of it."""
    shard, chunks = gathered
    in_order = [chunk for _, chunk in sorted(chunks, key=lambda numbered: numbered[0])]
    entry = write_corpus_shard(folder, split, shard, *shard_of(in_order))
    files.write_json(files.join(folder, f"{split}-{shard:05d}.json"), entry)
    return shard


def _read_entries(folder: str, split: str) -> list[dict[str, Any]]:
    """Returns what the workers wrote of their shards, in order, and removes it."""
    paths, count_path = _entries(folder, split), _count_path(folder, split)
    count = files.read_json(count_path) if files.exists(count_path) else None
    if count != len(paths):
        raise UserError(
            f"{folder} has {len(paths)} of {split}'s {count or 'unknown'} shards; all workers must see data.records_dir"
        )
    entries = [files.read_json(path) for path in paths]
    for path in (*paths, count_path):
        files.remove_tree(path)
    return entries


def _entries(folder: str, split: str) -> list[str]:
    names = [name for name in files.list_dir(folder) if re.fullmatch(rf"{re.escape(split)}-\d{{5}}\.json", name)]
    return [files.join(folder, name) for name in sorted(names)]
