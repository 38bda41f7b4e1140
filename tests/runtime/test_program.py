"""A traced function as one program: its parameters and outputs, and what cannot be one, told with the line of ours."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.errors import UserError
from trainer.runtime.program import trace

pytest.importorskip("jax")


def test_parameters_are_the_batch_by_name_then_what_was_captured():
    moved, read, count = tf.Variable([1.0, 2.0]), tf.Variable([3.0, 4.0]), tf.Variable(0, dtype=tf.int64)
    constant = tf.constant([5.0, 6.0])

    def step(batch):
        moved.assign_add(batch["b"] * read * constant)
        count.assign_add(1)
        return {"z": tf.reduce_sum(moved), "a": batch["a"] * 2}

    batch = {"b": tf.TensorSpec([2]), "a": tf.TensorSpec([3], tf.int32)}
    program = trace("train", step, batch, "cpu")
    assert program.batch == {"a": ((3,), np.dtype(np.int32)), "b": ((2,), np.dtype(np.float32))}
    assert program.results == ("a", "z") and program.replicas == 1
    variables = [one for one in program.captured if not isinstance(one, np.ndarray)]
    assert {id(one) for one in variables} == {id(moved), id(read), id(count)}
    assert any(isinstance(one, np.ndarray) and one.tolist() == [5.0, 6.0] for one in program.captured)
    assert {id(program.captured[place]) for place in program.changed} == {id(moved), id(count)}, "what is only read stays"
    assert moved.numpy().tolist() == [1.0, 2.0], "tracing changes nothing"


def test_what_cannot_be_one_program_is_told():
    with pytest.raises(
        UserError, match="the train step cannot become one program: ids have no fixed shape; runtime.static_rows"
    ):
        trace("train", lambda batch: batch, {"ids": tf.TensorSpec([None, 8], tf.int32)}, "cpu")
    text = tf.constant(["a", "b"])

    def strings(batch):
        return {"length": tf.strings.length(tf.strings.upper(text))[: tf.shape(batch["ids"])[0]]}

    with pytest.raises(UserError, match="the serving step cannot become one program: it reads strings, which only a host can"):
        trace("serving", strings, {"ids": tf.TensorSpec([2], tf.int32)}, "cpu")

    def host(batch):
        return {"ids": tf.numpy_function(lambda ids: ids, [batch["ids"]], tf.int32)}

    with pytest.raises(
        UserError, match=r"the train step cannot become one program: PyFunc calls back to the host \(.*, in host\)"
    ):
        trace("train", host, {"ids": tf.TensorSpec([2], tf.int32)}, "cpu")

    def listed(batch):
        return {"places": tf.where(batch["ids"] > 0)}

    with pytest.raises(UserError, match="the train step cannot become one program: the size of .* is known only when it runs"):
        trace("train", listed, {"ids": tf.TensorSpec([2], tf.int32)}, "cpu")
