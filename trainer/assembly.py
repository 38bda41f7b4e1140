"""Puts a run together: tokenizer, encoder, task, model, optimizer; restores what an earlier command saved."""

import dataclasses
import logging

import tensorflow as tf
import tf_keras as keras
from transformers import BertConfig

from trainer import experiment as experiments
from trainer import files
from trainer.data.records import Manifest, mean_tokens
from trainer.errors import UserError
from trainer.experiment import Experiment, Precision, TrainConfig
from trainer.models import native_forward
from trainer.models.encoder import BertEncoder, check_fits
from trainer.models.extension import extension
from trainer.models.initialization import load_encoder_weights, read_bert_config
from trainer.models.optimizers import OPTIMIZERS, AdamW, layerwise_rates
from trainer.models.schedules import WarmupDecay
from trainer.models.task_model import TaskModel
from trainer.run_tokenizer import encoder_folder, tokenizer_folder, tokenizer_of
from trainer.runtime import distribution, native
from trainer.runtime.checkpoints import CheckpointStore
from trainer.runtime.distribution import Placement
from trainer.runtime.fusion import quieten
from trainer.runtime.precision import choose as choose_precision
from trainer.tasks.base import Task
from trainer.text.tokenizer import Tokenizer, load_tokenizer

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
    if encoder.max_position_embeddings is not None:
        if folder is not None and encoder.max_position_embeddings < config.max_position_embeddings:
            raise UserError(
                f"encoder.max_position_embeddings={encoder.max_position_embeddings}, but {encoder.init_from} has "
                f"{config.max_position_embeddings}; leave it out, or ask for more"
            )
        config.max_position_embeddings = encoder.max_position_embeddings
    return config


def check_encoder(experiment: Experiment, tokenizer: Tokenizer, bert_config: BertConfig) -> None:
    """Raises UserError where tokenizer, sequence length and encoder do not go together."""
    problem = check_fits(bert_config, tokenizer.vocabulary_size, experiment.data.max_seq_length)
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


def build(experiment: Experiment, tokenizer: Tokenizer, bert_config: BertConfig) -> Assembled:
    """Builds encoder and task model with random weights; call inside the strategy's scope."""
    quieten()
    check_encoder(experiment, tokenizer, bert_config)
    task = experiment.build_task(tokenizer)
    encoder = BertEncoder(bert_config, experiment.train.precision, experiment.train.recompute_activations)
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
        report = load_encoder_weights(assembled.encoder, folder, experiment.encoder.allow_missing, head, extend)
        log.info("%s", "\n".join(report.lines()))
    try:
        frozen = assembled.encoder.freeze(experiment.encoder.freeze_layers)
    except ValueError as error:
        raise UserError(f"encoder.freeze_layers: {error}") from None
    if frozen:
        log.info("frozen: %s", ", ".join(frozen))


def build_optimizer(experiment: Experiment, encoder: BertEncoder, total_steps: int) -> keras.optimizers.Optimizer:
    """Returns the optimizer of the config; with float16, wrapped to scale the loss dynamically."""
    train = experiment.train
    schedule = WarmupDecay(
        train.learning_rate, round(train.warmup_rate * total_steps), total_steps, train.schedule, train.schedule_power
    )
    depths = encoder.bert_config.num_hidden_layers + 1
    optimizer = OPTIMIZERS[train.optimizer](
        schedule,
        weight_decay=train.weight_decay,
        beta_1=train.beta_1,
        beta_2=train.beta_2,
        epsilon=train.epsilon,
        max_gradient_norm=train.max_gradient_norm,
        rate_of=layerwise_rates(encoder.depth_of, depths, train.layer_decay_rate),
        ema_decay_rate=train.ema_decay_rate,
    )
    return keras.mixed_precision.LossScaleOptimizer(optimizer) if train.precision == "float16" else optimizer


def with_precision(experiment: Experiment, placement: Placement, begun_with: Precision | None = None) -> Experiment:
    """Returns the experiment with `train.precision: auto` replaced by what is best on these devices; logs it.

    Args:
      begun_with: the precision of the run that is gone on with, if there is one.
    """
    if experiment.train.precision != "auto":
        return experiment
    precision: Precision
    precision, why = (begun_with, "as the run began") if begun_with else choose_precision(placement)
    log.info("precision: %s (auto: %s)", precision, why)
    return dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, precision=precision))


def compile_model(
    experiment: Experiment, assembled: Assembled, task: Task, optimizer: keras.optimizers.Optimizer, placement: Placement
) -> None:
    """Makes a model ready for `fit` as the config says; `task` gives the objective."""
    train, encoder = experiment.train, assembled.encoder
    step = step_kernels(train, encoder.bert_config, placement)
    log.info("step: %s", step.line)
    encoder.native = inner_optimizer(optimizer).native = step.native
    assembled.model.prepare_training(task, train.seed, train.accumulation_steps, step.whole)
    assembled.model.compile(
        optimizer=optimizer,
        jit_compile=step.whole and placement.kind != "tpu",
        steps_per_execution=train.steps_per_execution,
    )


@dataclasses.dataclass(frozen=True)
class StepKernels:
    """What a training step is computed by.

    Attributes:
      whole: XLA compiles the step as one program.
      native: the layers and AdamW are operations of our own.
      line: says so and why, for the log.
    """

    whole: bool
    native: bool
    line: str


def step_kernels(train: TrainConfig, bert_config: BertConfig, placement: Placement) -> StepKernels:
    """Chooses by the config, the devices and what is measured on them.

    Raises:
      UserError: `train.kernels: native` cannot be had here.
    """
    if placement.kind == "tpu":
        return StepKernels(True, False, "compiled whole by XLA (a TPU)")
    device = "GPU" if placement.has_gpu else "CPU"
    why = f"auto: a {device}" if train.jit_compile is None else f"train.jit_compile={str(train.jit_compile).lower()}"
    # Several replicas add up their gradients inside of the step, which no compiled program of MirroredStrategy's can.
    if train.jit_compile or (train.jit_compile is None and placement.has_gpu and placement.replicas == 1):
        if train.kernels == "native":
            raise UserError(f"train.kernels=native, but XLA compiles the whole step ({why}); set train.jit_compile=false")
        return StepKernels(True, False, f"compiled whole by XLA ({why})")
    if placement.has_gpu:
        return StepKernels(False, False, f"matrix products by the GPU's library, what lies between compiled by XLA ({why})")
    native, reason = native_layers(train, bert_config)
    if native or (train.kernels == "native" and native is None):
        return StepKernels(False, True, f"layers and AdamW by operations of our own ({reason})")
    if train.kernels == "native":
        raise UserError(f"train.kernels=native: {reason}; train.kernels=auto takes XLA's kernels instead")
    return StepKernels(False, False, f"matrix products by oneDNN, what lies between compiled by XLA ({why}; {reason})")


def native_layers(train: TrainConfig, bert_config: BertConfig) -> tuple[bool | None, str]:
    """Returns whether our own operations are to run the layers, and why: None where they could, but are slower here."""
    if train.kernels == "xla":
        return False, "train.kernels=xla"
    problem = native_forward.unfit(bert_config, train.precision)
    if problem:
        return False, problem
    dtype = tf.as_dtype(train.precision)
    times = native.product_seconds(dtype, with_ours=False) / native.product_seconds(dtype, with_ours=True)
    told = f"our {train.precision} products are {times:.2f} x as fast as oneDNN's here"
    return (True if times > native_forward.FAST_ENOUGH else None), told


def choose_inference_kernels(assembled: Assembled, train: TrainConfig) -> None:
    """Lets our own operations run a model's layers in evaluation and prediction, where they can be had and are as fast.

    Nothing fails without them, also where the run was trained by `train.kernels: native`: this may be another machine.
    """
    native, reason = native_layers(train, assembled.encoder.bert_config)
    assembled.encoder.native = bool(native)
    log.debug("layers: %s (%s)", "operations of our own" if native else "TensorFlow's operations", reason)


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
    """A finished or half-finished run, read back from its workdir alone."""

    experiment: Experiment
    tokenizer: Tokenizer
    assembled: Assembled
    step: int


def restore(workdir: str, overrides: tuple[str, ...] = ()) -> Restored:
    """Restores the best model of a workdir (the latest where nothing was validated).

    Args:
      workdir: of a run.
      overrides: `--set` changes for this command only, as data.test=other.csv.

    Raises:
      UserError: no run there, no checkpoint yet, or a damaged one.
    """
    experiment = experiments.load_workdir(workdir, overrides)
    if experiment.train.precision == "auto":
        raise UserError(
            "train.precision=auto is for train and benchmark; name float32, bfloat16 or float16, or leave it out: the run's own"
        )
    if not files.exists(files.join(workdir, ENCODER_CONFIG)):
        raise UserError(f"--workdir: {workdir} has no trained model yet; run train first")
    tokenizer = load_tokenizer(tokenizer_folder(workdir))
    bert_config = BertConfig.from_dict(files.read_json(files.join(workdir, ENCODER_CONFIG)))
    assembled = build(experiment, tokenizer, bert_config)
    state = store_of(workdir, experiment).restore_best(assembled.variables())
    return Restored(experiment, tokenizer, assembled, state["step"])


def describe_size(assembled: Assembled) -> str:
    """Returns the model's size for the header: "22.7 M parameters (22.7 M train)"."""
    total = sum(variable.shape.num_elements() for variable in assembled.model.weights)
    trained = sum(variable.shape.num_elements() for variable in assembled.model.trainable_weights)
    return f"{total / 1e6:.1f} M parameters ({trained / 1e6:.1f} M train)"


def training_flops_per_token(assembled: Assembled, mean_length: float) -> float:
    """Returns the model FLOPs of a training step for each token: matrix products only, backward twice the forward.

    Source: Chowdhery et al. 2022 (PaLM), appendix B: 6 FLOPs a weight, and 12 · layers · hidden · length for attention;
    embeddings and the pooler do not count, a head where the task says so (`Task.head_flops_per_token`). What padding or a
    wider row costs is no model FLOP; what reading a few tokens only saves in the last layer still counts, so that figures
    compare with those of other programs.

    Args:
      assembled: the task and its model.
      mean_length: tokens of an example.
    """
    bert_config = assembled.encoder.bert_config
    hidden, inner, layers = bert_config.hidden_size, bert_config.intermediate_size, bert_config.num_hidden_layers
    weights = layers * (4 * hidden * hidden + 2 * hidden * inner)
    return 6.0 * weights + 12.0 * layers * hidden * mean_length + assembled.task.head_flops_per_token(bert_config)


def split_summary(manifest: Manifest, split: str) -> str:
    """Returns a split's size for the header: "10,003 examples of 16.2 tokens"."""
    summary = manifest.splits[split]
    return f"{summary['examples']:,} examples of {mean_tokens(summary):.1f} tokens on average"
