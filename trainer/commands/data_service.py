"""data_service: makes batches for runs on other machines, until it is stopped."""

import logging
import socket
import time

from trainer.cli import Options
from trainer.runtime.data_service import DataServer
from trainer.runtime.faults import StopSignals

log = logging.getLogger(__name__)


def run(options: Options) -> None:
    """Serves on --port until Ctrl-C or SIGTERM."""
    server = DataServer(options.port, options.host or socket.getfqdn())
    print(f"data service: {server.address}\nuse it: --set runtime.data_service=[{server.address}]", flush=True)
    with StopSignals() as signals:
        while signals.received is None:
            time.sleep(0.2)
    server.stop()
    log.info("stopped by %s", signals.received)
