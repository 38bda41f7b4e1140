"""Preparation: `bert-trainer prepare` beside `datasets.map` with the fast tokenizer, two processes each, in alternation.

    python benchmarks/preparation.py --data=../shared/data --peer_python=PEER/bin/python

Both read the same file, cut at the same length and write what training reads: TFRecord shards here, Arrow there. "work" is
the time inside the process after its imports; "command" is all of it. Results: benchmarks/results/preparation.json and .md.
"""

import argparse
import csv
import gzip
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import report
from accuracy import minilm_folder

WORKERS, MAX_LENGTH = 2, 128


def sst2(data: Path, target: Path) -> None:
    """The 67,349 training sentences of SST-2, as a csv file."""
    with open(data / "glue/SST-2/train.tsv", encoding="utf8", newline="") as file:
        rows = [(row["sentence"], row["label"]) for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    _write(rows, target)


def paragraphs(data: Path, target: Path) -> None:
    """The 126,246 paragraphs of enwik8, with whether a paragraph has an even number of characters as its class."""
    with gzip.open(data / "enwik8_clean.txt.gz", "rt", encoding="utf8") as file:
        _write([(line.strip(), str(len(line) % 2)) for line in file if line.strip()], target)


def _write(rows: list[tuple[str, str]], target: Path) -> None:
    with open(target, "w", encoding="utf8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])


CORPORA = {"sst2": sst2, "enwik8-paragraphs": paragraphs}


def ours(source: Path, encoder: Path, folder: Path) -> list[str]:
    """Returns the command of our side."""
    side = report.ROOT / "benchmarks/peers/our_preparation.py"
    return [sys.executable, str(side), str(source), str(encoder), str(folder), str(WORKERS), str(MAX_LENGTH)]


def peer(source: Path, encoder: Path, folder: Path, python: str) -> list[str]:
    """Returns the command of `datasets.map`."""
    side = report.ROOT / "benchmarks/peers/datasets_map.py"
    return [python, str(side), str(source), str(encoder), str(folder), str(WORKERS), str(MAX_LENGTH)]


def measure(command: list[str]) -> dict[str, float]:
    """Runs a side; returns {"work", "command": seconds, "bytes": written, "tokens"}."""
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return {**json.loads(done.stdout.strip().splitlines()[-1]), "command": seconds}


def main() -> None:
    """Runs all corpora."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--peer_python", required=True, help="python of an environment with peers/requirements.txt")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    encoder = minilm_folder()
    results, rows = {}, []
    for name, write in CORPORA.items():
        rounds = []
        with tempfile.TemporaryDirectory() as scratch:
            source = Path(scratch) / "rows.csv"
            write(options.data, source)
            for number in range(options.rounds):
                one = {
                    "ours": measure(ours(source, encoder, Path(scratch) / f"ours-{number}")),
                    "datasets.map": measure(peer(source, encoder, Path(scratch) / f"peer-{number}", options.peer_python)),
                }
                rounds.append(one)
                print(
                    name,
                    {side: {key: round(value, 2) for key, value in found.items()} for side, found in one.items()},
                    flush=True,
                )
        if len({found["tokens"] for one in rounds for found in one.values()}) != 1:
            raise SystemExit(f"{name}: the sides do not give the same tokens")
        results[name] = rounds
        for side in rounds[0]:
            work, command = ([one[side][what] for one in rounds] for what in ("work", "command"))
            ratios = [
                f"{report.median_ratio([one[side][what] for one in rounds], [one['ours'][what] for one in rounds]):.2f} ×"
                for what in ("work", "command")
            ]
            written = f"{rounds[0][side]['bytes'] / 1e6:.1f}"
            rows.append([name, side, report.spread(work), ratios[0], report.spread(command), ratios[1], written])
    header = ["corpus", "side", "work, s", "of ours", "command, s", "of ours", "MB written"]
    packages = ("tensorflow", "tokenizers", "transformers", "datasets", "google-crc32c")
    versions = {"ours": report.versions(sys.executable, packages), "peer": report.versions(options.peer_python, packages)}
    kept = {"machine": report.machine(), "versions": versions, "results": results}
    report.keep("preparation", kept, report.table(header, rows))


if __name__ == "__main__":
    main()
