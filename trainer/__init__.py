"""Train BERT with TensorFlow: prepare, train, evaluate, predict, export."""

import os
import time

# TFBertModel is a Keras 2 model: both TensorFlow and transformers must pick tf-keras (transformers#29470).
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
# TensorFlow's start-up notices (CPU features, missing CUDA) drown the messages that are ours; --verbose shows them.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# transformers tells every user of a TF class that TF is deprecated; this project exists for them.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

__version__ = "0.1.0"
STARTED = time.monotonic()  # near enough to the start of the process: what `train` counts the time to its first step from
