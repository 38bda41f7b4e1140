"""Puts a run together: encoder, task, model and optimizer; restores what an earlier command saved."""

import dataclasses
import logging
from collections.abc import Callable

import tensorflow as tf
import tf_keras as keras
from transformers import BertConfig

from trainer import files
from trainer.errors import UserError
from trainer.models.encoder import BertEncoder, check_fits, check_layout
from trainer.models.encoder_folders import checkpoint_of, find_encoder
from trainer.models.extension import extension
from trainer.models.initialization import config_of, load_encoder_weights, read_bert_config
from trainer.models.kernels.base import EncoderKernels
from trainer.models.optimizers import (
    OPTIMIZERS,
    AdamW,
    exponential_average,
    gradual_unfreezing,
    layerwise_rates,
    stochastic_average,
)
from trainer.models.regularization import Regularization
from trainer.models.schedules import WarmupDecay
from trainer.models.task_model import TaskModel
from trainer.run import experiment as experiments
from trainer.run import kernels as run_kernels
from trainer.run import seals
from trainer.run.experiment import Experiment
from trainer.run.kernels import StepKernels
from trainer.run.tokenizer import encoder_folder, find_tokenizer, tokenizer_folder, tokenizer_of
from trainer.runtime import distribution
from trainer.runtime.checkpoints import CheckpointStore, check_folder
from trainer.runtime.distribution import Placement
from trainer.tasks.base import Task
from trainer.text.tokenizer import Tokenizer, load_saved_tokenizer

log = logging.getLogger(__name__)
ENCODER_CONFIG = "checkpoints/config.json"


def place(experiment: Experiment) -> Placement:
    """Chooses the devices to train on, logs the choice, and seeds what draws outside of the steps."""
    if experiment.train.deterministic_ops:
        tf.config.experimental.enable_op_determinism()
    runtime = experiment.runtime
    placement = distribution.choose(runtime.distribution, runtime.tpu, runtime.cpu_devices, runtime.tpu_connect_seconds)
    log.info("%s", placement.reason)
    keras.utils.set_random_seed(experiment.train.seed)
    return placement


def bert_config_of(experiment: Experiment, tokenizer: Tokenizer) -> BertConfig:
    """Returns the encoder's BertConfig, with the run's dropout rates, vocabulary and positions."""
    encoder, folder = experiment.encoder, encoder_folder(experiment)
    config = read_bert_config(folder or encoder.config_path or "")
    if encoder.dropout_rate is not None:
        config.hidden_dropout_prob = encoder.dropout_rate
    if encoder.attention_dropout_rate is not None:
        config.attention_probs_dropout_prob = encoder.attention_dropout_rate
    if folder is None or encoder.extend_vocabulary:
        config.vocab_size, config.pad_token_id = tokenizer.vocabulary_size, tokenizer.pad_id
    if encoder.layers is not None:
        if encoder.layers > config.num_hidden_layers:
            raise UserError(f"encoder.layers={encoder.layers}, but the encoder has {config.num_hidden_layers}; ask for fewer")
        config.num_hidden_layers = encoder.layers
    if encoder.max_position_embeddings is not None:
        if folder is not None and encoder.max_position_embeddings < config.max_position_embeddings:
            raise UserError(
                f"encoder.max_position_embeddings={encoder.max_position_embeddings}, but {encoder.init_from} has "
                f"{config.max_position_embeddings}; leave it out, or ask for more"
            )
        config.max_position_embeddings = encoder.max_position_embeddings
    return config


def asked_encoder(experiment: Experiment) -> tuple[Tokenizer, BertConfig]:
    """Returns the tokenizer and the encoder's sizes that a config asks for."""
    tokenizer = find_tokenizer(experiment)
    return tokenizer, bert_config_of(experiment, tokenizer)


def saved_encoder(workdir: str) -> tuple[Tokenizer, BertConfig]:
    """Returns the tokenizer and the encoder's sizes that a run saved: where they came from may have changed, or be gone.

    Raises:
      UserError: nothing was trained there yet; the tokenizer or the sizes are not what was saved.
    """
    seals.check(workdir)
    path = files.join(workdir, ENCODER_CONFIG)
    if not files.exists(path):
        raise UserError(f"--workdir: {workdir} has no trained model yet; run train first")
    return load_saved_tokenizer(tokenizer_folder(workdir)), config_of(files.read_json(path))


def check_encoder(experiment: Experiment, tokenizer: Tokenizer, bert_config: BertConfig) -> None:
    """Raises UserError where tokenizer, sequence length and encoder do not go together."""
    token_types = 2 if any(name.endswith("token_type_ids") for name in experiment.build_task(tokenizer).features()) else 1
    problem = check_fits(bert_config, tokenizer.vocabulary_size, experiment.data.max_seq_length, token_types)
    problem = problem or check_layout(bert_config, experiment.data.max_examples_per_row, experiment.train.precision)
    if problem:
        raise UserError(problem)
    if bert_config.pad_token_id not in (None, tokenizer.pad_id):
        raise UserError(
            f"the encoder's pad_token_id is {bert_config.pad_token_id}, the tokenizer's [PAD] is {tokenizer.pad_id}: "
            "this vocabulary is not the encoder's"
        )


@dataclasses.dataclass(frozen=True)
class Assembled:
    """A task with its model."""

    task: Task
    encoder: BertEncoder
    model: TaskModel

    def variables(self) -> dict[str, tf.Variable]:
        """Returns {name: variable} of the model's weights, as checkpoints store them."""
        named = {variable.name.removesuffix(":0"): variable for variable in self.model.weights}
        if len(named) != len(self.model.weights):
            raise RuntimeError("two weights share one name; checkpoints could not tell them apart")
        return named

    def head_variables(self) -> list[tf.Variable]:
        """Returns the weights that are not the encoder's."""
        encoders = {id(variable) for variable in self.encoder.model.weights}
        return [variable for variable in self.model.weights if id(variable) not in encoders]


def build(
    experiment: Experiment,
    tokenizer: Tokenizer,
    bert_config: BertConfig,
    kernels: EncoderKernels | None = None,
    task: Task | None = None,
) -> Assembled:
    """Builds encoder and task model with random weights; call inside the strategy's scope.

    Args:
      experiment, tokenizer, bert_config: the run.
      kernels: compute the encoder.
      task: another one than the config's.
    """
    check_encoder(experiment, tokenizer, bert_config)
    task = task or experiment.build_task(tokenizer)
    encoder = BertEncoder(bert_config, experiment.train.precision, experiment.train.recompute_activations, kernels)
    return Assembled(task, encoder, task.build_model(encoder))


def initialize_encoder(experiment: Experiment, assembled: Assembled) -> None:
    """Loads `encoder.init_from` into the encoder and freezes what the config says; logs both.

    Raises:
      UserError: see `initialization.load_encoder_weights`; more frozen layers than there are.
    """
    folder = encoder_folder(experiment)
    if folder is None:
        log.info("encoder weights: random (seed %d)", experiment.train.seed)
    else:
        head = assembled.head_variables() if assembled.task.loads_head else ()
        before = None
        if experiment.encoder.extend_vocabulary:
            before = tokenizer_of(folder, experiment.encoder.lowercase)
        positions = assembled.encoder.bert_config.max_position_embeddings
        extend = extension(before, assembled.task.tokenizer, positions)
        checkpoint = checkpoint_of(experiment.encoder.init_from)
        allowed = experiment.encoder.allow_missing
        report = load_encoder_weights(assembled.encoder, folder, allowed, head, extend, checkpoint)
        log.info("%s", "\n".join(report.lines()))
    for line in assembled.task.warm_start(assembled.model, assembled.encoder, find_encoder):
        log.info("%s", line)
    if experiment.encoder.reinit_layers:
        try:
            assembled.encoder.reinitialize(experiment.encoder.reinit_layers)
        except ValueError as error:
            raise UserError(f"encoder.reinit_layers: {error}") from None
        log.info("random again: the pooler and the top %d layer(s)", experiment.encoder.reinit_layers)
    try:
        frozen = assembled.encoder.freeze(experiment.encoder.freeze_layers)
    except ValueError as error:
        raise UserError(f"encoder.freeze_layers: {error}") from None
    if frozen:
        log.info("frozen: %s", ", ".join(frozen))


def build_optimizer(
    experiment: Experiment, encoder: BertEncoder, total_steps: int, epoch_steps: int, rate_factor: float = 1.0
) -> keras.optimizers.Optimizer:
    """Returns the optimizer of the config; with float16, wrapped to scale the loss dynamically.

    Args:
      experiment, encoder, total_steps: the run.
      epoch_steps: of a pass over the training examples.
      rate_factor: multiplies the learning rate.
    """
    train = experiment.train
    peak, warmup_steps = train.learning_rate * rate_factor, round(train.warmup_ratio * total_steps)
    schedule = WarmupDecay(peak, warmup_steps, total_steps, train.schedule, train.schedule_power)
    depths, unfreezing = encoder.bert_config.num_hidden_layers + 1, train.unfreeze_every_epochs
    optimizer = OPTIMIZERS[train.optimizer](
        schedule,
        weight_decay=train.weight_decay,
        beta_1=train.beta_1,
        beta_2=train.beta_2,
        epsilon=train.epsilon,
        max_gradient_norm=train.max_gradient_norm,
        rate_of=layerwise_rates(encoder.depth_of, depths, train.layerwise_lr_decay),
        average_rate=_average_rate(experiment, total_steps, epoch_steps),
        frozen_until=gradual_unfreezing(encoder.depth_of, depths, round(unfreezing * epoch_steps)) if unfreezing else None,
        update_at_once=encoder.kernels.adamw_update(),
    )
    return keras.mixed_precision.LossScaleOptimizer(optimizer) if train.precision == "float16" else optimizer


def _average_rate(experiment: Experiment, total_steps: int, epoch_steps: int) -> Callable[[tf.Tensor], tf.Tensor] | None:
    """Returns how the averages of the weights go on; None where none are kept."""
    train = experiment.train
    if train.swa_start is not None:
        return stochastic_average(round(train.swa_start * total_steps), train.swa_every_steps or epoch_steps)
    return exponential_average(train.ema_decay) if train.ema_decay else None


def regularization_of(experiment: Experiment, assembled: Assembled) -> Regularization:
    """Returns what a step does besides; call inside the strategy's scope, where the weights are what the training begins with.

    Raises:
      UserError: adversarial training where the word embeddings do not train.
    """
    train, encoder = experiment.train, assembled.encoder
    trainable = {id(variable) for variable in assembled.model.trainable_variables}
    embeddings = encoder.bert.embeddings.weight
    if train.adversarial_epsilon and id(embeddings) not in trainable:
        raise UserError(
            "train.adversarial_epsilon moves the word embeddings, and encoder.freeze_layers freezes them; set one to 0"
        )
    mixed = [variable for variable in encoder.model.weights if variable.name.endswith("kernel:0") and id(variable) in trainable]
    starts = [
        tf.Variable(variable, trainable=False, name=f"start/{variable.name.removesuffix(':0')}")
        for variable in (mixed if train.mixout_prob else ())
    ]
    return Regularization(
        r_drop_alpha=train.r_drop_alpha,
        adversarial_epsilon=train.adversarial_epsilon,
        word_embeddings=embeddings,
        mixout_prob=train.mixout_prob,
        starts=list(zip(mixed, starts, strict=False)),
    )


def compile_model(
    experiment: Experiment,
    assembled: Assembled,
    task: Task,
    optimizer: keras.optimizers.Optimizer,
    step: StepKernels,
    micro_rows: int | None,
    regularization: Regularization,
) -> None:
    """Makes a model ready for `fit`.

    Args:
      experiment, assembled: the run and its model.
      task: gives the objective.
      optimizer: built.
      step: what computes the step.
      micro_rows: of `feeding.BatchShape`.
      regularization: of `regularization_of`.
    """
    train, steps = experiment.train, experiment.train.gradient_accumulation_steps
    assembled.model.prepare_training(task, train.seed, steps, micro_rows, step.whole, step.target, regularization)
    assembled.model.compile(
        optimizer=optimizer,
        jit_compile=step.whole and step.target != "tpu",
        steps_per_execution=train.steps_per_execution,
    )


def inner_optimizer(optimizer: keras.optimizers.Optimizer) -> AdamW:
    """Returns the optimizer inside a loss-scaling one, or itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def optimizer_variables(optimizer: keras.optimizers.Optimizer) -> dict[str, tf.Variable]:
    """Returns {name: variable} of the optimizer's state, loss scale included."""
    named = inner_optimizer(optimizer).named_slots()
    if optimizer is not inner_optimizer(optimizer):
        scale = optimizer._loss_scale
        named |= {"loss_scale": scale._current_loss_scale, "good_steps": scale._counter}
    return {f"optimizer/{name}": variable for name, variable in named.items()}


def store_of(workdir: str, experiment: Experiment) -> CheckpointStore:
    """Returns the checkpoints of a run."""
    return CheckpointStore(files.join(workdir, "checkpoints"), experiment.runtime.keep_checkpoints)


@dataclasses.dataclass(frozen=True)
class Restored:
    """A finished or half-finished run, read back from its workdir."""

    experiment: Experiment
    tokenizer: Tokenizer
    assembled: Assembled
    step: int

    def rebuilt(self, kernels: EncoderKernels) -> Assembled:
        """Returns the same model computed by other kernels, for an export: over the same encoder weights, with equal heads."""
        encoder = self.assembled.encoder
        again = BertEncoder(encoder.bert_config, self.experiment.train.precision, kernels=kernels, model=encoder.model)
        rebuilt = Assembled(self.assembled.task, again, self.assembled.task.build_model(again))
        values = self.assembled.variables()
        for name, variable in rebuilt.variables().items():
            variable.assign(values[name])
        return rebuilt


def restore(workdir: str, overrides: tuple[str, ...] = (), whole: bool = False) -> Restored:
    """Restores the best model of a workdir (the latest where nothing was validated).

    Args:
      workdir: of a run.
      overrides: `--set` changes for this command only, as data.test=other.csv.
      whole: XLA will compile a batch's outputs as one program, as PJRT runs it.

    Raises:
      UserError: no run there, no checkpoint yet, or a damaged one.
    """
    check_folder(workdir)
    experiment = experiments.load_workdir(workdir, overrides)
    if experiment.train.precision == "auto":
        raise UserError(
            "train.precision=auto is for train and benchmark; name float32, bfloat16 or float16, or leave it out: the run's own"
        )
    tokenizer, bert_config = saved_encoder(workdir)
    kernels = run_kernels.for_inference(experiment.train, bert_config, whole)
    assembled = build(experiment, tokenizer, bert_config, kernels)
    state = store_of(workdir, experiment).restore_best(assembled.variables())
    if state.get("tuned"):
        experiment = experiment.with_tuned(state["tuned"])
        assembled = dataclasses.replace(assembled, task=experiment.build_task(tokenizer))
    return Restored(experiment, tokenizer, assembled, state["step"])
