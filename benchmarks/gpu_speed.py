"""Training steps of this project and of PyTorch on one GPU, in alternation; TensorFlow is not needed there.

    python benchmarks/gpu_export.py --data=../shared/data --folder=gpu_cases
    (on the machine with the GPU: JAX, PyTorch, transformers, safetensors) python benchmarks/gpu_speed.py --folder=gpu_cases

Ours is the step that `train` has XLA compile, as `gpu_export.py` wrote it, run by JAX's XLA. PyTorch's BertForMaskedLM has the
same weights and sequences, bfloat16 autocast, sdpa attention and fused AdamW, and batches of like lengths; once as it is and
once through torch.compile. Both sides first compute the loss of the same sequences, which must agree. A figure is the median
over the rounds, with its range; a ratio is taken within a round. MFU is model FLOPs, as `bert-trainer benchmark` counts them,
a second, as a share of what a large bfloat16 product reaches on the same card. Results go to benchmarks/results/gpu_speed.json
and gpu_speed.md after each case; cases that are not run keep their figures there. `--device=cpu` tries it out without a GPU.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import report
from sides import Side
from speed import summary

TUNED = ["--precision=bfloat16", "--attention=sdpa", "--padding=longest", "--grouped", "--fused_optimizer"]
SIDES = {"ours": [], "pytorch-sdpa": TUNED, "pytorch-compile": [*TUNED, "--compile"]}
MOST_APART = 0.05  # of the first losses: ours is computed in bfloat16
PRODUCT_SIZE = {"cuda": 8192, "cpu": 1024}


def told_of(path: Path) -> dict[str, Any]:
    """Returns what an exported step says of itself."""
    with np.load(path) as file:
        return json.loads(file["described"].tobytes())


def write_model(folder: Path, bert_config: dict[str, Any]) -> None:
    """Writes a BertForMaskedLM with random weights, for all sides to load."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(1)
    BertForMaskedLM(BertConfig.from_dict(bert_config)).save_pretrained(folder)


def peak_flops(device: str) -> float:
    """Returns what a large bfloat16 product reaches: FLOP/s, the median of ten."""
    import torch

    size = PRODUCT_SIZE[device]
    matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    seconds = []
    for _ in range(12):
        begun = time.perf_counter()
        float((matrix @ matrix)[0, 0])
        seconds.append(time.perf_counter() - begun)
    return 2.0 * size**3 / statistics.median(seconds[2:])


def run_case(path: Path, options: argparse.Namespace, model: Path) -> dict[str, Any]:
    """Measures one case: rounds of one block of each side."""
    peers, name = report.ROOT / "benchmarks/peers", path.stem
    length, text = name.split("-")[-2:]
    begun, sides = {}, []
    for side in options.side:
        started = time.perf_counter()
        if side == "ours":
            command = [options.jax_python, str(peers / "xla_steps.py"), f"--step={path}"]
        else:
            case = path.parent / f"{text}-{length}.json"
            command = [sys.executable, str(peers / "pytorch_steps.py"), f"--case={case}", f"--device={options.device}"]
        sides.append(Side(side, [*command, f"--encoder={model}", *SIDES[side]]))
        sides[-1].ask(options.warm_up)
        begun[side] = time.perf_counter() - started
    losses = {side.name: side.ready["loss"] for side in sides}
    if max(losses.values()) - min(losses.values()) > MOST_APART:
        raise SystemExit(f"{name}: the sides do not compute the same: {losses}")
    rounds = []
    for number in range(options.rounds):
        rounds.append({side.name: side.ask(options.steps) for side in sides})
        rates = {side: round(block["tokens"] / block["seconds"]) for side, block in rounds[-1].items()}
        print(f"{name}, round {number + 1}: useful tokens/s {rates}", flush=True)
    for side in sides:
        side.close()
    flops = told_of(path)["flops_per_token"]
    return {"first_loss": losses, "rounds": rounds, "begun_seconds": begun, "flops_per_token": flops}


def markdown(kept: dict[str, Any]) -> str:
    """Returns all cases as one table."""
    rows = []
    for name, result in kept["results"].items():
        for line in summary(result):
            is_peer = "ours_is" in line and line["side"] != "ours"
            utilization = statistics.median(line["rates"]) * result["flops_per_token"] / result["peak_flops"]
            rows.append(
                [
                    f"{name} ({result['device']})",
                    line["side"],
                    report.spread(line["rates"], 0),
                    f"{line['useful']:.0%}",
                    f"{utilization:.1%}",
                    f"{result['begun_seconds'][line['side']]:.0f}",
                    f"{line['ours_is']:.2f} ×" if is_peer else "",
                ]
            )
    header = ["case", "side", "useful tokens/s, median (range)", "useful cells", "MFU", "s to warm", "ours is"]
    return report.table(header, rows)


def main() -> None:
    """Runs the cases of a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="of gpu_export.py")
    parser.add_argument("--case", action="append", help="as bert-base-128-lines; may be repeated; by default all")
    parser.add_argument("--side", action="append", choices=SIDES, help="may be repeated; by default all")
    parser.add_argument("--device", choices=PRODUCT_SIZE, default="cuda")
    parser.add_argument("--jax_python", default=sys.executable, help="python of an environment with JAX")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="of a block")
    parser.add_argument("--warm_up", type=int, default=16, help="steps before the first block")
    options = parser.parse_args()
    options.side = options.side or list(SIDES)
    paths = [options.folder / f"{name}.npz" for name in options.case or []] or sorted(options.folder.glob("*.npz"))
    missing = [str(path) for path in paths if not path.exists()]
    if missing or not paths:
        raise SystemExit(f"--folder: {options.folder} holds no {', '.join(missing) or '*.npz'}; gpu_export.py writes them")

    import torch

    device = torch.cuda.get_device_name() if options.device == "cuda" else report.machine()["cpu"]
    packages = ("torch", "transformers", "jax", "jaxlib")
    versions = {python: report.versions(python, packages) for python in {sys.executable, options.jax_python}}
    kept_path = report.RESULTS / "gpu_speed.json"
    kept = json.loads(kept_path.read_text()) if kept_path.exists() else {"results": {}}
    peak = peak_flops(options.device)
    for path in paths:
        with tempfile.TemporaryDirectory() as scratch:
            write_model(Path(scratch), told_of(path)["bert_config"])
            result = run_case(path, options, Path(scratch))
        kept["results"][path.stem] = result | {"device": device, "peak_flops": peak, "versions": list(versions.values())}
        report.keep("gpu_speed", kept, markdown(kept))


if __name__ == "__main__":
    main()
