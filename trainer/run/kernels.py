"""Chooses what computes a run: precision, kernels, and whether XLA compiles the whole step. Chosen once, saved in the run."""

import dataclasses
import itertools
import logging
from pathlib import Path
from typing import Literal

import tensorflow as tf
from transformers import BertConfig

from trainer.errors import UserError
from trainer.models.kernels.base import EncoderKernels, product_seconds
from trainer.models.kernels.inference import ExportKernels
from trainer.models.kernels.native import NativeKernels
from trainer.models.kernels.xla import XlaKernels
from trainer.run.experiment import Experiment
from trainer.run.schema import ExportConfig, Precision, TrainConfig
from trainer.runtime.distribution import Placement
from trainer.runtime.target import AMPERE, Target, machine_target
from trainer.serving.text_inputs import GraphInputs, TextInputs

log = logging.getLogger(__name__)
CPU_KERNELS: tuple[type[EncoderKernels], ...] = (NativeKernels,)  # besides XLA's, the preferred first
# Of the speed of the library's products. Steps of SST-2 in bfloat16: at 0.63 (AVX512) 1.6 times as fast as with XLA's kernels,
# at 0.23 (AMX) slower.
FAST_ENOUGH = 0.4
WORTH_IT = 1.2  # times as fast, for the bits that bfloat16 gives up
MAX_HELD_BYTES = 1 << 30  # a graph holds less than 2 GB


@dataclasses.dataclass(frozen=True)
class StepKernels:
    """What computes a training step.

    Attributes:
      kernels: of the encoder and the optimizer.
      whole: XLA compiles the step as one program.
      target: the kind of device that the step is traced for.
      line: the choice and its reason, for the log.
    """

    kernels: EncoderKernels
    whole: bool
    target: Target
    line: str


def with_precision(experiment: Experiment, placement: Placement, begun_with: Precision | None = None) -> Experiment:
    """Returns the experiment with `train.precision: auto` replaced by the best one on these devices; logs it.

    Args:
      begun_with: the precision of the run that is resumed, if there is one.
    """
    if experiment.train.precision != "auto":
        return experiment
    precision: Precision
    precision, why = (begun_with, "as the run began") if begun_with else best_precision(placement)
    log.info("precision: %s (auto: %s)", precision, why)
    return _with_train(experiment, precision=precision)


def best_precision(placement: Placement) -> tuple[Literal["bfloat16", "float32"], str]:
    """Returns the faster precision of the two, and why."""
    if placement.target == "tpu":
        return "bfloat16", "a TPU"
    if placement.devices is not None:
        return placement.devices.best_precision()
    if placement.target == "gpu":
        gpus = tf.config.list_physical_devices("GPU")
        found = min(tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) for gpu in gpus)
        reason = f"a GPU of compute capability {found[0]}.{found[1]}"
        return ("bfloat16" if found >= AMPERE else "float32"), reason
    if placement.workers > 1:  # all must choose the same, and measurements differ
        return "float32", "several workers on CPUs"
    speedup = _speedup_of_bfloat16()
    return (
        "bfloat16" if speedup >= WORTH_IT else "float32"
    ), f"products in bfloat16 are {speedup:.2f} x as fast as in float32 here"


def _speedup_of_bfloat16() -> float:
    """Returns how many times as fast as in float32 the fastest kernels that this CPU can run multiply in bfloat16."""
    dtypes = (tf.float32, tf.bfloat16)
    candidates: tuple[type[EncoderKernels], ...] = (XlaKernels, *CPU_KERNELS)
    pairs = itertools.product(candidates, dtypes)
    products = [(kernels, dtype) for kernels, dtype in pairs if kernels.unfit(BertConfig(), dtype.name) is None]
    fastest = dict.fromkeys(dtypes, float("inf"))
    for (_, dtype), seconds in zip(products, product_seconds(*products), strict=True):
        fastest[dtype] = min(fastest[dtype], seconds)
    return fastest[tf.float32] / fastest[tf.bfloat16]


def choose_step(
    experiment: Experiment, bert_config: BertConfig, placement: Placement, begun_with: TrainConfig | None = None
) -> tuple[Experiment, StepKernels]:
    """Chooses what computes the training steps.

    Args:
      experiment: the run; its precision is resolved.
      bert_config: the encoder's.
      placement: the devices. With several workers every one of them calls this; the chief's choice counts for all.
      begun_with: the train section of the run that is resumed, if there is one.

    Returns:
      (the experiment with `train.kernels` resolved, to be saved with the run; the choice).

    Raises:
      UserError: what the config, or the resumed run, asks for is not available here.
    """
    train, target = experiment.train, placement.target
    if target == "tpu":
        return experiment, StepKernels(XlaKernels(), True, target, "compiled whole by XLA (a TPU)")
    why = f"auto: a {target.upper()}" if train.jit_compile is None else f"train.jit_compile={str(train.jit_compile).lower()}"
    if placement.devices is not None:
        if train.jit_compile is False:
            raise UserError("train.jit_compile=false: PJRT runs programs that XLA compiles whole; leave it out")
        _refuse_native(train, "XLA compiles the whole step")
        line = f"compiled whole by XLA, its sums over {placement.replicas} replica(s) inside (PJRT)"
        return experiment, StepKernels(XlaKernels(), True, target, line)
    if train.jit_compile and placement.replicas > 1:
        # Replicas add up their gradients inside the step, which a compiled program of MirroredStrategy cannot do.
        raise UserError(
            f"train.jit_compile=true: XLA cannot compile the whole step for {placement.replicas} replicas; leave it out, or "
            "run on one device with runtime.distribution=default"
        )
    if train.jit_compile or (train.jit_compile is None and target == "gpu" and placement.replicas == 1):
        _refuse_native(train, "XLA compiles the whole step")
        return experiment, StepKernels(XlaKernels(), True, target, f"compiled whole by XLA ({why})")
    if target == "gpu":
        _refuse_native(train, "native kernels compute on CPUs, and this run is on GPUs")
        line = f"matrix products by the GPU's library, XLA kernels between them ({why})"
        return experiment, StepKernels(XlaKernels(), False, target, line)
    name, reason = _cpu_kernels(train, bert_config, placement, begun_with)
    resolved = _with_train(experiment, kernels=name)
    if name == XlaKernels.name:
        line = f"matrix products by oneDNN, XLA kernels between them ({reason})"
        return resolved, StepKernels(XlaKernels(), False, target, line)
    kernels = next(kernels for kernels in CPU_KERNELS if kernels.name == name)
    return resolved, StepKernels(kernels(), False, target, f"{name} kernels for the layers and AdamW ({reason})")


def _refuse_native(train: TrainConfig, problem: str) -> None:
    if train.kernels not in ("auto", XlaKernels.name):
        raise UserError(f"train.kernels={train.kernels}, but {problem}; --set train.kernels=xla computes it here")


def _cpu_kernels(
    train: TrainConfig, bert_config: BertConfig, placement: Placement, begun_with: TrainConfig | None
) -> tuple[str, str]:
    """Returns the name of the kernels for a CPU, the same one for all workers, and why."""
    resumes = begun_with is not None and begun_with.kernels != "auto" and train.kernels in ("auto", begun_with.kernels)
    wanted = begun_with.kernels if resumes and begun_with else train.kernels
    candidates = [kernels for kernels in CPU_KERNELS if wanted in ("auto", kernels.name)]
    for kernels in candidates:
        problem = kernels.unfit(bert_config, train.precision)
        able = placement.sum_over_workers(float(problem is None)) == placement.workers
        if wanted == "auto":
            ratio = product_ratio(kernels, train.precision) if problem is None else 0.0
            is_fast = placement.sum_over_workers(float(placement.is_chief and ratio > FAST_ENOUGH)) > 0
            told = f"native {train.precision} products run at {ratio:.2f} x the speed of oneDNN's"
            if able and is_fast:
                return kernels.name, told
            return XlaKernels.name, problem or (told if able else "another worker cannot run native kernels")
        if able:
            return kernels.name, "as the run began" if resumes else f"train.kernels={wanted}"
        problem = problem or "another worker cannot run them"
        if resumes:
            raise UserError(
                f"this run began with train.kernels={wanted}, which cannot continue here: {problem}. "
                "--set train.kernels=xla continues with XLA's kernels; the result then differs (rounding, dropout)"
            )
        raise UserError(f"train.kernels={wanted}: {problem}; train.kernels=auto takes XLA's kernels instead")
    return XlaKernels.name, "as the run began" if resumes else f"train.kernels={wanted}"


def product_ratio(kernels: type[EncoderKernels], precision: str) -> float:
    """Returns how many times as fast as TensorFlow's library these kernels multiply matrices here."""
    of_library, of_these = product_seconds(*((one, tf.as_dtype(precision)) for one in (XlaKernels, kernels)))
    return of_library / of_these


def for_inference(train: TrainConfig, bert_config: BertConfig, whole: bool = False) -> EncoderKernels:
    """Returns what computes evaluation and prediction on this machine.

    Nothing fails without native kernels, even where the run was trained with them: this may be another machine.

    Args:
      train, bert_config: of the run.
      whole: XLA compiles a batch's outputs as one program, as PJRT runs it.
    """
    if not whole and machine_target() == "cpu" and train.kernels != XlaKernels.name:
        for kernels in CPU_KERNELS:
            problem = kernels.unfit(bert_config, train.precision)
            if problem is None and product_ratio(kernels, train.precision) > FAST_ENOUGH:
                log.debug("layers: %s kernels", kernels.name)
                return kernels()
            log.debug("layers: TensorFlow's operations (%s)", problem or "native products are slower here")
    return XlaKernels()


@dataclasses.dataclass(frozen=True)
class ServingKernels:
    """What an export computes with.

    Attributes:
      kernels: of the encoder.
      inputs: turns strings into packed ids.
      library: the compiled operations that a server must load first; None where it needs none.
    """

    kernels: EncoderKernels
    inputs: type[TextInputs]
    library: Path | None


def for_export(export: ExportConfig, bert_config: BertConfig, precision: str, weights_bytes: int) -> ServingKernels:
    """Returns what an export computes with, by `export.kernels`.

    Args:
      export: the section.
      bert_config: the encoder's.
      precision: of the run.
      weights_bytes: of the whole model in float32; one that does not fit into a graph keeps reading its variables.

    Raises:
      UserError: native operations cannot compute this model, or are not available here.
    """
    problem = export_problem(export, bert_config, precision)
    if problem:
        raise UserError(problem)
    if export.kernels == "tensorflow":
        kernels = ExportKernels() if weights_bytes <= MAX_HELD_BYTES else XlaKernels()
        return ServingKernels(kernels, GraphInputs, None)
    from trainer.models.kernels.native_inference import NativeExportKernels
    from trainer.models.kernels.native_library import library
    from trainer.serving.native_inputs import NativeInputs

    return ServingKernels(NativeExportKernels(), NativeInputs, library("inference").path)


def export_problem(export: ExportConfig, bert_config: BertConfig, precision: str) -> str | None:
    """Returns why an export with these kernels is not possible on this machine, or None; known before training."""
    if export.kernels == "tensorflow":
        return None
    from trainer.models.kernels.native_inference import NativeExportKernels

    problem = NativeExportKernels.unfit(bert_config, precision)
    return f"export.kernels=native: {problem}; export.kernels=tensorflow works everywhere" if problem else None


def _with_train(experiment: Experiment, **changes) -> Experiment:
    return dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, **changes))
