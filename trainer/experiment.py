"""The typed schema of a run: what a config may say, loading it, comparing it with the run's own, saving it."""

import dataclasses
import importlib.metadata
import platform
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from trainer import __version__, config, files
from trainer.config import check
from trainer.data.sources import Rejected, Row, SourceFormat, read_rows
from trainer.errors import UserError
from trainer.tasks import task_module
from trainer.tasks.base import Task, TextFields
from trainer.text.tokenizer import Tokenizer

CONFIG_FILE = "config.yaml"
VERSIONS_FILE = "versions.json"
Precision = Literal["auto", "float32", "bfloat16", "float16"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The `encoder` section: where the encoder comes from and how much of it trains."""

    init_from: str = "random"
    """A Hub id, a folder (Hugging Face files or a Google TF1/TF2 checkpoint), an earlier workdir, or `random`."""
    revision: str | None = None
    """The Hub's branch, tag or commit."""
    config_path: str | None = None
    """With init_from=random: the folder or config.json that gives the sizes; the vocabulary's size is the tokenizer's."""
    vocabulary_path: str | None = None
    """A folder with the tokenizer's files, or a vocab.txt, where the encoder's own folder has none."""
    lowercase: bool | None = None
    """Overrides what the tokenizer's files say; null keeps it."""
    extend_vocabulary: bool = False
    """vocabulary_path has the encoder's own tokens first and new ones behind them; these begin as the mean of their pieces."""
    max_position_embeddings: int | None = None
    """Positions, where more are wanted than init_from has; the further ones begin as copies of its own."""
    allow_missing: tuple[str, ...] = ()
    """Patterns of encoder weights that may be missing from init_from and stay random, as [pooler/*]."""
    freeze_layers: int = 0
    """Layers that do not train, from the embeddings up; -1 freezes the whole encoder (feature-based transfer)."""
    dropout_rate: float | None = None
    """Dropout in the encoder's hidden layers; null keeps its config's."""
    attention_dropout_rate: float | None = None
    """Dropout of attention weights; null keeps its config's."""

    def __post_init__(self):
        check(self.freeze_layers >= -1, "freeze_layers", f"must be -1 or more, got {self.freeze_layers}")
        for field in ("dropout_rate", "attention_dropout_rate"):
            rate = getattr(self, field)
            check(rate is None or 0 <= rate < 1, field, f"must be in [0, 1), got {rate}")
        check(
            not self.extend_vocabulary or (self.vocabulary_path is not None and self.init_from != "random"),
            "extend_vocabulary",
            "needs encoder.init_from, the encoder, and encoder.vocabulary_path, the longer vocabulary",
        )
        needs_sizes = self.init_from != "random" or self.config_path is not None
        check(needs_sizes, "init_from", "'random' needs encoder.config_path, the sizes of the encoder")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The `data` section: sources, columns, records."""

    train: str | None = None
    """Training rows: a path or glob (csv, tsv, jsonl, parquet, txt; local or gs://), or tfds:name/config:split."""
    validation: str | None = None
    """Rows that choose the best checkpoint."""
    test: str | None = None
    """Rows for the final score."""
    text_columns: tuple[str, ...] = ("text",)
    """The column of the text, or two columns for pairs."""
    label_column: str = "label"
    """The column of the label."""
    format: Literal["auto", "csv", "tsv", "jsonl", "parquet", "txt", "documents", "tfrecord"] = "auto"
    """The files' format; auto goes by their ending. documents: text with blank lines between; tfrecord: Google's for BERT."""
    column_names: tuple[str, ...] = ()
    """The columns of csv and tsv files that have no header line."""
    delimiter: str | None = None
    """Between the columns of csv and tsv files; null: a comma in csv, a tab in tsv."""
    quoting: Literal["auto", "standard", "none"] = "auto"
    """Double quotes in csv and tsv; auto: standard in csv, none in tsv (as GLUE's files)."""
    max_seq_length: int = 128
    """Tokens of an example, [CLS] and [SEP] included; longer texts are cut. No packed row is longer."""
    max_examples_per_row: int = 16
    """Examples packed into one row; 1 gives the classic layout."""
    length_buckets: bool = False
    """With max_examples_per_row=1: batches of examples of like length, each padded to its longest."""
    records_dir: str | None = None
    """Where records go; null: <workdir>/records. Where no rows are named: prepared records, used as they are."""
    shards: int = 0
    """TFRecord shards of a split; 0: one for every 1,024 examples, up to 16. Of a corpus: about so many; 0: by its size."""
    workers: int = 0
    """Processes that prepare records; 0: one a core when there are many rows."""
    max_rejected_rate: float = 0.01
    """Share of rows that may be rejected before the command stops; they are in rejected.jsonl either way."""
    shuffle_buffer_examples: int = 100_000
    """Examples held for shuffling; at least the number of training examples gives a perfect shuffle."""

    def __post_init__(self):
        check(1 <= len(self.text_columns) <= 2, "text_columns", f"one or two columns, got {len(self.text_columns)}")
        is_one = self.delimiter is None or len(self.delimiter) == 1
        check(is_one, "delimiter", f"one character, got {self.delimiter!r}")
        check(self.max_seq_length >= 8, "max_seq_length", f"must be 8 or more, got {self.max_seq_length}")
        check(
            self.max_examples_per_row >= 1,
            "max_examples_per_row",
            f"must be 1 or more, got {self.max_examples_per_row}",
        )
        check(
            not self.length_buckets or self.max_examples_per_row == 1,
            "length_buckets",
            f"goes with data.max_examples_per_row=1; rows with up to {self.max_examples_per_row} examples need none",
        )
        check(0 <= self.max_rejected_rate <= 1, "max_rejected_rate", f"must be in [0, 1], got {self.max_rejected_rate}")
        for field in ("shards", "workers", "shuffle_buffer_examples"):
            check(getattr(self, field) >= 0, field, f"must be 0 or more, got {getattr(self, field)}")

    def source_format(self, txt_as: str = "txt") -> SourceFormat:
        """Returns how to read sources, those that end in .txt as `txt_as`."""
        return SourceFormat(self.format, self.column_names, self.quoting, self.delimiter or "", txt_as)

    @property
    def names_records_only(self) -> bool:
        """Whether records are all that is named: they are used as they are, wherever their rows may be."""
        return bool(self.records_dir) and not self.sources()

    def require_rows(self) -> None:
        """Raises UserError where no rows are named."""
        if not self.sources():
            raise UserError("data.train is not given: name the training rows, as --set data.train=my.csv")

    def require_train(self) -> None:
        """Raises UserError where neither training rows nor records only are named."""
        if self.train is None and not self.names_records_only:
            raise UserError(
                "data.train is not given: name the training rows, as --set data.train=my.csv; or no rows at all but "
                "data.records_dir, a folder of prepared records"
            )

    def sources(self) -> dict[str, str]:
        """Returns {split: source} of the splits that are given."""
        given = {"train": self.train, "validation": self.validation, "test": self.test}
        return {split: source for split, source in given.items() if source}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The `train` section: length, rates, numerics."""

    batch_size: int = 32
    """Examples of one step (one optimizer update), over all replicas and accumulation steps."""
    steps: int | None = None
    """Optimizer updates; give this or epochs."""
    epochs: float | None = None
    """Passes over the training examples; 3 where neither is given."""
    learning_rate: float = 5e-5
    """The highest learning rate."""
    optimizer: Literal["adamw", "lamb"] = "adamw"
    """adamw: no decay on biases and LayerNorm, bias correction; lamb: with a step by each matrix' norm, for huge batches."""
    schedule: Literal["linear", "cosine", "polynomial", "constant"] = "linear"
    """How the rate falls after warm-up."""
    schedule_power: float = 2.0
    """The power of the polynomial schedule."""
    warmup_rate: float = 0.1
    """Share of the steps in which the rate rises from 0."""
    weight_decay: float = 0.01
    """Decoupled weight decay on matrices."""
    beta_1: float = 0.9
    """Adam's decay of the first moment."""
    beta_2: float = 0.999
    """Adam's decay of the second moment."""
    epsilon: float = 1e-6
    """Adam's epsilon."""
    layer_decay_rate: float = 1.0
    """Each layer's rate is this times the next one's above it; 1.0 gives all the same."""
    max_gradient_norm: float = 1.0
    """Gradients are clipped to this global norm; 0 switches it off."""
    accumulation_steps: int = 1
    """Micro-batches that make one step; the result is the large batch's."""
    ema_decay_rate: float = 0.0
    """Over 0 (0.999 is usual): an average of the weights is kept, evaluated and exported."""
    precision: Precision = "float32"
    """Of matrix products; weights, LayerNorm and the loss stay float32, and softmax in training. float16 scales the loss. auto:
    bfloat16 where its products are faster here (measured on a CPU), else float32; a run keeps what it began with."""
    jit_compile: bool | None = None
    """Compile the step whole with XLA (always so on TPU); null: what is fastest, on GPUs the whole step, on a CPU its parts."""
    kernels: Literal["auto", "native", "xla"] = "auto"
    """Of the layers and AdamW on a CPU: operations of this project, which a C++ compiler makes for the processor, or XLA's
    between products of TensorFlow's library; auto: the former, where they can be had and their products are as fast. The
    layers in evaluation and prediction, too; there native is as auto."""
    recompute_activations: bool = False
    """Keep each layer's input only and compute the layer again in the backward pass: less memory, about a third slower."""
    steps_per_execution: int = 1
    """Steps in one call into TensorFlow; more cost less Python, but logs and saves come only between calls."""
    seed: int = 1
    """Of the data order, dropout and new weights."""
    deterministic_ops: bool = False
    """Only operations that give the same bits every time (slower on GPU)."""
    validate_every_steps: int | None = None
    """Steps between validations; null: once an epoch."""

    def __post_init__(self):
        check(
            self.steps is None or self.epochs is None,
            "epochs",
            f"both train.steps={self.steps} and train.epochs={self.epochs} are given; keep one",
        )
        positive = ("batch_size", "steps", "epochs", "learning_rate", "accumulation_steps", "steps_per_execution")
        for field in (*positive, "layer_decay_rate", "validate_every_steps", "epsilon"):
            value = getattr(self, field)
            check(value is None or value > 0, field, f"must be over 0, got {value}")
        for field in ("warmup_rate", "beta_1", "beta_2", "ema_decay_rate"):
            value = getattr(self, field)
            check(0 <= value < 1, field, f"must be in [0, 1), got {value}")
        for field in ("weight_decay", "max_gradient_norm"):
            check(getattr(self, field) >= 0, field, f"must be 0 or more, got {getattr(self, field)}")

    def total_steps(self, examples: int) -> int:
        """Returns the number of updates for so many training examples."""
        if self.steps is not None:
            return self.steps
        epochs = 3.0 if self.epochs is None else self.epochs
        return max(round(epochs * examples / self.batch_size), 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """The `runtime` section: devices, checkpoints, logs."""

    distribution: Literal["auto", "tpu", "mirrored", "multi_worker", "default"] = "auto"
    """The devices: auto takes a TPU that is named, else a multi-worker cluster (TF_CONFIG), else all GPUs, else the CPU."""
    tpu: str | None = None
    """The TPU: its name, or local on a TPU VM. --tpu sets it."""
    tpu_connect_seconds: int = 120
    """How long to wait for a TPU before giving up."""
    cpu_devices: int = 1
    """Logical devices the CPU is cut into, to try several replicas without GPUs."""
    static_rows: int | None = None
    """Packed rows of each replica's batch, where one shape is wanted (TPU): null works it out."""
    checkpoint_every_steps: int = 1000
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Checkpoints kept, besides the best."""
    log_every_steps: int = 50
    """Steps between log lines."""

    def __post_init__(self):
        for field in (
            "checkpoint_every_steps",
            "keep_checkpoints",
            "log_every_steps",
            "cpu_devices",
            "tpu_connect_seconds",
        ):
            check(getattr(self, field) >= 1, field, f"must be 1 or more, got {getattr(self, field)}")
        check(
            self.static_rows is None or self.static_rows >= 1,
            "static_rows",
            f"must be 1 or more, got {self.static_rows}",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """The `export` section: what a SavedModel is made for."""

    kernels: Literal["tensorflow", "native"] = "tensorflow"
    """tensorflow: for any server; native: tokenizer and encoder are operations of this project, several times as fast for one
    text. They lie beside the graph, compiled for the processor of the machine that exports, and a server loads them first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A run's config, resolved."""

    task: Any
    encoder: EncoderConfig
    data: DataConfig
    train: TrainConfig
    runtime: RuntimeConfig
    export: ExportConfig

    def sections(self) -> dict[str, Any]:
        """Returns {section name: section}, in order."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def fields(self) -> TextFields:
        """Returns what the task needs to know of the data section."""
        data = self.data
        return TextFields(data.text_columns, data.label_column, data.max_seq_length, data.max_examples_per_row)

    def rows(self, split: str) -> Iterator[Row | Rejected]:
        """Yields the rows of a split's source."""
        source_format = self.data.source_format(task_module(self.task.name).Task.txt_as)
        return read_rows(self.data.sources()[split], f"data.{split}", source_format)

    def build_task(self, tokenizer: Tokenizer) -> Task:
        """Returns the task of this run."""
        return task_module(self.task.name).Task(self.task, self.fields(), tokenizer)


def schema(task_name: str) -> config.Schema:
    """Returns {section: dataclass} of a run of this task."""
    return {
        "task": task_module(task_name).Config,
        "encoder": EncoderConfig,
        "data": DataConfig,
        "train": TrainConfig,
        "runtime": RuntimeConfig,
        "export": ExportConfig,
    }


def load(config_path: str | None, overrides: Sequence[str] = (), tpu: str | None = None) -> Experiment:
    """Loads a config: dataclass defaults, then the file, then `--set`.

    Raises:
      UserError: no such file, or anything in it that cannot be.
    """
    leaves: dict[str, config.Leaf] = {}
    if config_path is not None:
        if not files.exists(config_path):
            raise UserError(f"--config: no file {config_path}")
        leaves |= config.read_leaves(files.read_text(config_path), config_path)
    leaves |= config.read_overrides([*overrides, *([f"runtime.tpu={tpu}"] if tpu else [])])
    name = leaves["task.name"].node.value if "task.name" in leaves else "classification"
    return Experiment(**config.build(schema(name), leaves))


def load_workdir(workdir: str, overrides: Sequence[str] = (), tpu: str | None = None) -> Experiment:
    """Loads the config that a run saved in its workdir, with `--set` changes for this command.

    Raises:
      UserError: nothing was trained or prepared there.
    """
    path = files.join(workdir, CONFIG_FILE)
    if not files.exists(path):
        raise UserError(f"--workdir: {workdir} holds no {CONFIG_FILE}; train there first, with --config and --workdir")
    return load(path, overrides, tpu)


def save(experiment: Experiment, workdir: str) -> None:
    """Writes config.yaml and versions.json into a workdir."""
    files.write_text(files.join(workdir, CONFIG_FILE), config.dump(experiment.sections()))
    files.write_json(files.join(workdir, VERSIONS_FILE), versions())


def versions() -> dict[str, str]:
    """Returns the versions of all that a result may depend on."""
    found = {"bert-trainer": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in ("tensorflow", "tensorflow-text", "tf-keras", "transformers", "tokenizers", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


ROWS_KEYS = ("data.train", "data.validation", "data.test")
FREE_KEYS = (
    "runtime.",
    "export.",
    "data.workers",
    "data.records_dir",
    "train.steps_per_execution",
    "train.jit_compile",
    "train.kernels",
    "train.recompute_activations",
)


def resume_differences(saved: Experiment, asked: Experiment) -> dict[str, tuple]:
    """Returns {key: (saved, asked)} of the keys that change what a resumed run computes (devices and logs may change).

    Rows may be named in one and records only in the other; whether these are the same is for `train` to see.
    """
    changed = config.differences(saved.sections(), asked.sections())
    is_without_rows = saved.data.names_records_only or asked.data.names_records_only
    free = (*FREE_KEYS, *(ROWS_KEYS if is_without_rows else ()))
    return {key: values for key, values in changed.items() if not key.startswith(free)}
