"""The sink of a corpus on many machines: the chunks and shards of `corpus` as an Apache Beam pipeline.

One worker reads the text and cuts it into chunks. They are spread over all workers, which turn them into records. The chunks of
a shard meet again, in order, at one worker, which writes them. So the shards equal those of the local sink, byte by byte.
"""

import re
import shlex
from collections.abc import Iterable, Iterator
from typing import Any

from trainer import files
from trainer.data.shards import CorpusShards, write_corpus_shard
from trainer.errors import UserError, install_hint
from trainer.preparation.chunks import Chunk, NumberedRow, Totals, prepare_chunk
from trainer.preparation.corpus import chunks_per_shard, finished, shard_of
from trainer.preparation.sinks import Shards, Sink, SplitJob
from trainer.tasks.base import Task

NumberedChunk = tuple[int, tuple[int, str, list[NumberedRow]]]  # shard, (number, name, rows)


def beam_sink(flags: str) -> Sink:
    """Returns the sink that `splits.prepare` gives a corpus to.

    Args:
      flags: of the pipeline, as "--runner=DataflowRunner --project=my-project"; Beam's own runner where there are none.

    Raises:
      UserError: apache-beam is not installed, or does not know a flag's value.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions
    except ImportError:
        raise UserError(f"--runner=beam needs the package apache-beam: {install_hint('beam')}") from None
    try:
        options = PipelineOptions(shlex.split(flags))
        options.view_as(SetupOptions).save_main_session = False
        unknown = sorted(set(_names(flags)) - set(options.get_all_options()))
    except SystemExit:  # argparse has printed what it does not take
        raise UserError(f"--beam_flags: Beam does not take {flags!r}") from None
    if unknown:
        raise UserError(f"--beam_flags: Beam does not know --{unknown[0]}")

    def write(job: SplitJob) -> tuple[Totals, Shards]:
        folder, split = job.folder, job.split
        for path in (*_entries(folder, split), _count_path(folder, split)):  # of a run that was killed
            files.remove_tree(path)
        try:
            with beam.Pipeline(options=options) as pipeline:
                (
                    pipeline
                    | "split" >> beam.Create([job])
                    | "read" >> beam.FlatMap(numbered_chunks, chunks_per_shard(job.experiment, split))
                    | "spread" >> beam.Reshuffle()
                    | "prepare" >> beam.Map(_prepared, job.task)
                    | "shards" >> beam.GroupByKey()
                    | "write" >> beam.Map(_written, folder, split)
                )
        except Exception as error:  # of any runner, at any place: each has exceptions of its own
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            told = flags or "no --beam_flags"
            raise UserError(f"--runner=beam: Beam could not run the pipeline ({told}): {reason}") from error
        writer = CorpusShards(folder, split, job.made_from)
        writer.finished = _read_entries(folder, split)
        return finished(writer)

    return write


def _names(flags: str) -> list[str]:
    return [flag[2:].partition("=")[0] for flag in shlex.split(flags) if flag.startswith("--")]


def numbered_chunks(job: SplitJob, chunks_per_shard: int) -> Iterator[NumberedChunk]:
    """Yields a split's chunks, each with its shard; then writes how many shards there are."""
    number = -1
    for number, (name, chunk) in enumerate(job.chunks()):
        yield number // chunks_per_shard, (number, name, chunk)
    files.write_json(_count_path(job.folder, job.split), -(-(number + 1) // chunks_per_shard))


def _count_path(folder: str, split: str) -> str:
    return files.join(folder, f"{split}-shards.json")


def _prepared(chunk: NumberedChunk, task: Task) -> tuple[int, tuple[int, Chunk]]:
    shard, (number, name, rows) = chunk
    return shard, (number, prepare_chunk(task, name, rows))


def _written(gathered: tuple[int, Iterable[tuple[int, Chunk]]], folder: str, split: str) -> int:
    """Writes a shard, and a file with what the main program needs to know about it."""
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
