"""Operations of our own for CPUs, in C++ (`trainer/native/`): compiled on this machine, for its processor, once.

They need a C++ compiler, which a laptop or a container may lack: whoever uses them has another way for that case.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import tensorflow as tf

from trainer.runtime import compile_cache
from trainer.runtime.distribution import has_accelerator

log = logging.getLogger(__name__)
SOURCES = Path(__file__).parent.parent / "native"
COMPILERS = ("c++", "g++", "clang++")
# The numbers stay what the code says: no -ffast-math, only errno and floating-point traps are given up.
OPTIONS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-pthread", "-shared", "-fPIC", "-w")
WIDE = "-mprefer-vector-width=512"  # x86: GCC halves the vectors otherwise
MACHINES = ("x86_64", "aarch64")
MEASURED_SIZE, MEASUREMENTS = 768, 5  # of the product that is measured: some milliseconds each
Purpose = Literal["training", "inference"]


@dataclasses.dataclass(frozen=True)
class Kernels:
    """Whether our operations are used, and why: a line for the log.

    Attributes:
      operations: TensorFlow's module of them; None where they are not used.
      reason: why, or why not.
      library: the compiled file.
    """

    operations: Any
    reason: str
    library: Path | None = None


@functools.cache
def kernels(purpose: Purpose) -> Kernels:
    """Returns our operations for a purpose, compiled and loaded at the first call."""
    if has_accelerator():
        return Kernels(None, "not for a GPU or TPU")
    if not sys.platform.startswith("linux") or platform.machine() not in MACHINES:
        return Kernels(None, f"only on Linux on {' or '.join(MACHINES)}")
    compiler = _compiler(os.environ)
    if compiler is None:
        return Kernels(None, f"no C++ compiler here ({', '.join(COMPILERS)}, or one named by CXX)")
    try:
        path = _library(compiler, purpose)
    except subprocess.CalledProcessError as error:
        log.debug("%s said:\n%s", compiler, error.stderr)
        return Kernels(None, f"{compiler} cannot compile them (--verbose shows what it says)")
    except (OSError, RuntimeError) as error:
        return Kernels(None, f"they cannot be kept: {error}")
    return Kernels(tf.load_op_library(str(path)), "compiled for this processor", path)


def _compiler(environment: Mapping[str, str]) -> str | None:
    """Returns the path of CXX, or of the first compiler that is found."""
    names = [environment["CXX"]] if environment.get("CXX") else COMPILERS
    return next((found for found in map(shutil.which, names) if found), None)


def _library(compiler: str, name: str) -> Path:
    """Returns the compiled path of `<name>.cc`; compiles it where there is none of these sources, options and processor."""
    options = [*OPTIONS, *([WIDE] if platform.machine() == "x86_64" else [])]
    source = SOURCES / f"{name}.cc"
    parts = [compiler, *options, importlib.metadata.version("tensorflow"), compile_cache.machine()]
    told = "\n".join(parts).encode() + b"".join(path.read_bytes() for path in [*sorted(SOURCES.glob("*.h")), source])
    folder = compile_cache.cache_folder("native") or Path(tempfile.mkdtemp(prefix="bert-trainer-"))  # else for this process
    path = folder / f"{name}-{hashlib.sha256(told).hexdigest()[:16]}.so"
    if path.exists():
        return path
    log.info("compiling operations of %s for this processor, once (about 20 seconds)", name)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:  # another process may be at it: whole, or not there
        fresh = Path(scratch) / path.name
        files = [*options, str(source), "-o", str(fresh)]
        command = [compiler, *tf.sysconfig.get_compile_flags(), *files, *tf.sysconfig.get_link_flags()]
        subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        os.replace(fresh, path)
    log.debug("compiled in %.1f s: %s", time.monotonic() - begun, path)
    return path


@functools.cache
def product_seconds(dtype: tf.DType, with_ours: bool) -> float:
    """Returns the shortest of some products of MEASURED_SIZE rows and columns, by our operation or by TensorFlow's library."""
    left = tf.cast(tf.random.stateless_normal([MEASURED_SIZE, MEASURED_SIZE], [1, 2]), dtype)
    right = tf.cast(left, tf.float32) if with_ours else left
    multiply = kernels("training").operations.matrix_product if with_ours else tf.linalg.matmul
    product = tf.function(lambda left, right: multiply(left, right)[0, 0], autograph=False)
    product(left, right)
    seconds = []
    for _ in range(MEASUREMENTS):
        begun = time.perf_counter()
        product(left, right).numpy()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def best_seconds(dtype: tf.DType) -> float:
    """Returns the shorter of both `product_seconds`, of those that can be had."""
    ways = [False, True] if kernels("training").operations else [False]
    return min(product_seconds(dtype, with_ours) for with_ours in ways)
