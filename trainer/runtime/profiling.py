"""What a device can do, and where a step's time goes."""

import collections
import contextlib
import dataclasses
import functools
import glob
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator

import tensorflow as tf

from trainer.runtime.distribution import Placement
from trainer.runtime.target import machine_target
from trainer.runtime.topology import published_peak_flops

Product = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def peak_flops(precision: str, placement: Placement, product: Product = tf.linalg.matmul) -> float:
    """Measures what one large matrix product reaches here, times the devices that share a run: FLOP/s.

    Logical CPU devices share one machine's cores, and count once. Infinity where the device has no memory left for it. Of
    accelerators that PJRT drives, what is published: TensorFlow does not see them.

    Args:
      precision: "float32", "bfloat16" or "float16".
      placement: the devices.
      product: another matrix product that the run may use; the faster of it and TensorFlow's counts.
    """
    if placement.devices is not None and placement.target != "cpu":
        return published_peak_flops(placement.devices)
    is_cpu = machine_target() == "cpu"
    size = 2048 if is_cpu else 8192
    try:
        seconds = min(_seconds_of_product(size, precision, one) for one in {product, tf.linalg.matmul})
    except tf.errors.ResourceExhaustedError:
        return float("inf")
    return 2.0 * size**3 / seconds * (placement.workers if is_cpu else placement.replicas)


@functools.cache  # a process that trains several times measures once
def _seconds_of_product(size: int, precision: str, multiply: Product, enough_seconds: float = 1.0) -> float:
    """Returns the shortest of 3 to 15 products, the fewer the slower they are: other programs only make them longer."""
    product = tf.function(lambda left: tf.reduce_max(tf.abs(multiply(left, left))), autograph=False)
    seconds: list[float] = []
    with tf.device(tf.config.list_logical_devices(machine_target().upper())[0].name):
        matrix = tf.cast(tf.random.stateless_normal([size, size], [1, 2]), precision)
        product(matrix).numpy()
        while len(seconds) < 3 or (len(seconds) < 15 and sum(seconds) < enough_seconds):
            begun = time.perf_counter()
            product(matrix).numpy()
            seconds.append(time.perf_counter() - begun)
    return min(seconds)


def peak_memory_bytes() -> int:
    """Returns the most memory held so far: of the first GPU where there is one, else of this process."""
    if tf.config.list_logical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextlib.contextmanager
def trace(folder: str) -> Iterator[None]:
    """Records what runs inside, for TensorBoard's profile page and for `costliest`."""
    tf.profiler.experimental.start(folder)
    try:
        yield
    finally:
        tf.profiler.experimental.stop()


@dataclasses.dataclass(frozen=True)
class Cost:
    """One kind of operation in a trace: its calls and the seconds of all of them, threads added up."""

    operation: str
    calls: int
    seconds: float


COMPILED = "ThunkExecutor::Execute"  # XLA's name, on a CPU, for a run of one compiled program


def costliest(folder: str, count: int = 10) -> list[Cost]:
    """Returns the kinds of operation that took longest in the newest trace of a folder.

    TensorFlow's own operations go by type; XLA's compiled programs are one kind, "compiled kernels".
    """
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    newest = max(glob.glob(os.path.join(folder, "**", "*.xplane.pb"), recursive=True), key=os.path.getmtime)
    space = xplane_pb2.XSpace()
    with open(newest, "rb") as file:
        space.ParseFromString(file.read())
    seconds: dict[str, float] = collections.defaultdict(float)
    calls: dict[str, int] = collections.defaultdict(int)
    for plane in space.planes:
        names = {number: metadata.name for number, metadata in plane.event_metadata.items()}
        for event in (event for line in plane.lines for event in line.events):
            kind = _kind(names[event.metadata_id])
            if kind:
                seconds[kind] += event.duration_ps / 1e12
                calls[kind] += 1
    ordered = sorted(seconds, key=lambda kind: -seconds[kind])[:count]
    return [Cost(kind, calls[kind], seconds[kind]) for kind in ordered]


def _kind(event_name: str) -> str | None:
    """Returns the type of the operation that an event is of; None for what encloses operations."""
    if event_name == COMPILED:
        return "compiled kernels"
    name, colon, kind = event_name.rpartition(":")
    is_operation = colon and name and not name.endswith(":") and kind.replace("_", "").isalnum()
    return kind if is_operation and not kind.startswith("__inference") else None
