"""How fast texts become vectors: ours beside sentence-transformers, in turn, on the same texts.

    python benchmarks/embedding.py --case=sst2 --data=../shared/data --python=PEER/bin/python
    python benchmarks/embedding.py --case=enwik8 --data=../shared/data --python=PEER/bin/python

Both load all-MiniLM-L6-v2, warm up, and then embed all texts in turn; tokenizing is part of the time. The line printed at the
end goes to benchmarks/results/embedding.jsonl, too.
"""

import argparse
import gzip
import json
import statistics
import sys
import tempfile
from pathlib import Path

import report
from accuracy import minilm_folder
from sides import Side, answer_with_seconds, in_turn

MAX_SEQ_LENGTH = 256  # as the encoder's sentence_bert_config.json has it


def texts_of(case: str, data: Path, count: int) -> list[str]:
    """Returns the first sentences of SST-2's training set, or the first paragraphs of enwik8."""
    if case == "sst2":
        lines = (data / "glue/SST-2/train.tsv").read_text(encoding="utf8").splitlines()[1:]
        return [line.rpartition("\t")[0] for line in lines[:count]]
    with gzip.open(data / "enwik8_clean.txt.gz", "rt", encoding="utf8") as file:
        paragraphs = (line.strip() for line in file)
        return [text for text, _ in zip((text for text in paragraphs if text), range(count), strict=False)]


def serve_ours(path: str, precision: str) -> None:
    """Embeds the texts once for each line on standard input; the answer tells the seconds."""
    import trainer

    texts = json.loads(Path(path).read_text(encoding="utf8"))
    embedder = trainer.Embedder(str(minilm_folder()), overrides=[f"train.precision={precision}"])
    answer_with_seconds(lambda: {"vectors": len(embedder.vectors(texts))}, {"texts": len(texts)})


def main() -> None:
    """Measures one case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=("sst2", "enwik8"), default="sst2")
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--python", default=sys.executable, help="the peer's python")
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=32, help="the peer's; 32 is its default")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="ours")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve_ours(options.serve, options.precision)
        return
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf8") as file:
        json.dump(texts_of(options.case, Path(options.data), options.texts), file)
        file.flush()
        script = str(report.ROOT / "benchmarks/peers/pytorch_embedding.py")
        size = [str(options.batch_size), str(MAX_SEQ_LENGTH)]
        commands = {
            "ours": [sys.executable, __file__, f"--serve={file.name}", f"--precision={options.precision}"],
            "sentence-transformers": [options.python, script, str(minilm_folder()), file.name, "2", *size],
        }
        answers = in_turn([Side(name, command) for name, command in commands.items()], options.repeats)
    seconds = {name: [answer["seconds"] for answer in found] for name, found in answers.items()}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["sentence-transformers"] / medians["ours"]
    record = {**vars(options), "seconds": seconds, "ratio": ratio}
    report.add_line("embedding", {name: value for name, value in record.items() if name != "serve"})
    print(f"{options.case}: {', '.join(f'{name} {value:.2f} s' for name, value in medians.items())}; {ratio:.2f} x as fast")


if __name__ == "__main__":
    main()
