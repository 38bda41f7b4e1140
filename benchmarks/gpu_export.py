"""Writes training steps of this project for a machine with a GPU but without TensorFlow: `gpu_speed.py` runs them there.

    python benchmarks/gpu_export.py --data=../shared/data --folder=gpu_cases
    (on the machine with the GPU) python benchmarks/gpu_speed.py --folder=gpu_cases

A step is the one that `train` has XLA compile whole on a GPU: TaskModel's train step on packed batches, with dropout, clipping
and AdamW, in bfloat16. It is written as XLA's own program (HLO), before any device's optimizations, with its batches. Cases are
masked language model steps of BERT-base and BERT-large with 128 and 512 positions: "full", sequences as run_mlm.py groups them,
so that nobody pads, and "lines", a paragraph of enwik8 each. Runs on a CPU; of weights nothing is written but their names.
"""

import argparse
import dataclasses
import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

import numpy as np
import report
from pretraining_speed import write_case

sys.path.insert(0, str(report.ROOT))
MODELS = ("bert-base", "bert-large")
LENGTHS = {128: 256, 512: 64}  # tokens of a sequence, sequences of a batch: as many tokens a step
BATCHES = 16  # for the peer to choose batches of like lengths from
MOST_IN_A_ROW = 16


@dataclasses.dataclass(frozen=True)
class Step:
    """What is asked of an export.

    Attributes:
      model: the name of a file in configs/models.
      text: "full" or "lines".
      length: tokens of the longest sequence.
      batch: sequences of a step.
    """

    model: str
    text: str
    length: int
    batch: int

    @property
    def name(self) -> str:
        """As "bert-base-128-lines"."""
        return f"{self.model}-{self.length}-{self.text}"


def export(step: Step, case_path: Path, path: Path) -> None:
    """Writes a step's programs and batches, and what its parameters are.

    Args:
      step: which.
      case_path: the examples, as `write_case` writes them.
      path: <name>.npz; its arrays are "step" and "loss" (uint8, serialized HLO modules), "<batch>/<place>" (the parameters
        that are data) and "described" (JSON: the other parameters in their order, what a step costs).
    """
    import tensorflow as tf
    from accuracy import minilm_folder

    from trainer.models.encoder import BertEncoder
    from trainer.models.initialization import read_bert_config
    from trainer.models.optimizers import AdamW
    from trainer.run import assembly, sizes
    from trainer.runtime.quiet import quieten
    from trainer.runtime.target import tracing_for
    from trainer.tasks import pretraining
    from trainer.text.tokenizer import load_tokenizer

    quieten()
    case, tokenizer = json.loads(case_path.read_text()), load_tokenizer(str(minilm_folder()))
    task = pretraining.Task(pretraining.Config(sentence_objective="none", static_masks=True), tokenizer, step.length)
    bert_config = read_bert_config(str(report.ROOT / f"configs/models/{step.model}.json"))
    encoder = BertEncoder(bert_config, "bfloat16")
    model = task.build_model(encoder)
    model.prepare_training(task, seed=1, whole=True, target="gpu")
    model.compile(optimizer=AdamW(1e-6))
    model.optimizer.build(model.trainable_variables)
    batches = packed(task, case, step)

    def train(batch):
        return model.train_step(batch)["loss"]

    def first_loss(batch):
        ((part, weights),) = task.loss_weights(batch).items()
        losses = task.loss(batch, model.outputs_for(batch))[0][part]
        return tf.reduce_sum(losses * weights) / tf.reduce_sum(weights)

    programs, parameters = {}, {}
    with tracing_for("gpu"):
        for name, function in {"step": train, "loss": first_loss}.items():
            program = tf.function(function, jit_compile=True, autograph=False)
            programs[name] = np.frombuffer(program.experimental_get_compiler_ir(batches[0])(stage="hlo_serialized"), np.uint8)
            parameters[name] = described(program.get_concrete_function(batches[0]))
    tokens = [int(np.count_nonzero(batch["segment_ids"])) for batch in batches]
    flops = sizes.training_flops_per_token(
        assembly.Assembled(task, encoder, model), float(np.mean([len(ids) for ids in case["examples"]]))
    )
    told = {
        "parameters": parameters,
        "tokens": tokens,
        "batch_size": step.batch,
        "cells": int(np.size(batches[0]["segment_ids"])),
        "flops_per_token": flops,
        "bert_config": bert_config.to_dict(),
    }
    # A program takes a batch's tensors in the order of their names, then the variables.
    data = {f"{i}/{place}": batch[name] for i, batch in enumerate(batches) for place, name in enumerate(sorted(batch))}
    np.savez_compressed(path, **programs, **data, described=np.frombuffer(json.dumps(told).encode(), np.uint8))


def packed(task: Any, case: dict[str, Any], step: Step) -> list[dict[str, np.ndarray]]:
    """Returns batches of the case's examples in their order, packed into one number of rows, as few as hold the fullest."""
    import tensorflow as tf

    from trainer.data import records
    from trainer.data.pipeline import Packing, packed_batches

    stored = tf.data.Dataset.from_tensor_slices(
        [
            records.encode_example({"input_ids": ids, "masked_lm_targets": targets, "row_id": number}, task.features())
            for number, (ids, targets) in enumerate(zip(case["examples"], case["targets"], strict=True))
        ]
    )

    def batches(rows):
        packing = Packing(step.length, MOST_IN_A_ROW, static_rows=rows)
        return list(packed_batches(stored, task.features(), step.batch, packing, work=task.batch_work()).as_numpy_iterator())

    return batches(max(len(batch["segment_ids"]) for batch in batches(None)))


def described(program: Any) -> list[dict[str, Any]]:
    """Returns what each variable that a concrete function captures begins with.

    Returns:
      For each {"shape", "dtype", "changes": whether a step does} and: "weight", its name in PyTorch, and whether it is
      "transposed" there; or "value", which fills it, as 0 does a moment.
    """
    from trainer.models.initialization import variable_key
    from trainer.serving.hugging_face import pytorch_name

    by_handle = {id(variable.handle): variable for variable in program.variables}
    found = []
    for handle in program.captured_inputs:
        variable = by_handle[id(handle)]
        is_rate = variable.shape.rank == 0 and variable.dtype.is_floating
        told = {"shape": list(variable.shape), "dtype": variable.dtype.name, "changes": not is_rate}
        if variable.shape.rank == 0 or variable.name.startswith(("m/", "v/")):
            found.append(told | {"value": float(variable.numpy().ravel()[0])})
            continue
        name = pytorch_name(variable_key(variable.name))
        prefixed = name if name.startswith("cls.") else f"bert.{name}"
        found.append(told | {"weight": prefixed, "transposed": variable.name.endswith("kernel:0")})
    return found


def main() -> None:
    """Writes the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--folder", type=Path, required=True, help="to write to; it is to be carried to the other machine")
    parser.add_argument("--model", action="append", help="may be repeated; by default bert-base and bert-large")
    parser.add_argument("--length", action="append", type=int, choices=LENGTHS, help="may be repeated; by default both")
    parser.add_argument("--batch", type=int, help="sequences of a step; by default 256 of 128 tokens, 64 of 512")
    options = parser.parse_args()
    from accuracy import minilm_folder

    from trainer.text.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(str(minilm_folder()))
    options.folder.mkdir(parents=True, exist_ok=True)
    for length in options.length or LENGTHS:
        batch = options.batch or LENGTHS[length]
        for text in ("full", "lines"):
            case = write_case(text, options.data, options.folder, tokenizer, length, batch, BATCHES)
            for model in options.model or MODELS:
                step = Step(model, text, length, batch)
                # In a process of its own, whose memory goes with it: a BERT-large and its moments are 4 GB.
                process = multiprocessing.get_context("spawn").Process(
                    target=export, args=(step, case, options.folder / f"{step.name}.npz")
                )
                process.start()
                process.join()
                if process.exitcode:
                    raise SystemExit(f"{step.name}: its export ended with status {process.exitcode}")
                print(f"wrote {step.name}", flush=True)


if __name__ == "__main__":
    main()
