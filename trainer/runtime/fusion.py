"""Chains of element-wise operations and reductions as one compiled kernel, forward and backward.

TensorFlow runs each such operation as a pass over memory of its own. XLA makes one loop of a chain, so between two matrix
products (which TensorFlow hands to the device's library as they are) a kernel reads and writes each value once.
"""

import contextlib
import ctypes
import functools
import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf

SET_LOG_LEVEL, LOG_FATAL_ONLY = "_ZN4absl12lts_2025012714SetMinLogLevelENS0_18LogSeverityAtLeastE", 3  # as in TensorFlow 2.20


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a function of tensors and variables one XLA program.

    On a TPU, where the whole step is one program already, it stays a plain part of that.
    """
    program = tf.function(function, jit_compile=True, autograph=False)

    @functools.wraps(function)
    def call(*arguments, **keywords):
        is_part = isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy)
        return (function if is_part else program)(*arguments, **keywords)

    return call


def quieten() -> None:
    """Keeps XLA's notices off the user's standard error; --verbose shows them.

    Those are: that it compiled something, which it is made to say once, to nobody; and what its library logs.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0":
        return
    # A kernel that was kept is first read as text, then as what it is; protobuf logs the first as an error, each time.
    with contextlib.suppress(OSError, AttributeError):  # another system's library has another name, or the name in it
        library = ctypes.CDLL(os.path.join(tf.sysconfig.get_lib(), "libtensorflow_framework.so.2"))
        getattr(library, SET_LOG_LEVEL)(LOG_FATAL_ONLY)
    saved = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            compiled(tf.negative)(tf.zeros([]))
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a function of tensors one compiled kernel, with the gradient as another.

    The gradient is the function's own, by automatic differentiation. Nothing is kept for it but the inputs: what lies
    between is computed again inside the backward kernel, which costs less than a pass over memory to keep it.

    Args:
      function: takes tensors by position, Python numbers by keyword; returns a tensor or several. No variables inside.

    Returns:
      A function with the same signature. Integer inputs have no gradient.
    """
    forward = compiled(function)

    @compiled
    def backward(inputs, upstream, **constants):
        watched = [value for value in inputs if value.dtype.is_floating]
        with tf.GradientTape() as tape:
            tape.watch(watched)
            outputs = function(*inputs, **constants)
        return tape.gradient(outputs, watched, list(upstream) if isinstance(outputs, list | tuple) else upstream[0])

    @functools.wraps(function)
    def call(*tensors, **constants):
        @tf.custom_gradient
        def apply(*inputs):
            def gradient(*upstream):
                found = iter(backward(inputs, upstream, **constants))
                return [next(found) if value.dtype.is_floating else None for value in inputs]

            return forward(*inputs, **constants), gradient

        return apply(*tensors)

    return call
