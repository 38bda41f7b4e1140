"""What happens between the steps of `fit`: log lines, validation, checkpoints, stops."""

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from trainer.data.records import Manifest, mean_tokens
from trainer.errors import UserError, suggestion
from trainer.run import assembly, feeding, inference, sizes
from trainer.run.assembly import Assembled
from trainer.run.experiment import Experiment
from trainer.runtime import profiling
from trainer.runtime.checkpoints import BackgroundWriter, CheckpointStore
from trainer.runtime.distribution import Placement
from trainer.runtime.faults import NotFiniteError, StallWatch, StopSignals, check_finite
from trainer.runtime.logs import Meter, MetricsLog, ProgressBar, StartUp, training_line
from trainer.runtime.pjrt import Session

log = logging.getLogger(__name__)
EXIT_OF_SIGNAL = {"SIGINT": 130, "SIGTERM": 143}


def score_named(scores: Mapping[str, Any], name: str) -> float | None:
    """Returns a score by its name, with a dot into a table, as "macro.f1"; None where these rows do not define it.

    The area under a curve is such a score: rows of one class have none.

    Raises:
      UserError: there is no such score, or it is no number that is better when it is higher.
    """
    flat = {key: value for key, value in _flat(scores).items() if value is None or isinstance(value, float)}
    if name in flat and not name.endswith(("loss", "perplexity", "error")):
        return flat[name]
    known = [key for key in flat if not key.startswith("per_")]
    what = "lower values of it are better" if name in flat else "no such score"
    raise UserError(f"train.best_score: {name!r}: {what}; this task has {', '.join(known)}{suggestion(name, known)}")


def _flat(scores: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in scores.items():
        nested = _flat(value) if isinstance(value, Mapping) else {}
        flat |= {f"{name}.{inner}": found for inner, found in nested.items()} if nested else {name: value}
    return flat


def check_finite_weights(variables: Mapping[str, tf.Variable], step: int) -> None:
    """Raises NotFiniteError where a weight, or a number that the optimizer keeps for it, is NaN or infinite after a step.

    The loss of a step is that of the weights before it, so the first bad update does not show in a loss yet.
    """
    for name, variable in variables.items():
        if variable.dtype.is_floating and not tf.reduce_all(tf.math.is_finite(variable)):
            raise NotFiniteError(
                f"{name} has values that are NaN or infinite after step {step:,}; nothing is saved from there on. Try a "
                "smaller train.learning_rate or a longer warm-up (train.warmup_ratio)",
                step,
            )


@dataclasses.dataclass(frozen=True)
class RunState:
    """A run that is about to fit.

    Attributes:
      experiment, workdir, placement, manifest, assembled, store: its parts.
      variables: {name: variable} of everything a checkpoint holds.
      first_step, total_steps: where it begins and ends.
      best_score, stale_validations: the best score before it begins, and validations in a row since then without a better one.
      start_up: the phases so far.
    """

    experiment: Experiment
    workdir: str
    placement: Placement
    manifest: Manifest
    assembled: Assembled
    store: CheckpointStore
    variables: Mapping[str, tf.Variable]
    first_step: int
    total_steps: int
    best_score: float | None
    stale_validations: int
    start_up: StartUp

    def records(self) -> dict[str, str]:
        """Returns {split: fingerprint} of the records that decide the run: a resumed run must find the same."""
        return {split: self.manifest.fingerprint(split) for split in ("train", "validation") if split in self.manifest.splits}


class TrainingRhythm(keras.callbacks.Callback):
    """Does what is due after each call into TensorFlow.

    Args:
      run: the run.
      runner: calls the model for validation.
      signals: notes Ctrl-C and SIGTERM.
      one_shape: validation batches all have the same shape, as XLA wants it.
      session: where the variables are while PJRT runs the steps; None where TensorFlow does.
      watch: told of every step; None: nobody watches.
    """

    def __init__(
        self,
        run: RunState,
        runner: inference.BatchRunner,
        signals: StopSignals,
        one_shape: bool = False,
        session: Session | None = None,
        watch: StallWatch | None = None,
    ):
        super().__init__()
        self._supports_tf_logs = True  # numbers stay on the device until a line is due
        self._run, self._runner, self._signals, self._session = run, runner, signals, session
        self._writer = BackgroundWriter(run.store, run.experiment.runtime.background_checkpoints)
        self._watch = watch or StallWatch([], float("inf"))
        self._step = self._saved = run.first_step
        self._log = MetricsLog(run.workdir, run.first_step) if run.placement.is_chief else None
        train, split = run.experiment.train, run.manifest.splits["train"]
        flops = sizes.training_flops_per_token(run.assembled, mean_tokens(split))
        self._meter, self._bar = Meter(run.total_steps, run.first_step, flops), ProgressBar(run.total_steps)
        self._pending: list[tuple[int, int, dict[str, tf.Tensor]]] = []  # first and last step of a call, and its numbers
        self._one_shape, self._stale, self._stops_early = one_shape, run.stale_validations, False
        self._best = run.best_score
        self._validate_every = train.validate_every_steps or train.epoch_steps(split["examples"])

    def on_train_batch_end(self, batch: int, logs: dict[str, tf.Tensor] | None = None) -> None:
        """Counts the steps of the call and does what is due."""
        before, self._step = self._step, self._run.first_step + batch + 1
        self._watch.beat()
        self._pending.append((before + 1, self._step, logs or {}))
        if before == self._run.first_step:
            self._tell_start_up()
        runtime = self._run.experiment.runtime
        if self._is_due(before, runtime.log_every_steps):
            self._log_line()
        else:
            self._bar.update(self._step)
        validates = self._is_due(before, self._validate_every)
        saves = self._is_due(before, runtime.checkpoint_every_steps)
        if validates or saves:
            self._check_pending()  # a model whose loss or weights are no numbers must be neither the best nor the latest
            self._pull()
            check_finite_weights(self._run.variables, self._step)
            with self._meter.paused(), self._watch.paused():
                if validates:
                    self._validate()
                if saves:
                    self._save()
        if self._all_stop():
            self.model.stop_training = True

    def _pull(self, variables: Sequence[tf.Variable] | None = None) -> None:
        """Brings variables (all by default) to where TensorFlow reads them."""
        if self._session is not None:
            self._session.pull(variables)

    def _swap_averages(self) -> None:
        """Exchanges weights and averages, where averages are kept."""
        optimizer = assembly.inner_optimizer(self.model.optimizer)
        optimizer.swap_averages(self.model.trainable_variables)
        if self._session is not None and optimizer.averages:
            self._session.forget()

    def _all_stop(self) -> bool:
        """Whether one worker's signal, or the chief's decision, stops all at this step: they would wait for it for ever."""
        over_workers = self._run.placement.sum_over_workers
        if over_workers(float(self._signals.received is not None or self._stops_early)) == 0:
            return False
        self._stops_early = over_workers(float(self._stops_early)) > 0
        return True

    def _tell_start_up(self) -> None:
        float(self._pending[0][2]["loss"])  # until then the step may still run
        start_up = self._run.start_up
        start_up.done("first step")
        if self._log:
            log.info("%s", start_up.line())
            seconds = {f"{phase.replace(' ', '_')}_seconds": seconds for phase, seconds in start_up.seconds.items()}
            self._log.write(self._step, "start", seconds)

    @functools.cached_property
    def _peak_flops(self) -> float:
        if self._log is None:  # another worker than the chief: nobody reads its figures
            return float("inf")
        with self._meter.paused():
            product = self._run.assembled.encoder.kernels.multiply
            return profiling.peak_flops(self._run.experiment.train.precision, self._run.placement, product)

    def _is_due(self, before: int, every: int) -> bool:
        return self._step // every > before // every or self._step == self._run.total_steps

    def _check_pending(self) -> None:
        """Raises UserError where a loss since the last log line is not finite."""
        losses = [(first, last, float(logs["loss"])) for first, last, logs in self._pending]
        train = self._run.experiment.train
        check_finite(losses, train.precision, train.learning_rate)

    def _log_line(self) -> None:
        self._check_pending()
        taken = {name: [float(logs[name]) for _, _, logs in self._pending] for name in self._pending[0][2]}
        self._pending = []
        self._pull(assembly.inner_optimizer(self.model.optimizer).rate_variables())
        rate = float(tf.convert_to_tensor(self.model.optimizer.learning_rate))
        values = {name: float(np.mean(taken[name])) for name in self.model.step_means} | {"learning_rate": rate}
        tokens, cells, waited = (sum(taken[name]) for name in ("tokens", "cells", "data_wait_seconds"))
        values |= self._meter.lap(self._step, tokens, cells, waited, self._peak_flops)
        if self._log:
            self._bar.clear()
            means = {name: values[name] for name in self.model.step_means}
            log.info("%s", training_line(self._step, self._run.total_steps, means, values))
            self._log.write(self._step, "train", values)

    def _validate(self) -> None:
        run, task = self._run, self._run.assembled.task
        if "validation" not in run.manifest.splits:
            return
        self._swap_averages()
        batches = feeding.evaluation_batches(run.experiment, run.manifest, "validation", task, self._one_shape)
        scores = inference.evaluate(self._runner, batches, task, run.manifest.kept("validation"), tune=True)
        if self._log:
            numbers = {name: value for name, value in scores.items() if isinstance(value, float)}
            chooses = score_named(scores, self._best_name)
            numbers |= {} if chooses is None else {self._best_name: chooses}
            self._bar.clear()
            shown = "  ".join(f"{name} {value:.4f}" for name, value in numbers.items())
            log.info("validation at step %s: %s", f"{self._step:,}", shown)
            self._log.write(self._step, "validation", numbers)
            self._keep_if_best(scores)
        self._swap_averages()

    def _keep_if_best(self, scores: dict[str, Any]) -> None:
        score, patience = score_named(scores, self._best_name), self._run.experiment.train.early_stopping_patience
        if score is None:
            log.warning("%s is undefined on these validation rows; this validation counts as no better", self._best_name)
        elif self._best is None or score > self._best:
            self._best, self._stale = score, 0
            state = {"score": score, "score_name": self._best_name}
            state |= {"tuned": scores["tuned"]} if "tuned" in scores else {}
            self._writer.save_best(self._step, self._run.assembled.variables(), state)
            return
        self._stale += 1
        if patience is not None and self._stale >= patience:
            self._stops_early = True

    @property
    def _best_name(self) -> str:
        return self._run.experiment.train.best_score or self._run.assembled.task.best_score

    def _save(self) -> None:
        if self._run.placement.is_chief:
            progress = {"best_score": self._best, "stale_validations": self._stale, "stopped_early": self._stops_early}
            self._writer.save(self._step, self._run.variables, {"records": self._run.records(), **progress})
            self._keep_averages()
        if self._log:
            self._log.flush()
        self._saved = self._step

    def close(self) -> None:
        """Waits for the checkpoint that is being written; raises UserError where it could not be."""
        self._writer.wait()

    def finish(self) -> int:
        """Saves what is not saved yet and says how to continue; returns the exit status."""
        if self._pending:
            self._log_line()
        if self._saved != self._step:
            self._pull()
            check_finite_weights(self._run.variables, self._step)
            self._save()
        self.close()
        received, total = self._signals.received or "SIGTERM", self._run.total_steps
        if self._step < total and not self._stops_early:
            message = "stopped by %s at step %s of %s; a checkpoint is saved. Rerun the same command to resume"
            log.warning(message, received, f"{self._step:,}", f"{total:,}")
            return EXIT_OF_SIGNAL[received]
        if self._stops_early:
            patience = self._run.experiment.train.early_stopping_patience
            message = "stopped early at step %s of %s: no better %s in %d validations (train.early_stopping_patience)"
            log.info(message, f"{self._step:,}", f"{total:,}", self._best_name, patience)
        if self._log and self._best is not None:
            best = self._run.store.best_state()
            log.info("best validation %s: %.4f at step %s", self._best_name, self._best, f"{best['step'] if best else 0:,}")
        return 0

    def _keep_averages(self) -> None:
        """Without validation nothing chooses a best model: then the averaged weights of the last checkpoint are it."""
        run = self._run
        if assembly.inner_optimizer(self.model.optimizer).averages and "validation" not in run.manifest.splits:
            self._swap_averages()
            self._writer.save_best(self._step, run.assembled.variables(), {"score": None})
            self._swap_averages()
