"""Train BERT with TensorFlow: prepare, train, evaluate, predict, export."""

import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.loading import Embedder, Run, load, train

# TFBertModel is a Keras 2 model: both TensorFlow and transformers must pick tf-keras (transformers#29470).
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
# TensorFlow's start-up notices (CPU features, missing CUDA) drown the messages that are ours; --verbose shows them.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# transformers tells every user of a TF class that TF is deprecated; this project exists for them.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

__version__ = "0.1.0"
STARTED = time.monotonic()  # near enough to the start of the process: `train` measures the time to its first step from here
__all__ = ["Embedder", "Run", "load", "train"]


def __getattr__(name: str) -> Any:
    """Imports the Python API when it is first used: the command line must start without TensorFlow."""
    if name in __all__:
        from trainer import loading

        return getattr(loading, name)
    raise AttributeError(f"module 'trainer' has no attribute {name!r}")
