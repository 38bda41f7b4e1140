"""Batches that servers make: in the order of one pipeline, and a server that is not there."""

import pytest
import tensorflow as tf

from tests.commands.test_train import assert_equal, weights
from trainer.errors import UserError
from trainer.runtime.data_service import DataServer, check_servers, from_servers


@pytest.fixture(scope="module")
def servers():
    started = [DataServer(0, "127.0.0.1") for _ in range(2)]
    yield [server.address for server in started]
    for server in started:
        server.stop()


def test_the_order_is_that_of_one_pipeline(servers):
    def batches(server, count):
        return tf.data.Dataset.range(90).batch(4).shard(count, server).map(lambda values: values * 2)

    check_servers(servers)
    whole = [list(batch.numpy()) for batch in batches(0, 1)]
    for addresses in (servers, servers[:1]):
        assert [list(batch.numpy()) for batch in from_servers(batches, addresses)] == whole


def test_a_run_fed_by_servers_learns_the_same(cli, config_file, tmp_path, servers):
    same = ("--set=train.kernels=xla", "--set=train.precision=float32", "--set=task.balance=sampling", "--set=train.steps=9")
    keys = {"alone": (), "fed": (f"--set=runtime.data_service={servers}".replace("'", ""),)}
    for name, more in keys.items():
        status, _, log = cli("train", f"--config={config_file}", f"--workdir={tmp_path}/{name}", *same, *more)
        assert status == 0, log
    assert_equal(weights(tmp_path / "alone", 9), weights(tmp_path / "fed", 9))


def test_a_server_that_is_not_there(cli, config_file, tmp_path):
    address = "grpc://127.0.0.1:1"
    with pytest.raises(UserError, match=f"runtime.data_service: {address} does not answer .* data_service --port=1"):
        check_servers([address])
    status, _, error = cli(
        "train", f"--config={config_file}", f"--workdir={tmp_path}/run", f"--set=runtime.data_service=[{address}]"
    )
    assert status == 1 and "does not answer" in error
    status, _, error = cli(
        "train", f"--config={config_file}", f"--workdir={tmp_path}/run", "--set=runtime.data_service=[host:1]"
    )
    assert status == 1 and "runtime.data_service: servers are written as grpc://host:port, got 'host:1'" in error


def test_a_port_that_is_taken(servers):
    port = servers[0].rpartition(":")[2]
    with pytest.raises(UserError, match=f"--port={port}: the data service cannot be started: "):
        DataServer(int(port), "127.0.0.1")
