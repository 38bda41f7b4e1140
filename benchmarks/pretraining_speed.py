"""Masked language model steps of this project and of its peers, in alternation: the same weights, text, masks and batch.

    python benchmarks/pretraining_speed.py --data=../shared/data --peer_python=PEER/bin/python

The model is a BERT-mini (4 layers of 256, 30,522 words). Case "full": sequences of 128 tokens as run_mlm.py groups them, so
that nobody pads. Case "lines": a paragraph of enwik8 each, cut to 128 tokens, as run_mlm.py --line_by_line. Ours is also run
with logits at all tokens and one padded example a row: what gathering and packing save. Processes, rounds and ratios are those
of speed.py; each side first computes the loss of the same examples with the same weights, and they must agree.
"""

import argparse
import gzip
import json
import random
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import report
from sides import Side
from speed import BATCHES, markdown

BATCH, LENGTH, STEPS = 32, 128, 8
TUNED = ["--padding=longest", "--fused_optimizer", "--attention=eager", "--grouped"]
SIDES = {
    "ours": ("our_steps.py", []),
    "ours-all-positions": ("our_steps.py", ["--all_positions"]),
    "ours-all-positions-padded": ("our_steps.py", ["--all_positions", "--padded"]),
    "tfbert-defaults": ("tfbert_steps.py", []),
    "tfbert-bf16": ("tfbert_steps.py", ["--precision=bfloat16", "--padding=longest"]),
    "pytorch-defaults": ("pytorch_steps.py", []),
    "pytorch-bf16-grouped": ("pytorch_steps.py", [*TUNED, "--precision=bfloat16"]),
    "pytorch-f32-grouped": ("pytorch_steps.py", TUNED),
}
CASES = ("full", "lines")


def write_model(folder: Path, tokenizer: Any) -> None:
    """Writes a BERT-mini with random weights and its head, for all sides to load."""
    import tf_keras as keras

    from trainer.models.encoder import BertEncoder
    from trainer.models.initialization import read_bert_config
    from trainer.serving.hugging_face import write_hugging_face
    from trainer.tasks.pretraining import Config, Task

    keras.utils.set_random_seed(1)
    encoder = BertEncoder(read_bert_config(str(report.ROOT / "configs/models/bert-mini.json")))
    task = Task(Config(sentence_objective="none"), tokenizer, LENGTH)
    head = task.hugging_face_head(task.build_model(encoder))
    write_hugging_face(str(folder), encoder, tokenizer, *head, ())


def write_case(
    name: str, data: Path, folder: Path, tokenizer: Any, length: int = LENGTH, batch: int = BATCH, batches: int = BATCHES
) -> Path:
    """Writes a case's masked examples and their targets: <name>-<length>.json."""
    from trainer.text.masks import MaskableTokens, MaskingRecipe, StaticMasker

    with gzip.open(data / "enwik8_clean.txt.gz", "rt", encoding="utf8") as file:
        encoded = [tokenizer.encode(line) for line in islice(file, 40_000) if line.strip()]
    generator, count = random.Random(1), batches * batch
    if name == "full":
        flat = [token for ids in encoded for token in ids]
        bodies = [flat[start : start + length - 2] for start in range(0, len(flat) - length, length - 2)]
    else:
        bodies = [ids[: length - 2] for ids in encoded if ids]
    generator.shuffle(bodies)
    mask = StaticMasker(MaskingRecipe(), MaskableTokens(tokenizer))
    masked = [mask([tokenizer.cls_id, *ids, tokenizer.sep_id], generator) for ids in bodies[:count]]
    content = {"examples": [ids for ids, _ in masked], "targets": [targets for _, targets in masked]}
    path = folder / f"{name}-{length}.json"
    path.write_text(json.dumps({**content, "batch_size": batch, "max_length": length}))
    return path


def run_case(name: str, options: argparse.Namespace, model: Path, case: Path) -> dict[str, Any]:
    """Measures one case: rounds of one block of each side."""
    sides = []
    for side in options.side:
        script, more = SIDES[side]
        python = options.peer_python if script.startswith("pytorch") else sys.executable
        command = [python, str(report.ROOT / "benchmarks/peers" / script), f"--case={case}", f"--encoder={model}", *more]
        sides.append(Side(side, command))
    losses = {side.name: side.ready["loss"] for side in sides}
    exact = {side: loss for side, loss in losses.items() if "bf16" not in side and not side.startswith("ours")}
    apart = max(exact.values(), default=0.0) - min(exact.values(), default=0.0)  # none where --side names none
    if max(losses.values()) - min(losses.values()) > 0.05 or apart > 1e-3:
        raise SystemExit(f"{name}: the sides do not compute the same: {losses}")
    for side in sides:
        side.ask(12 if side.name.startswith("ours") else 3)  # ours compiles for each new row count
    rounds = []
    for number in range(options.rounds):
        rounds.append({side.name: side.ask(STEPS // 4 if side.name.endswith("defaults") else STEPS) for side in sides})
        rates = {side: round(block["tokens"] / block["seconds"]) for side, block in rounds[-1].items()}
        print(f"{name}, round {number + 1}: useful tokens/s {rates}", flush=True)
    for side in sides:
        side.close()
    return {"first_loss": losses, "rounds": rounds}


def main() -> None:
    """Runs the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", action="append", choices=SIDES, help="may be repeated; by default all")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--peer_python", required=True, help="python of an environment with peers/requirements.txt")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    options.side = options.side or list(SIDES)
    sys.path.insert(0, str(report.ROOT))
    from accuracy import minilm_folder

    from trainer.text.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(str(minilm_folder()))
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        write_model(model, tokenizer)
        for name in CASES:
            results[name] = run_case(name, options, model, write_case(name, options.data, Path(scratch), tokenizer))
    packages = ("tensorflow", "torch", "transformers")
    versions = {"ours": report.versions(sys.executable, packages), "peer": report.versions(options.peer_python, packages)}
    kept = {"machine": report.machine(), "versions": versions, "results": results}
    report.keep("pretraining_speed", kept, markdown(results))


if __name__ == "__main__":
    main()
