"""Replicas of a program: alone they are nobody; sums only; the context of the innermost `across`."""

import pytest
import tensorflow as tf

from trainer.runtime.replicas import across, replica_context, sums_gradients

SUM, MEAN = tf.distribute.ReduceOp.SUM, tf.distribute.ReduceOp.MEAN


def test_alone_a_replica_is_number_0_and_its_sums_are_its_own():
    with across(1):
        replica = replica_context()
        assert replica.num_replicas_in_sync == 1 and replica.replica_id_in_sync_group == 0 and not sums_gradients()
        values = {"a": tf.constant([1.0]), "b": tf.constant(2)}
        assert replica.all_reduce(SUM, values) is values


def test_outside_a_program_the_strategy_tells():
    assert replica_context() is tf.distribute.get_replica_context() and not sums_gradients()
    with across(4), across(2):
        assert replica_context().num_replicas_in_sync == 2 and sums_gradients()


def test_a_mean_is_refused():
    with across(2), pytest.raises(NotImplementedError, match="a program only sums over its replicas"):
        replica_context().all_reduce(MEAN, tf.ones([]))
