import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.runtime.compile_cache import keep_compiled_kernels

COMPILE = """
import json, os, sys
import trainer
from trainer.runtime.compile_cache import keep_compiled_kernels
folder = keep_compiled_kernels()
import tensorflow as tf
values = tf.function(lambda x: tf.exp(x) * 2.0 + 1.0, jit_compile=True)(tf.range(5.0))
print(json.dumps([folder, values.numpy().tolist()]))
"""


@pytest.fixture
def environment(monkeypatch, tmp_path):
    monkeypatch.setenv("BERT_TRAINER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TF_XLA_FLAGS", raising=False)
    return tmp_path / "cache"


def compile_in_a_process():
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_second_process_finds_what_the_first_compiled(environment):
    folder, values = compile_in_a_process()
    kept = {path: path.stat().st_mtime_ns for path in Path(folder).iterdir()}
    assert kept and folder.startswith(str(environment))
    assert compile_in_a_process() == [folder, values]
    assert {path: path.stat().st_mtime_ns for path in Path(folder).iterdir()} == kept, "nothing was compiled again"


def test_a_folder_for_each_tensorflow_and_processor(environment, monkeypatch):
    folder = keep_compiled_kernels()
    assert "tensorflow-2.20" in folder and f'--tf_xla_persistent_cache_directory="{folder}"' in os.environ["TF_XLA_FLAGS"]
    monkeypatch.delenv("TF_XLA_FLAGS")
    monkeypatch.setattr("os.cpu_count", lambda: 1000)
    assert keep_compiled_kernels() != folder


def test_a_users_own_flags_stay(environment, monkeypatch):
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_auto_jit=1")
    keep_compiled_kernels()
    assert os.environ["TF_XLA_FLAGS"].startswith('--tf_xla_auto_jit=1 --tf_xla_persistent_cache_directory="')
    assert keep_compiled_kernels() is None, "a folder is named already"


def test_nothing_is_kept_where_it_is_switched_off_or_cannot_be(environment, monkeypatch):
    monkeypatch.setenv("BERT_TRAINER_CACHE", "")
    assert keep_compiled_kernels() is None and "TF_XLA_FLAGS" not in os.environ
    environment.write_text("a file where the folder would be")
    monkeypatch.setenv("BERT_TRAINER_CACHE", str(environment))
    assert keep_compiled_kernels() is None


def test_nothing_is_kept_without_the_package_or_beside_flags_of_another_kind(environment, monkeypatch):
    monkeypatch.setenv("TF_XLA_FLAGS", "/a/file/of/flags")
    assert keep_compiled_kernels() is None
    monkeypatch.delenv("TF_XLA_FLAGS")
    monkeypatch.setattr("importlib.metadata.version", raise_not_found)
    assert keep_compiled_kernels() is None


def test_a_folder_with_a_space_and_other_options_of_the_compiler(environment, monkeypatch):
    monkeypatch.setenv("BERT_TRAINER_CACHE", f"{environment} of mine")
    folder, values = compile_in_a_process()
    assert " of mine/" in folder and list(Path(folder).iterdir()) and values[0] == 3.0
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    assert compile_in_a_process()[0] != folder


def test_the_oldest_go_and_a_full_disk_gets_none(environment, monkeypatch):
    folder = Path(keep_compiled_kernels())
    for age, name in enumerate(("new", "old", "older")):
        (folder / name).write_bytes(b"12345678")
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    monkeypatch.delenv("TF_XLA_FLAGS")
    monkeypatch.setattr("trainer.runtime.compile_cache.LARGEST_BYTES", 17)
    assert keep_compiled_kernels() and sorted(path.name for path in folder.iterdir()) == ["new", "old"]
    monkeypatch.delenv("TF_XLA_FLAGS")
    monkeypatch.setattr("trainer.runtime.compile_cache.FREE_BYTES", 1 << 60)
    assert keep_compiled_kernels() is None


def raise_not_found(name):
    import importlib.metadata

    raise importlib.metadata.PackageNotFoundError(name)
