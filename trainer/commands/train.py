"""train: config → devices → records → model → start from → fit → best and latest kept."""

import dataclasses
import logging
import shutil
from typing import Any

import numpy as np
import tensorflow as tf
from transformers import BertConfig

import trainer
from trainer import assembly, experiment, feeding, files, inference, preparation
from trainer.cli import Options
from trainer.data.records import Manifest
from trainer.errors import UserError
from trainer.experiment import Experiment
from trainer.run_tokenizer import find_tokenizer, tokenizer_folder
from trainer.runtime import distribution
from trainer.runtime.faults import StopSignals, WorkdirLock
from trainer.runtime.logs import StartUp
from trainer.text.tokenizer import Tokenizer
from trainer.training import RunState, TrainingRhythm

log = logging.getLogger(__name__)


def run(options: Options) -> int:
    """Trains, or goes on with the run in the workdir; returns the exit status."""
    start_up = StartUp(trainer.STARTED)
    start_up.done("imports")
    workdir = options.required("workdir")
    asked = _asked(options, workdir)
    # Workers of one run share a workdir: each but the chief locks a folder of its own in it.
    index = distribution.worker_index()
    with WorkdirLock(workdir if index == 0 else files.join(workdir, f"worker-{index}")):
        placement = assembly.place(asked)
        resolved = _resolve(asked, workdir, placement)
        if placement.is_chief:
            # The TPU is this command's: evaluate may run elsewhere, when the TPU is long gone.
            runtime = dataclasses.replace(resolved.runtime, tpu=None)
            experiment.save(dataclasses.replace(resolved, runtime=runtime), workdir)
        start_up.done("config")
        return _train(resolved, workdir, placement, start_up)


def _asked(options: Options, workdir: str) -> Experiment:
    """Loads --config; without one, the config of the run that is already in the workdir."""
    saved = files.join(workdir, experiment.CONFIG_FILE)
    path = options.config or (saved if files.exists(saved) else None)
    if path is None and not options.set:
        raise UserError(f"train needs --config, or a --workdir that holds a run; {workdir} holds none")
    return experiment.load(path, options.set, options.tpu)


def _resolve(asked: Experiment, workdir: str, placement: distribution.Placement) -> Experiment:
    """Completes the config from the data and the devices, and compares it with the run that the workdir holds.

    Raises:
      UserError: the workdir's run was another one; the keys that differ are named.
    """
    resolved = preparation.learned(asked)
    path = files.join(workdir, experiment.CONFIG_FILE)
    goes_on = files.exists(path) and assembly.store_of(workdir, resolved).has_latest()
    saved = experiment.load(path) if goes_on else None
    resolved = assembly.with_precision(resolved, placement, begun_with=saved.train.precision if saved else None)
    if saved:
        changed = experiment.resume_differences(saved, resolved)
        if changed:
            lines = [f"  {key}: {before!r} in the workdir, {now!r} now" for key, (before, now) in changed.items()]
            raise UserError(
                f"--workdir: {workdir} holds a run with another config; these keys differ:\n"
                + "\n".join(lines)
                + "\ngo on with the saved config (leave --config and --set out), or choose another --workdir"
            )
    return resolved


def _train(resolved: Experiment, workdir: str, placement: distribution.Placement, start_up: StartUp) -> int:
    # Records
    tokenizer = find_tokenizer(resolved)
    bert_config = assembly.bert_config_of(resolved, tokenizer)
    assembly.check_encoder(resolved, tokenizer, bert_config)
    manifest = _records(resolved, workdir, tokenizer, placement)
    total_steps = resolved.train.total_steps(manifest.splits["train"]["examples"])
    start_up.done("records")

    # Model
    with placement.strategy.scope():
        assembled = assembly.build(resolved, tokenizer, bert_config)
        task = assembled.task.for_training(manifest.splits["train"]["values"])
        optimizer = assembly.build_optimizer(resolved, assembled.encoder, total_steps)
        # Start from: 1. the latest checkpoint in the workdir, 2. encoder.init_from, 3. random
        store = assembly.store_of(workdir, resolved)
        has_checkpoint = store.has_latest()
        if not has_checkpoint:
            assembly.initialize_encoder(resolved, assembled)
        else:
            assembled.encoder.freeze(resolved.encoder.freeze_layers)
        optimizer.build(assembled.model.trainable_variables)
        variables = assembled.variables() | assembly.optimizer_variables(optimizer)
        state = store.restore_latest(variables) if has_checkpoint else None
        if state is None and placement.is_chief:
            store.forget_best()
    first_step = state["step"] if state else 0
    if state:
        _check_same_records(state, manifest, workdir)
        log.info("resumed from step %s of %s", f"{first_step:,}", f"{total_steps:,}")
    if placement.is_chief:
        _save_identity(workdir, tokenizer, bert_config)
        if not state:
            _check_space(workdir, variables, resolved.runtime.keep_checkpoints)

    start_up.done("model")

    # Fit
    _log_header(resolved, placement, assembled, manifest, total_steps)
    model = assembled.model
    assembly.compile_model(resolved, assembled, task, optimizer, placement)
    remaining = total_steps - first_step
    if remaining <= 0:
        log.info("the run is complete: step %s of %s", f"{first_step:,}", f"{total_steps:,}")
        return 0
    batches = feeding.training_batches(resolved, manifest, placement, task, first_step)
    runner = inference.BatchRunner(model, placement.strategy, task.features(), task.evaluated)
    with StopSignals() as signals:
        run_state = RunState(
            resolved, workdir, placement, manifest, assembled, store, variables, first_step, total_steps, start_up
        )
        rhythm = TrainingRhythm(run_state, runner, signals)
        model.fit(batches, epochs=1, steps_per_epoch=remaining, callbacks=[rhythm], verbose=0)
    return rhythm.finish()


def _records(resolved: Experiment, workdir: str, tokenizer: Tokenizer, placement: distribution.Placement) -> Manifest:
    """The chief prepares; other workers wait until the manifest is there."""
    resolved.data.require_train()
    if placement.is_chief:
        preparation.ensure_records(resolved, workdir, tokenizer)
    # A collective that the chief joins when it is done: the others wait in it.
    placement.sum_over_workers(1.0)
    folder = preparation.records_dir(resolved, workdir)
    manifest = Manifest.load(folder)
    if manifest is None:
        raise UserError(f"no records in {folder}; several workers need a data.records_dir that all of them see")
    preparation.require_training_examples(manifest)
    return manifest


def _check_same_records(state: dict[str, Any], manifest: Manifest, workdir: str) -> None:
    """Raises UserError where a run would go on with other records than it began with."""
    now = manifest.fingerprint("train")
    if state.get("train_records", now) != now:
        raise UserError(
            f"--workdir: the run in {workdir} was trained on other records than those in {manifest.folder}: the rows of "
            "data.train have changed since, or data.records_dir is another one; put them back, or choose another --workdir"
        )


def _save_identity(workdir: str, tokenizer: Tokenizer, bert_config: BertConfig) -> None:
    """Saves what later commands need besides the weights: the tokenizer's files and the encoder's sizes."""
    tokenizer.save(tokenizer_folder(workdir))
    files.make_dirs(files.join(workdir, "checkpoints"))
    files.write_text(files.join(workdir, assembly.ENCODER_CONFIG), bert_config.to_json_string(use_diff=False))


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


def _log_header(
    resolved: Experiment,
    placement: distribution.Placement,
    assembled: assembly.Assembled,
    manifest: Manifest,
    total_steps: int,
) -> None:
    train = resolved.train
    splits = ", ".join(f"{split} {assembly.split_summary(manifest, split)}" for split in manifest.splits)
    parts = f" in {train.accumulation_steps} micro-batches" if train.accumulation_steps > 1 else ""
    log.info(
        "model: %s, %s\nbatch: %s examples%s over %d replica(s), rows of %d tokens with up to %d examples\n"
        "data: %s\nlength: %s steps = %.2f epochs",
        assembly.describe_size(assembled),
        train.precision,
        f"{train.batch_size:,}",
        parts,
        placement.replicas,
        feeding.row_length(resolved, manifest, "train"),
        resolved.data.max_examples_per_row,
        splits,
        f"{total_steps:,}",
        total_steps * train.batch_size / manifest.splits["train"]["examples"],
    )
