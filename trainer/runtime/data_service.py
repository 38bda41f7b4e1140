"""Input pipelines on other machines (tf.data service), in the very order of one pipeline here.

tf.data service deals a dataset out to any worker that asks, in no order. Here each server is a service of its own with one
worker: of W servers, number w makes every W-th batch from number w on, and the run takes one from each in turn.
"""

import socket
from collections.abc import Callable, Sequence

import tensorflow as tf

from trainer.errors import UserError

PROTOCOL = "grpc://"
CONNECT_SECONDS = 10.0


class DataServer:
    """A dispatcher with its one worker; serves until `stop`.

    Args:
      port: that runs connect to; 0 takes a free one. The worker takes the next free one.
      host: this machine's name or address, as the runs' machines know it.

    Attributes:
      address: for `runtime.data_service`.

    Raises:
      UserError: the port cannot be had.
    """

    def __init__(self, port: int, host: str):
        service = tf.data.experimental.service
        try:
            with socket.socket() as free:  # gRPC would share a port with another server of its kind
                free.bind(("", port))
            self._dispatcher = service.DispatchServer(service.DispatcherConfig(port=port))
            # The worker's address goes to the runs by way of the dispatcher: it has to be one that they can reach.
            configured = service.WorkerConfig(self._dispatcher.target.removeprefix(PROTOCOL), worker_address=f"{host}:%port%")
            self._worker = service.WorkerServer(configured)
        except (tf.errors.OpError, OSError, OverflowError) as error:
            reason = (str(error).strip().splitlines() or [""])[0]
            raise UserError(f"--port={port}: the data service cannot be started: {reason}") from None
        self.address = f"{PROTOCOL}{host}:{self._dispatcher.target.rpartition(':')[2]}"

    def stop(self) -> None:
        """Ends both."""
        self._worker._stop()
        self._dispatcher._stop()


def check_servers(addresses: Sequence[str]) -> None:
    """Asks each server for a connection.

    Raises:
      UserError: one does not answer: tf.data would try again for hours.
    """
    for address in addresses:
        host, _, port = address.removeprefix(PROTOCOL).rpartition(":")
        try:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise UserError(
                f"runtime.data_service: {address} does not answer ({error}); start it there with "
                f"bert-trainer data_service --port={port}, or leave it out of the list"
            ) from None


def from_servers(batches_of: Callable[[int, int], tf.data.Dataset], addresses: Sequence[str]) -> tf.data.Dataset:
    """Returns the batches that servers make, in the order of one pipeline.

    Args:
      batches_of: (w, W) → every W-th batch from number w on.
      addresses: of the W servers, as grpc://host:port.
    """
    service = tf.data.experimental.service
    parts = [
        batches_of(place, len(addresses)).apply(service.distribute(processing_mode=service.ShardingPolicy.OFF, service=address))
        for place, address in enumerate(addresses)
    ]
    turns = tf.data.Dataset.range(len(addresses)).repeat()
    return tf.data.Dataset.choose_from_datasets(parts, turns, stop_on_empty_dataset=True)
