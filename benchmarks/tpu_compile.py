"""Every config's steps by the real TPU compiler: does it compile, does it fit, and the least time that a step can take.

    python benchmarks/tpu_compile.py --data=../shared/data                     (hours; what is done already is skipped)
    python benchmarks/tpu_compile.py --data=../shared/data --config=quickstart --topology=v5e:1x1

Each step's figures go, as they come, to benchmarks/results/tpu_compile.jsonl; the table of all of them is the page
benchmarks/results/tpu_compile.md. No TPU is needed, and nothing is run on one: these are compilers' figures, not times.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import report

sys.path.insert(0, str(report.ROOT))
RESULTS = report.RESULTS / "tpu_compile.jsonl"
TOPOLOGIES = ("v5e:1x1", "v5e:2x2", "v6e:1x1", "v6e:2x2")
MORE_FOR_PRETRAINING = ("v4:2x2x1", "v5p:2x2x1", "tpu7x:2x2x1")
TEXTS = ("data.train={root}/configs/tiny/sotu/train.txt", "data.validation={root}/configs/tiny/sotu/validation.txt")
GLUE, SQUAD = "{data}/glue", "{data}/squad_v1.1_dev_by_article"
DATA = {  # of the configs that name none, or a download: keys
    "sst2": (f"data.train={GLUE}/SST-2/train.tsv", f"data.validation={GLUE}/SST-2/dev.tsv", "data.test=null"),
    "banking77": ("data.train={data}/banking77/train.csv", "data.validation={data}/banking77/test.csv", "data.test=null"),
    "snips": ("data.train={data}/snips/train.jsonl", "data.validation={data}/snips/valid.jsonl"),
    "squad": (f"data.train={SQUAD}/train.json", f"data.validation={SQUAD}/dev.json"),
    "goemotions": ("data.train={data}/goemotions/train.tsv", "data.validation={data}/goemotions/dev.tsv"),
    "stsb": (
        f"data.train={GLUE}/STS-B/train.tsv", f"data.validation={GLUE}/STS-B/dev.tsv", "task.target_columns=[score]"
    ),
    "swag": (
        "data.train={root}/configs/tiny/requests/train.csv", "data.validation={root}/configs/tiny/requests/validation.csv",
        "task.context_column=context", "task.question_column=null",
    ),
    "glue": (
        f"data.train={GLUE}/MRPC/train.tsv", f"data.validation={GLUE}/MRPC/dev.tsv", "task.label_column=Quality",
        'task.text_columns=["#1 String", "#2 String"]',
    ),
}  # fmt: skip


def done() -> list[dict[str, Any]]:
    """Returns the figures that there are."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def keys_of(name: str, data: str, folder: str) -> list[str]:
    """Returns what a config needs besides itself: data that is here, an encoder and a vocabulary that need no download."""
    from accuracy import minilm_folder

    if not name.startswith("pretraining/"):
        keys = [f"encoder.init_from={minilm_folder()}", *DATA.get(name, ())]
    else:
        keys = [f"encoder.vocabulary_path={minilm_folder()}/vocab.txt", *TEXTS, "data.test=null"]
    return [*[key.format(data=data, root=report.ROOT) for key in keys], f"data.records_dir={folder}/records"]


def compile_config(name: str, topology_name: str, data: str, steps: tuple[str, ...]) -> None:
    """Compiles a config's steps for a topology, and notes what comes out."""
    from trainer.commands import preflight
    from trainer.errors import UserError
    from trainer.run import compilation, experiment
    from trainer.runtime import topology

    with tempfile.TemporaryDirectory() as folder:
        asked = experiment.load(name, keys_of(name, data, folder))
        devices = topology.find(topology_name)
        subject = preflight.subject_of(asked, folder, devices)
        tracer = compilation.Tracer(subject)
        for step in steps:
            line = {
                "config": name,
                "topology": topology_name,
                "step": step,
                "chip": devices.chip.name,
                "memory_bytes": devices.chip.memory_bytes,
            }
            try:
                found = compilation.compiled(subject, step, tracer)
                replicas = len(devices.devices.all) if step == "train" else 1
                parts = compilation.parts_of(subject) if step == "train" else 1
                least = compilation.roofline(found, devices, replicas, parts)
                line |= dataclasses.asdict(found) | {
                    "replicas": replicas,
                    "roofline_seconds": least.step_seconds,
                    "bound": least.bound,
                }
                if step == "train":
                    line["run"] = compilation.run_figures(subject, least)
            except UserError as error:
                line |= {"problem": str(error)}
            with open(RESULTS, "a", encoding="utf8") as file:
                file.write(json.dumps(line) + "\n")


def table() -> str:
    """Returns the figures of all steps as Markdown."""
    figures = ["peak MiB", "of", "TFLOP", "GB moved", "XLA's count", "sums MB", "roofline ms", "bound"]
    header = ["config", "step", "topology", "devices", *figures]
    rows = []
    for line in sorted(done(), key=lambda one: (one["config"], one["step"], one["topology"])):
        head = [line["config"], line["step"], line["topology"]]
        if "problem" in line or line["over_memory"]:
            reason = line.get("problem") or "does not fit: {:.1f} of {:.1f} GiB".format(
                *(size / 2**30 for size in line["over_memory"])
            )
            rows.append([*head, reason, *[""] * 8])
            continue
        rows.append(
            [
                *head, str(line["replicas"]), f"{line['peak_bytes'] / 2**20:,.0f}", f"{line['memory_bytes'] / 2**20:,.0f}",
                f"{line['flops'] / 1e12:.3f}", f"{line['moved_bytes'] / 1e9:.2f}", f"{line['accessed_bytes'] / 1e9:.2f}",
                f"{line['all_reduced_bytes'] / 1e6:.1f}",
                f"{line['roofline_seconds'] * 1e3:.2f}", line["bound"],
            ]
        )  # fmt: skip
    compiled = sum("problem" not in line and not line["over_memory"] for line in done())
    return f"{compiled} of {len(done())} steps compile and fit.\n\n" + report.table(header, rows)


def main() -> None:
    """Compiles what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="the folder of the data sets")
    parser.add_argument("--config", action="append", help="a recipe's name; may be repeated; by default all")
    parser.add_argument("--topology", action="append", help="may be repeated; by default v5e and v6e, one chip and four")
    parser.add_argument("--table", action="store_true", help="only writes the page")
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from trainer.run import experiment

    known = {(line["config"], line["topology"], line["step"]) for line in done()}
    names = [] if options.table else options.config or list(experiment.recipes())
    for name in names:
        more = MORE_FOR_PRETRAINING if name.startswith("pretraining/") else ()
        for place in options.topology or (*TOPOLOGIES, *more):
            steps = ("train",) if not place.endswith("1x1") else ("train", "evaluation", "serving")
            left = tuple(step for step in steps if (name, place, step) not in known)
            if not left:
                continue
            report.in_own_process(f"{name} for {place}", compile_config, name, place, str(Path(options.data).resolve()), left)
    (report.RESULTS / "tpu_compile.md").write_text(table())


if __name__ == "__main__":
    main()
