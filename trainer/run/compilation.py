"""Compiles a run's steps for devices that may not be here, and works out what a run on them takes."""

import copy
import dataclasses
import functools
import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from transformers import BertConfig

import trainer
from trainer import config
from trainer.data.records import Manifest, mean_tokens
from trainer.features import lead_of
from trainer.models.kernels.xla import XlaKernels
from trainer.run import assembly, experiment, feeding, inference
from trainer.run.experiment import Experiment
from trainer.run.kernels import StepKernels
from trainer.runtime.compile_cache import cache_folder
from trainer.runtime.distribution import Placement
from trainer.runtime.program import Program, trace
from trainer.runtime.topology import Compiled, Topology, compile_for
from trainer.serving.text_inputs import INPUTS
from trainer.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)
SERVED_TEXTS = 32  # of the serving step
STEPS = ("train", "train on one", "evaluation", "serving")


@dataclasses.dataclass(frozen=True)
class Subject:
    """A run to compile for.

    Attributes:
      experiment: resolved.
      tokenizer, bert_config, manifest: its parts.
      topology: the devices.
    """

    experiment: Experiment
    tokenizer: Tokenizer
    bert_config: BertConfig
    manifest: Manifest
    topology: Topology

    @property
    def placement(self) -> Placement:
        """As the run would have it there."""
        return placement_on(self.topology)

    def changed(self, **train: Any) -> "Subject":
        """Returns the same run with other fields of its train section."""
        section = dataclasses.replace(self.experiment.train, **train)
        return dataclasses.replace(self, experiment=dataclasses.replace(self.experiment, train=section))

    def shape(self) -> feeding.BatchShape:
        """Returns the shape of a replica's training batches."""
        return feeding.training_shape(self.experiment, self.manifest, self.placement, whole=True)


def placement_on(topology: Topology) -> Placement:
    """Returns the placement of a run on a topology, by PJRT."""
    return Placement(tf.distribute.get_strategy(), "pjrt", topology.name, devices=topology.devices)


class Tracer:
    """Traces a run's steps for its topology; the model is built at the first.

    Args:
      subject: the run.
    """

    def __init__(self, subject: Subject):
        self._subject = subject

    @functools.cached_property
    def _built(self) -> tuple[assembly.Assembled, Any]:
        subject, experiment = self._subject, self._subject.experiment
        assembled = assembly.build(experiment, subject.tokenizer, subject.bert_config, XlaKernels())
        task = assembled.task.for_training(subject.manifest.splits["train"]["values"])
        epoch_steps = experiment.train.epoch_steps(subject.manifest.splits["train"]["examples"])
        optimizer = assembly.build_optimizer(experiment, assembled.encoder, 1000, epoch_steps)
        assembled.encoder.freeze(experiment.encoder.freeze_layers)
        optimizer.build(assembled.model.trainable_variables)
        step = StepKernels(XlaKernels(), True, subject.topology.devices.target, "compiled whole by XLA (PJRT)")
        regularization = assembly.regularization_of(experiment, assembled)
        assembly.compile_model(experiment, assembled, task, optimizer, step, subject.shape().micro_rows, regularization)
        return assembled, task

    def program(self, step: str) -> Program:
        """Returns one of STEPS."""
        replicas = len(self._subject.topology.devices.all) if step == "train" else 1
        function, spec = self._function(step)
        return trace(step.split()[0], function, spec, self._subject.topology.devices.target, replicas)

    def _function(self, step: str) -> tuple[Callable[[Any], Any], Mapping[str, tf.TensorSpec]]:
        subject = self._subject
        assembled, task = self._built
        model = assembled.model
        if step.startswith("train"):
            # The batches of one replica, whatever the topology: a pipeline of this machine, which may reach no servers.
            shape, alone = subject.shape(), dataclasses.replace(subject.placement, devices=None, kind="default")
            runtime = dataclasses.replace(subject.experiment.runtime, data_service=())
            experiment = dataclasses.replace(subject.experiment, runtime=runtime)
            batches = feeding.training_batches(experiment, subject.manifest, alone, task, shape, first_step=0)
            return model.train_step, batches.element_spec
        if step == "evaluation":
            split = "validation" if "validation" in subject.manifest.splits else "train"
            batches = feeding.evaluation_batches(subject.experiment, subject.manifest, split, task, one_shape=True, most=1)
            first = next(iter(batches))
            spec = {name: tf.TensorSpec(value.shape, value.dtype) for name, value in first.items()}
            return inference.results_of(model, task, labelled=True), spec
        length = feeding.row_length(subject.experiment, subject.manifest, "train")
        shapes = {name: [SERVED_TEXTS, 1 if name == "cls_positions" else length] for name in (*INPUTS, *task.request_features)}
        spec = {name: tf.TensorSpec(shape, tf.int32) for name, shape in shapes.items()}
        return inference.results_of(model, task, labelled=False), spec


def compiled(subject: Subject, step: str, tracer: Tracer) -> Compiled:
    """Returns what the compiler says of a step; from the cache where the same was asked before.

    Args:
      subject: the run.
      step: one of STEPS.
      tracer: of the subject; asked only where nothing is in the cache.
    """
    path = _cached_path(subject, step)
    if path is not None and path.exists():
        stored = json.loads(path.read_text())
        refused = tuple(stored["over_memory"]) if stored["over_memory"] else None
        return _weighed(Compiled(**{**stored, "over_memory": refused}), subject.topology)
    log.info("compiling the %s step for %s ...", step, subject.topology.name)
    found = compile_for(subject.topology, tracer.program(step))
    log.info("  compiled in %.0f s", found.seconds)
    if path is not None:
        path.write_text(json.dumps(dataclasses.asdict(found)))
    return _weighed(found, subject.topology)


def _weighed(found: Compiled, topology: Topology) -> Compiled:
    """Returns what was compiled, and that it is over memory where the compiler took it all the same, as a CPU's does."""
    if found.over_memory is None and found.peak_bytes > topology.chip.memory_bytes:
        return dataclasses.replace(found, over_memory=(found.peak_bytes, topology.chip.memory_bytes))
    return found


def _cached_path(subject: Subject, step: str) -> Path | None:
    """Returns where the figures of a step are kept: named by everything that they depend on."""
    try:
        folder = cache_folder("preflight")
    except (OSError, RuntimeError):
        return None
    if folder is None:
        return None
    sections = subject.experiment.sections()
    told = {
        "config": config.dump({name: sections[name] for name in ("task", "encoder", "train")}),
        "shape": str(subject.shape()),
        "lengths": [subject.manifest.splits["train"]["longest"], subject.experiment.data.max_seq_length],
        "evaluation": [str(split["examples"]) for split in subject.manifest.splits.values()],
        "bert": subject.bert_config.to_json_string(),
        "step": step,
        "topology": [subject.topology.name, subject.topology.chip.name, len(subject.topology.devices.all)],
        "versions": experiment.versions(),
        "code": _code_hash(),
    }
    return folder / f"{hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]}.json"


@functools.cache
def _code_hash() -> str:
    """Returns a hash of this package's modules: another program may come of another line."""
    hashed = hashlib.sha256()
    for path in sorted(Path(trainer.__file__).parent.rglob("*.py")):
        hashed.update(path.read_bytes())
    return hashed.hexdigest()


@dataclasses.dataclass(frozen=True)
class Roofline:
    """The least time that a step can take, by a compiled program and a chip's peaks.

    Attributes:
      compute_seconds, memory_seconds: of which the longer one counts.
      sum_seconds: of the sums over the replicas, which nothing else is supposed to hide.
    """

    compute_seconds: float
    memory_seconds: float
    sum_seconds: float

    @property
    def step_seconds(self) -> float:
        """The whole."""
        return max(self.compute_seconds, self.memory_seconds) + self.sum_seconds

    @property
    def bound(self) -> str:
        """What takes the longest."""
        times = {"compute": self.compute_seconds, "memory": self.memory_seconds, "sums over replicas": self.sum_seconds}
        return max(times, key=lambda name: times[name])


def roofline(found: Compiled, topology: Topology, replicas: int = 1, parts: int = 1) -> Roofline:
    """Returns the roofline of a step.

    A ring sum sends 2 (n − 1) / n of the bytes over each link's one direction (Patarasuk and Yuan 2009, section 3).

    Args:
      found: compiled; a loop's body counted once.
      topology: its chip.
      replicas: n.
      parts: how often the body of the loop over micro-batches runs; weights and moments, which are most of the arguments, are
        read and written once, outside of it.
    """
    chip = topology.chip
    outside = min(2.0 * found.arguments_bytes, found.moved_bytes)
    moved = outside + (found.moved_bytes - outside) * parts
    sent = 2.0 * (replicas - 1) / replicas * found.all_reduced_bytes
    seconds = sent / (chip.interconnect / 2) if sent and chip.interconnect else 0.0
    return Roofline(found.flops * parts / chip.peak_flops, moved / chip.bandwidth, seconds)


def run_figures(subject: Subject, line: Roofline) -> dict[str, float | int | None]:
    """Returns what the whole run takes at the roofline's speed.

    Returns:
      "steps", "epochs", "tokens_per_second", "useful_cell_fraction", "hours", "dollars" (None: no price is known).
    """
    train, split, shape = subject.experiment.train, subject.manifest.splits["train"], subject.shape()
    steps = train.total_steps(split["examples"])
    tokens = train.batch_size * mean_tokens(split)
    devices = len(subject.topology.devices.all)
    row = shape.packing.row_length + shape.packing.aligned_length
    cells = (shape.micro_rows or 0) * parts_of(subject) * row * devices
    hours = steps * line.step_seconds / 3600
    price = subject.topology.chip.dollars_per_hour
    return {
        "steps": steps,
        "epochs": steps * train.batch_size / max(split["examples"], 1),
        "tokens_per_second": tokens / line.step_seconds,
        "useful_cell_fraction": min(tokens / cells, 1.0) if cells else 1.0,
        "hours": hours,
        "dollars": None if price is None else hours * price * devices,
    }


def parts_of(subject: Subject) -> int:
    """Returns the micro-batches of a typical step."""
    shape = subject.shape()
    if shape.micro_rows is None:
        return 1
    tokens = mean_tokens(subject.manifest.splits["train"], lead_of(subject.manifest.spec))
    needed = shape.batch_size * tokens / shape.packing.row_length
    return max(math.ceil(needed / shape.micro_rows), 1)


def largest_batch(subject: Subject, most_tries: int = 6) -> int | None:
    """Returns the largest batch size that fits, by bisection; None: not even one example for each replica does."""
    replicas = len(subject.topology.devices.all)
    unit = replicas * subject.experiment.train.gradient_accumulation_steps
    fitting, too_large = 0, subject.experiment.train.batch_size // unit
    for _ in range(most_tries):
        if too_large - fitting <= max(1, fitting // 16):
            break
        middle = (fitting + too_large) // 2
        if fits(subject.changed(batch_size=middle * unit)):
            fitting = middle
        else:
            too_large = middle
    return fitting * unit or None


def fits(subject: Subject) -> bool:
    """Returns whether a run's training step fits into the memory of the devices."""
    return compiled(subject, "train", Tracer(subject)).over_memory is None


def knobs(subject: Subject) -> dict[str, bool]:
    """Returns {--set of a change that takes less memory: whether the step fits with it}, each tried."""
    train, length = subject.experiment.train, subject.experiment.data.max_seq_length
    share = train.batch_size // len(subject.topology.devices.all)
    found = {}
    for times in (2, 4, 8):
        steps = train.gradient_accumulation_steps * times
        if share % steps == 0:
            change = f"train.gradient_accumulation_steps={steps}"
            found[change] = fits(subject.changed(gradient_accumulation_steps=steps))
            if found[change]:
                break
    if not train.recompute_activations:
        found["train.recompute_activations=true"] = fits(subject.changed(recompute_activations=True))
    if length >= 64:
        found[f"data.max_seq_length={length // 2}"] = fits(_cut_to(subject, length // 2))
    return found


def _cut_to(subject: Subject, length: int) -> Subject:
    """Returns the same run with no example longer than `length` tokens, without preparing its records again."""
    data = dataclasses.replace(subject.experiment.data, max_seq_length=length)
    splits = {
        name: {
            **_cut_counts(split, split["examples"], length),
            "sequences": {
                sequence: _cut_counts(counts, split["examples"], length)
                for sequence, counts in split.get("sequences", {}).items()
            },
        }
        for name, split in subject.manifest.splits.items()
    }
    manifest = copy.copy(subject.manifest)
    manifest.splits = splits
    return dataclasses.replace(subject, experiment=dataclasses.replace(subject.experiment, data=data), manifest=manifest)


def _cut_counts(counts: Mapping[str, Any], examples: int, length: int) -> dict[str, Any]:
    """Returns counts of tokens as they are with no example longer than `length`."""
    return {**counts, "longest": min(counts["longest"], length), "tokens": min(counts["tokens"], examples * length)}
