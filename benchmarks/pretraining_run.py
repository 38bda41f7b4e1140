"""A real pre-training run, and what it is good for: SST-2 from it and from random weights.

    python benchmarks/pretraining_run.py --data=../shared/data --workdir=workdir/enwik8-mini

Phases: enwik8 (configs/pretraining/enwik8-mini.yaml), WikiText-2's validation text held out; then, as one would with text of
one's own domain, SST-2's training sentences without labels (configs/pretraining/sst2-adapted.yaml). SST-2 is fine-tuned from
random weights and from each phase, with 2,000 labels and with all, each start with the same settings; a score is that of the
last step. The run goes on where it was interrupted.
Results: benchmarks/results/pretraining_run.json, .md and .png. Two cores take about two hours.
"""

import argparse
import random
import statistics
import sys
from pathlib import Path
from typing import Any

import report
from wikitext import plain_text

PHASES = {
    "enwik8": "configs/pretraining/enwik8-mini.yaml",
    "SST-2's text": "configs/pretraining/sst2-adapted.yaml",
}
VOCABULARY = "vocab/bert-base-uncased-vocab.txt"  # below --data
FINE_TUNING = {
    "task.text_columns": "[sentence]",
    "task.label_column": "label",
    "data.max_seq_length": 64,
    "task.pooling": "mean",
    "train.batch_size": 32,
    "train.precision": "bfloat16",
    "encoder.dropout_rate": 0.1,
    "encoder.attention_dropout_rate": 0.1,
    "runtime.keep_checkpoints": 1,
}
BUDGETS: dict[int | None, dict[str, Any]] = {  # labels, or all: how to train with them
    2000: {"train.epochs": 8, "train.learning_rate": "3e-4"},
    None: {"train.epochs": 1, "train.learning_rate": "3e-4"},
}
HELD_OUT_OF = 50  # of SST-2's training sentences one in so many is held out of the second phase; its dev set only scores


def given(keys: dict[str, Any]) -> list[str]:
    """Returns keys as --set takes them."""
    return [f"{key}={value}" for key, value in keys.items()]


def write_once(path: Path, text: str) -> Path:
    """Writes a file that is not there yet: a run that goes on must find the same text, of the same date."""
    if not path.exists():
        partial = path.with_suffix(".partial")
        partial.write_text(text, encoding="utf8")
        partial.rename(path)
    return path


def documents(lines: list[str]) -> str:
    """Returns the sentences of SST-2's lines, each a document."""
    sentences = (line.split("\t")[0].strip() for line in lines)
    return "".join(f"{sentence}\n\n" for sentence in sentences)


def pretrain(data: Path, workdir: Path) -> dict[str, list[dict[str, Any]]]:
    """Runs the phases, each in a folder of its own, each from the one before; returns their validations."""
    wiki = write_once(workdir / "wikitext-valid.txt", plain_text((data / "wikitext-2/valid.txt").read_text(encoding="utf8")))
    enwik8 = {"data.train": data / "enwik8_clean.txt.gz", "data.validation": wiki}
    _, *lines = sst2_lines(data)
    held_out, rest = lines[::HELD_OUT_OF], [line for number, line in enumerate(lines) if number % HELD_OUT_OF]
    sst2 = {
        "data.train": write_once(workdir / "sst2-sentences.txt", documents(rest)),
        "data.validation": write_once(workdir / "sst2-held-out.txt", documents(held_out)),
    }
    start: dict[str, Any] = {"encoder.vocabulary_path": data / VOCABULARY}
    found = {}
    for number, ((phase, config), text) in enumerate(zip(PHASES.items(), (enwik8, sst2), strict=True), start=1):
        folder = workdir / f"phase-{number}"
        found[phase] = report.train(config, folder, given(text | start))
        start = {"encoder.init_from": folder}
    return found


def plot(validations: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draws each phase's held-out loss and accuracy over the steps of all."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3), layout="constrained")
    for axis, name in zip(axes, ("masked_lm_loss", "masked_lm_accuracy"), strict=True):
        before = 0
        for phase, lines in validations.items():
            axis.plot([before + line["step"] for line in lines], [line[name] for line in lines], marker=".", label=phase)
            before += lines[-1]["step"]
        axis.set(xlabel="step", title=f"{name}, held out")
    axes[0].legend()
    figure.savefig(path, dpi=120)


def sst2_lines(data: Path) -> list[str]:
    """Returns the header and the rows of SST-2's training file, a sentence, a tab and a label each."""
    return (data / "glue/SST-2/train.tsv").read_text(encoding="utf8").splitlines()


def fine_tune(
    data: Path, workdir: Path, starts: dict[str, dict[str, Any]], seeds: list[int]
) -> dict[str, dict[str, list[float]]]:
    """Returns {labels: {start: the accuracy of each seed on the dev set}}; a score that the workdir has is not made again."""
    header, *rows = sst2_lines(data)
    random.Random(1).shuffle(rows)
    scores: dict[str, dict[str, list[float]]] = {}
    for budget, settings in BUDGETS.items():
        taken = rows[:budget]
        train = write_once(workdir / f"sst2-{len(taken)}.tsv", "".join(f"{line}\n" for line in [header, *taken]))
        files = {"data.train": train, "data.validation": data / "glue/SST-2/dev.tsv"}
        by_start = scores[f"{len(taken):,}"] = {name: [] for name in starts}
        for seed in seeds:
            for number, (name, start) in enumerate(starts.items()):
                keys = FINE_TUNING | settings | files | start | {"train.seed": seed}
                found = report.train(None, workdir / f"sst2-{len(taken)}-{number}-{seed}", given(keys))
                by_start[name].append(found[-1]["accuracy"])
                print(f"SST-2, {len(taken):,} labels, seed {seed}, {name}: {by_start[name][-1]:.4f}", flush=True)
    return scores


def main() -> None:
    """Pre-trains, fine-tunes, reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--workdir", type=Path, default=Path("workdir/enwik8-mini"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    data, workdir = options.data.resolve(), options.workdir.resolve()
    workdir.mkdir(parents=True, exist_ok=True)
    validations = pretrain(data, workdir)
    plot(validations, report.RESULTS / "pretraining_run.png")
    starts: dict[str, dict[str, Any]] = {
        "random": {"encoder.config_path": "configs/models/bert-mini.json", "encoder.vocabulary_path": data / VOCABULARY},
        "enwik8": {"encoder.init_from": workdir / "phase-1"},
        "enwik8, then SST-2's text": {"encoder.init_from": workdir / "phase-2"},
    }
    scores = fine_tune(data, workdir, starts, options.seeds)
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
    fine = [
        [labels, name, report.spread(found, 4), f"{statistics.median(found) - statistics.median(by_start['random']):+.4f}"]
        for labels, by_start in scores.items()
        for name, found in by_start.items()
    ]
    markdown = report.table(["phase", "step", *names], curve) + "\n"
    markdown += report.table(["labels", "SST-2 from", "accuracy on dev, median (range)", "gain"], fine)
    report.keep("pretraining_run", kept, markdown)


if __name__ == "__main__":
    main()
