"""Training speed of this project and of its peers, in alternation in one sitting: the same weights, text and batch of examples.

    python benchmarks/speed.py --data=../shared/data --peer_python=PEER/bin/python
    python benchmarks/speed.py --case=sst2-32 --side=ours --side=pytorch-bf16-grouped --peer_python=PEER/bin/python

Every side is a process that waits while another is measured (peers/protocol.py). A round measures one block of steps of each
side; a ratio is taken within a round, and the table gives the median over the rounds. Each side first computes the loss of
the same examples with the same weights; they must agree. Results go to benchmarks/results/speed.json, speed.md and speed.png;
cases that are not run keep their figures there.
"""

import argparse
import csv
import dataclasses
import importlib.util
import json
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import report
from accuracy import minilm_folder
from sides import Side

WARM_UP_STEPS = 30  # most row counts of the packed batches are compiled by then, and the peers' caches are warm


@dataclasses.dataclass(frozen=True)
class Case:
    """One workload.

    Attributes:
      file, text_column, label_column: the text; None for examples of one length.
      task: whose examples they are.
      batch_size: examples of a step.
      max_length: tokens of the longest example; what `run_glue.py` pads to.
      steps: of a block.
    """

    batch_size: int
    max_length: int
    steps: int
    file: str | None = None
    text_column: str = "text"
    label_column: str = "label"
    task: str = "classification"


CASES = {
    "padded-32x64": Case(32, 64, steps=5),
    "sst2-32": Case(32, 128, steps=20, file="glue/SST-2/train.tsv", text_column="sentence"),
    "sst2-128": Case(128, 128, steps=8, file="glue/SST-2/train.tsv", text_column="sentence"),
    "banking77-32": Case(32, 128, steps=20, file="banking77/train.csv", label_column="category"),
    "snips-32": Case(32, 128, steps=20, file="snips/train.jsonl", task="tagging"),
    "wikigold-32": Case(32, 128, steps=10, file="wikigold/wikigold.conll", task="tagging"),
    "squad-16": Case(16, 384, steps=6, file="squad_v1.1_dev_by_article/train.json", task="question_answering"),
}
TUNED = ["--padding=longest", "--fused_optimizer", "--attention=eager"]
TUNED_BFLOAT16 = [*TUNED, "--precision=bfloat16"]
SIDES = {
    "ours": ("our_steps.py", []),
    "ours-float32": ("our_steps.py", ["--precision=float32"]),
    "ours-bf16": ("our_steps.py", ["--precision=bfloat16"]),
    "ours-xla": ("our_steps.py", ["--kernels=xla"]),
    "pytorch-defaults": ("pytorch_steps.py", []),
    "pytorch-f32-dynamic": ("pytorch_steps.py", TUNED),
    "pytorch-f32-grouped": ("pytorch_steps.py", [*TUNED, "--grouped"]),
    "pytorch-bf16-dynamic": ("pytorch_steps.py", TUNED_BFLOAT16),
    "pytorch-bf16-grouped": ("pytorch_steps.py", [*TUNED_BFLOAT16, "--grouped"]),
    "pytorch-f32-grouped-sdpa": ("pytorch_steps.py", [*TUNED, "--grouped", "--attention=sdpa"]),
    "pytorch-bf16-grouped-sdpa": ("pytorch_steps.py", [*TUNED_BFLOAT16, "--grouped", "--attention=sdpa"]),
    "pytorch-f32-grouped-compile": ("pytorch_steps.py", [*TUNED, "--grouped", "--attention=sdpa", "--compile"]),
    "pytorch-bf16-grouped-compile": ("pytorch_steps.py", [*TUNED_BFLOAT16, "--grouped", "--attention=sdpa", "--compile"]),
    "tfbert-defaults": ("tfbert_steps.py", []),
    "tfbert-xla": ("tfbert_steps.py", ["--jit"]),
    "tfbert-bf16": ("tfbert_steps.py", ["--precision=bfloat16", "--padding=longest"]),
    "keras-hub-jax": ("keras_hub_steps.py", []),
}
OUR_ENVIRONMENT = ("our_steps.py", "tfbert_steps.py")
KERAS_ENVIRONMENT = ("keras_hub_steps.py",)
DEFAULT_SIDES = (
    "ours",
    "pytorch-defaults",
    "pytorch-f32-grouped",
    "pytorch-bf16-grouped",
    "tfbert-defaults",
    "tfbert-bf16",
)
BATCHES = 50  # of examples that a case holds: the pool within which the peers group by length


def python_of(side: str, options: argparse.Namespace) -> str:
    """Returns the interpreter of a side's environment."""
    script, _ = SIDES[side]
    if script in OUR_ENVIRONMENT:
        return sys.executable
    python = options.keras_python if script in KERAS_ENVIRONMENT else options.peer_python
    if python is None:
        raise SystemExit(
            f"--side={side} needs --{'keras' if script in KERAS_ENVIRONMENT else 'peer'}_python, its environment's"
        )
    return python


def command_of(side: str, options: argparse.Namespace, case: Path, encoder: Path) -> list[str]:
    """Returns how to start a side."""
    script, more = SIDES[side]
    path = report.ROOT / "benchmarks/peers" / script
    return [python_of(side, options), str(path), f"--case={case}", f"--encoder={encoder}", *more]


def sides_of(case: Case, asked: list[str]) -> list[str]:
    """Returns the sides that have the case's task: all of them classify, the others are PyTorch's and ours alone."""
    return [side for side in asked if case.task == "classification" or SIDES[side][0] in ("our_steps.py", "pytorch_steps.py")]


def steps_of(side: str, case: Case) -> int:
    """Returns the steps of a side's block: fewer of those that take seconds each."""
    return max(case.steps // 5, 1) if side.endswith("defaults") else case.steps


def read_case(case: Case, path: Path, encoder: Path) -> tuple[dict[str, list[Any]], int]:
    """Returns the examples of all rows of a file as sides read them, {name: a value for each example}, and how many classes."""
    if case.task == "classification":
        examples, labels = read_examples(case, path, encoder)
        return {"examples": examples, "labels": labels}, max(labels) + 1
    from trainer.data.sources import Row, read_rows
    from trainer.tasks import task_module
    from trainer.text.tokenizer import load_tokenizer

    module = task_module(case.task)
    rows = [row for row in read_rows(str(path), "data.train") if isinstance(row, Row)]
    task = module.Task(module.Task.learn(module.Config(), rows), load_tokenizer(str(encoder)), case.max_length)
    windows = [window for row in rows for window in task.examples(row)]
    found = {"examples": [window["input_ids"] for window in windows]}
    if case.task == "tagging":
        return {**found, "word_tags": [window["tags"] for window in windows]}, len(task.config.tag_names)
    found["token_type_ids"] = [window["token_type_ids"] for window in windows]
    return {**found, "answers": [[window["answer_start"], window["answer_end"]] for window in windows]}, 2


def read_examples(case: Case, path: Path, encoder: Path) -> tuple[list[list[int]], list[int]]:
    """Returns the token ids and the classes of all rows of a file with a case's columns."""
    from trainer.text.tokenizer import load_tokenizer

    options: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}
    with open(path, encoding="utf8", newline="") as file:
        rows = list(csv.DictReader(file, **options))
    names = sorted({row[case.label_column] for row in rows})
    tokenizer, cut = load_tokenizer(str(encoder)), case.max_length - 2
    examples = [[101, *tokenizer.encode(row[case.text_column])[:cut], 102] for row in rows]
    return examples, [names.index(row[case.label_column]) for row in rows]


def case_file(case: Case, data: Path, encoder: Path, folder: Path, count: int | None = None) -> Path:
    """Writes a case for all sides to read: token ids, labels, the head's first weights.

    Args:
      count: of its examples; by default those of BATCHES batches.
    """
    generator = random.Random(1)
    count = count or BATCHES * case.batch_size
    if case.file:
        found, classes = read_case(case, data / case.file, encoder)
        order = list(range(len(found["examples"])))
        generator.shuffle(order)
        found = {name: [values[i] for i in order[:count]] for name, values in found.items()}
    else:
        classes = 2
        examples = [[generator.randrange(1000, 29000) for _ in range(case.max_length)] for _ in range(count)]
        found = {"examples": examples, "labels": [generator.randrange(classes) for _ in range(count)]}
    hidden = json.loads((encoder / "config.json").read_text())["hidden_size"]
    kernel = [[generator.gauss(0, 0.02) for _ in range(classes)] for _ in range(hidden)]
    content = {
        **found,
        "classes": classes,
        "batch_size": case.batch_size,
        "max_length": case.max_length,
        "head": {"kernel": kernel, "bias": [0.0] * classes},
    }
    path = folder / "case.json"
    path.write_text(json.dumps(content))
    return path


def run_case(name: str, options: argparse.Namespace, encoder: Path) -> dict[str, Any]:
    """Measures one case: rounds of one block of each side."""
    case = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        path = case_file(case, Path(options.data), encoder, Path(folder))
        sides = [Side(side, command_of(side, options, path, encoder)) for side in sides_of(case, options.side)]
        losses = {side.name: side.ready["loss"] for side in sides}
        if max(losses.values()) - min(losses.values()) > 1e-3:
            raise SystemExit(f"{name}: the sides do not compute the same: {losses}")
        for side in sides:
            side.ask(steps_of(side.name, dataclasses.replace(case, steps=WARM_UP_STEPS)))
        rounds = []
        for number in range(options.rounds):
            rounds.append({side.name: side.ask(steps_of(side.name, case)) for side in sides})
            rates = {side: round(block["tokens"] / block["seconds"]) for side, block in rounds[-1].items()}
            print(f"{name}, round {number + 1}: useful tokens/s {rates}", flush=True)
        for side in sides:
            side.close()
    return {"machine": report.machine(), "case": dataclasses.asdict(case), "first_loss": losses, "rounds": rounds}


def summary(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns a line for each side: useful tokens/s in each round, and ours as a multiple of it, taken within each round."""
    lines = []
    for side in result["rounds"][0]:
        blocks = [one[side] for one in result["rounds"]]
        rates = [block["tokens"] / block["seconds"] for block in blocks]
        useful = sum(block["tokens"] for block in blocks) / sum(block["cells"] for block in blocks)
        line = {"side": side, "rates": rates, "useful": useful}
        if "ours" in result["rounds"][0]:
            ours = [one["ours"]["tokens"] / one["ours"]["seconds"] for one in result["rounds"]]
            line["ours_is"] = report.median_ratio(ours, rates)
        lines.append(line)
    return lines


def markdown(results: dict[str, Any]) -> str:
    """Returns all cases as one table."""
    rows = []
    for name, result in results.items():
        for line in summary(result):
            ratio = f"{line['ours_is']:.2f} ×" if "ours_is" in line and line["side"] != "ours" else ""
            rows.append([name, line["side"], report.spread(line["rates"], 0), f"{line['useful']:.0%}", ratio])
    return report.table(["case", "side", "useful tokens/s, median (range)", "useful cells", "ours is"], rows)


def plot(results: dict[str, Any], path: Path) -> None:
    """Draws useful tokens per second: a group of bars for each case, the range over the rounds as a line."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(results), figsize=(4 * len(results), 3.5), squeeze=False, layout="constrained")
    for axis, (name, result) in zip(axes[0], results.items(), strict=True):
        lines = summary(result)
        medians = [statistics.median(line["rates"]) for line in lines]
        below = [median - min(line["rates"]) for median, line in zip(medians, lines, strict=True)]
        above = [max(line["rates"]) - median for median, line in zip(medians, lines, strict=True)]
        colors = ["tab:orange" if line["side"] == "ours" else "tab:gray" for line in lines]
        axis.barh([line["side"] for line in lines], medians, xerr=[below, above], color=colors)
        axis.invert_yaxis()
        axis.set(title=name, xlabel="useful tokens/s")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Runs the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=CASES, help="may be repeated; by default all")
    parser.add_argument(
        "--side", action="append", choices=SIDES, help=f"may be repeated; by default {', '.join(DEFAULT_SIDES)}"
    )
    parser.add_argument("--data", default="../shared/data", help="the folder of the data sets")
    parser.add_argument("--peer_python", help="python of an environment with peers/requirements.txt")
    parser.add_argument("--keras_python", help="python of an environment with keras-hub and jax")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if importlib.util.find_spec("matplotlib") is None:
        parser.error("the plot needs matplotlib: pip install -e '.[bench]'")
    options.side = options.side or list(DEFAULT_SIDES)
    encoder = minilm_folder()
    kept = report.RESULTS / "speed.json"
    results = json.loads(kept.read_text())["results"] if options.case and kept.exists() else {}
    packages = ("tensorflow", "torch", "transformers", "keras-hub", "jax")
    pythons = {"ours": sys.executable, "peer": options.peer_python, "keras": options.keras_python}
    versions = {side: report.versions(python, packages) for side, python in pythons.items() if python}
    for name in options.case or CASES:  # kept case by case: a sitting may be cut short
        results[name] = run_case(name, options, encoder)
        report.keep("speed", {"versions": versions, "results": results}, markdown(results))
    plot(results, report.RESULTS / "speed.png")


if __name__ == "__main__":
    main()
