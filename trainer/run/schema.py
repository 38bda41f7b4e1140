"""The sections of a config: every key with its type, default and meaning, and the checks of its value."""

import codecs
import dataclasses
import math
import re
from typing import Literal

from trainer import config
from trainer.config import check
from trainer.data.sources import SourceFormat
from trainer.errors import UserError
from trainer.tasks import task_module

Precision = Literal["auto", "float32", "bfloat16", "float16"]
RENAMED = {
    # Key of an earlier version → its name today
    "data.text_columns": "task.text_columns",
    "data.label_column": "task.label_column",
    "data.max_rejected_rate": "data.max_rejected_fraction",
    "train.warmup_rate": "train.warmup_ratio",
    "train.accumulation_steps": "train.gradient_accumulation_steps",
    "train.layer_decay_rate": "train.layerwise_lr_decay",
    "train.ema_decay_rate": "train.ema_decay",
    "task.masked_rate": "task.masked_lm_prob",
    "task.short_seq_rate": "task.short_seq_prob",
    "task.mask_token_rate": "task.mask_token_prob",
    "task.random_token_rate": "task.random_token_prob",
    "task.random_next_rate": "task.random_next_prob",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The `encoder` section: where the encoder comes from and how much of it trains."""

    init_from: str = "random"
    """A Hub id, a folder (Hugging Face files or a Google TF1/TF2 checkpoint), a checkpoint prefix (.../bert_model.ckpt),
    an earlier workdir, or `random`."""
    revision: str | None = None
    """The Hub's branch, tag or commit."""
    config_path: str | None = None
    """With init_from=random: the folder or config.json that gives the sizes; the vocabulary's size is the tokenizer's."""
    vocabulary_path: str | None = None
    """A folder with the tokenizer's files, or a vocab.txt, where the encoder's own folder has none."""
    lowercase: bool | None = None
    """Overrides the lower-casing that the tokenizer's files state; null keeps it."""
    extend_vocabulary: bool = False
    """vocabulary_path lists the encoder's own tokens first, then new ones; a new token starts as the mean of its old pieces."""
    max_position_embeddings: int | None = None
    """More positions than init_from has; the added ones start as copies of the existing ones."""
    layers: int | None = None
    """Use only the first so many layers of the encoder; null: all. The rest is left out of the graph, and of what is saved."""
    allow_missing: tuple[str, ...] = ()
    """Patterns of encoder weights that may be missing from init_from and stay random, as [pooler/*]."""
    freeze_layers: int = 0
    """Layers that do not train, from the embeddings up; -1 freezes the whole encoder (feature-based transfer)."""
    reinit_layers: int = 0
    """Layers that begin with random weights, from the top down, and with them the pooler: steadier on little data (Zhang et al.
    2021, arXiv:2006.05987)."""
    dropout_rate: float | None = None
    """Dropout in the encoder's hidden layers; null keeps its config's."""
    attention_dropout_rate: float | None = None
    """Dropout of attention weights; null keeps its config's."""

    def __post_init__(self):
        check(self.layers is None or self.layers >= 1, "layers", f"must be 1 or more, got {self.layers}")
        check(self.freeze_layers >= -1, "freeze_layers", f"must be -1 or more, got {self.freeze_layers}")
        check(self.reinit_layers >= 0, "reinit_layers", f"must be 0 or more, got {self.reinit_layers}")
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


def _is_encoding(name: str) -> bool:
    try:
        return codecs.lookup(name)._is_text_encoding  # not hex, rot13
    except LookupError:
        return False


def is_share(source: str | None) -> bool:
    """Returns whether a source is a share of the training rows, as "10%"."""
    return bool(source) and str(source).rstrip().endswith("%")


def share_of(source: str) -> float:
    """Returns the fraction that "10%" stands for: 0.1."""
    return float(source.strip().removesuffix("%")) / 100


def check_share(source: str | None, field: str) -> float:
    """Returns a source's fraction, 0 for a source that is no share; raises FieldError for a share that cannot be."""
    is_bare = re.fullmatch(r"\d+(\.\d+)?", str(source)) is not None
    check(not is_bare, field, f"a share of data.train is written with a percent sign, as 10%, got {source!r}")
    if not is_share(source):
        return 0.0
    is_number = re.fullmatch(r"\s*\d+(\.\d+)?\s*%\s*", str(source)) is not None
    fraction = share_of(str(source)) if is_number else 0.0
    check(0 < fraction < 1, field, f"a share of data.train is between 0% and 100%, as 10%, got {source!r}")
    return fraction


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The `data` section: sources, columns, records."""

    train: str | None = None
    """Training rows: a path or glob (csv, tsv, json, jsonl, parquet, txt; local or gs://), or tfds:name/config:split."""
    validation: str | None = None
    """Rows that choose the best checkpoint: a source as for data.train, or a share of the training rows, as 10%."""
    test: str | None = None
    """Rows for the final score: a source as for data.train, or a share of the training rows, as 10%."""
    unlabelled: str | None = None
    """Rows without labels, a source as for data.train, for the command selftrain; the others do not read them."""
    holdout_column: str | None = None
    """Where a share is held out: rows with one value of this column, as a document, stay together; null: with one text."""
    format: Literal["auto", "csv", "tsv", "json", "jsonl", "parquet", "conll", "txt", "documents", "tfrecord"] = "auto"
    """The files' format; auto goes by their ending. conll: a word and its tags on each line; documents: text with blank lines
    between; tfrecord: Google's for BERT. json may be nested as SQuAD's."""
    column_names: tuple[str, ...] = ()
    """The columns of csv and tsv files that have no header line, and of CoNLL files (_: not read)."""
    delimiter: str | None = None
    """Between the columns of csv and tsv files; null: a comma in csv, a tab in tsv."""
    quoting: Literal["auto", "standard", "none"] = "auto"
    """Double quotes in csv and tsv; auto: standard in csv, none in tsv (as GLUE's files)."""
    encoding: str = "auto"
    """The encoding of text files, as cp1252; auto: UTF-8, or UTF-16 and UTF-32 by their byte-order mark."""
    max_seq_length: int = 128
    """Tokens of an example, [CLS] and [SEP] included; longer texts are cut and counted. No packed row is longer."""
    max_examples_per_row: int = 16
    """Examples packed into one row; 1 gives the classic layout."""
    length_buckets: bool = False
    """With max_examples_per_row=1: batches of examples of similar length, each padded to its longest."""
    records_dir: str | None = None
    """Where records go; null: <workdir>/records. Without data.train: a folder of prepared records, used unchanged."""
    shards: int = 0
    """TFRecord shards of a split; 0: one for every 1,024 examples, up to 16. For a corpus: about this many; 0: by its size."""
    workers: int = 0
    """Processes that prepare records; 0: one per core when there are many rows."""
    max_rejected_fraction: float = 0.01
    """Fraction of rows that may be rejected before the command stops; rejected.jsonl lists them in any case."""
    augment_mask_prob: float = 0.0
    """Of each training token, the chance that it is masked, anew in each epoch; never on other splits. For little data."""
    augment_replace_prob: float = 0.0
    """The chance that it is replaced by a random token."""
    augment_swap_prob: float = 0.0
    """The chance that it changes places with the next one."""
    augment_insert_prob: float = 0.0
    """The chance that a random token comes after it."""
    augment_delete_prob: float = 0.0
    """The chance that it is deleted."""
    augment_synonyms: str | None = None
    """A file of lines "word<tab>other<tab>other ...": words that are one token each are replaced by one of the others."""
    augment_synonym_prob: float = 0.1
    """The chance that a word with synonyms is replaced."""
    shuffle_buffer_examples: int = 100_000
    """Examples held for shuffling; at least the number of training examples gives a perfect shuffle."""

    def __post_init__(self):
        shares = [check_share(getattr(self, split), split) for split in ("validation", "test")]
        check(sum(shares) < 1, "test", f"data.validation and data.test together hold out {sum(shares):.0%} of data.train")
        check(not is_share(self.train), "train", f"training rows are a source, not a share, got {self.train!r}")
        check(not any(shares) or self.train is not None, "train", "needed: data.validation or data.test is a share of it")
        is_one = self.delimiter is None or len(self.delimiter) == 1
        check(is_one, "delimiter", f"one character, got {self.delimiter!r}")
        check(self.encoding == "auto" or _is_encoding(self.encoding), "encoding", f"Python knows no encoding {self.encoding!r}")
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
        check(
            0 <= self.max_rejected_fraction <= 1,
            "max_rejected_fraction",
            f"must be in [0, 1], got {self.max_rejected_fraction}",
        )
        check(
            0 <= self.augment_synonym_prob <= 1, "augment_synonym_prob", f"must be in [0, 1], got {self.augment_synonym_prob}"
        )
        for field, prob in self.augmentation().items():
            check(0 <= prob < 1, f"augment_{field}", f"must be in [0, 1), got {prob}")
        for field in ("shards", "workers", "shuffle_buffer_examples"):
            check(getattr(self, field) >= 0, field, f"must be 0 or more, got {getattr(self, field)}")

    @property
    def augments(self) -> bool:
        """Whether training examples are changed a little."""
        return self.augment_synonyms is not None or any(self.augmentation().values())

    def augmentation(self) -> dict[str, float]:
        """Returns {"mask_prob": ..., ...}: what happens to training tokens."""
        names = ("mask_prob", "replace_prob", "swap_prob", "insert_prob", "delete_prob")
        return {name: getattr(self, f"augment_{name}") for name in names}

    def source_format(self, txt_as: str = "txt") -> SourceFormat:
        """Returns how to read sources, those that end in .txt as `txt_as`."""
        return SourceFormat(self.format, self.column_names, self.quoting, self.delimiter or "", txt_as, self.encoding)

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
        """Returns {split: source} of the splits that are given; a source may be a share of the training rows, as "10%"."""
        given = {"train": self.train, "validation": self.validation, "test": self.test}
        return {split: source for split, source in given.items() if source}

    def shares(self) -> dict[str, float]:
        """Returns {split: fraction} of the splits that are held out of the training rows."""
        return {split: share_of(source) for split, source in self.sources().items() if is_share(source)}


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
    """Peak learning rate."""
    optimizer: Literal["adamw", "lamb"] = "adamw"
    """adamw: no decay on biases and LayerNorm, bias correction; lamb: scales a matrix' step by its norm, for huge batches."""
    schedule: Literal["linear", "cosine", "polynomial", "constant"] = "linear"
    """How the learning rate falls after warm-up."""
    schedule_power: float = 2.0
    """The power of the polynomial schedule."""
    warmup_ratio: float = 0.1
    """Fraction of the steps in which the learning rate rises to its peak."""
    weight_decay: float = 0.01
    """Decoupled weight decay on matrices."""
    beta_1: float = 0.9
    """Adam's decay of the first moment."""
    beta_2: float = 0.999
    """Adam's decay of the second moment."""
    epsilon: float = 1e-6
    """Adam's epsilon."""
    layerwise_lr_decay: float = 1.0
    """Each layer's learning rate is this factor times that of the layer above it (ELECTRA); 1.0 switches it off."""
    max_gradient_norm: float = 1.0
    """Gradients are clipped to this global norm; 0 switches clipping off."""
    gradient_accumulation_steps: int = 1
    """Micro-batches of one step; the result equals that of the whole batch at once, but for the elements dropout drops."""
    ema_decay: float = 0.0
    """Above 0 (0.999 is usual): an exponential moving average of the weights is kept, evaluated and exported."""
    swa_start: float | None = None
    """From this fraction of the steps on the mean of the weights is kept, evaluated and exported, with a constant rate at best
    (SWA, Izmailov et al. 2018, arXiv:1803.05407); null: none."""
    swa_every_steps: int | None = None
    """Steps between two of the weights that swa_start takes the mean of; null: once per epoch."""
    unfreeze_every_epochs: float = 0.0
    """At first the head trains only; after so many epochs the top layer does, too, and so on down to the embeddings (Howard and
    Ruder 2018, arXiv:1801.06146). 0: all from the start."""
    r_drop_alpha: float = 0.0
    """Each batch goes through twice, with other dropout; this weighs how far the outputs are apart (R-Drop, Liang et al. 2021,
    arXiv:2106.14448: 1 to 5)."""
    mixout_prob: float = 0.0
    """Of the elements of the encoder's matrices the share that are in each step what they were before the training (mixout, Lee
    et al. 2020, arXiv:1909.11299: 0.7 to 0.9, with encoder.dropout_rate=0)."""
    adversarial_epsilon: float = 0.0
    """Each batch is learned again with the word embeddings moved so far to where the loss grows most (FGM, Miyato et al. 2017,
    arXiv:1605.07725; 1.0 is usual)."""
    precision: Precision = "float32"
    """Type of matrix products; weights, LayerNorm and the loss stay float32, and so does softmax in training. float16 scales
    the loss. auto: bfloat16 where its products are faster (measured on a CPU), else float32; the run saves the choice."""
    jit_compile: bool | None = None
    """Compile the whole step with XLA (always on TPU; impossible with several replicas elsewhere). null: the whole step on one
    GPU; on a CPU and on several GPUs XLA compiles what lies between the matrix products, as with false."""
    kernels: Literal["auto", "native", "xla"] = "auto"
    """What computes the layers and AdamW on a CPU. native: C++ operations of this project, compiled for the processor; xla:
    XLA's kernels between the matrix products of TensorFlow's library; auto: native where a compiler is present and its
    products are fast enough. The run saves the choice. Evaluation and prediction treat native as auto."""
    recompute_activations: bool = False
    """Keep only each layer's input and compute the layer again in the backward pass: less memory, about a third slower."""
    steps_per_execution: int = 1
    """Steps in one call into TensorFlow; more steps cost less Python time, but logs and saves come only between calls."""
    seed: int = 1
    """Seed of the data order, dropout and new weights."""
    deterministic_ops: bool = False
    """Use only operations that give the same bits every time (slower on a GPU)."""
    validate_every_steps: int | None = None
    """Steps between validations; null: once per epoch."""
    best_score: str | None = None
    """The validation score that chooses the best checkpoint, higher is better, as macro.f1; null: the task's own."""
    on_nan: Literal["stop", "skip", "lower_rate"] = "stop"
    """After a loss that is NaN or infinite. stop: end with an error; skip: go back to the latest checkpoint and leave out the
    batches since; lower_rate: go back and halve the learning rate. In one process; several stop."""
    max_nan_retries: int = 3
    """How often on_nan goes on before it stops."""
    early_stopping_patience: int | None = None
    """Stop after this many validations in a row without a better score; null: train all steps."""

    def __post_init__(self):
        check(
            self.steps is None or self.epochs is None,
            "epochs",
            f"both train.steps={self.steps} and train.epochs={self.epochs} are given; set one of them to null",
        )
        positive = ("batch_size", "steps", "epochs", "learning_rate", "gradient_accumulation_steps", "steps_per_execution")
        check(
            self.kernels != "native" or not self.jit_compile,
            "kernels",
            "native kernels cannot run in a step that XLA compiles whole; set train.kernels=xla, or train.jit_compile=false",
        )
        optional = ("validate_every_steps", "early_stopping_patience", "swa_every_steps")
        for field in (*positive, "layerwise_lr_decay", *optional, "epsilon"):
            value = getattr(self, field)
            check(value is None or value > 0, field, f"must be over 0, got {value}")
        check(self.max_nan_retries >= 0, "max_nan_retries", f"must be 0 or more, got {self.max_nan_retries}")
        check(0 <= self.seed < 2**31, "seed", f"must be from 0 to 2147483647, got {self.seed}")
        check(self.swa_start is None or 0 <= self.swa_start < 1, "swa_start", f"must be in [0, 1), got {self.swa_start}")
        check(
            self.swa_start is None or not self.ema_decay, "swa_start", "and train.ema_decay are two averages; one can be kept"
        )
        needs_start = self.swa_every_steps is None or self.swa_start is not None
        check(needs_start, "swa_every_steps", "needs train.swa_start")
        for field in ("warmup_ratio", "beta_1", "beta_2", "ema_decay", "mixout_prob"):
            value = getattr(self, field)
            check(0 <= value < 1, field, f"must be in [0, 1), got {value}")
        for field in ("weight_decay", "max_gradient_norm", "unfreeze_every_epochs", "r_drop_alpha", "adversarial_epsilon"):
            check(getattr(self, field) >= 0, field, f"must be 0 or more, got {getattr(self, field)}")

    def total_steps(self, examples: int) -> int:
        """Returns the number of updates for so many training examples."""
        if self.steps is not None:
            return self.steps
        epochs = 3.0 if self.epochs is None else self.epochs
        return max(round(epochs * examples / self.batch_size), 1)

    def epoch_steps(self, examples: int) -> int:
        """Returns the updates of a pass over so many training examples, the last one whole."""
        return math.ceil(examples / self.batch_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """The `runtime` section: devices, checkpoints, logs."""

    distribution: Literal["auto", "tpu", "mirrored", "multi_worker", "pjrt", "default"] = "auto"
    """The devices. auto: the TPU that --tpu names, else a multi-worker cluster (TF_CONFIG), else all GPUs, else the CPU. pjrt:
    JAX's runtime compiles and runs the steps, on TPUs, GPUs or CPUs; needs the extra pjrt."""
    tpu: str | None = None
    """The TPU: its name, or local on a TPU VM. --tpu sets it."""
    tpu_connect_seconds: int = 120
    """How long to wait for a TPU before giving up."""
    cpu_devices: int = 1
    """Logical devices that the CPU is divided into, to try several replicas without GPUs."""
    static_rows: int | None = None
    """Packed rows per replica where XLA compiles the whole step, which needs one shape; null: chosen from the lengths."""
    checkpoint_every_steps: int = 1000
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Checkpoints kept, besides the best."""
    background_checkpoints: bool = True
    """Write checkpoints while the training goes on; a copy of all variables is held meanwhile."""
    log_every_steps: int = 50
    """Steps between log lines."""
    stall_warning_seconds: int = 300
    """Without a step for so long, the log says whether the records answer."""
    data_service: tuple[str, ...] = ()
    """Servers that make the training batches instead of this machine, as [grpc://host:5050]: `bert-trainer data_service` starts
    one. They read the records by the same paths; the order of the batches is the same."""

    def __post_init__(self):
        for field in (
            "checkpoint_every_steps",
            "keep_checkpoints",
            "log_every_steps",
            "cpu_devices",
            "tpu_connect_seconds",
            "stall_warning_seconds",
        ):
            check(getattr(self, field) >= 1, field, f"must be 1 or more, got {getattr(self, field)}")
        wrong = [address for address in self.data_service if not re.fullmatch(r"grpc://[^:/\s]+:\d+", address)]
        check(not wrong, "data_service", f"servers are written as grpc://host:port, got {wrong and wrong[0]!r}")
        check(
            self.static_rows is None or self.static_rows >= 1,
            "static_rows",
            f"must be 1 or more, got {self.static_rows}",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """The `export` section: what a SavedModel is made for."""

    kernels: Literal["tensorflow", "native"] = "tensorflow"
    """tensorflow: for any server; native: tokenizer and encoder are C++ operations of this project, several times as fast for
    one text. A library compiled for the exporting machine's processor is stored in the export; a server loads it first."""


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
