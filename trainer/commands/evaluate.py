"""evaluate: the best model of a workdir, scored on a split."""

import dataclasses
import json
import logging
from typing import Any

from trainer import files
from trainer.cli import Options
from trainer.data.records import Manifest
from trainer.errors import UserError, suggestion
from trainer.preparation import freshness, splits
from trainer.run import assembly, experiment, feeding, inference, programs
from trainer.runtime import distribution

log = logging.getLogger(__name__)


def run(options: Options) -> None:
    """Prints the scores and writes them to evaluation/<split>.json."""
    workdir, split = options.required("workdir"), options.split
    runtime = experiment.load_workdir(workdir, options.set, options.tpu).runtime
    kind = distribution.for_one_process(runtime.distribution)
    placement = distribution.choose(kind, runtime.tpu, runtime.cpu_devices, runtime.tpu_connect_seconds, join_cluster=False)
    log.info("%s", placement.reason)
    with placement.strategy.scope():
        restored = assembly.restore(workdir, options.set, whole=placement.devices is not None)
    scores = score(restored, workdir, split, placement, is_changed=bool(options.set))
    print("\n".join(score_lines(scores)))
    path = files.join(workdir, "evaluation", f"{split}.json")
    try:
        files.write_json(path, scores)
    except OSError as error:  # a read-only workdir: the scores are printed whole instead
        print(json.dumps(scores, ensure_ascii=False))
        raise UserError(f"the scores above could not be stored in {path}: {error.strerror or error}") from None
    print(f"all scores: {path}")


def score(
    restored: assembly.Restored, workdir: str, split: str, placement: distribution.Placement, is_changed: bool = False
) -> dict[str, Any]:
    """Returns all scores of a restored model on a split.

    Args:
      restored: restored in the placement's scope.
      workdir: of the run; its records are used.
      split: "train", "validation" or "test".
      placement: the devices.
      is_changed: the run's config was changed for this command, so its records may not fit.

    Raises:
      UserError: the run has no such split.
    """
    data = restored.experiment.data
    known = freshness.manifest_alone(data).splits if data.names_records_only else data.sources()
    if split not in known:
        raise UserError(
            f"--split: {split!r} is not one of this run's splits {', '.join(known)}{suggestion(split, known)}. Rows of a "
            "further one are named with --set, as data.test=test.csv"
        )
    log.info("model of step %s", f"{restored.step:,}")
    manifest = _records(restored, workdir, split, is_changed)
    if manifest.splits[split]["examples"] == 0:
        raise UserError(f"data.{split}: every row was rejected; there is nothing to score")
    task, model = restored.assembled.task, restored.assembled.model
    runner = programs.runner_for(placement, model, task, labelled=True)
    one_shape = placement.target != "cpu" or placement.devices is not None
    batches = feeding.evaluation_batches(restored.experiment, manifest, split, task, one_shape)
    return {"split": split, "step": restored.step, **inference.evaluate(runner, batches, task, manifest.kept(split))}


def _records(restored: assembly.Restored, workdir: str, split: str, is_changed: bool) -> Manifest:
    """Returns the run's own records of the split; with --set, or where they are gone, records made for this command."""
    if restored.experiment.data.names_records_only:
        return splits.ensure_records(restored.experiment, workdir, restored.tokenizer)
    manifest = Manifest.load(freshness.records_dir(restored.experiment, workdir))
    if manifest is not None and split in manifest.splits and not is_changed:
        manifest.check(split)
        return manifest
    data = restored.experiment.data
    # Which rows a share holds depends on the other shares, so all of them stay named; a source of its own needs none.
    kept = {split, "train", *data.shares()} if split in {"train", *data.shares()} else {split}
    alone: dict[str, Any] = {other: None for other in ("train", "validation", "test") if other not in kept}
    data = dataclasses.replace(data, **alone, records_dir=files.join(workdir, "records", split))
    changed = dataclasses.replace(restored.experiment, data=data)
    return splits.ensure_records(changed, workdir, restored.tokenizer, only=split)


def score_lines(scores: dict, indent: str = "") -> list[str]:
    """Returns scores for people, a line each; long tables stay in the file."""
    lines = []
    for name, value in scores.items():
        if isinstance(value, dict) and len(value) <= 10:
            lines += [f"{indent}{name}:", *score_lines(value, indent + "  ")]
        elif isinstance(value, float):
            lines.append(f"{indent}{name}: {value:.4f}")
        elif isinstance(value, (int, str)):
            lines.append(f"{indent}{name}: {value}")
    return lines
