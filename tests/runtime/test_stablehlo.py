"""Modules as TensorFlow writes them: copies give way to what they copy, and which outputs may take whose memory is read."""

import pytest
import tensorflow as tf

from trainer.runtime.stablehlo import all_reduced_bytes, without_copies

jax = pytest.importorskip("jax")


def serialized(function, *arguments):
    compiled = tf.function(function, jit_compile=True, autograph=False)
    return compiled.experimental_get_compiler_ir(*arguments)(stage="stablehlo_serialized")


def text_of(module):
    from jax.interpreters import mlir

    with mlir.make_ir_context():
        return str(mlir.ir.Module.parse(module))


def test_copies_are_dropped_and_aliases_read():
    total = tf.Variable([0.0, 0.0])

    def add(values):
        total.assign_add(values)
        return tf.reduce_sum(total)

    before = serialized(add, tf.ones([2]))
    assert "mhlo.copy" in text_of(before)
    module, aliases, outputs = without_copies(before)
    assert "mhlo.copy" not in text_of(module)
    assert aliases == {1: 1} and outputs == 2, "the sum; the variable, which is the second parameter"


def test_bytes_that_replicas_sum():
    from trainer.runtime.replicas import across, replica_context

    def summed(values):
        replica = replica_context()
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, [values, tf.cast(values, tf.bfloat16)])

    with across(4):
        module, _, _ = without_copies(serialized(summed, tf.ones([8, 2])))
    assert all_reduced_bytes(module) == 16 * 4 + 16 * 2
