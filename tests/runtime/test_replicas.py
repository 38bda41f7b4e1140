"""Replicas of a program: alone they are nobody; sums only; the context of the innermost `across`."""

import pytest
import tensorflow as tf

from trainer.runtime.replicas import across, gathered, replica_context, sums_gradients

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


def test_values_and_gradients_of_all_replicas():
    """Each replica has its own loss, of what all have; the gradient of their sum comes back to who made the value."""
    assert gathered(tf.constant([[1.0]])).numpy().tolist() == [[1.0]], "alone"
    strategy = tf.distribute.MirroredStrategy([device.name for device in tf.config.list_logical_devices("CPU")])
    values = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant([[1.0, 2.0], [3.0, 4.0]]) + 10.0 * context.replica_id_in_sync_group
    )

    def run(own):
        number = tf.cast(replica_context().replica_id_in_sync_group, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(own)
            everyone = gathered(own)
            loss = tf.reduce_sum(everyone * (number + 1.0)) + tf.reduce_sum(everyone[:2]) * number
        return everyone, gathered(tf.cast(own, tf.int32)), tape.gradient(loss, own)

    found = [strategy.experimental_local_results(one) for one in tf.function(lambda v: strategy.run(run, (v,)))(values)]
    expected = [[1, 2], [3, 4], [11, 12], [13, 14]]
    assert all(one.numpy().tolist() == expected for one in (*found[0], *found[1]))
    assert [one.numpy().tolist() for one in found[2]] == [[[4, 4], [4, 4]], [[3, 3], [3, 3]]]
