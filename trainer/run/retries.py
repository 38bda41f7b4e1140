"""What a run does by itself after a loss that is NaN: go back to its latest checkpoint, and on another way from there."""

import dataclasses
import logging

from trainer import files
from trainer.run.schema import TrainConfig
from trainer.runtime.faults import NotFiniteError

log = logging.getLogger(__name__)
FILE = "retries.json"
LOWER_RATE_BY = 0.5


@dataclasses.dataclass(frozen=True)
class Retry:
    """One of them.

    Attributes:
      from_step: of the checkpoint that the run went back to; 0: the start.
      skipped_steps: whose batches are left out from there on.
      rate_factor: that the learning rate is multiplied by from there on.
    """

    from_step: int
    skipped_steps: int = 0
    rate_factor: float = 1.0


@dataclasses.dataclass(frozen=True)
class Retries:
    """All of a run, in order; kept in its workdir, so that a resumed run goes the same way.

    Attributes:
      made: each of them.
    """

    made: tuple[Retry, ...] = ()

    @classmethod
    def load(cls, workdir: str, latest_step: int) -> "Retries":
        """Reads what a workdir holds, of a run that goes on from `latest_step`; says so where it changes the run."""
        path = files.join(workdir, FILE)
        stored = files.read_json_object(path)["retries"] if files.exists(path) else []
        found = cls(tuple(one for one in (Retry(**entry) for entry in stored) if one.from_step <= latest_step))
        if found.made:
            log.warning(
                "%s: batches of %s step(s) are left out, the learning rate is multiplied by %g",
                path,
                f"{found.skipped_steps:,}",
                found.rate_factor,
            )
        return found

    def save(self, workdir: str) -> None:
        """Writes them into a workdir."""
        files.write_json(files.join(workdir, FILE), {"retries": [dataclasses.asdict(one) for one in self.made]})

    def after(self, error: NotFiniteError, train: TrainConfig, latest_step: int) -> "Retries | None":
        """Returns these and one more, as the config has it; None: the run is to stop.

        Args:
          error: what happened.
          train: its `on_nan` and `max_nan_retries`.
          latest_step: of the latest checkpoint.
        """
        if train.on_nan == "stop" or len(self.made) >= train.max_nan_retries:
            return None
        if train.on_nan == "skip":
            retry = Retry(latest_step, skipped_steps=max(error.step - latest_step, 1))
            what = f"leaving out the batches of {retry.skipped_steps:,} step(s)"
        else:
            retry = Retry(latest_step, rate_factor=LOWER_RATE_BY)
            what = f"with {LOWER_RATE_BY:g} times the learning rate"
        log.warning(
            "%s\ngoing on from step %s, %s (train.on_nan=%s, %d of %d)", error, f"{latest_step:,}", what, train.on_nan,
            len(self.made) + 1, train.max_nan_retries,
        )  # fmt: skip
        return Retries((*self.made, retry))

    @property
    def skipped_steps(self) -> int:
        """The steps whose batches are left out."""
        return sum(one.skipped_steps for one in self.made)

    @property
    def rate_factor(self) -> float:
        """What the learning rate is multiplied by."""
        factor = 1.0
        for one in self.made:
            factor *= one.rate_factor
        return factor
