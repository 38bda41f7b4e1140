"""Keeps the notices of TensorFlow's own libraries off the user's standard error; --verbose shows them."""

import contextlib
import ctypes
import os

import tensorflow as tf

SET_LOG_LEVEL = "_ZN4absl12lts_2025012714SetMinLogLevelENS0_18LogSeverityAtLeastE"  # its name in TensorFlow 2.20
FATAL_ONLY = 3


def quieten() -> None:
    """Silences what XLA and protobuf log through Abseil, as "Compiled cluster using XLA!"; starts no device.

    TF_CPP_MIN_LOG_LEVEL does not reach these messages. On systems where the library or the name in it differs, they appear.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0":
        return
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(os.path.join(tf.sysconfig.get_lib(), "libtensorflow_framework.so.2"))
        getattr(library, SET_LOG_LEVEL)(FATAL_ONLY)
