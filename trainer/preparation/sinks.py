"""The one interface of what writes a split: it takes a `SplitJob` and leaves finished shards."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

from trainer.preparation.chunks import NamedChunk, Totals, named_chunks
from trainer.run.experiment import Experiment
from trainer.tasks.base import Task


@dataclasses.dataclass(frozen=True)
class SplitJob:
    """One split to be prepared.

    Attributes:
      experiment: the run.
      split: "train", "validation" or "test".
      folder: of the records.
      task: turns rows into examples.
      made_from: everything that decides the records' bytes.
    """

    experiment: Experiment
    split: str
    folder: str
    task: Task
    made_from: dict[str, Any]

    def chunks(self) -> Iterator[NamedChunk]:
        """Yields the split's rows in named chunks."""
        return named_chunks(self.split, self.experiment.rows(self.split), self.task.is_corpus)

    def chunks_and_workers(self, chunks_in_one_process: int) -> tuple[list[NamedChunk], Iterator[NamedChunk], int]:
        """Returns the first chunks, all of them, and how many processes prepare them: one where there are few chunks."""
        named = self.chunks()
        first = list(itertools.islice(named, chunks_in_one_process + 1))
        is_small = len(first) <= chunks_in_one_process
        workers = self.experiment.data.workers or (1 if is_small else os.cpu_count() or 1)
        return first, itertools.chain(first, named), workers


Shards = list[dict[str, Any]]  # what the manifest says of each shard
Sink = Callable[[SplitJob], tuple[Totals, Shards]]
