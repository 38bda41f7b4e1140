"""Chains of element-wise operations and reductions as one compiled kernel, forward and backward.

TensorFlow runs each such operation as a pass over memory of its own. XLA makes one loop of a chain, so between two matrix
products (which TensorFlow hands to the device's library as they are) a kernel reads and writes each value once.
"""

import contextlib
import ctypes
import functools
import inspect
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


EACH_ELEMENT, OUTPUT = "each element", "output"  # what a vector of `fused` is applied to


def fused(function: Callable[..., Any] | None = None, /, **vectors: str) -> Callable[..., Any]:
    """Makes a function of tensors one compiled kernel, with the gradient as another.

    The gradient is the function's own, by automatic differentiation. Nothing is kept for it but the inputs: what lies
    between is computed again inside the backward kernel, which costs less than a pass over memory to keep it.

    A vector that is spread over all rows, as a bias is, has the sums of columns as its gradient. XLA goes down each column by
    itself on a CPU, which takes longer than all else in the kernel (a GELU with its bias: 10 of 13 ms): so these sums are
    products outside of it, see `column_sums`.

    Args:
      function: takes tensors by position, Python numbers by keyword; returns a tensor or several. No variables inside.
      vectors: for each vector along the last axis, by the name of its parameter: the parameter that it is first added to,
        OUTPUT where it is added to the result last of all, or EACH_ELEMENT where it is used in another way.

    Returns:
      A function with the same signature. Integer inputs have no gradient.
    """
    if function is None:
        return functools.partial(fused, **vectors)
    names = list(inspect.signature(function).parameters)
    forward = compiled(function)

    @compiled
    def backward(inputs, upstream, **constants):
        inputs = dict(zip(names, inputs, strict=False))
        vectors_of_elements = [name for name in inputs if vectors.get(name) == EACH_ELEMENT]
        shape = tf.shape(inputs[names[0]])
        inputs |= {name: tf.broadcast_to(inputs[name], shape) for name in vectors_of_elements}
        watched = {
            name: value
            for name, value in inputs.items()
            if value.dtype.is_floating and vectors.get(name, EACH_ELEMENT) == EACH_ELEMENT
        }
        with tf.GradientTape() as tape:
            tape.watch(watched)
            outputs = function(*inputs.values(), **constants)
        found = tape.gradient(outputs, watched, list(upstream) if isinstance(outputs, list | tuple) else upstream[0])
        return found | {name: tf.cast(found[name], upstream[0].dtype) for name in vectors_of_elements}

    @functools.wraps(function)
    def call(*tensors, **constants):
        @tf.custom_gradient
        def apply(*inputs):
            def gradient(*upstream):
                found = backward(inputs, upstream, **constants)
                found[OUTPUT] = upstream[0]
                for name, place in vectors.items():
                    found[name] = column_sums(found[name if place == EACH_ELEMENT else place])
                return [found.get(name) for name, _ in zip(names, inputs, strict=False)]

            return forward(*inputs, **constants), gradient

        return apply(*tensors)

    return call


def column_sums(values: tf.Tensor) -> tf.Tensor:
    """Returns the sums over all but the last axis, added up in float32: dtype [..., width] to float32 [width].

    As a product with ones, at which the matrix library is as fast as memory. Rounded to the dtype, as products of weights are.
    """
    flat = tf.reshape(values, [-1, tf.shape(values)[-1]])
    return tf.cast(tf.matmul(tf.ones([1, tf.shape(flat)[0]], flat.dtype), flat)[0], tf.float32)
