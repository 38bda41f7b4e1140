"""The command line: help without TensorFlow, flags checked, a user's mistake never a traceback."""

import subprocess
import sys

import pytest
import tensorflow as tf

from tests.conftest import ROOT, subprocess_environment
from trainer import cli as command_line
from trainer.errors import UserError


def test_help_does_not_import_tensorflow():
    script = "import sys; from trainer.cli import main; main(['--help']); " \
             "assert not {'tensorflow', 'transformers', 'numpy', 'yaml'} & set(sys.modules), sys.modules"  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=subprocess_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "usage: bert-trainer COMMAND" in done.stdout and "export" in done.stdout


def test_help_of_one_command_names_its_flags(cli):
    status, out, _ = cli("train", "--help")
    assert status == 0 and "bert-trainer train: fine-tune or pre-train" in out and "--tpu" in out and "--input" not in out
    assert cli()[0] == 2 and cli("help")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?; commands are init, describe"),
        (["train", "--wrokdir=x"], "Unknown command line flag 'wrokdir'. Did you mean: workdir"),
        (["train", "extra"], "unexpected word 'extra'; train takes --config --workdir --set --tpu"),
        (["train", "--split=test"], "train takes no --split; train takes --config"),
    ],
)
def test_wrong_calls(cli, arguments, message):
    status, _, error = cli(*arguments)
    assert status == 2 and message in error and "Traceback" not in error


def test_missing_flags(cli):
    status, _, error = cli("train", "--set", "train.epochs", "3")
    assert status == 2 and "error: --set train.epochs 3: write it as --set train.epochs=3" in error
    assert cli("train")[2] == "error: --workdir is needed; bert-trainer COMMAND --help lists a command's flags\n"
    assert cli("init")[2] == "error: --from is needed; bert-trainer COMMAND --help lists a command's flags\n"


def test_set_takes_several_assignments(cli):
    status, out, _ = cli("describe", "--set", "encoder.init_from=x", "train.seed=7", "--set=train.batch_size=3")
    assert status == 0 and "seed: 7" in out and "batch_size: 3" in out and "init_from: x" in out


def test_errors_become_messages_and_statuses(cli, monkeypatch):
    def raising(error):
        def run(options):
            raise error

        return run

    from trainer.commands import describe

    for error, status, message in (
        (UserError("what and where"), 1, "error: what and where\n"),
        (KeyboardInterrupt(), 130, "error: stopped by Ctrl-C\n"),
        (BrokenPipeError(), 0, ""),
        (IsADirectoryError(21, "Is a directory", "configs"), 1, "error: configs: Is a directory\n"),
        (
            tf.errors.ResourceExhaustedError(None, None, "OOM"),
            1,
            "error: out of memory. To use less: a smaller train.batch",
        ),
        (tf.errors.PermissionDeniedError(None, None, "403 on gs://b\nmore"), 1, "error: TensorFlow: 403 on gs://b\n"),
        (ValueError("inside\nmore"), 1, "error: ValueError: inside\nthis is a fault of the program, not of your input"),
    ):
        monkeypatch.setattr(describe, "run", raising(error))
        found = cli("describe")
        assert found[0] == status and found[2].startswith(message)
    for error in (UserError("x"), ValueError("x")):
        monkeypatch.setattr(describe, "run", raising(error))
        with pytest.raises(type(error)):
            cli("describe", "--verbose")


def test_what_people_type():
    read = command_line._as_absl_reads
    typed = ["train", "--set", "a.b=1", "c.d=2", "--tpu=x", "word=3"]
    assert read(typed) == ["train", "--set", "a.b=1", "--set", "c.d=2", "--tpu=x", "word=3"]
    assert read(["--input-only", "--input=a-b", "-v"]) == ["--input_only", "--input=a-b", "-v"]
