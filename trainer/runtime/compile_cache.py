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


def keep_compiled_kernels() -> str | None:
    """Tells TensorFlow, before it is imported, where to keep compiled kernels; returns the folder.

    None where that is switched off, the user has told TensorFlow a folder already, none can be written or its disk is full.
    """
    try:
        version = importlib.metadata.version("tensorflow")
    except importlib.metadata.PackageNotFoundError:  # tensorflow-tpu: a TPU's compiler keeps its own
        return None
    root = os.environ.get(SETTING, str(Path.home() / ".cache/bert-trainer"))
    given = os.environ.get(FLAGS, "")
    if not root or FLAG in given:
        return None
    folder = Path(root).expanduser() / "kernels" / f"tensorflow-{version}-{_processor()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        _forget_oldest(folder)
    except OSError:
        return None
    if shutil.disk_usage(folder).free < FREE_BYTES:
        return None
    os.environ[FLAGS] = f"{given} {FLAG}={folder}".strip()
    return str(folder)


def _forget_oldest(folder: Path) -> None:
    kept = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    held = 0
    for path in kept:
        held += path.stat().st_size
        if held > LARGEST_BYTES:
            path.unlink()


def _processor() -> str:
    """Returns a name for all machines whose compiled programs are the same: instructions, and cores that share the work."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    instructions = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    told = "\n".join([platform.machine(), platform.processor(), str(os.cpu_count()), *instructions])
    return hashlib.sha256(told.encode()).hexdigest()[:16]
