"""The replicas of a step: those of a tf.distribute strategy, or those of one program that holds its collectives itself."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

_across: list["ProgramReplicas"] = []


class ProgramReplicas:
    """What `tf.distribute.ReplicaContext` is to a strategy, for a program that XLA compiles once for all replicas.

    Sums and the replica's number are XLA's own operations, so the program needs nothing from TensorFlow where it runs.

    Args:
      count: replicas of the program, over all processes.

    Attributes:
      num_replicas_in_sync: the count.
    """

    def __init__(self, count: int):
        self.num_replicas_in_sync = count

    @property
    def replica_id_in_sync_group(self) -> tf.Tensor | int:
        """This replica's number, int32 []; 0 where there is only one."""
        if self.num_replicas_in_sync == 1:
            return 0
        return _xla_operations().xla_replica_id()

    def all_reduce(self, reduce_op: tf.distribute.ReduceOp, value: Any) -> Any:
        """Returns the sum over all replicas of each tensor in a structure of them.

        Raises:
          NotImplementedError: another reduction than the sum.
        """
        if reduce_op != tf.distribute.ReduceOp.SUM:
            raise NotImplementedError(f"{reduce_op}: a program only sums over its replicas")
        if self.num_replicas_in_sync == 1:
            return value
        everyone = tf.constant([list(range(self.num_replicas_in_sync))], tf.int32)
        summed = functools.partial(
            _xla_operations().xla_all_reduce, group_assignment=everyone, reduce_op="Add", mode="CrossReplica"
        )
        return tf.nest.map_structure(lambda tensor: summed(input=tf.convert_to_tensor(tensor)), value)


def _xla_operations():
    from tensorflow.compiler.tf2xla.ops import gen_xla_ops

    return gen_xla_ops


@contextlib.contextmanager
def across(count: int) -> Iterator[None]:
    """Makes the code inside be traced as one replica of a program that runs on `count` devices."""
    _across.append(ProgramReplicas(count))
    try:
        yield
    finally:
        _across.pop()


def replica_context() -> Any:
    """Returns the replicas of the innermost `across`, or the strategy's where there is none."""
    return _across[-1] if _across else tf.distribute.get_replica_context()


def gathered(values: tf.Tensor) -> tf.Tensor:
    """Returns the values of all replicas, one replica after the other: [n, ...] → [replicas · n, ...], n the same on each.

    It is a sum over the replicas, each with zeros in the others' places, so that every kind of replicas can do it. Its gradient
    takes what all replicas make of this one's values: each differentiates its own share of the loss.
    """
    replicas = replica_context()
    count = replicas.num_replicas_in_sync
    if count == 1:
        return values
    number = tf.cast(replicas.replica_id_in_sync_group, tf.int32)
    everyone = tf.reshape(tf.concat([[count], tf.shape(values)], 0), [-1])

    def summed(tensor):
        return replicas.all_reduce(tf.distribute.ReduceOp.SUM, tensor)

    @tf.custom_gradient
    def gather(own):
        found = summed(tf.scatter_nd([[number]], own[None], everyone))
        return found, lambda upstream: summed(upstream)[number]

    found = gather(values)
    return tf.reshape(found, tf.concat([[-1], tf.shape(values)[1:]], 0))


def sums_gradients() -> bool:
    """Whether the step must sum its gradients itself: inside `across`, where no strategy does it for the optimizer."""
    return bool(_across) and _across[-1].num_replicas_in_sync > 1
