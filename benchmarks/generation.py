"""How fast a trained encoder–decoder writes texts: ours beside transformers' `generate`, in turn, on the same sources.

    python benchmarks/generation.py --workdir=workdir/multi30k --sources=test_2016_flickr.de.gz --python=PEER/bin/python

The peer loads the run's own Hugging Face files, so both have the same weights and the same search (beams, length penalty, most
tokens); tokenizing is part of the time. The line printed at the end, with the share of texts that are the same on both sides,
goes to benchmarks/results/generation.jsonl, too.
"""

import argparse
import gzip
import json
import statistics
import sys
import tempfile
from pathlib import Path

import report
from sides import Side, answer_with_seconds, in_turn


def serve_ours(workdir: str, path: str, precision: str) -> None:
    """Generates for the sources once for each line on standard input; the answer tells the seconds, and the texts."""
    import trainer

    sources = json.loads(Path(path).read_text(encoding="utf8"))
    run = trainer.load(workdir, [f"train.precision={precision}"])
    answer_with_seconds(lambda: {"texts": [prediction["text"] for prediction in run.predict(sources)]}, {"texts": len(sources)})


def main() -> None:
    """Measures one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="a run of generation")
    parser.add_argument("--sources", help="a file of one source a line, .gz or not")
    parser.add_argument("--python", default=sys.executable, help="the peer's python")
    parser.add_argument("--texts", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=32, help="the peer's")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="ours")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve_ours(options.workdir, options.serve, options.precision)
        return
    import trainer

    run = trainer.load(options.workdir)
    folder = run.export_hugging_face()
    opened = gzip.open if options.sources.endswith(".gz") else open
    with opened(options.sources, "rt", encoding="utf8") as lines, tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump([line.strip() for line, _ in zip(lines, range(options.texts), strict=False)], file)
        file.flush()
        script = str(report.ROOT / "benchmarks/peers/pytorch_generation.py")
        ours = [sys.executable, __file__, f"--workdir={options.workdir}", f"--serve={file.name}"]
        commands = {
            "ours": [*ours, f"--precision={options.precision}"],
            "transformers": [
                options.python, script, folder, file.name, "2", str(options.batch_size), str(run.config.data.max_seq_length),
            ],
        }  # fmt: skip
        answers = in_turn([Side(name, command) for name, command in commands.items()], options.repeats)
    seconds = {name: [answer["seconds"] for answer in found] for name, found in answers.items()}
    texts = [[text.replace(" ", "") for text in found[-1]["texts"]] for found in answers.values()]  # spacing differs
    same = statistics.mean(ours == peers for ours, peers in zip(*texts, strict=True))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["transformers"] / medians["ours"]
    record = {**vars(options), "seconds": seconds, "ratio": ratio, "same": same}
    report.add_line("generation", {name: value for name, value in record.items() if name != "serve"})
    print(
        f"{', '.join(f'{name} {value:.2f} s' for name, value in medians.items())}; {ratio:.2f} x as fast; "
        f"{same:.1%} of the texts are the same"
    )


if __name__ == "__main__":
    main()
