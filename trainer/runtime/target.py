"""Which kind of device a graph is traced for: a parameter of tracing, so that a laptop can trace what a TPU will run."""

import contextlib
import glob
from collections.abc import Iterator
from typing import Literal

import tensorflow as tf

Target = Literal["cpu", "gpu", "tpu"]
TPU_DEVICE_FILES = ("/dev/accel*", "/dev/vfio/[0-9]*")
AMPERE = (8, 0)  # NVIDIA's first compute capability with bfloat16 products
_targets: list[Target] = []


def has_tpu_chip() -> bool:
    """Returns whether this machine is a TPU VM."""
    return any(glob.glob(pattern) for pattern in TPU_DEVICE_FILES)


def machine_target() -> Target:
    """Returns the fastest kind of device that TensorFlow has on this machine."""
    kinds: tuple[Target, ...] = ("tpu", "gpu", "cpu")
    return next(kind for kind in kinds if tf.config.list_logical_devices(kind.upper()))


@contextlib.contextmanager
def tracing_for(target: Target) -> Iterator[None]:
    """Makes `target` the device that the code inside is traced for."""
    _targets.append(target)
    try:
        yield
    finally:
        _targets.pop()


def traced_target() -> Target:
    """Returns the target of the innermost `tracing_for`, or this machine's where there is none."""
    return _targets[-1] if _targets else machine_target()
