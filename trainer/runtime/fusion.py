"""Chains of element-wise operations and reductions as one compiled kernel, forward and backward.

TensorFlow runs each such operation as a pass over memory of its own. XLA makes one loop of a chain, so between two matrix
products (which TensorFlow hands to the device's library as they are) a kernel reads and writes each value once.
"""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf


compiled = functools.partial(tf.function, jit_compile=True, autograph=False)


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a function of tensors one compiled kernel, with the gradient as another.

    The gradient is the function's own, by automatic differentiation. Nothing is kept for it but the inputs: what lies
    between is computed again inside the backward kernel, which costs less than a pass over memory to keep it.

    Args:
      function: takes tensors by position, Python numbers by keyword; returns a tensor or several. No variables inside.

    Returns:
      A function with the same signature; integer inputs have no gradient.
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
