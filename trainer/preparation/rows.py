"""The sink of rows: their examples are dealt to a fixed number of shards in turn.

What the task keeps of the rows goes into a file beside the shards, see `data.records.KeptRows`.
"""

import contextlib
from typing import IO

from trainer import files
from trainer.data.records import kept_name
from trainer.data.shards import ShardWriter
from trainer.preparation.chunks import Totals, prepared_chunks
from trainer.preparation.sinks import Shards, SplitJob

CHUNKS_IN_ONE_PROCESS = 15  # for so few, starting processes costs more than it saves
EXAMPLES_PER_SHARD, MAX_AUTO_SHARDS = 1024, 16


def write_rows(job: SplitJob) -> tuple[Totals, Shards]:
    """Writes a split's rows in this process and its workers; an interrupted split leaves nothing."""
    first, named, workers = job.chunks_and_workers(CHUNKS_IN_ONE_PROCESS)
    wanted = sum(len(chunk) for _, chunk in first) // EXAMPLES_PER_SHARD
    writer = ShardWriter(job.folder, job.split, job.experiment.data.shards or min(max(wanted, 1), MAX_AUTO_SHARDS))
    totals, path = Totals(), files.join(job.folder, kept_name(job.split))
    files.remove_tree(path)
    try:
        with contextlib.ExitStack() as stack:
            kept: IO[bytes] | None = None
            for chunk in prepared_chunks(named, job.task, workers):
                writer.write(chunk.records)
                totals.add(chunk.totals)
                if chunk.kept:
                    kept = kept or stack.enter_context(files.open_binary(path, "wb"))
                    kept.write("".join(chunk.kept).encode())
        return totals, writer.finish()
    except BaseException:
        writer.discard()
        files.remove_tree(path)
        raise
