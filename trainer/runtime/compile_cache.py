"""Compiled kernels kept between processes: a second start finds what the first one compiled.

TensorFlow stores XLA's programs in a folder that an environment variable names before it is imported. A program holds
instructions of the processor that it was compiled on, so each kind of processor and each TensorFlow has a folder of its own.
"""

import hashlib
import importlib.metadata
import os
import platform
import shutil
import tempfile
from pathlib import Path

SETTING = "BERT_TRAINER_CACHE"  # another folder than ~/.cache/bert-trainer; empty: nothing is kept
LARGEST_BYTES, FREE_BYTES = 1 << 30, 1 << 30  # of a folder; on its disk, for a full one would stop the run
FLAGS, FLAG = "TF_XLA_FLAGS", "--tf_xla_persistent_cache_directory"
CPU_ONLY = "--tf_xla_persistent_cache_device_types=CPU"  # a folder's name says nothing of the GPU


def keep_compiled_kernels() -> str | None:
    """Tells TensorFlow, before it is imported, where to keep compiled kernels; returns the folder.

    None where that is switched off, the user has told TensorFlow a folder already, none can be written or its disk is full.
    """
    given = os.environ.get(FLAGS, "")
    if FLAG in given or (given and not given.startswith("-")):  # named already, or in a file of flags
        return None
    try:
        # Without this package TensorFlow is tensorflow-tpu, and a TPU's compiler keeps its own.
        version = importlib.metadata.version("tensorflow")
        folder = cache_folder(f"kernels/tensorflow-{version}-{machine()}")
        if folder is None:
            return None
        _forget_oldest(folder)
        is_full = shutil.disk_usage(folder).free < FREE_BYTES
    except (OSError, RuntimeError, importlib.metadata.PackageNotFoundError):  # RuntimeError: there is no home
        return None
    if is_full or set(str(folder)) & {'"', "\\"}:
        return None
    os.environ[FLAGS] = f'{given} {FLAG}="{folder}" {CPU_ONLY}'.strip()
    return str(folder)


def cache_folder(name: str) -> Path | None:
    """Returns a folder, made if it was not there, in which files can be kept between processes; None: that is switched off.

    Raises:
      OSError, RuntimeError: none can be made there, or there is no home.
    """
    root = os.environ.get(SETTING)
    if root == "":
        return None
    folder = Path(root or Path.home() / ".cache/bert-trainer").expanduser() / name
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()
    return folder


def _forget_oldest(folder: Path) -> None:
    kept = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    held = 0
    for path in kept:
        held += path.stat().st_size
        if held > LARGEST_BYTES:
            path.unlink()


def machine() -> str:
    """Returns a name for all machines whose programs are the same: instructions, cores that share the work, options."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    instructions = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    options = os.environ.get("XLA_FLAGS", "")
    told = "\n".join([platform.machine(), platform.processor(), str(os.cpu_count()), options, *instructions])
    return hashlib.sha256(told.encode()).hexdigest()[:16]
