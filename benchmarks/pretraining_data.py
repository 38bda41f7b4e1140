"""Pre-training data beside google-research/bert's create_pretraining_data.py, as Model Garden's wheel carries it.

    pip install --no-deps --target=/tmp/model_garden tf-models-official==2.20.0 sentencepiece
    python benchmarks/pretraining_data.py --data=../shared/data --model_garden=/tmp/model_garden

The same text (enwik8_clean, a paragraph a line as a segment), vocabulary and options, as commands from start to end, in
alternation; then what both made, compared: how many sequences, how long, how many masked, how many of them pairs that follow.
Memory is the largest process' peak; ours is measured once more with the corpus doubled.
"""

import argparse
import collections
import gzip
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import report

LENGTH, MOST_MASKED, SEED = 128, 20, 12345


def measure(command: list[str], environment: dict[str, str] | None = None) -> dict[str, float]:
    """Runs a command; returns its seconds and the peak memory of its largest process, in MB."""
    begun = time.perf_counter()
    # GNU time: its figure covers the processes that the command starts.
    done = subprocess.run(
        ["/usr/bin/time", "-f", "%M", *command],
        cwd=report.ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **(environment or {})},
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return {"seconds": time.perf_counter() - begun, "megabytes": float(done.stderr.strip().splitlines()[-1]) / 1e3}


def ours(text: Path, vocabulary: Path, folder: Path) -> list[str]:
    """Returns our command."""
    keys = {
        "task.name": "pretraining",
        "task.keep_long_segments": "false",
        "task.max_predictions": MOST_MASKED,
        "encoder.config_path": "configs/models/bert-base.json",
        "encoder.vocabulary_path": vocabulary,
        "data.train": text,
        "data.max_seq_length": LENGTH,
        "data.workers": 2,
    }
    return [sys.executable, "-m", "trainer", "prepare", f"--workdir={folder}", *[f"--set={k}={v}" for k, v in keys.items()]]


def google(model_garden: Path, text: Path, vocabulary: Path, output: Path) -> list[str]:
    """Returns Google's command."""
    script = model_garden / "official/nlp/data/create_pretraining_data.py"
    options = {
        "input_file": text,
        "output_file": output,
        "vocab_file": vocabulary,
        "do_lower_case": True,
        "max_seq_length": LENGTH,
        "max_predictions_per_seq": MOST_MASKED,
        "dupe_factor": 1,
        "random_seed": SEED,
    }
    return [sys.executable, str(script), *[f"--{name}={value}" for name, value in options.items()]]


def statistics_of_google(path: Path) -> dict[str, float]:
    """Returns what its records hold."""
    import tensorflow as tf

    lengths, masked, labels = [], [], collections.Counter()
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        features = tf.train.Example.FromString(record).features.feature
        lengths.append(sum(features["input_mask"].int64_list.value))
        masked.append(sum(features["masked_lm_weights"].float_list.value))
        labels.update(features["next_sentence_labels"].int64_list.value)
    return _described(lengths, masked, labels[1], path.stat().st_size)


def statistics_of_ours(folder: Path, vocabulary: Path) -> dict[str, float]:
    """Returns what our records hold, masked as in the first epoch."""
    import tensorflow as tf

    from trainer.data.masking import Masker
    from trainer.data.pipeline import read_records
    from trainer.data.records import Manifest
    from trainer.run import experiment
    from trainer.run.tokenizer import find_tokenizer

    manifest = Manifest.load(str(folder / "records"))
    given = {"task.name": "pretraining", "task.max_predictions": MOST_MASKED, "encoder.vocabulary_path": vocabulary}
    given |= {"encoder.config_path": "configs/models/bert-base.json"}
    resolved = experiment.load(None, [f"{key}={value}" for key, value in given.items()])
    tokenizer = find_tokenizer(resolved)
    masker = Masker(resolved.task.masking_recipe(), tokenizer, SEED)
    lengths, masked, first = [], [], 0
    for batch in read_records(manifest.paths("train")).batch(1024):
        ids = tf.io.parse_example(batch, {"input_ids": tf.io.RaggedFeature(tf.int64)})["input_ids"]
        ids = tf.cast(ids, tf.int32)
        _, chosen = masker(ids, tf.range(first, first + ids.nrows(), dtype=tf.int64))
        lengths += ids.row_lengths().numpy().tolist()
        masked += tf.reduce_sum(chosen, axis=1).numpy().tolist()
        first += ids.nrows()
    split = manifest.splits["train"]
    written = sum(shard["bytes"] for shard in split["shards"])
    return _described(lengths, masked, split["values"]["sentence_label"]["1"], written)


def _described(lengths, masked, random_next, written):
    return {
        "sequences": len(lengths),
        "mean_length": statistics.mean(lengths),
        "full_length_rate": sum(length == LENGTH for length in lengths) / len(lengths),
        "mean_masked": statistics.mean(masked),
        "masked_lm_prob": sum(masked) / sum(lengths),
        "random_next_prob": random_next / len(lengths),
        "bytes_per_sequence": written / len(lengths),
    }


def main() -> None:
    """Runs both sides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model_garden", type=Path, required=True, help="folder with official/ in it")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    vocabulary = (options.data / "vocab/bert-base-uncased-vocab.txt").resolve()
    environment = {"PYTHONPATH": f"{options.model_garden}:{os.environ.get('PYTHONPATH', '')}"}
    rounds = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with gzip.open(options.data / "enwik8_clean.txt.gz", "rt", encoding="utf8") as file:
            text = file.read()
        (folder / "text.txt").write_text(text, encoding="utf8")
        (folder / "twice.txt").write_text(f"{text}\n{text}", encoding="utf8")
        for number in range(options.rounds):
            one = {
                "ours": measure(ours(folder / "text.txt", vocabulary, folder / f"ours-{number}")),
                "google": measure(
                    google(options.model_garden, folder / "text.txt", vocabulary, folder / "google.tfrecord"), environment
                ),
            }
            rounds.append(one)
            print({side: {key: round(value, 1) for key, value in found.items()} for side, found in one.items()}, flush=True)
        twice = measure(ours(folder / "twice.txt", vocabulary, folder / "ours-twice"))
        made = {
            "ours": statistics_of_ours(folder / "ours-0", vocabulary),
            "google": statistics_of_google(folder / "google.tfrecord"),
        }
    seconds = {side: [one[side]["seconds"] for one in rounds] for side in ("ours", "google")}
    rows = []
    for side in ("ours", "google"):
        memory = statistics.median(one[side]["megabytes"] for one in rounds)
        ratio = f"{report.median_ratio(seconds[side], seconds['ours']):.1f} ×"
        found = made[side]
        rows.append(
            [
                side,
                report.spread(seconds[side]),
                ratio,
                f"{memory:,.0f}",
                f"{found['sequences']:,}",
                f"{found['bytes_per_sequence']:,.0f}",
                f"{found['mean_length']:.1f}",
                f"{found['masked_lm_prob']:.2%}",
                f"{found['random_next_prob']:.1%}",
            ]
        )
    rows.append(["ours, corpus doubled", f"{twice['seconds']:.1f}", "", f"{twice['megabytes']:,.0f}", *[""] * 5])
    header = ["side", "command, s", "of ours", "peak MB", "sequences", "bytes each", "mean length", "masked", "random next"]
    packages = ("tensorflow", "tokenizers", "google-crc32c")
    results = {
        "machine": report.machine(),
        "versions": report.versions(sys.executable, packages) | {"tf-models-official": "2.20.0"},
        "rounds": rounds,
        "twice": twice,
        "made": made,
    }
    report.keep("pretraining_data", results, report.table(header, rows))


if __name__ == "__main__":
    main()
