"""benchmark: how fast a config trains here, and what holds it back."""

import contextlib
import dataclasses
import itertools
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from trainer import files
from trainer.cli import Options
from trainer.data.records import Manifest, mean_tokens
from trainer.errors import UserError
from trainer.preparation import freshness, learning, splits
from trainer.run import assembly, experiment, feeding, kernels, programs, sizes
from trainer.run.experiment import Experiment
from trainer.run.tokenizer import find_tokenizer
from trainer.runtime import profiling
from trainer.runtime.distribution import Placement
from trainer.runtime.pjrt import Session

log = logging.getLogger(__name__)
WARM_UP_STEPS = 3
TRACED_STEPS = 3


def run(options: Options) -> None:
    """Measures the steps of a run that is not kept; prints the figures and, with --workdir, writes benchmark.json there."""
    if options.input_only and (options.synthetic or options.profile):
        raise UserError("--input_only measures only the pipeline; it cannot be combined with --synthetic or --profile")
    asked = experiment.load(options.required("config"), options.set, options.tpu)
    asked.data.require_train()
    placement = assembly.place(asked)
    if options.profile and placement.devices is not None:
        raise UserError("--profile lists TensorFlow's operations; a program that PJRT runs has none: leave one of them out")
    with contextlib.ExitStack() as stack:
        folder = options.workdir or stack.enter_context(tempfile.TemporaryDirectory())
        resolved = kernels.with_precision(learning.learned(asked), placement)
        figures = _measure(resolved, options, folder, placement)
    print("\n".join(_lines(figures)))
    if options.workdir:
        path = files.join(options.workdir, "benchmark.json")
        files.write_json(path, figures)
        print(f"all figures: {path}")


def _measure(resolved: Experiment, options: Options, folder: str, placement: Placement) -> dict[str, Any]:
    # A call is one step here, so that each can be timed.
    resolved = dataclasses.replace(resolved, train=dataclasses.replace(resolved.train, steps_per_execution=1))
    tokenizer = find_tokenizer(resolved)
    bert_config = assembly.bert_config_of(resolved, tokenizer)
    resolved, choice = kernels.choose_step(resolved, bert_config, placement)
    manifest = splits.ensure_records(resolved, folder, tokenizer)
    freshness.require_training_examples(manifest)
    with placement.strategy.scope():
        assembled = assembly.build(resolved, tokenizer, bert_config, choice.kernels)
        task = assembled.task.for_training(manifest.splits["train"]["values"])
    shape = feeding.training_shape(resolved, manifest, placement, choice.whole)
    dataset = feeding.training_batches(resolved, manifest, placement, task, shape, first_step=0)
    batches = iter(dataset)
    if options.input_only:
        return {"what": "input", **_input_figures(batches, options.steps, placement.strategy)}

    with placement.strategy.scope():
        epoch_steps = resolved.train.epoch_steps(manifest.splits["train"]["examples"])
        optimizer = assembly.build_optimizer(resolved, assembled.encoder, 10_000, epoch_steps)
        assembly.initialize_encoder(resolved, assembled)
        optimizer.build(assembled.model.trainable_variables)
        log.info("step: %s", choice.line)
        regularization = assembly.regularization_of(resolved, assembled)
        assembly.compile_model(resolved, assembled, task, optimizer, choice, shape.micro_rows, regularization)
        step: Any = assembled.model.make_train_function() if placement.devices is None else None
    if placement.devices is not None:
        step = programs.ProgramStep(Session(placement.devices), assembled.model, dataset.element_spec)
    if options.synthetic:
        batches = _Again(next(batches))

    figures = {"what": "synthetic" if options.synthetic else "training", **_step_figures(step, batches, options.steps)}
    figures |= _rate_figures(figures, resolved, placement, assembled, manifest)
    if options.profile:
        figures["costliest"] = _profile(step, batches, files.join(options.workdir or folder, "profile"))
    return figures


def _input_figures(batches: Iterator, steps: int, strategy: tf.distribute.Strategy) -> dict[str, Any]:
    """Draws batches as fast as they come."""
    next(batches)
    begun, tokens = time.perf_counter(), 0
    for batch in itertools.islice(batches, steps):
        tokens += sum(int(tf.math.count_nonzero(ids)) for ids in strategy.experimental_local_results(batch["segment_ids"]))
    seconds = time.perf_counter() - begun
    return {"steps": steps, "seconds_per_step": seconds / steps, "tokens_per_second": tokens / seconds}


@dataclasses.dataclass(eq=False)  # told apart by what it is: TensorFlow keeps a trace for each
class _Again:
    """One batch again and again, as an iterator that is never waited for."""

    batch: dict[str, Any]

    def get_next(self) -> dict[str, Any]:
        """Returns the batch."""
        return self.batch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        return self.batch


def _step_figures(step: Any, batches: Iterator | _Again, steps: int) -> dict[str, Any]:
    """Times steps, each from its data to the number it returns."""
    waits, durations, totals = [], [], {"examples": 0.0, "tokens": 0.0, "cells": 0.0}
    traces = 0
    for number in range(WARM_UP_STEPS + steps):
        begun = time.perf_counter()
        logs = {name: float(value) for name, value in step(batches).items()}
        seconds = time.perf_counter() - begun
        if number == 0:
            first_seconds = seconds
        if number == WARM_UP_STEPS - 1:
            traces = step.experimental_get_tracing_count()
        if number >= WARM_UP_STEPS:
            waits.append(logs["data_wait_seconds"])
            durations.append(seconds)
            totals = {name: total + logs[name] for name, total in totals.items()}
    seconds = sum(durations)
    return {
        "steps": steps,
        "first_step_seconds": first_seconds,
        "seconds_per_step": statistics.median(durations),
        "seconds_of_each_step": durations,
        "examples_per_second": totals["examples"] / seconds,
        "tokens_per_second": totals["tokens"] / seconds,
        "padding_efficiency": totals["tokens"] / totals["cells"],
        "data_wait_fraction": sum(waits) / seconds,
        "traces_after_warm_up": step.experimental_get_tracing_count() - traces,
    }


def _rate_figures(
    figures: dict[str, Any], resolved: Experiment, placement: Placement, assembled: assembly.Assembled, manifest: Manifest
) -> dict[str, Any]:
    """Compares with what the device can do; model FLOPs are those of useful tokens, without padding."""
    per_token = sizes.training_flops_per_token(assembled, mean_tokens(manifest.splits["train"]))
    flops = figures["tokens_per_second"] * per_token
    measured = profiling.peak_flops(resolved.train.precision, placement, assembled.encoder.kernels.multiply)
    return {
        "precision": resolved.train.precision,
        "model_flops_per_second": flops,
        "matmul_flops_per_second": measured,
        "model_flops_utilization": flops / measured,
        "peak_memory_bytes": profiling.peak_memory_bytes(),
        "versions": experiment.versions(),
    }


def _profile(step: Any, batches: Iterator | _Again, folder: str) -> list[dict[str, Any]]:
    with profiling.trace(folder):
        for _ in range(TRACED_STEPS):
            float(step(batches)["loss"])
    return [dataclasses.asdict(cost) for cost in profiling.costliest(folder)]


def _lines(figures: dict[str, Any]) -> list[str]:
    """Returns the figures for people."""
    if figures["what"] == "input":
        return [
            f"only the input pipeline, {figures['steps']} batches: {figures['seconds_per_step'] * 1e3:,.1f} ms a batch, "
            f"{figures['tokens_per_second']:,.0f} tokens/s"
        ]
    low, high = min(figures["seconds_of_each_step"]), max(figures["seconds_of_each_step"])
    source = ", one batch again and again" if figures["what"] == "synthetic" else ""
    lines = [
        f"first step: {figures['first_step_seconds']:.1f} s (tracing and compiling)",
        f"{figures['steps']} steps{source}: {figures['seconds_per_step'] * 1e3:,.0f} ms a step, the median "
        f"({low * 1e3:,.0f} to {high * 1e3:,.0f})",
        f"{figures['tokens_per_second']:,.0f} useful tokens/s, {figures['examples_per_second']:,.1f} examples/s, "
        f"{figures['padding_efficiency']:.0%} of the cells useful",
        f"waiting for data: {figures['data_wait_fraction']:.1%} of the time",
        f"traces after {WARM_UP_STEPS} steps of warm-up: {figures['traces_after_warm_up']}",
        f"model FLOPs: {figures['model_flops_per_second'] / 1e9:,.0f} GFLOP/s, {figures['model_flops_utilization']:.0%} of the "
        f"{figures['matmul_flops_per_second'] / 1e9:,.0f} GFLOP/s of a large {figures['precision']} matrix product here",
        f"memory: {figures['peak_memory_bytes'] / 1e6:,.0f} MB at the most",
    ]
    costs = figures.get("costliest", [])
    if costs:
        lines.append(f"costliest operations, a step ({TRACED_STEPS} traced; threads added up):")
    for cost in costs:
        calls = cost["calls"] / TRACED_STEPS
        lines.append(f"  {cost['seconds'] / TRACED_STEPS * 1e3:8.2f} ms  {calls:6.0f} x  {cost['operation']}")
    return lines
