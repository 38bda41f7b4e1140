"""data_service on the command line: it prints its address, serves batches, and ends at SIGTERM."""

import signal
import subprocess
import sys

import tensorflow as tf

from tests.conftest import ROOT, subprocess_environment
from trainer.runtime.data_service import from_servers


def test_it_serves_until_it_is_stopped():
    command = [sys.executable, "-m", "trainer", "data_service", "--port=0", "--host=localhost"]
    server = subprocess.Popen(
        command, cwd=ROOT, env=subprocess_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    address = server.stdout.readline().removeprefix("data service: ").strip()
    assert server.stdout.readline().strip() == f"use it: --set runtime.data_service=[{address}]"
    served = from_servers(lambda server, servers: tf.data.Dataset.range(10).shard(servers, server), [address])
    assert list(served.as_numpy_iterator()) == list(range(10))
    server.send_signal(signal.SIGTERM)
    assert server.wait(30) == 0 and "stopped by SIGTERM" in server.stderr.read()
