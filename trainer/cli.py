"""The command line: absl flags, command words, lazy dispatch; `--help` starts without TensorFlow."""

import dataclasses
import importlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from trainer.data.sources import FORMATS
from trainer.errors import UserError, suggestion
from trainer.files import expand_home
from trainer.runtime.compile_cache import keep_compiled_kernels

CONFIG = "The YAML config, or the name of a recipe, as quickstart or pretraining/bert-mini."
WORKDIR = "The run's folder, local or gs://."
SET = "Changes config keys: --set key=value [key=value ...]; may be repeated."
TPU = "A TPU's name, or local on a TPU VM."


@dataclasses.dataclass(frozen=True)
class Command:
    """A command word: what it does, and {flag: meaning} of the flags it takes."""

    meaning: str
    flags: Mapping[str, str]
    words: str = ""  # what may follow it without a flag


COMMANDS = {
    "init": Command(
        "write a commented config by looking at your file",
        {
            "from": "The file to look at: csv, tsv, json, jsonl, parquet or txt.",
            "output": "The config to write (default: bert.yaml).",
            "task": "The task, where the file can be of several.",
            "encoder": "The encoder to start from, a Hub id or folder.",
            "encoding": "The file's encoding where it is not UTF-8, as cp1252.",
            "format": "The file's format where its ending does not tell it, as conll for a .txt of words and tags.",
        },
    ),
    "describe": Command(
        "show every config key with type, default and meaning; with --config, its values",
        {
            "config": CONFIG,
            "set": SET,
            "recipes": "Lists the recipes that come with the project.",
            "markdown": "Writes all keys as a page: docs/config.md is made with it.",
        },
        words="[SECTION]",
    ),
    "vocabulary": Command(
        "train a WordPiece vocabulary on raw text",
        {
            "from": "The text, a path or glob.",
            "output": "The folder for the tokenizer's files.",
            "size": "Tokens, rounded up to a multiple of 128.",
            "lowercase": "Lower-case the text and strip its accents, as BERT's uncased models do; --nolowercase for cased.",
            "unused": "Slots for tokens that you may want to add later.",
            "min_frequency": "A piece seen less often is left out.",
            "column": "The column of the text, in files that have columns.",
            "extend": "A tokenizer's folder: its tokens keep their ids, and new ones are added up to --size.",
        },
    ),
    "prepare": Command(
        "turn rows into TFRecord shards with a manifest",
        {
            "config": CONFIG,
            "workdir": WORKDIR,
            "set": SET,
            "runner": "local, or beam for a corpus.",
            "beam_flags": "With --runner=beam: flags of the pipeline, as '--runner=FlinkRunner --flink_master=...'.",
            "google_records": "A folder for the same records in google-research/bert's format (task.static_masks=true).",
        },
    ),
    "train": Command(
        "fine-tune or pre-train, or resume an interrupted run",
        {"config": CONFIG, "workdir": WORKDIR, "set": SET, "tpu": TPU},
    ),
    "evaluate": Command(
        "score a trained model on a split",
        {"workdir": WORKDIR, "set": SET, "split": "train, validation or test.", "tpu": TPU},
    ),
    "predict": Command(
        "predict the rows of a file or of standard input",
        {
            "workdir": WORKDIR,
            "set": SET,
            "input": "A csv, tsv, json, jsonl, parquet or txt file; - for standard input, a text or a JSON object per line.",
            "output": "Where the JSON lines go: a file, or a folder ending in / (default: <workdir>/predictions/).",
        },
    ),
    "embed": Command(
        "turn texts into vectors, by a trained run or by any encoder as it is",
        {
            "workdir": "The run whose encoder is used.",
            "encoder": "Another encoder: a folder (also of sentence-transformers), a checkpoint or a Hub id.",
            "input": "The texts: a csv, tsv, json, jsonl, parquet or txt file.",
            "output": "A .npy, .parquet, .tfrecord or .jsonl file; or a folder ending in /, an index for search.",
            "column": "The column of the text.",
            "pooling": "What a vector is made of; auto: as the run or the folder says, else the mean of the tokens.",
            "layer": "The layer that is read, from 1, or from -1 for the last backwards; the layers above it are left out.",
            "normalize": "Vectors of length 1, or not; default: as the run or the folder says, else yes.",
            "dimensions": "Only the first so many numbers of each vector.",
            "as_queries": "The texts are queries, where the encoder has a prompt for these.",
            "tokens": "A vector for each token, as Google's extract_features writes them; --output ends in .jsonl.",
            "layers": "With --tokens: the layers, as -1,-2,-3,-4.",
            "set": SET,
        },
    ),
    "search": Command(
        "find the most similar texts of an index, or hard negatives for pairs",
        {
            "index": "The folder that embed wrote.",
            "input": "The queries: a file as for embed; - for standard input, a query a line.",
            "output": "Where the JSON lines go (default: standard output).",
            "column": "The column of the query.",
            "top": "Texts found for each query.",
            "engine": "numpy looks at every text; faiss (the extra search) at few of them.",
            "negatives": "For pairs: writes so many similar texts that do not answer, for task.negatives_column.",
            "margin": "With --negatives: how much less similar than the pair's own text they must be, at least.",
            "columns": "With --negatives: the pairs' two columns (default: query,positive).",
            "workdir": "With --negatives and no index: the run whose encoder is used.",
            "encoder": "With --negatives and no index: another encoder.",
            "set": SET,
        },
    ),
    "score": Command(
        "compare candidates with references by the meaning of their tokens (BERTScore)",
        {
            "workdir": "The run whose encoder is used.",
            "encoder": "Another encoder: a folder, a checkpoint or a Hub id.",
            "input": "The rows: a csv, tsv, json, jsonl or parquet file.",
            "columns": "The two columns (default: candidate,reference).",
            "layer": "The layer that is read (default: three quarters up).",
            "idf": "Rare tokens count more, by how many references have them.",
            "baseline": "Rescales scores: auto, so that unrelated pairs of these rows get 0; or three numbers.",
            "output": "A file for a JSON line a row.",
            "set": SET,
        },
    ),
    "export": Command(
        "write a SavedModel that takes strings, checked in a clean process, and Hugging Face files",
        {"workdir": WORKDIR, "set": SET},
    ),
    "glue": Command(
        "train and score GLUE's tasks over several seeds, in one table",
        {
            "workdir": WORKDIR,
            "data": "A folder with GLUE's folders, as CoLA/train.tsv and CoLA/dev.tsv; or tfds.",
            "encoder": "The encoder to start from, a Hub id or folder.",
            "tasks": "Some of the tasks, as CoLA,MRPC (default: all that are there).",
            "seeds": "Runs of each task, with seeds from 1 on.",
            "config": "The config of every run: a YAML file, or a recipe (default: glue).",
            "set": SET,
        },
    ),
    "fewshot": Command(
        "learn classes from a handful of rows each: pairs of texts first, then a head (SetFit)",
        {
            "config": CONFIG,
            "workdir": WORKDIR,
            "set": SET,
            "pairs": "Pairs of each text with others of its class, and as many with texts of other classes.",
            "contrastive": "Keys of the first training, as 'train.epochs=2 train.learning_rate=2e-5'.",
        },
    ),
    "selftrain": Command(
        "learn from rows without labels, too: those that a run on the labelled ones is sure of",
        {
            "config": CONFIG,
            "workdir": WORKDIR,
            "set": SET,
            "rounds": "How often the rows are labelled, each time by the latest run, for a new run.",
            "confidence": "The probability from which on a predicted label counts.",
        },
    ),
    "augment": Command(
        "write more training rows, in whose texts a masked language model has put other words",
        {
            "config": CONFIG,
            "set": SET,
            "masked_lm": "The model: a workdir of pretraining, or a folder, a checkpoint or a Hub id with its head.",
            "copies": "Copies of each row.",
            "word_prob": "Of each word of a text, the chance that it is replaced; one is, at least.",
            "output": "The .jsonl file for the rows and their copies.",
        },
    ),
    "crossvalidate": Command(
        "score a config on all of its training rows, each by a run that has not seen it",
        {
            "config": CONFIG,
            "workdir": WORKDIR,
            "set": SET,
            "folds": "Parts, and runs: classes are spread over all, equal texts (or data.holdout_column) stay together.",
        },
    ),
    "preflight": Command(
        "compile a config's steps for a TPU slice that is not here, and check what the run needs, before it costs money",
        {
            "config": CONFIG,
            "set": SET,
            "topology": "The devices: a generation and its shape, as v5e:2x2, v6e:1x1, v4:2x2x1, tpu7x:2x2x1; or local.",
            "workdir": "The run's folder: its records are used where there are some, and it is written to and read.",
            "output": "A JSON file for all figures.",
            "shared": "Local folders that all workers see, as an NFS mount: comma-separated.",
            "price": "Dollars an hour and chip, instead of the table's.",
            "chips": "Another table of chips than trainer/runtime/chips.yaml.",
        },
    ),
    "data_service": Command(
        "make batches for runs on other machines, where their own processors are too slow",
        {
            "port": "The port that runs connect to; 0 takes a free one.",
            "host": "This machine's name or address, as the runs' machines know it (default: its full name).",
        },
    ),
    "benchmark": Command(
        "measure how fast a config trains here, and what limits it",
        {
            "config": CONFIG,
            "workdir": WORKDIR,
            "set": SET,
            "tpu": TPU,
            "steps": "Steps to measure.",
            "input_only": "Measure only the input pipeline.",
            "synthetic": "Use one batch again and again, so that no step waits for data.",
            "profile": "Trace three steps for TensorBoard and list the ten costliest operations.",
        },
    ),
}
SWITCHES = (
    *("input_only", "synthetic", "profile", "lowercase", "recipes", "markdown"),
    *("normalize", "as_queries", "tokens", "idf"),
)
ONE_OF = {
    "runner": ["local", "beam"],
    "format": ["auto", *FORMATS],
    "pooling": ["auto", "cls", "mean", "max", "weighted_mean", "pooler", "last_four"],
    "engine": ["numpy", "faiss"],
}
NUMBERS = ("price", "margin", "confidence", "word_prob")
LEAST: dict[str, int | None] = {
    # A flag that is a whole number → its lowest value
    "steps": 1,
    "seeds": 1,
    "size": 200,
    "unused": 0,
    "min_frequency": 1,
    "port": 0,
    "layer": None,
    "dimensions": 1,
    "top": 1,
    "negatives": 1,
    "folds": 2,
    "pairs": 1,
    "rounds": 1,
    "copies": 1,
}
PATHS = (
    *("config", "workdir", "data", "input", "output", "from", "encoder", "extend", "google_records", "chips", "index"),
    "masked_lm",
)
OUT_OF_MEMORY = (
    "out of memory. To use less: a smaller train.batch_size, or more train.gradient_accumulation_steps with the same "
    "batch_size (the same gradient, in parts); train.recompute_activations=true; a smaller data.max_seq_length; "
    "train.precision=bfloat16; a smaller encoder"
)
USAGE = "usage: bert-trainer COMMAND [--config=PATH] [--workdir=DIR] [--set key=value ...]"


@dataclasses.dataclass(frozen=True)
class Options:
    """What a command was given; None or () for a flag that was not."""

    config: str | None = None
    workdir: str | None = None
    set: tuple[str, ...] = ()
    tpu: str | None = None
    split: str = "validation"
    data: str | None = None
    tasks: str | None = None
    seeds: int = 3
    task: str | None = None
    input: str | None = None
    output: str | None = None
    source: str | None = None
    encoder: str | None = None
    encoding: str = "auto"
    format: str = "auto"
    steps: int = 20
    size: int = 30_000
    unused: int = 99
    min_frequency: int = 2
    column: str = "text"
    extend: str | None = None
    runner: str = "local"
    beam_flags: str = ""
    google_records: str | None = None
    lowercase: bool = True
    input_only: bool = False
    synthetic: bool = False
    profile: bool = False
    recipes: bool = False
    markdown: bool = False
    section: str | None = None
    topology: str | None = None
    shared: str | None = None
    price: float | None = None
    chips: str | None = None
    port: int = 5050
    host: str | None = None
    pooling: str = "auto"
    layer: int | None = None
    layers: str | None = None
    normalize: bool | None = None
    dimensions: int | None = None
    as_queries: bool = False
    tokens: bool = False
    index: str | None = None
    top: int = 10
    engine: str = "numpy"
    negatives: int | None = None
    margin: float = 0.0
    columns: str | None = None
    idf: bool = False
    folds: int = 5
    pairs: int = 20
    contrastive: str | None = None
    rounds: int = 1
    confidence: float = 0.9
    masked_lm: str | None = None
    copies: int = 2
    word_prob: float = 0.15
    baseline: str | None = None

    def required(self, name: str) -> str:
        """Returns a flag's value; raises UserError if it was not given."""
        value = getattr(self, name)
        if value is None:
            flag = "from" if name == "source" else name
            raise UserError(f"--{flag} is needed; bert-trainer COMMAND --help lists a command's flags")
        return value


def define_flags() -> flags.FlagValues:
    """Returns the flags of all commands."""
    values = flags.FlagValues()
    fields: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Options)}
    meanings = {name: meaning for command in COMMANDS.values() for name, meaning in command.flags.items()}
    for name, meaning in meanings.items():
        default = fields.get("source" if name == "from" else name)
        if name == "set":
            flags.DEFINE_multi_string(name, [], meaning, flag_values=values)
        elif name in ONE_OF:
            flags.DEFINE_enum(name, default, ONE_OF[name], meaning, flag_values=values)
        elif name in SWITCHES:
            flags.DEFINE_boolean(name, default, meaning, flag_values=values)
        elif name in NUMBERS:
            flags.DEFINE_float(name, default, meaning, lower_bound=0.0, flag_values=values)
        elif name in LEAST:
            flags.DEFINE_integer(name, default, meaning, lower_bound=LEAST[name], flag_values=values)
        else:
            flags.DEFINE_string(name, default, meaning, flag_values=values)
    flags.DEFINE_boolean("verbose", False, "Shows tracebacks and TensorFlow's own log.", flag_values=values)
    flags.DEFINE_boolean("help", False, "Shows this help.", short_name="h", flag_values=values)
    return values


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line.

    Returns:
      The exit status: 0 done, 1 a user's error, 2 a wrong call, 130 or 143 stopped by a signal.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    values = define_flags()
    try:
        words = values(["bert-trainer", *_as_absl_reads(arguments)])[1:]
    except flags.Error as error:
        return _fail(f"{error}\n{USAGE}", 2)
    if values.help or not words or words[0] == "help":
        named = [word for word in words if word in COMMANDS]
        print(help_text(named[0] if named else None))
        return 0 if values.help or words else 2
    command, *extra = words
    if command not in COMMANDS:
        hint = suggestion(command, COMMANDS)
        return _fail(f"unknown command {command!r}{hint}; commands are {', '.join(COMMANDS)}", 2)
    wrong = _wrong_flag(command, values)
    section = extra.pop(0) if extra and COMMANDS[command].words else None
    if extra or wrong:
        bare = next((key for key in values.set if "=" not in key), None)
        if extra and bare:
            return _fail(f"--set {bare} {extra[0]}: write it as --set {bare}={extra[-1]}", 2)
        what = f"unexpected word {extra[0]!r}" if extra else f"{command} takes no --{wrong}"
        taken = " ".join(f"--{name}" for name in COMMANDS[command].flags)
        return _fail(f"{what}; {command} takes {taken}", 2)
    return _run(command, values, section)


def _as_absl_reads(arguments: Sequence[str]) -> list[str]:
    """Turns what people type into what absl takes: `--set a=1 b=2` into `--set a=1 --set b=2`, `--a-b` into `--a_b`."""
    joined: list[str] = []
    in_set = False
    for argument in arguments:
        if in_set and not argument.startswith("-") and "=" in argument and joined[-1] != "--set":
            joined.append("--set")
        elif argument.startswith("-"):
            name, equals, value = argument.partition("=")
            argument = f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else argument
            in_set = argument.lstrip("-").split("=")[0] == "set"
        joined.append(argument)
    return joined


def _wrong_flag(command: str, values: flags.FlagValues) -> str | None:
    """Returns the first flag that was given and that the command does not take."""
    given = [name for name in values if values[name].present and name not in ("verbose", "help", "h")]
    return next((name for name in given if name not in COMMANDS[command].flags), None)


def _run(command: str, values: flags.FlagValues, section: str | None) -> int:
    set_up_logging(values.verbose)
    fields = {field.name for field in dataclasses.fields(Options)}
    given: dict[str, Any] = {name: values[name].value for name in values if name in (*fields, "from")}
    given |= {name: expand_home(given[name]) for name in PATHS if given.get(name)}
    given |= {"set": tuple(values.set), "source": given.pop("from"), "section": section}
    options = Options(**given)
    keep_compiled_kernels()
    try:
        module = importlib.import_module(f"trainer.commands.{command}")
        if "tensorflow" in sys.modules:
            importlib.import_module("trainer.runtime.quiet").quieten()
        return module.run(options) or 0
    except KeyboardInterrupt:
        return _fail("stopped by Ctrl-C", 130)
    except BrokenPipeError:
        return 0
    except Exception as error:
        if values.verbose:
            raise
        return _fail(_message_of(error), 1)


def _message_of(error: Exception) -> str:
    """Returns what a user reads about an error: the whole message of a UserError, else its first line and whose fault it is."""
    first = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or 'a file'}: {error.strerror or error}"
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return OUT_OF_MEMORY
    if type(error).__module__.startswith("tensorflow."):
        return f"TensorFlow: {first}\n--verbose shows where"
    return f"{type(error).__name__}: {first}\nthis is a fault of the program, not of your input; --verbose shows where"


def _fail(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status


def set_up_logging(verbose: bool = False) -> None:
    """Sends this project's log to standard error, and of other libraries' only errors."""
    if verbose:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name in ("trainer", "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
    logging.getLogger("trainer").setLevel(logging.DEBUG if verbose else logging.INFO)
    logging.getLogger().setLevel(logging.INFO if verbose else logging.ERROR)
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.ERROR)


def help_text(command: str | None) -> str:
    """Returns the help: all commands, or one with its own flags."""
    if command is None:
        lines = [USAGE, "", "commands:"]
        lines += [f"  {name:<12} {about.meaning}" for name, about in COMMANDS.items()]
        lines += ["", "bert-trainer COMMAND --help shows the command's flags; --verbose shows tracebacks and TensorFlow's log."]
        return "\n".join([*lines, "Every config key: bert-trainer describe. Docs: README.md and docs/."])
    about = COMMANDS[command]
    words = f" {about.words}" if about.words else ""
    lines = [f"bert-trainer {command}{words}: {about.meaning}", ""]
    taken = {**about.flags, "verbose": "Shows tracebacks and TensorFlow's own log."}
    width = max(map(len, taken)) + 2
    return "\n".join([*lines, *(f"  --{name:<{width}} {meaning}" for name, meaning in taken.items())])
