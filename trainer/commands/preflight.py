"""preflight: a config's steps compiled for the devices that it will run on, before they cost money."""

import contextlib
import dataclasses
import logging
import tempfile
from collections.abc import Iterator
from typing import Any

from trainer import files
from trainer.cli import Options
from trainer.data.records import Manifest
from trainer.errors import UserError
from trainer.preparation import freshness, learning, splits
from trainer.run import assembly, compilation, experiment, kernels, readiness
from trainer.run.compilation import Subject, Tracer
from trainer.run.readiness import Check
from trainer.runtime import topology
from trainer.runtime.topology import GIB, Compiled

log = logging.getLogger(__name__)


def run(options: Options) -> int:
    """Prints what was found and, with --output, writes it as JSON; returns 1 where the run would not work."""
    asked = experiment.load(options.required("config"), options.set)
    asked.data.require_train()
    devices = topology.find(options.required("topology"), options.chips, options.price, asked.runtime.cpu_devices)
    with contextlib.ExitStack() as stack:
        folder = options.workdir
        if folder is None or (files.is_remote(folder) and Manifest.load(freshness.records_dir(asked, folder)) is None):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
        report = _report(asked, folder, devices, options)
    print("\n".join(_lines(report)))
    if options.output:
        files.write_json(options.output, report)
        print(f"all figures: {options.output}")
    return 0 if report["ready"] else 1


def _report(asked: experiment.Experiment, folder: str, devices: topology.Topology, options: Options) -> dict[str, Any]:
    subject = subject_of(asked, folder, devices)
    steps, not_compiled = _compiled_steps(subject)
    whole = steps.get("train")
    report: dict[str, Any] = {
        "topology": devices.name,
        "devices": len(devices.devices.all),
        "hosts": devices.hosts,
        "chip": dataclasses.asdict(devices.chip),
        "precision": subject.experiment.train.precision,
        "steps": {name: _figures(subject, name, found) for name, found in steps.items()},
        "not_compiled": not_compiled,
    }
    if whole is not None and whole.over_memory is None:
        line = compilation.roofline(whole, devices, len(devices.devices.all), compilation.parts_of(subject))
        report["run"] = compilation.run_figures(subject, line)
    if whole is not None and whole.over_memory is not None:
        log.info("it does not fit; looking for what does")
        report["largest_batch_size"] = compilation.largest_batch(subject)
        report["knobs"] = compilation.knobs(subject)
    checks = [*_checks(subject, options)]
    report["checks"] = [dataclasses.asdict(check) for check in checks]
    fits = all(found.over_memory is None for found in steps.values())
    report["ready"] = fits and not not_compiled and all(check.problem is None for check in checks)
    return report


def subject_of(asked: experiment.Experiment, folder: str, devices: topology.Topology) -> Subject:
    """Resolves a config as `train` would on these devices, with its records."""
    placement = compilation.placement_on(devices)
    resolved = kernels.with_precision(learning.learned(asked), placement)
    tokenizer, bert_config = assembly.asked_encoder(resolved)
    assembly.check_encoder(resolved, tokenizer, bert_config)
    resolved, _ = kernels.choose_step(resolved, bert_config, placement)
    manifest = splits.ensure_records(resolved, folder, tokenizer)
    freshness.require_training_examples(manifest)
    subject = Subject(resolved, tokenizer, bert_config, manifest, devices)
    subject.shape()  # an impossible batch size gives its error before anything is compiled
    return subject


def _compiled_steps(subject: Subject) -> tuple[dict[str, Compiled], dict[str, str]]:
    """Returns {step: what the compiler says}, and {step: why it is no program}."""
    tracer = Tracer(subject)
    found, failed = {}, {}
    for step in compilation.STEPS:
        if step == "train on one" and len(subject.topology.devices.all) == 1:
            continue
        try:
            found[step] = compilation.compiled(subject, step, tracer)
        except UserError as error:
            failed[step] = str(error)
    return found, failed


def _figures(subject: Subject, name: str, found: Compiled) -> dict[str, Any]:
    replicas = len(subject.topology.devices.all) if name == "train" else 1
    parts = compilation.parts_of(subject) if name.startswith("train") else 1
    line = compilation.roofline(found, subject.topology, replicas, parts)
    times = {"roofline_seconds": line.step_seconds, "bound": line.bound, "micro_batches": parts}
    return {**dataclasses.asdict(found), "replicas": replicas, **({} if found.over_memory else times)}


def _checks(subject: Subject, options: Options) -> Iterator[Check]:
    run = subject.experiment
    if not subject.topology.is_here:
        shared = tuple(folder for folder in (options.shared or "").split(",") if folder)
        yield from readiness.path_checks(run, options.workdir, shared)
    length = run.data.max_seq_length
    yield from readiness.record_checks(subject.manifest, subject.tokenizer, subject.bert_config, length, subject.topology.hosts)
    yield from readiness.version_checks()


def _lines(report: dict[str, Any]) -> list[str]:
    """Returns the report for people."""
    chip = report["chip"]
    lines = [
        f"{report['topology']}: {report['devices']} device(s) on {report['hosts']} host(s); each {chip['name']}, "
        f"{chip['memory_bytes'] / GIB:.1f} GiB, {chip['peak_flops'] / 1e12:,.3g} TFLOP/s, {chip['bandwidth'] / 1e9:,.0f} GB/s "
        f"({chip['source']})",
        f"precision: {report['precision']}",
        "",
        f"{'step':<14}{'devices':>8}{'peak GiB':>10}{'of':>7}{'TFLOP':>9}{'GB':>8}{'sum MB':>8}{'roofline':>12}  bound",
    ]
    for name, step in report["steps"].items():
        head = f"{name:<14}{step['replicas']:>8}"
        if step["over_memory"]:
            needed, there = (size / GIB for size in step["over_memory"])
            lines.append(f"{head}{needed:>10.2f}{there:>7.1f}  does not fit")
            continue
        lines.append(
            f"{head}{step['peak_bytes'] / GIB:>10.2f}{chip['memory_bytes'] / GIB:>7.1f}{step['flops'] / 1e12:>9.3f}"
            f"{step['moved_bytes'] / 1e9:>8.2f}{step['all_reduced_bytes'] / 1e6:>8.1f}"
            f"{step['roofline_seconds'] * 1e3:>9.2f} ms  {step['bound']}"
        )
    lines += [f"{name}: {problem}" for name, problem in report["not_compiled"].items()]
    lines += [*_run_lines(report), ""]
    passed = [check for check in report["checks"] if check["problem"] is None]
    lines.append(f"checks: {len(passed)} of {len(report['checks'])} passed")
    lines += [f"  {check['problem']}" for check in report["checks"] if check["problem"] is not None]
    return [*lines, "ready" if report["ready"] else "not ready"]


def _duration(hours: float) -> str:
    """Returns hours for people.

    >>> _duration(0.0002), _duration(0.5), _duration(30.25)
    ('0.7 s', '30.0 min', '30.2 h')
    """
    if hours < 1 / 60:
        return f"{hours * 3600:.1f} s"
    return f"{hours * 60:.1f} min" if hours < 1 else f"{hours:,.1f} h"


def _run_lines(report: dict[str, Any]) -> Iterator[str]:
    run = report.get("run")
    if run:
        cost = "price unknown (--price)" if run["dollars"] is None else f"{run['dollars']:,.2f} dollars"
        yield ""
        yield (
            f"the run at this speed, the most there can be: {run['steps']:,} steps = {run['epochs']:.2f} epochs, "
            f"{run['tokens_per_second']:,.0f} useful tokens/s ({run['useful_cell_fraction']:.0%} of the cells), "
            f"{_duration(run['hours'])}, {cost}"
        )
    if "largest_batch_size" in report:
        largest = report["largest_batch_size"]
        yield ""
        yield f"the largest batch that fits: train.batch_size={largest}" if largest else "not even the smallest batch fits"
        for change, works in report["knobs"].items():
            yield f"  --set {change}: {'fits' if works else 'does not fit'}"
