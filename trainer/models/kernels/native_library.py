"""The C++ operations of `trainer/native/`: compiled once on this machine, for its processor, and loaded into TensorFlow.

They need a C++ compiler, which a laptop or a container may lack. Every user of them has another way for that case.
"""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import tensorflow as tf

from trainer.runtime import compile_cache

log = logging.getLogger(__name__)
SOURCES = Path(__file__).parent.parent.parent / "native"
COMPILERS = ("c++", "g++", "clang++")
# The numbers stay what the code says: no -ffast-math, only errno and floating-point traps are given up.
OPTIONS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-pthread", "-shared", "-fPIC")
WIDE = "-mprefer-vector-width=512"  # x86: GCC halves the vectors otherwise
MACHINES = ("x86_64", "aarch64")
Purpose = Literal["training", "inference", "decoding"]


@dataclasses.dataclass(frozen=True)
class NativeLibrary:
    """The compiled operations of a purpose, or why there are none.

    Attributes:
      operations: TensorFlow's module of them; None where they are not available.
      reason: why, or why not, for the log.
      path: the compiled file.
    """

    operations: Any
    reason: str
    path: Path | None = None


@functools.cache
def library(purpose: Purpose) -> NativeLibrary:
    """Returns the operations for a purpose, compiled and loaded at the first call."""
    if not sys.platform.startswith("linux") or platform.machine() not in MACHINES:
        return NativeLibrary(None, f"only on Linux on {' or '.join(MACHINES)}")
    compiler = _compiler(os.environ)
    if compiler is None:
        return NativeLibrary(None, f"no C++ compiler here ({', '.join(COMPILERS)}, or one named by CXX)")
    try:
        path = _compiled(compiler, purpose)
    except subprocess.CalledProcessError as error:
        log.debug("%s said:\n%s", compiler, error.stderr)
        return NativeLibrary(None, f"{compiler} cannot compile them (--verbose shows its messages)")
    except (OSError, RuntimeError) as error:
        return NativeLibrary(None, f"the compiled file cannot be stored: {error}")
    try:
        return NativeLibrary(tf.load_op_library(str(path)), "compiled for this processor", path)
    except (tf.errors.OpError, OSError, RuntimeError) as error:  # a file system without exec, another libstdc++, a torn file
        return NativeLibrary(None, f"{path} cannot be loaded: {str(error).strip().splitlines()[0]}")


def _compiler(environment: Mapping[str, str]) -> str | None:
    """Returns the path of CXX, or of the first compiler that is found."""
    names = [environment["CXX"]] if environment.get("CXX") else COMPILERS
    return next((found for found in map(shutil.which, names) if found), None)


def _compiled(compiler: str, name: str) -> Path:
    """Returns the compiled file of `<name>.cc`; compiles it unless these sources, options and processor have one."""
    options = [*OPTIONS, *([WIDE] if platform.machine() == "x86_64" else [])]
    source = SOURCES / f"{name}.cc"
    parts = [compiler, *options, tf.__version__, compile_cache.machine()]
    told = "\n".join(parts).encode() + b"".join(path.read_bytes() for path in [*sorted(SOURCES.glob("*.h")), source])
    folder = compile_cache.cache_folder("native") or Path(tempfile.mkdtemp(prefix="bert-trainer-"))  # else for this process
    path = folder / f"{name}-{hashlib.sha256(told).hexdigest()[:16]}.so"
    if path.exists():
        return path
    with _one_at_a_time(folder):
        if not path.exists():  # another process compiled it meanwhile
            _compile(compiler, options, source, path)
    return path


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Lets one process compile into a folder at a time, where its file system has locks."""
    with open(folder / "lock", "w") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compile(compiler: str, options: Sequence[str], source: Path, path: Path) -> None:
    log.info("compiling operations of %s for this processor, once (about 20 seconds)", source.stem)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:  # whole, or not there
        fresh = Path(scratch) / path.name
        files = [*options, str(source), "-o", str(fresh)]
        # System headers: TensorFlow's own warnings are not this project's.
        headers = [flag.replace("-I", "-isystem", 1) for flag in tf.sysconfig.get_compile_flags()]
        command = [compiler, *headers, *files, *tf.sysconfig.get_link_flags()]
        subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        os.replace(fresh, path)
    log.debug("compiled in %.1f s: %s", time.monotonic() - begun, path)
