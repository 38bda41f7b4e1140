"""A real pre-training run in two phases (configs/pretraining/enwik8-mini*.yaml), then SST-2 from it and from random weights.

    python benchmarks/pretraining_run.py --data=../shared/data --workdir=workdir/enwik8-mini

The run goes on where it was interrupted. WikiText-2's validation text is held out. Then SST-2 is fine-tuned with three seeds
from the run's encoder and from random weights of the same sizes, with the same settings; a score is that of the last step.
Results: benchmarks/results/pretraining_run.json, .md and .png. Two cores take about two hours.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import report
from wikitext import plain_text

PHASES = {"32 tokens": "configs/pretraining/enwik8-mini.yaml", "128 tokens": "configs/pretraining/enwik8-mini-phase2.yaml"}
FINE_TUNING = {
    "data.text_columns": "[sentence]",
    "data.label_column": "label",
    "data.max_seq_length": 64,
    "train.batch_size": 32,
    "train.epochs": 3,
    "task.pooling": "mean",
    "train.learning_rate": "1e-4",
    "train.precision": "bfloat16",
    "encoder.dropout_rate": 0.1,
    "encoder.attention_dropout_rate": 0.1,
}


def given(keys: dict[str, object]) -> list[str]:
    """Returns keys as --set takes them."""
    return [f"{key}={value}" for key, value in keys.items()]


def plot(validations: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Draws each phase's held-out loss and accuracy over the steps of all."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for axis, name in zip(axes, ("masked_lm_loss", "masked_lm_accuracy"), strict=True):
        before = 0
        for phase, lines in validations.items():
            axis.plot([before + line["step"] for line in lines], [line[name] for line in lines], marker=".", label=phase)
            before += lines[-1]["step"]
        axis.set(xlabel="step", title=f"{name}, WikiText-2 validation")
        axis.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Pre-trains, fine-tunes, reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--workdir", type=Path, default=Path("workdir/enwik8-mini"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    data, workdir = options.data.resolve(), options.workdir.resolve()
    workdir.mkdir(parents=True, exist_ok=True)
    held_out = workdir / "wikitext-valid.txt"
    if not held_out.exists():  # written once: a run that goes on must find the same text
        text = (data / "wikitext-2/valid.txt").read_text(encoding="utf8")
        held_out.write_text(plain_text(text), encoding="utf8")
    vocabulary = data / "vocab/bert-base-uncased-vocab.txt"
    corpus = {"data.train": data / "enwik8_clean.txt.gz", "data.validation": held_out}
    start: dict[str, object] = {"encoder.vocabulary_path": vocabulary}
    validations = {}
    for phase, config in PHASES.items():
        folder = workdir / phase.replace(" ", "-")
        validations[phase] = report.train(config, folder, given(corpus | start))
        start = {"encoder.init_from": folder}
    plot(validations, report.RESULTS / "pretraining_run.png")

    starts = {
        "pre-trained": start,
        "random": {"encoder.config_path": "configs/models/bert-mini.json", "encoder.vocabulary_path": vocabulary},
    }
    files = {"data.train": data / "glue/SST-2/train.tsv", "data.validation": data / "glue/SST-2/dev.tsv"}
    scores: dict[str, list[float]] = {name: [] for name in starts}
    for seed in options.seeds:
        for name, encoder in starts.items():
            with tempfile.TemporaryDirectory() as scratch:
                keys = {**FINE_TUNING, **files, **encoder, "train.seed": seed}
                found = report.train(None, Path(scratch), given(keys))
            scores[name].append(found[-1]["accuracy"])
            print(f"SST-2, seed {seed}, {name}: {scores[name][-1]:.4f}", flush=True)
    kept = {
        "machine": report.machine(),
        "versions": report.versions(sys.executable, ("tensorflow", "transformers", "tokenizers")),
        "validations": validations,
        "sst2": scores,
    }
    names = ("masked_lm_loss", "masked_lm_accuracy", "perplexity")
    curve = [
        [phase, f"{line['step']:,}", *(f"{line[name]:.4g}" for name in names)]
        for phase, lines in validations.items()
        for line in lines
    ]
    fine = [[name, report.spread(found, 4), str(len(found))] for name, found in scores.items()]
    gain = statistics.median(scores["pre-trained"]) - statistics.median(scores["random"])
    markdown = report.table(["phase", "step", *names], curve) + "\n"
    markdown += report.table(["SST-2 from", "accuracy on dev, median (range)", "seeds"], fine)
    report.keep("pretraining_run", kept, markdown + f"\nGain: {gain:+.4f}\n")


if __name__ == "__main__":
    main()
