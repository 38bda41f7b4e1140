"""train: config → devices → kernels → records → model → start from → fit → best and latest kept."""

import contextlib
import dataclasses
import logging
import shutil
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from transformers import BertConfig

import trainer
from trainer import files
from trainer.cli import Options
from trainer.data.records import Manifest
from trainer.errors import UserError
from trainer.models.regularization import Regularization
from trainer.preparation import freshness, learning, splits
from trainer.run import assembly, experiment, feeding, inference, kernels, programs, seals, sizes, training
from trainer.run.experiment import Experiment
from trainer.run.kernels import StepKernels
from trainer.run.retries import Retries
from trainer.run.tokenizer import tokenizer_folder
from trainer.run.training import RunState, TrainingRhythm
from trainer.runtime import distribution
from trainer.runtime.checkpoints import CheckpointStore, check_folder
from trainer.runtime.faults import NotFiniteError, StallWatch, StopSignals
from trainer.runtime.locks import WorkdirLock
from trainer.runtime.logs import StartUp
from trainer.runtime.pjrt import Session
from trainer.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)
EXAMPLES_CHECKED = 64  # before the training, to see that train.best_score is a score


def run(options: Options) -> int:
    """Trains, or resumes the run in the workdir; returns the exit status."""
    start_up = StartUp(trainer.STARTED)
    start_up.done("imports")
    workdir = options.required("workdir")
    return train(_asked(options, workdir), workdir, start_up)


def train(asked: Experiment, workdir: str, start_up: StartUp) -> int:
    """Trains what a config asks for in a workdir, or resumes its run; returns the exit status."""
    check_folder(workdir)
    # Workers of one run share a workdir: each but the chief locks a folder of its own in it.
    index = distribution.worker_index()
    with WorkdirLock(workdir if index == 0 else files.join(workdir, f"worker-{index}")):
        placement = assembly.place(asked)
        saved = _saved(asked, workdir)
        resolved = _resolve(asked, saved, workdir, placement)
        tokenizer, bert_config = assembly.saved_encoder(workdir) if saved else assembly.asked_encoder(resolved)
        assembly.check_encoder(resolved, tokenizer, bert_config)
        resolved, step = kernels.choose_step(resolved, bert_config, placement, saved.train if saved else None)
        if placement.is_chief and not saved:  # a resumed run's changes are saved when nothing refuses them any more
            _save_config(resolved, workdir)
        start_up.done("config")
        while True:
            retries = Retries.load(workdir, assembly.store_of(workdir, resolved).latest_step())
            try:
                return _train(resolved, workdir, placement, tokenizer, bert_config, step, start_up, retries)
            except NotFiniteError as error:
                latest = assembly.store_of(workdir, resolved).latest_step()
                more = retries.after(error, resolved.train, latest) if placement.workers == 1 else None
                if more is None:
                    raise
                more.save(workdir)


def _asked(options: Options, workdir: str) -> Experiment:
    """Loads --config; without one, the config of the run that is already in the workdir."""
    saved = files.join(workdir, experiment.CONFIG_FILE)
    path = options.config or (saved if files.exists(saved) else None)
    if path is None and not options.set:
        raise UserError(f"train needs --config, or a --workdir that holds a run; {workdir} holds none")
    return experiment.load(path, options.set, options.tpu)


def _saved(asked: Experiment, workdir: str) -> Experiment | None:
    """Returns the config of the run that is resumed; None where the workdir holds no checkpoint yet."""
    path = files.join(workdir, experiment.CONFIG_FILE)
    resumes = files.exists(path) and assembly.store_of(workdir, asked).has_latest()
    return experiment.load(path) if resumes else None


def _resolve(asked: Experiment, saved: Experiment | None, workdir: str, placement: distribution.Placement) -> Experiment:
    """Completes the config from the data and the devices, and compares it with the run that the workdir holds.

    Raises:
      UserError: the workdir's run was another one; the keys that differ are named.
    """
    resolved = kernels.with_precision(learning.learned(asked), placement, saved.train.precision if saved else None)
    changed = experiment.resume_differences(saved, resolved) if saved else {}
    if changed:
        lines = [f"  {key}: {before!r} in the workdir, {now!r} now" for key, (before, now) in changed.items()]
        raise UserError(
            f"--workdir: {workdir} holds a run with another config; these keys differ:\n"
            + "\n".join(lines)
            + "\nresume with the saved config (leave --config and --set out), or choose another --workdir"
        )
    return resolved


def _train(
    resolved: Experiment,
    workdir: str,
    placement: distribution.Placement,
    tokenizer: Tokenizer,
    bert_config: BertConfig,
    step: StepKernels,
    start_up: StartUp,
    retries: Retries,
) -> int:
    # Records
    feeding.check_augmentation(resolved, tokenizer)
    _tell_what_an_export_lacks(resolved, tokenizer, bert_config)
    manifest = _records(resolved, workdir, tokenizer, placement)
    _check_validated(resolved, manifest)
    examples = manifest.splits["train"]["examples"]
    total_steps, epoch_steps = resolved.train.total_steps(examples), resolved.train.epoch_steps(examples)
    shape = feeding.training_shape(resolved, manifest, placement, step.whole)
    start_up.done("records")

    # Model
    with placement.strategy.scope():
        assembled = assembly.build(resolved, tokenizer, bert_config, step.kernels)
        optimizer = assembly.build_optimizer(resolved, assembled.encoder, total_steps, epoch_steps, retries.rate_factor)
        store = assembly.store_of(workdir, resolved)
        variables, regularization, state = _start_from(resolved, assembled, optimizer, store)
    first_step = state["step"] if state else 0
    run_state = RunState(
        resolved,
        workdir,
        placement,
        manifest,
        assembled,
        store,
        variables,
        first_step,
        total_steps,
        # Of the checkpoint, not of best.json: after a kill the best model may be a later one, which is still to be found again.
        best_score=state.get("best_score") if state else None,
        stale_validations=state.get("stale_validations", 0) if state else 0,
        start_up=start_up,
    )
    _check_same_step(first_step, run_state)
    if state:
        _check_same_records(state, run_state)
        log.info("resumed from step %s of %s", f"{first_step:,}", f"{total_steps:,}")
    if placement.is_chief:
        _save_identity(workdir, tokenizer, bert_config)
        if state:
            _save_config(resolved, workdir)
        else:
            store.forget_best()
            _check_space(workdir, variables, resolved.runtime.keep_checkpoints)
    start_up.done("model")

    # Fit
    _log_header(run_state, shape)
    if first_step >= total_steps or _has_stopped_early(state, resolved):
        log.info("the run is complete: step %s of %s", f"{first_step:,}", f"{total_steps:,}")
        return 0
    return _fit(run_state, optimizer, step, shape, regularization, retries.skipped_steps)


def _start_from(
    resolved: Experiment, assembled: assembly.Assembled, optimizer: keras.optimizers.Optimizer, store: CheckpointStore
) -> tuple[dict[str, tf.Variable], Regularization, dict[str, Any] | None]:
    """Sets the run's variables from: 1. the latest checkpoint in the workdir, 2. encoder.init_from, 3. random.

    Returns:
      The variables of model and optimizer, by name; what a step does besides; and the checkpoint's state, None where the run
      begins.
    """
    resumes = store.has_latest()
    if resumes:
        assembled.encoder.freeze(resolved.encoder.freeze_layers)
    else:
        assembly.initialize_encoder(resolved, assembled)
    optimizer.build(assembled.model.trainable_variables)
    regularization = assembly.regularization_of(resolved, assembled)
    starts = {start.name.removesuffix(":0"): start for _, start in regularization.starts}
    variables = assembled.variables() | assembly.optimizer_variables(optimizer) | starts
    return variables, regularization, store.restore_latest(variables) if resumes else None


def _fit(
    run: RunState,
    optimizer: keras.optimizers.Optimizer,
    step: StepKernels,
    shape: feeding.BatchShape,
    regularization: Regularization,
    skipped_steps: int,
) -> int:
    """Runs the steps that remain, the batches of `skipped_steps` left out; returns the exit status."""
    experiment, placement, manifest, model = run.experiment, run.placement, run.manifest, run.assembled.model
    task = run.assembled.task.for_training(manifest.splits["train"]["values"])
    log.info("step: %s", step.line)
    assembly.compile_model(experiment, run.assembled, task, optimizer, step, shape.micro_rows, regularization)
    batches = feeding.training_batches(experiment, manifest, placement, task, shape, run.first_step + skipped_steps)
    session = Session(placement.devices) if placement.devices else None
    runner = programs.runner_for(placement, model, task, labelled=True, session=session)
    _check_best_score(run, runner, one_shape=step.whole)
    stall_seconds = experiment.runtime.stall_warning_seconds
    with StopSignals() as signals, StallWatch(manifest.paths("train"), stall_seconds) as watch:
        rhythm = TrainingRhythm(run, runner, signals, one_shape=step.whole, session=session, watch=watch)
        steps = run.total_steps - run.first_step
        with contextlib.closing(rhythm):
            if session is not None:
                programs.fit(session, model, batches, steps, experiment.train.steps_per_execution, rhythm)
            else:
                model.fit(batches, epochs=1, steps_per_epoch=steps, callbacks=[rhythm], verbose=0)
    return rhythm.finish()


def _tell_what_an_export_lacks(resolved: Experiment, tokenizer: Tokenizer, bert_config: BertConfig) -> None:
    """Logs, before the training, what would otherwise be found out after it."""
    problem = resolved.build_task(tokenizer).graph_problem()
    if problem:
        log.warning("an export of this run will take token ids, not strings: %s", problem)
    problem = kernels.export_problem(resolved.export, bert_config, resolved.train.precision)
    if problem:
        log.warning("an export of this run is not possible on this machine: %s", problem)


def _has_stopped_early(state: dict[str, Any] | None, resolved: Experiment) -> bool:
    patience = resolved.train.early_stopping_patience
    return bool(state and state.get("stopped_early") and patience is not None and state["stale_validations"] >= patience)


def _check_validated(resolved: Experiment, manifest: Manifest) -> None:
    """Raises UserError where the config asks for what only a validation gives."""
    if "validation" not in manifest.splits:
        for key in ("early_stopping_patience", "best_score"):
            if getattr(resolved.train, key) is not None:
                raise UserError(f"train.{key} needs validation rows: set data.validation, as data.validation=10%")


def _check_best_score(run: RunState, runner: inference.BatchRunner, one_shape: bool) -> None:
    """Raises UserError where train.best_score names no score: before the training, by scoring a few rows.

    In the one shape of the validations where there is one: XLA compiles once for both.
    """
    name, task = run.experiment.train.best_score, run.assembled.task
    if name is None:
        return
    batches = feeding.evaluation_batches(run.experiment, run.manifest, "validation", task, one_shape, most=EXAMPLES_CHECKED)
    rows = list(inference.with_rows(runner.run(batches), run.manifest.kept("validation")))
    is_cut = run.manifest.splits["validation"]["examples"] > EXAMPLES_CHECKED
    rows = rows[:-1] if is_cut else rows  # windows of the last one may be missing
    if rows:
        training.score_named(task.score(iter(rows)), name)


def _records(resolved: Experiment, workdir: str, tokenizer: Tokenizer, placement: distribution.Placement) -> Manifest:
    """The chief prepares; other workers wait until the manifest is there."""
    resolved.data.require_train()
    if placement.is_chief:
        splits.ensure_records(resolved, workdir, tokenizer)
    # A collective that the chief joins when it is done: the others wait in it.
    placement.sum_over_workers(1.0)
    folder = freshness.records_dir(resolved, workdir)
    manifest = Manifest.load(folder)
    if manifest is None:
        raise UserError(f"no records in {folder}; several workers need a data.records_dir that all of them see")
    freshness.require_training_examples(manifest)
    return manifest


def _check_same_records(state: dict[str, Any], run: RunState) -> None:
    """Raises UserError where a run would resume with other records than it began with."""
    before = state.get("records", {})
    changed = [split for split, now in run.records().items() if before.get(split, now) != now]
    if changed:
        keys = " and ".join(f"data.{split}" for split in changed)
        raise UserError(
            f"--workdir: the run in {run.workdir} began with other records than those in {run.manifest.folder}: the rows of "
            f"{keys} have changed since, or data.records_dir is another one; restore them, or choose another --workdir"
        )


def _check_same_step(first_step: int, run: RunState) -> None:
    """Raises UserError where the workers of a run do not all begin at the same step."""
    workers = run.placement.workers
    if abs(run.placement.sum_over_workers(float(first_step)) - first_step * workers) > 0.5:
        raise UserError(
            f"--workdir: this worker would begin at step {first_step:,} and others elsewhere: all workers must see the same "
            f"checkpoints; {run.workdir} must be one folder that all of them share"
        )


def _save_config(resolved: Experiment, workdir: str) -> None:
    """Saves the run's config, without the TPU: evaluate may run elsewhere, when the TPU is long gone."""
    experiment.save(dataclasses.replace(resolved, runtime=dataclasses.replace(resolved.runtime, tpu=None)), workdir)


def _save_identity(workdir: str, tokenizer: Tokenizer, bert_config: BertConfig) -> None:
    """Saves what later commands need besides the weights: the tokenizer's files and the encoder's sizes."""
    tokenizer.save(tokenizer_folder(workdir))
    files.make_dirs(files.join(workdir, "checkpoints"))
    files.write_text(files.join(workdir, assembly.ENCODER_CONFIG), bert_config.to_json_string(use_diff=False))
    folder = tokenizer_folder(workdir)
    seals.seal(workdir, [assembly.ENCODER_CONFIG, *(f"tokenizer/{name}" for name in files.list_dir(folder))])


def _check_space(workdir: str, variables: dict[str, tf.Variable], keep: int) -> None:
    """Raises UserError where the disk cannot take the run's checkpoints: before the training, not after."""
    if files.is_remote(workdir):
        return
    each = sum(int(np.prod(variable.shape)) * variable.dtype.size for variable in variables.values())
    needed, free = each * (keep + 2), shutil.disk_usage(workdir).free
    if needed > free:
        raise UserError(
            f"--workdir: {workdir} has {free / 1e6:,.0f} MB free; {keep} checkpoints, the best and the one being written "
            f"need {needed / 1e6:,.0f} MB. Free some space, set runtime.keep_checkpoints=1, or choose another --workdir"
        )


def _log_header(run: RunState, shape: feeding.BatchShape) -> None:
    train, manifest = run.experiment.train, run.manifest
    epochs = run.total_steps * train.batch_size / manifest.splits["train"]["examples"]
    listed = ", ".join(f"{split} {sizes.split_summary(manifest, split)}" for split in manifest.splits)
    parts = f" in {train.gradient_accumulation_steps} micro-batches" if train.gradient_accumulation_steps > 1 else ""
    lines = [
        f"model: {sizes.describe_size(run.assembled)}, {train.precision}",
        f"batch: {train.batch_size:,} examples{parts} over {run.placement.replicas} replica(s), rows of "
        f"{shape.packing.row_length} tokens with up to {shape.packing.max_examples_per_row} examples",
        shape.line(sizes.mean_length(manifest, "train")),
        f"data: {listed}",
        f"length: {run.total_steps:,} steps = {epochs:.2f} epochs",
    ]
    log.info("%s", "\n".join(line for line in lines if line))
