import dataclasses

import pytest
import tensorflow as tf

from trainer.runtime import profiling
from trainer.runtime.distribution import Placement

ALONE = Placement(tf.distribute.get_strategy(), "default", "")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_peak_is_a_products_rate(precision):
    assert 1e8 < profiling.peak_flops(precision, ALONE) < 1e16


def test_the_peak_counts_machines_and_accelerators_but_not_logical_devices(monkeypatch):
    monkeypatch.setattr(profiling, "_seconds_of_product", lambda size, precision, product: 2.0 * size**3)
    assert profiling.peak_flops("float32", ALONE) == 1.0
    mirrored = Placement(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), "mirrored", "")
    assert profiling.peak_flops("float32", mirrored) == 1.0
    assert profiling.peak_flops("float32", dataclasses.replace(mirrored, workers=3)) == 3.0
    monkeypatch.setattr(profiling, "machine_target", lambda: "gpu")
    assert profiling.peak_flops("float32", mirrored) == 2.0


def test_the_faster_of_two_products_counts(monkeypatch):
    def other(left, right):
        raise AssertionError("only measured here")

    seconds = {other: 1.0, tf.linalg.matmul: 2.0}
    monkeypatch.setattr(profiling, "_seconds_of_product", lambda size, precision, product: seconds[product] * 2.0 * size**3)
    assert profiling.peak_flops("float32", ALONE, other) == 1.0 and profiling.peak_flops("float32", ALONE) == 0.5


def test_a_full_device_has_no_peak_and_stops_nothing(monkeypatch):
    def full(size, precision, product):
        raise tf.errors.ResourceExhaustedError(None, None, "no memory left")

    monkeypatch.setattr(profiling, "_seconds_of_product", full)
    assert profiling.peak_flops("float32", ALONE) == float("inf")


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
