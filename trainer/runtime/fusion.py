"""Chains of element-wise operations and reductions as one compiled kernel, forward and backward.

TensorFlow runs each such operation as a pass over memory of its own. XLA makes one loop of a chain, so between two matrix
products (which TensorFlow hands to the device's library as they are) a kernel reads and writes each value once.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from trainer.runtime.target import traced_target


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a function of tensors and variables one XLA program.

    On a TPU, where the whole step is one program already, it stays a plain part of that.
    """
    program = tf.function(function, jit_compile=True, autograph=False)

    @functools.wraps(function)
    def call(*arguments, **keywords):
        return (function if traced_target() == "tpu" else program)(*arguments, **keywords)

    return call


OUTPUT, OTHERWISE = "the output", "otherwise"  # how `fused` uses a vector


def fused(function: Callable[..., Any] | None = None, /, **vectors: str) -> Callable[..., Any]:
    """Makes a function of tensors a compiled kernel, and its gradient another.

    The gradient is the function's own, by automatic differentiation. Nothing is kept for it but the inputs: what lies
    between is computed again inside the backward kernel, which costs less than a pass over memory to keep it.

    A vector that is spread over all rows, as a bias is, has sums of columns as its gradient. On a CPU they are left to
    `column_sums`: XLA takes longer for them than for all else in the kernel (a GELU with its bias: 10 of 13 ms).

    Args:
      function: takes tensors by position, Python numbers by keyword; returns a tensor or several. No variables inside.
      vectors: {name of a parameter that is a vector along the last axis: how it is used}. How: the name of the parameter to
        which the vector is first added, if that one is used nowhere else; OUTPUT, if it is added last, to the result;
        OTHERWISE in all other cases. The first parameter has the shape of the result, which is one tensor.

    Returns:
      A function with the same signature. Integer inputs have no gradient.

    Raises:
      TypeError: a name in `vectors` is no parameter.
    """
    if function is None:
        return functools.partial(fused, **vectors)
    names = list(inspect.signature(function).parameters)
    unknown = ({*vectors, *vectors.values()} - {OUTPUT, OTHERWISE}) - set(names)
    if unknown:
        raise TypeError(f"{function.__name__} has no parameter {', '.join(sorted(unknown))}")
    forward = compiled(function)
    summing, elementwise = _gradient_kernel(function, names, {}), _gradient_kernel(function, names, vectors)

    @functools.wraps(function)
    def call(*tensors, **constants):
        @tf.custom_gradient
        def apply(*inputs):
            def gradient(*upstream):
                backward, left_out = (elementwise, vectors) if traced_target() == "cpu" else (summing, {})
                found = backward(inputs, upstream, **constants)
                for name, place in left_out.items():
                    elements = upstream[0] if place == OUTPUT else found[name if place == OTHERWISE else place]
                    found[name] = column_sums(elements)
                return [found.get(name) for name, _ in zip(names, inputs, strict=False)]

            return forward(*inputs, **constants), gradient

        return apply(*tensors)

    call.vectors = vectors  # type: ignore[attr-defined]  # for a test that tries each declaration
    return call


def _gradient_kernel(function, names, vectors):
    """Returns the compiled gradient of `function`, {name: gradient}, but for the sums over columns of `vectors`.

    A vector used OTHERWISE has the gradient of each element there, in the result's dtype; of the others there is nothing.
    """
    spread = [name for name in names if vectors.get(name) == OTHERWISE]

    @compiled
    def backward(inputs, upstream, **constants):
        inputs = dict(zip(names, inputs, strict=False))
        shape = tf.shape(inputs[names[0]])
        inputs |= {name: tf.broadcast_to(inputs[name], shape) for name in spread}
        sought = [name for name in inputs if vectors.get(name, OTHERWISE) == OTHERWISE]
        watched = {name: inputs[name] for name in sought if inputs[name].dtype.is_floating}
        with tf.GradientTape() as tape:
            tape.watch(watched)
            outputs = function(*inputs.values(), **constants)
        found = tape.gradient(outputs, watched, list(upstream) if isinstance(outputs, list | tuple) else upstream[0])
        return found | {name: tf.cast(found[name], upstream[0].dtype) for name in spread}

    return backward


def column_sums(values: tf.Tensor) -> tf.Tensor:
    """Returns the sums over all but the last axis, added up in float32: dtype [..., width] to float32 [width].

    On a CPU as a product with ones, which the matrix library does as fast as memory is read; its result is rounded to the
    dtype, as the gradients of matrices are.
    """
    flat = tf.reshape(values, [-1, tf.shape(values)[-1]])
    if traced_target() != "cpu" or values.dtype == tf.float16:  # whose largest number sums may exceed
        return tf.reduce_sum(tf.cast(flat, tf.float32), axis=0)
    return tf.cast(tf.matmul(tf.ones([1, tf.shape(flat)[0]], flat.dtype), flat)[0], tf.float32)
