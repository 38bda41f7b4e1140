"""Inference, strings in, class probabilities out: exports of this project beside Hugging Face's pipeline and ONNX Runtime.

    python benchmarks/inference.py --data=../shared/data --peer_python=PEER/bin/python

All sides hold the same fine-tuned weights and read the same texts; their first probabilities must agree. A round measures
each side in turn: calls of 512 texts, calls of 32, and single texts. The pipeline and ONNX Runtime cut a call into batches of
32 themselves. Results: benchmarks/results/inference.json and .md.
"""

import argparse
import csv
import dataclasses
import json
import random
import statistics
import sys
import tempfile
from pathlib import Path

import preparation
import report
from accuracy import minilm_folder
from sides import Side

TEXTS, COMPARED = 4096, 64
BLOCKS = {"calls of 512": (512, 1024), "calls of 32": (32, 512), "single": (1, 100)}  # texts of a call, of a block
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05}  # of a probability, against REFERENCE
OURS = "ours-native-float32"
REFERENCE = "ours-float32"
SIDES = {
    OURS: ("saved_model.py", "float32", []),
    "ours-native-bfloat16": ("saved_model.py", "bfloat16", []),
    REFERENCE: ("saved_model.py", "float32", []),
    "ours-bfloat16": ("saved_model.py", "bfloat16", []),
    "pipeline-bfloat16": ("hf_pipeline.py", "bfloat16", ["--precision=bfloat16"]),
    "pipeline-bfloat16-sorted": ("hf_pipeline.py", "bfloat16", ["--precision=bfloat16", "--sorted"]),
    "pipeline-float32": ("hf_pipeline.py", "float32", ["--precision=float32"]),
    "pipeline-bfloat16-compile": ("hf_pipeline.py", "bfloat16", ["--precision=bfloat16", "--compile"]),
    "onnxruntime-float32": ("onnx_runtime.py", "float32", []),
}


@dataclasses.dataclass(frozen=True)
class Models:
    """The same weights as each side reads them: {side: SavedModel} of ours, and a Hugging Face folder."""

    exports: dict[str, Path]
    hugging_face: Path


def make_models(folder: Path) -> Models:
    """Fine-tunes MiniLM for a few steps on the quick start's sample and exports it as each side of ours says."""
    workdir = folder / "run"
    settings = ["train.steps=20", "train.epochs=null", "task.pooling=pooler", f"encoder.init_from={minilm_folder()}"]
    report.run_trainer(["train", "--config=configs/quickstart.yaml", f"--workdir={workdir}", "--set", *settings])
    exports = {}
    ours = [side for side in SIDES if side.startswith("ours")]
    for version, side in enumerate(ours, start=1):
        kernels = "native" if "native" in side else "tensorflow"
        asked = [f"train.precision={SIDES[side][1]}", f"export.kernels={kernels}"]
        report.run_trainer(["export", f"--workdir={workdir}", "--set", *asked])
        exports[side] = workdir / "exports" / str(version)
    return Models(exports, workdir / "huggingface")


def texts_of(case: str, data: Path, scratch: Path) -> list[str]:
    """Returns a case's texts, drawn at random."""
    source = scratch / f"{case}.csv"
    preparation.CORPORA[case](data, source)
    with open(source, encoding="utf8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in random.Random(1).sample(rows, TEXTS)]


def command_of(name: str, models: Models, texts: Path, peer_python: str) -> list[str]:
    """Returns how to start a side."""
    script, _, options = SIDES[name]
    is_ours = name in models.exports
    model = models.exports[name] if is_ours else models.hugging_face
    path = report.ROOT / "benchmarks/peers" / script
    return [sys.executable if is_ours else peer_python, str(path), str(model), str(texts), str(COMPARED), *options]


def run_case(case: str, models: Models, options: argparse.Namespace, scratch: Path) -> list[dict[str, dict[str, float]]]:
    """Returns the rounds: {side: {block: texts a second; "single": seconds of the median call}}."""
    path = scratch / f"{case}.json"
    path.write_text(json.dumps(texts_of(case, options.data, scratch)))
    sides = [Side(name, command_of(name, models, path, options.peer_python)) for name in options.side]
    expected = next(side.ready["probabilities"] for side in sides if side.name == REFERENCE)
    for side in sides:
        worst = max(abs(a - b) for a, b in zip(side.ready["probabilities"], expected, strict=True))
        if worst > TOLERANCE[SIDES[side.name][1]]:
            raise SystemExit(f"{case}: {side.name} and {REFERENCE} differ by {worst:.4f} in a probability")
        for size, _ in BLOCKS.values():
            side.ask({"texts": max(size * 3, 64), "batch_size": size})  # warm-up
    rounds = []
    for number in range(options.rounds):
        one: dict[str, dict[str, float]] = {side.name: {} for side in sides}
        for block, (size, texts) in BLOCKS.items():
            for side in sides:
                seconds = side.ask({"texts": texts, "batch_size": size})["seconds"]
                one[side.name][block] = statistics.median(seconds) if size == 1 else texts / sum(seconds)
        rounds.append(one)
        print(f"{case}, round {number + 1}: {one}", flush=True)
    for side in sides:
        side.close()
    return rounds


def rows_of(case: str, rounds: list[dict[str, dict[str, float]]]) -> list[list[str]]:
    """Returns the table's rows: medians, spreads, and OURS as a multiple of each side."""
    rows = []
    for side in rounds[0]:
        row = [case, side]
        for block in BLOCKS:
            values = [one[side][block] for one in rounds]
            mine = [one[OURS][block] for one in rounds]
            is_time = block == "single"
            ratio = report.median_ratio(values, mine) if is_time else report.median_ratio(mine, values)
            shown = report.spread([value * 1e3 for value in values]) if is_time else report.spread(values, 0)
            row.append(shown if side == OURS else f"{shown}: {ratio:.2f} ×")
        rows.append(row)
    return rows


def main() -> None:
    """Runs the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=preparation.CORPORA, help="may be repeated; by default all")
    parser.add_argument("--side", action="append", choices=SIDES, help="may be repeated; by default all but compile")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--peer_python", required=True, help="python of an environment with peers/requirements.txt")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    options.side = options.side or [side for side in SIDES if not side.endswith("compile")]
    options.side = list(dict.fromkeys([OURS, REFERENCE, *options.side]))
    with tempfile.TemporaryDirectory() as folder:
        models = make_models(Path(folder))
        results = {case: run_case(case, models, options, Path(folder)) for case in options.case or preparation.CORPORA}
    rows = [row for case, rounds in results.items() for row in rows_of(case, rounds)]
    header = ["case", "side", "texts/s, calls of 512", "texts/s, calls of 32", "one text, ms (median)"]
    table = report.table(header, rows) + f"\nAfter the colon: how many times faster {OURS} is, the median of the rounds.\n"
    packages = ["torch", "transformers", "onnxruntime", "tokenizers"]
    found = {"machine": report.machine(), "versions": report.versions(options.peer_python, packages), "results": results}
    report.keep("inference", found, table)


if __name__ == "__main__":
    main()
