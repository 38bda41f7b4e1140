import pytest
import tensorflow as tf

from trainer.runtime import profiling


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_matmul_rate_is_a_rate(precision):
    rate = profiling.matmul_rate(precision, repeats=2)
    assert 1e8 < rate < 1e16


def test_a_trace_names_the_costliest_operation(tmp_path):
    work = tf.function(lambda x: tf.reduce_sum(tf.linalg.inv(x)) + tf.reduce_sum(tf.sort(x)))
    matrix = tf.random.stateless_normal([600, 600], [1, 2])
    work(matrix)
    with profiling.trace(str(tmp_path)):
        for _ in range(3):
            work(matrix).numpy()
    costs = profiling.costliest(str(tmp_path), 3)
    assert costs[0].operation in ("MatrixInverse", "TopKV2") and len(costs) == 3
    assert {cost.operation: cost.calls for cost in costs}["MatrixInverse"] == 3
    assert [cost.seconds for cost in costs] == sorted((cost.seconds for cost in costs), reverse=True)


def test_memory_only_grows():
    before = profiling.peak_memory_bytes()
    assert 1e7 < before <= profiling.peak_memory_bytes()
