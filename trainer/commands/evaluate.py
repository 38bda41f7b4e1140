"""evaluate: the best model of a workdir, scored on a split."""

import logging

from trainer import assembly, experiment, feeding, files, inference, preparation
from trainer.cli import Options
from trainer.errors import UserError, suggestion
from trainer.runtime import distribution

log = logging.getLogger(__name__)


def run(options: Options) -> None:
    """Prints the scores and writes them to evaluation/<split>.json."""
    workdir, split = options.required("workdir"), options.split
    saved = experiment.load_workdir(workdir)
    runtime = saved.runtime
    # One process evaluates, whatever cluster the training ran on.
    kind = "auto" if runtime.distribution == "multi_worker" else runtime.distribution
    placement = distribution.choose(kind, options.tpu or runtime.tpu, runtime.cpu_devices, runtime.tpu_connect_seconds)
    with placement.strategy.scope():
        restored = assembly.restore(workdir, options.set)
    sources = restored.experiment.data.sources()
    if split not in sources:
        raise UserError(f"--split: {split!r} is not one of this run's {', '.join(sources)}{suggestion(split, sources)}")
    log.info("%s\nmodel of step %s", placement.reason, f"{restored.step:,}")

    manifest = preparation.ensure_records(restored.experiment, workdir, restored.tokenizer)
    task, model = restored.assembled.task, restored.assembled.model
    runner = inference.BatchRunner(model, placement.strategy, task.features())
    batches = feeding.evaluation_batches(restored.experiment, manifest, split, task)
    scores = {"split": split, "step": restored.step, **inference.evaluate(runner, batches, task)}

    path = files.join(workdir, "evaluation", f"{split}.json")
    files.write_json(path, scores)
    print("\n".join(score_lines(scores)))
    print(f"all scores: {path}")


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
