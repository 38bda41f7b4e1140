"""Chains of element-wise operations and reductions as one compiled kernel, forward and backward.

TensorFlow runs each such operation as a pass over memory of its own. XLA makes one loop of a chain, so between two matrix
products (which TensorFlow hands to the device's library as they are) a kernel reads and writes each value once.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf


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
    """Has XLA say once, to nobody, that it compiled something: it would tell the user of a run, on standard error."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0":
        return
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
