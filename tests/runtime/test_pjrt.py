"""Variables on devices: read, changed, brought back, forgotten; every replica's part of a batch."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.errors import UserError
from trainer.runtime import pjrt
from trainer.runtime.replicas import replica_context

pytest.importorskip("jax")
SPEC = {"x": tf.TensorSpec([2, 1])}


@pytest.fixture
def session():
    return pjrt.Session(pjrt.start(cpu_devices=2))


def test_replicas_sum_their_parts_and_keep_their_own_results(session):
    total, number = tf.Variable([10.0]), tf.Variable(2**40, dtype=tf.int64)

    def step(batch):
        replica = replica_context()
        total.assign_add(replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.reduce_sum(batch["x"], axis=0)))
        number.assign_add(1)
        return {"mine": batch["x"], "who": tf.cast(replica.replica_id_in_sync_group, tf.int32)}

    program = session.program("train", step, SPEC)
    batch = session.put([{"x": np.array([[1.0], [2.0]], np.float32)}, {"x": np.array([[3.0], [4.0]], np.float32)}])
    for _ in range(3):
        results = program(batch)
    assert [np.asarray(one["mine"]).ravel().tolist() for one in results] == [[1.0, 2.0], [3.0, 4.0]]
    assert [int(one["who"]) for one in results] == [0, 1]
    assert total.numpy() == [10.0], "until it is pulled, TensorFlow's variable is what it was"
    session.pull([number])
    assert number.numpy() == 2**40 + 3 and total.numpy() == [10.0]
    session.pull()
    assert total.numpy() == [40.0]
    total.assign([0.0])
    program(batch)
    session.pull()
    assert total.numpy() == [50.0], "the devices' own value counts until it is forgotten"
    total.assign([0.0])
    session.forget()
    program(batch)
    session.pull()
    assert total.numpy() == [10.0]


def test_what_was_pulled_does_not_change_with_the_next_step(session):
    weights = tf.Variable(tf.zeros([1024]))

    def step(batch):
        weights.assign_add(tf.ones([1024]))
        return {"loss": tf.reduce_sum(batch["x"])}

    program = session.program("train", step, SPEC)
    batch = session.put([{"x": np.ones([2, 1], np.float32)}] * 2)
    program(batch)
    session.pull()
    for _ in range(5):
        program(batch)
    assert weights.numpy().max() == 1.0, "TensorFlow's copy is its own, whatever memory the devices use again"


def test_processes_that_cannot_be_joined_are_told(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("Deadline exceeded\nmore")

    monkeypatch.setattr(pjrt.jax_library().distributed, "initialize", refuse)
    message = "runtime.distribution=pjrt: the other processes of this run cannot be joined: Deadline exceeded"
    with pytest.raises(UserError, match=message):
        pjrt.start(cluster=(["a:1", "b:1"], 0))
    monkeypatch.setenv(pjrt.WORKER, "1")
    monkeypatch.setenv(pjrt.WORKERS, "2")
    with pytest.raises(UserError, match=message):
        pjrt.start()


@pytest.mark.parametrize(
    ("told", "place"),
    [
        ({}, (0, 1)),
        ({"BERT_TRAINER_WORKER": "2", "BERT_TRAINER_WORKERS": "4"}, (2, 4)),
        ({"TPU_WORKER_ID": "3", "TPU_WORKER_HOSTNAMES": "a,b,c,d"}, (3, 4)),
        ({"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost"}, (0, 1)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, (1, 2)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, (0, 1)),
    ],
)
def test_launchers_tell_a_process_its_place(monkeypatch, told, place):
    for name in (
        "BERT_TRAINER_WORKER",
        "BERT_TRAINER_WORKERS",
        "TPU_WORKER_ID",
        "TPU_WORKER_HOSTNAMES",
        "SLURM_PROCID",
        "SLURM_NTASKS",
    ):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert pjrt.launched_place() == place
