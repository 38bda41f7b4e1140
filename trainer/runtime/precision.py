"""What `train.precision: auto` is on these devices."""

from typing import Literal

import tensorflow as tf

from trainer.runtime.distribution import Placement
from trainer.runtime.native import best_seconds

WORTH_IT = 1.2  # times as fast, for the bits that bfloat16 gives up
AMPERE = (8, 0)  # the first compute capability of NVIDIA's with bfloat16 products


def choose(placement: Placement) -> tuple[Literal["bfloat16", "float32"], str]:
    """Returns the faster precision of the two, and why."""
    if placement.kind == "tpu":
        return "bfloat16", "a TPU"
    if placement.has_gpu:
        gpus = tf.config.list_physical_devices("GPU")
        found = min(tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) for gpu in gpus)
        told = f"a GPU of compute capability {found[0]}.{found[1]}"
        return ("bfloat16" if found >= AMPERE else "float32"), told
    if placement.workers > 1:  # all must choose alike, and measurements differ
        return "float32", "several workers on CPUs"
    times = best_seconds(tf.float32) / best_seconds(tf.bfloat16)
    return (
        "bfloat16" if times >= WORTH_IT else "float32"
    ), f"products in bfloat16 are {times:.1f} x as fast as in float32 here"
