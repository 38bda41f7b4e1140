"""evaluate: the best model of a workdir, scored on a split."""

import dataclasses
import logging
from typing import Any

from trainer import assembly, experiment, feeding, files, inference, preparation
from trainer.cli import Options
from trainer.data.records import Manifest
from trainer.errors import UserError, suggestion
from trainer.runtime import distribution

log = logging.getLogger(__name__)


def run(options: Options) -> None:
    """Prints the scores and writes them to evaluation/<split>.json."""
    workdir, split = options.required("workdir"), options.split
    runtime = experiment.load_workdir(workdir, options.set, options.tpu).runtime
    # One process evaluates, whatever the training ran on.
    kind = "auto" if runtime.distribution in ("multi_worker", "tpu") else runtime.distribution
    placement = distribution.choose(kind, runtime.tpu, runtime.cpu_devices, runtime.tpu_connect_seconds, join_cluster=False)
    with placement.strategy.scope():
        restored = assembly.restore(workdir, options.set)
    data = restored.experiment.data
    known = preparation.manifest_alone(data).splits if data.names_records_only else data.sources()
    if split not in known:
        raise UserError(f"--split: {split!r} is not one of this run's {', '.join(known)}{suggestion(split, known)}")
    log.info("%s\nmodel of step %s", placement.reason, f"{restored.step:,}")
    assembly.choose_inference_kernels(restored.assembled, restored.experiment.train)

    manifest = _records(restored, workdir, split, is_changed=bool(options.set))
    task, model = restored.assembled.task, restored.assembled.model
    runner = inference.BatchRunner(model, placement.strategy, task.features(), task.evaluated)
    batches = feeding.evaluation_batches(restored.experiment, manifest, split, task)
    scores = {"split": split, "step": restored.step, **inference.evaluate(runner, batches, task)}

    path = files.join(workdir, "evaluation", f"{split}.json")
    files.write_json(path, scores)
    print("\n".join(score_lines(scores)))
    print(f"all scores: {path}")


def _records(restored: assembly.Restored, workdir: str, split: str, is_changed: bool) -> Manifest:
    """Returns the run's own records of the split; with --set, or where they are gone, records made for this command."""
    if restored.experiment.data.names_records_only:
        return preparation.ensure_records(restored.experiment, workdir, restored.tokenizer)
    manifest = Manifest.load(preparation.records_dir(restored.experiment, workdir))
    if manifest is not None and split in manifest.splits and not is_changed:
        manifest.check(split)
        return manifest
    alone: dict[str, Any] = {other: None for other in ("train", "validation", "test") if other != split}
    data = dataclasses.replace(restored.experiment.data, **alone, records_dir=files.join(workdir, "records", split))
    return preparation.ensure_records(dataclasses.replace(restored.experiment, data=data), workdir, restored.tokenizer)


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
