"""What a training step costs on a TPU chip by its compiler, ours packed and plain TFBertModel padded, for each useful token.

    python benchmarks/tpu_peer.py --data=../shared/data                 (about an hour; what is done already is skipped)
    python benchmarks/tpu_peer.py --data=../shared/data --case=sst2-base-128

Real lengths: of SST-2's sentences, and of enwik8's articles cut into sequences. The peer is TFBertForSequenceClassification or
TFBertForMaskedLM in Keras' mixed_bfloat16 with Keras' AdamW, clipped by global norm, on batches padded to the full length.
Nothing is run on a TPU; the figures are the compiler's. They go, as they come, to benchmarks/results/tpu_peer.jsonl.
"""

import argparse
import gzip
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import report

sys.path.insert(0, str(report.ROOT))
RESULTS = report.RESULTS / "tpu_peer.jsonl"
TOPOLOGY = "v5e:1x1"
CASES = {  # name: (task, model, length, batch size)
    "padded-base-128": ("classification", "bert-base", 128, 32),  # the quick start's texts, ours padded like the peer's
    "sst2-base-128": ("classification", "bert-base", 128, 256),
    "enwik8-base-128": ("pretraining", "bert-base", 128, 64),
    "enwik8-base-512": ("pretraining", "bert-base", 512, 16),
    "sst2-large-128": ("classification", "bert-large", 128, 64),
    "enwik8-large-128": ("pretraining", "bert-large", 128, 64),
    "enwik8-large-512": ("pretraining", "bert-large", 512, 16),
}
CHARACTERS = 8_000_000  # of enwik8 that the lengths are taken from


def keys_of(case: str, data: str, folder: str) -> tuple[str, list[str]]:
    """Returns (the recipe, what it needs besides) of our side."""
    from accuracy import minilm_folder

    task, model, length, batch = CASES[case]
    config = f"configs/models/{model}.json"
    same = [
        f"encoder.config_path={config}",
        f"data.max_seq_length={length}",
        f"train.batch_size={batch}",
        "train.precision=bfloat16",
    ]
    same += ["data.test=null", f"data.records_dir={folder}/records", "encoder.init_from=random"]
    same += [f"encoder.vocabulary_path={minilm_folder()}/vocab.txt"]
    if case.startswith("padded"):
        return "quickstart", [*same, "data.max_examples_per_row=1", f"runtime.static_rows={batch}"]
    if task == "classification":
        glue = f"{data}/glue/SST-2"
        return "sst2", [
            *same,
            f"data.train={glue}/train.tsv",
            f"data.validation={glue}/dev.tsv",
            "train.ema_decay=0",
            "task.pooling=pooler",
        ]
    text = Path(folder, "enwik8.txt")
    with gzip.open(f"{data}/enwik8_clean.txt.gz", "rt", encoding="utf8") as file:
        text.write_text(file.read(CHARACTERS))
    predictions = round(0.15 * length)
    objective = [
        "task.sentence_objective=none",
        f"task.max_predictions={predictions}",
        "encoder.dropout_rate=0.1",
        "encoder.attention_dropout_rate=0.1",
    ]
    return "pretraining/enwik8-mini", [*same, f"data.train={text}", "data.validation=1%", *objective]


def ours(case: str, data: str, folder: str) -> dict[str, Any]:
    """Compiles our step; returns its figures."""
    from trainer.commands import preflight
    from trainer.data.records import mean_tokens
    from trainer.run import compilation, experiment
    from trainer.runtime import topology

    name, keys = keys_of(case, data, folder)
    subject = preflight.subject_of(experiment.load(name, keys), folder, topology.find(TOPOLOGY))
    split, shape = subject.manifest.splits["train"], subject.shape()
    found = compilation.compiled(subject, "train", compilation.Tracer(subject))
    tokens = subject.experiment.train.batch_size * mean_tokens(split)
    return {"tokens": tokens, "cells": shape.micro_rows * shape.packing.row_length, **figures(found)}


def peers(case: str, _data: str, _folder: str) -> dict[str, Any]:
    """Compiles the peer's step on a padded batch."""
    import tensorflow as tf
    import tf_keras as keras
    from transformers import BertConfig, TFBertForMaskedLM, TFBertForSequenceClassification

    import trainer  # noqa: F401  sets Keras 2
    from trainer.runtime import topology
    from trainer.runtime.program import trace

    task, name, length, batch = CASES[case]
    devices = topology.find(TOPOLOGY)
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    config = BertConfig.from_json_file(str(report.ROOT / f"configs/models/{name}.json"))
    model = TFBertForMaskedLM(config) if task == "pretraining" else TFBertForSequenceClassification(config)
    model(model.dummy_inputs)
    optimizer = keras.optimizers.AdamW(1e-4, global_clipnorm=1.0, jit_compile=False)
    optimizer.build(model.trainable_variables)

    def step(batch):
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        with tf.GradientTape() as tape:
            logits = tf.cast(model(inputs, training=True).logits, tf.float32)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(batch["labels"], 0), logits)
            used = tf.cast(batch["labels"] >= 0, tf.float32)
            loss = tf.reduce_sum(losses * used) / tf.reduce_sum(used)
        pairs = zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True)
        # Dense, as XLA needs them: Keras' own way to add up rows has a size that is known only when it runs.
        optimizer.apply_gradients([(tf.convert_to_tensor(one), variable) for one, variable in pairs if one is not None])
        return {"loss": loss}

    names = ("input_ids", "attention_mask", "token_type_ids")
    spec = {key: tf.TensorSpec([batch, length], tf.int32) for key in names}
    spec["labels"] = tf.TensorSpec([batch, length] if task == "pretraining" else [batch], tf.int32)
    found = topology.compile_for(devices, trace("train", step, spec, devices.devices.target))
    return {"cells": batch * length, **figures(found)}


def figures(found: Any) -> dict[str, Any]:
    """Returns what counts of a compiled step."""
    return {
        "peak_bytes": found.peak_bytes,
        "flops": found.flops,
        "moved_bytes": found.moved_bytes,
        "accessed_bytes": found.accessed_bytes,
        "over_memory": found.over_memory,
    }


SIDES = {"ours": ours, "TFBertModel": peers}


def compile_side(case: str, side: str, data: str) -> None:
    """Notes one side's figures of a case."""
    with tempfile.TemporaryDirectory() as folder:
        line = {"case": case, "side": side, "batch": CASES[case][3], **SIDES[side](case, data, folder)}
    with open(RESULTS, "a", encoding="utf8") as file:
        file.write(json.dumps(line) + "\n")


def done() -> dict[tuple[str, str], dict[str, Any]]:
    """Returns {(case, side): figures}."""
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    return {(line["case"], line["side"]): line for line in lines}


def table() -> str:
    """Returns the figures of the cases that both sides have, for each useful token, as Markdown."""
    known, rows = done(), []
    for case in CASES:
        if any((case, side) not in known for side in SIDES):
            continue
        tokens = known[case, "ours"]["tokens"]
        for side in SIDES:
            line, own = known[case, side], known[case, "ours"]
            head = [case, str(line["batch"]), side, f"{tokens / line['cells']:.0%}"]
            if line["over_memory"]:
                rows.append([*head, "does not fit", *[""] * 4])
                continue
            sizes = [
                f"{line['flops'] / tokens / 1e9:.2f}",
                f"{line['moved_bytes'] / tokens / 1e6:.2f}",
                f"{line['accessed_bytes'] / tokens / 1e6:.2f}",
            ]
            shares = [f"{own[key] / line[key]:.2f}" for key in ("flops", "moved_bytes", "accessed_bytes")]
            rows.append([*head, f"{line['peak_bytes'] / 2**30:.1f}", *sizes, " / ".join(shares) if side != "ours" else ""])
    header = ["case", "examples", "side", "useful", "peak GiB", "GFLOP", "MB moved", "MB by XLA's count", "ours / TFBertModel"]
    return "One chip of v5e; the figures are for each useful token.\n\n" + report.table(header, rows)


def main() -> None:
    """Compiles what is not done yet, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="the folder of the data sets")
    parser.add_argument("--case", action="append", choices=list(CASES), help="may be repeated; by default all")
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    for case in options.case or CASES:
        for side in SIDES:
            if (case, side) not in done():
                report.in_own_process(f"{case}, {side}", compile_side, case, side, str(Path(options.data).resolve()))
    (report.RESULTS / "tpu_peer.md").write_text(table())


if __name__ == "__main__":
    main()
