"""The operations in C++: compiled once, exact, and done without where they cannot be had."""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from trainer.models.kernels import native_library as native_module
from trainer.models.kernels.native_library import NativeLibrary, library

LOAD = """
import logging, pathlib, sys
import trainer
from trainer.models.kernels import native_library as native
native.SOURCES = pathlib.Path(sys.argv[1])
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
print(native.library("training").reason)
"""
FOR_ANOTHER = """
import sys
import pytest
import trainer
from trainer.models.kernels import native_library as native
native.OPTIONS = tuple(sys.argv[1] if option == "-march=native" else option for option in native.OPTIONS)
tests = ["native_library", "native", "native_inference"]
chosen = [*(f"tests/models/kernels/test_{test}.py" for test in tests), "-k", "not second_process and not compile"]
sys.exit(pytest.main(["-p", "no:cacheprovider", *chosen]))
"""
SIZES = st.integers(1, 150)


@pytest.fixture(scope="module")
def product(native):
    return native.matrix_product


def anew():
    """Looks again, whatever an earlier look found."""
    return library.__wrapped__("training")


@settings(max_examples=40, deadline=None)
@given(rows=SIZES, inner=SIZES, columns=SIZES, dtype=st.sampled_from(["float32", "bfloat16"]))
def test_products_are_numpys(product, rows, inner, columns, dtype):
    """Whatever the sizes leave over of tiles, panels and pairs."""
    generator = np.random.default_rng(rows * 7 + columns)
    left = tf.cast(generator.normal(size=(rows, inner)), dtype)
    right = tf.cast(tf.cast(generator.normal(size=(inner, columns)), dtype), tf.float32)  # what bfloat16 holds exactly
    expected = tf.cast(left, tf.float64).numpy() @ tf.cast(right, tf.float64).numpy()
    assert np.allclose(product(left, right), expected, rtol=1e-5, atol=1e-5 * inner**0.5)


def test_a_right_operand_is_rounded_to_the_lefts_type(product):
    left, right = tf.cast([[1.0, 1.0]], tf.bfloat16), tf.constant([[1.0 + 2**-12], [0.0]])
    assert product(left, right).numpy() in (1.0, 1.0 + 2**-12)  # the second where the processor has no bfloat16 products


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_large_products_are_cut_for_caches_and_threads(product, dtype):
    left = tf.cast(np.random.default_rng(0).normal(size=(1000, 1100)), dtype)
    right = tf.cast(tf.cast(np.random.default_rng(1).normal(size=(1100, 70)), dtype), tf.float32)
    expected = tf.cast(left, tf.float64).numpy() @ tf.cast(right, tf.float64).numpy()
    assert np.allclose(product(left, right), expected, atol=1e-3)


def test_products_are_the_same_bits_each_time(product):
    matrix = tf.random.stateless_normal([300, 300], [1, 2])
    first = product(matrix, matrix).numpy()
    assert all(np.array_equal(product(matrix, matrix), first) for _ in range(5)), "whatever thread took which part"


@pytest.mark.slow
def test_a_second_process_finds_what_the_first_compiled(native, tmp_path, monkeypatch):
    monkeypatch.setenv("BERT_TRAINER_CACHE", str(tmp_path))
    (tmp_path / "training.cc").write_text("int nothing() { return 0; }\n")  # compiles at once
    command = [sys.executable, "-c", LOAD, str(tmp_path)]
    told = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert "compiling operations of training for this processor, once" in told[0] and "compiling" not in told[1]
    assert all("compiled for this processor" in text for text in told)
    assert len(list((tmp_path / "native").iterdir())) == 2, "the library and the lock: nothing half made is left"
    (tmp_path / "training.cc").write_text("int nothing() { return 1; }\n")
    again = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "compiling" in again, "other sources are another library"


@pytest.mark.parametrize("name", ["training", "inference", "decoding"])
@pytest.mark.parametrize("march", ["native", *(pytest.param(m, marks=pytest.mark.slow) for m in ("x86-64-v3", "x86-64"))])
def test_the_sources_compile_without_a_warning(native, march, name):
    """For this processor, for one with vectors of eight numbers, and for any."""
    if march != "native" and platform.machine() != "x86_64":
        pytest.skip("the names are of x86-64's levels")
    compiler = native_module._compiler(os.environ)
    headers = [flag.replace("-I", "-isystem") for flag in tf.sysconfig.get_compile_flags()]  # whose own warnings are not ours
    command = [compiler, *headers, f"-march={march}", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-Wno-ignored-attributes"]
    done = subprocess.run([*command, str(native_module.SOURCES / f"{name}.cc")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("march", ["x86-64-v3", "x86-64"])
def test_processors_with_shorter_vectors_compute_the_same(native, march):
    """Compiled for them, run here: other tiles, and bfloat16 without instructions of its own."""
    if platform.machine() != "x86_64":
        pytest.skip("the names are of x86-64's levels")
    command = [sys.executable, "-c", FOR_ANOTHER, f"-march={march}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout[-3000:]


def test_without_a_compiler_there_are_none(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    found = anew()
    assert found.operations is None and found.reason == "no C++ compiler here (c++, g++, clang++, or one named by CXX)"


def test_a_compiler_that_cannot_compile_them_is_told(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("BERT_TRAINER_CACHE", str(tmp_path))
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no such option >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    caplog.set_level("DEBUG", logger="trainer.models.kernels.native_library")
    found = anew()
    assert found.operations is None
    assert found.reason == f"{broken} cannot compile them (--verbose shows its messages)" and "no such option" in caplog.text


def test_a_file_that_cannot_be_loaded_is_told(native, monkeypatch):
    def refuse(path):
        raise tf.errors.NotFoundError(None, None, f"{path}: failed to map segment from shared object\nmore")

    monkeypatch.setattr(native_module.tf, "load_op_library", refuse)
    found = anew()
    assert found.operations is None and ".so cannot be loaded: " in found.reason
    assert "failed to map segment" in found.reason and "more" not in found.reason


def test_a_folder_that_cannot_be_written_is_told(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BERT_TRAINER_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/c++")
    assert anew().reason.startswith("the compiled file cannot be stored: ")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("platform.machine", lambda: "riscv64", "only on Linux on x86_64 or aarch64"),
        ("sys.platform", "darwin", "only on Linux on x86_64 or aarch64"),
    ],
)
def test_where_they_are_not_for(monkeypatch, name, value, reason):
    monkeypatch.setattr(name, value)
    assert anew() == NativeLibrary(None, reason)
