"""The command line: absl flags, command words, lazy dispatch; `--help` starts without TensorFlow."""

import dataclasses
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from trainer.errors import UserError, suggestion
from trainer.runtime.compile_cache import keep_compiled_kernels

COMMANDS = {
    "init": "write a commented config by looking at your file",
    "describe": "show every config key with type, default and meaning; with --config, its values",
    "vocabulary": "train a WordPiece vocabulary on raw text",
    "prepare": "turn rows into TFRecord shards with a manifest",
    "train": "fine-tune, or go on with an interrupted run",
    "evaluate": "score a trained model on a split",
    "predict": "predict the rows of a file or of standard input",
    "export": "write a SavedModel that takes strings, checked in a clean process, and Hugging Face files",
    "benchmark": "measure how fast a config trains here, and what holds it back",
}
FLAGS_OF = {
    "init": ("from", "output", "encoder"),
    "describe": ("config", "set"),
    "vocabulary": ("from", "output", "size", "lowercase", "unused", "min_frequency", "column", "extend"),
    "prepare": ("config", "workdir", "set", "runner", "beam_flags", "google_records"),
    "train": ("config", "workdir", "set", "tpu"),
    "evaluate": ("workdir", "set", "split", "tpu"),
    "predict": ("workdir", "set", "input", "output"),
    "export": ("workdir", "set"),
    "benchmark": ("config", "workdir", "set", "tpu", "steps", "input_only", "synthetic", "profile"),
}
SWITCHES = {
    "input_only": "benchmark: measure the input pipeline alone.",
    "synthetic": "benchmark: use one batch again and again, so that no data is waited for.",
    "lowercase": "vocabulary: lower-case the text and strip its accents, as BERT's uncased models do; --nolowercase for cased.",
    "profile": "benchmark: trace three steps for TensorBoard and list the ten costliest operations.",
}
NUMBERS = {
    # Flag → (least, meaning)
    "steps": (1, "benchmark: steps to measure."),
    "size": (200, "vocabulary: tokens, rounded up to a multiple of 128."),
    "unused": (0, "vocabulary: slots for tokens that you may want to add later."),
    "min_frequency": (1, "vocabulary: a piece seen less often is left out."),
}
OUT_OF_MEMORY = (
    "out of memory. What takes less: a smaller train.batch_size, or more train.accumulation_steps with the same batch_size "
    "(the result stays the same); train.recompute_activations=true; a smaller data.max_seq_length; "
    "train.precision=bfloat16; a smaller encoder"
)
USAGE = "usage: bert-trainer COMMAND [--config=PATH] [--workdir=DIR] [--set key=value ...]"


@dataclasses.dataclass(frozen=True)
class Options:
    """What a command was given; None or () where its flag was not."""

    config: str | None = None
    workdir: str | None = None
    set: tuple[str, ...] = ()
    tpu: str | None = None
    split: str = "validation"
    input: str | None = None
    output: str | None = None
    source: str | None = None
    encoder: str | None = None
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

    def required(self, name: str) -> str:
        """Returns a flag's value; raises UserError where it was not given."""
        value = getattr(self, name)
        if value is None:
            flag = "from" if name == "source" else name
            raise UserError(f"--{flag} is needed; see bert-trainer --help")
        return value


def define_flags() -> flags.FlagValues:
    """Returns the flags of all commands."""
    values = flags.FlagValues()

    def text(name: str, meaning: str, default: str | None = None) -> None:
        flags.DEFINE_string(name, default, meaning, flag_values=values)

    text("config", "The YAML config.")
    text("workdir", "The run's folder, local or gs://.")
    flags.DEFINE_multi_string("set", [], "Changes one config key: key=value; may be repeated.", flag_values=values)
    text("tpu", "A TPU's name, or local on a TPU VM.")
    text("split", "evaluate: train, validation or test.", "validation")
    text("input", "predict: a csv, tsv, jsonl, parquet or txt file; - for standard input, a text or JSON object a line.")
    text("output", "predict: where the JSON lines go (default: the workdir); init: the config to write; vocabulary: a folder.")
    text("from", "init: the file to look at; vocabulary: the text, a path or glob.")
    text("encoder", "init: the encoder to start from, a Hub id or folder.")
    text("column", "vocabulary: the column of the text, in files that have columns.", "text")
    text("extend", "vocabulary: a tokenizer's folder; its tokens keep their ids, and new ones are added up to --size.")
    runners = ["local", "beam"]
    flags.DEFINE_enum("runner", Options.runner, runners, "prepare: local, or beam for a corpus.", flag_values=values)
    text("beam_flags", "prepare --runner=beam: flags of the pipeline, as '--runner=FlinkRunner --flink_master=...'.", "")
    text("google_records", "prepare: a folder for the same records in google-research/bert's format (task.static_masks=true).")
    for name, (least, meaning) in NUMBERS.items():
        flags.DEFINE_integer(name, getattr(Options, name), meaning, lower_bound=least, flag_values=values)
    for name, meaning in SWITCHES.items():
        flags.DEFINE_boolean(name, getattr(Options, name), meaning, flag_values=values)
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
        print(help_text(values, words[0] if words and words[0] in COMMANDS else None))
        return 0 if values.help or words else 2
    command, *extra = words
    if command not in COMMANDS:
        hint = suggestion(command, COMMANDS)
        return _fail(f"unknown command {command!r}{hint}; commands are {', '.join(COMMANDS)}", 2)
    wrong = _wrong_flag(command, values)
    if extra or wrong:
        what = f"unexpected word {extra[0]!r}" if extra else f"{command} takes no --{wrong}"
        taken = " ".join(f"--{name}" for name in FLAGS_OF[command])
        return _fail(f"{what}; {command} takes {taken}", 2)
    return _run(command, values)


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
    return next((name for name in given if name not in FLAGS_OF[command]), None)


def _run(command: str, values: flags.FlagValues) -> int:
    _set_up_logging(values.verbose)
    fields = {field.name for field in dataclasses.fields(Options)}
    given: dict[str, Any] = {name: values[name].value for name in values if name in fields}
    options = Options(**{**given, "set": tuple(values.set), "source": values["from"].value})
    keep_compiled_kernels()
    try:
        module = importlib.import_module(f"trainer.commands.{command}")
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
    """Returns what a user is told of an error: the whole message where it is theirs, else its first line and whose it is."""
    first = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or 'a file'}: {error.strerror or error}"
    if type(error).__name__ == "ResourceExhaustedError":
        return OUT_OF_MEMORY
    if type(error).__module__.startswith("tensorflow."):
        return f"TensorFlow: {first}\n--verbose shows where"
    return f"{type(error).__name__}: {first}\nthis is a fault of the program, not of your input; --verbose shows where"


def _fail(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status


def _set_up_logging(verbose: bool) -> None:
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


def help_text(values: flags.FlagValues, command: str | None) -> str:
    """Returns the help: all commands, or one with its flags."""
    if command:
        lines = [f"bert-trainer {command}: {COMMANDS[command]}", ""]
        names = (*FLAGS_OF[command], "verbose")
    else:
        lines = [USAGE, "", "commands:"]
        lines += [f"  {name:<10} {meaning}" for name, meaning in COMMANDS.items()]
        lines += ["", "flags:"]
        names = ("config", "workdir", "set", "tpu", "split", "input", "output", "from", "encoder", "verbose")
    lines += [f"  --{name:<9} {values[name].help}" for name in names]
    if not command:
        lines += ["", "Every config key: bert-trainer describe. Docs: README.md and docs/."]
    return "\n".join(lines)
