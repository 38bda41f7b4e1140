"""Classes from eight rows each: `fewshot` beside plain fine-tuning of the same rows, BANKING77's 77 intents.

    python benchmarks/few_shot.py --data=../shared/data --seeds 1 2 3

A seed draws the rows and trains. All runs score on the whole test set, with the weights at the end of training: `train` by the
recipe as it is and with the epochs of PLAIN, since a recipe for 10,003 rows need not fit 616, and `fewshot` as it is. Each seed
goes, as it comes, to benchmarks/results/few_shot.jsonl; the last line printed is the median and the range of each.
"""

import argparse
import csv
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import report
from accuracy import minilm_folder

CONFIG = "configs/banking77.yaml"
PLAIN = {"train": (), "train, 30 epochs": ("train.epochs=30",)}


def draw_rows(source: Path, target: Path, count: int, seed: int) -> None:
    """Writes `count` rows of each class."""
    with source.open(newline="") as file:
        rows = list(csv.DictReader(file))
    by_class = defaultdict(list)
    for row in rows:
        by_class[row["category"]].append(row)
    draw = random.Random(seed)
    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        for label in sorted(by_class):
            writer.writerows(draw.sample(by_class[label], count))


def main() -> None:
    """Runs the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="the folder of the data sets")
    parser.add_argument("--per_class", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    folder = Path(options.data).resolve() / "banking77"
    scores = defaultdict(list)
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as temporary:
            rows = Path(temporary, "train.csv")
            draw_rows(folder / "train.csv", rows, options.per_class, seed)
            keys = [f"data.train={rows}", f"data.validation={folder}/test.csv", "data.test=null"]
            keys += [f"train.seed={seed}", f"encoder.init_from={minilm_folder()}"]
            seconds = {}
            for name, more in PLAIN.items():
                begun = time.perf_counter()
                scores[name].append(report.train(CONFIG, Path(temporary, name), [*keys, *more])[-1]["accuracy"])
                seconds[name] = time.perf_counter() - begun
            command = [sys.executable, "-m", "trainer", "fewshot", f"--config={CONFIG}", f"--workdir={temporary}/few"]
            begun = time.perf_counter()
            subprocess.run([*command, *[f"--set={key}" for key in keys]], cwd=report.ROOT, check=True)
            seconds["fewshot"] = time.perf_counter() - begun
            scores["fewshot"].append(report.validations(Path(temporary, "few/run"))[-1]["accuracy"])
        record = {"per_class": options.per_class, "seed": seed, **{name: found[-1] for name, found in scores.items()}}
        report.add_line("few_shot", {**record, "seconds": {name: round(value) for name, value in seconds.items()}})
    for name, found in scores.items():
        middle = statistics.median(found)
        print(f"{name}: median {middle:.4f} of {len(found)} seeds, from {min(found):.4f} to {max(found):.4f}")


if __name__ == "__main__":
    main()
