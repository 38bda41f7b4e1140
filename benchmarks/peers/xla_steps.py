"""This project as a side of `benchmarks/gpu_speed.py`: its training step as `gpu_export.py` wrote it, run by JAX's XLA.

Needs JAX, NumPy and safetensors, no TensorFlow.
"""

import argparse
import json
import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the other side needs memory of the same card

import jax
import numpy as np
import protocol
from jax.extend.backend import get_compile_options
from jaxlib import _jax  # no public way runs a program that JAX did not trace
from safetensors.numpy import load_file

jax.config.update("jax_enable_x64", True)  # the number of the step is an int64


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step", required=True, help="<name>.npz of gpu_export.py")
    parser.add_argument("--encoder", required=True, help="folder with model.safetensors, as PyTorch saves it")
    options = parser.parse_args()

    with np.load(options.step) as file:
        arrays = dict(file)
    told = json.loads(arrays["described"].tobytes())
    weights = load_file(os.path.join(options.encoder, "model.safetensors"))
    device = jax.devices()[0]

    def on_device(array):
        return jax.device_put(array, device)

    def batch_of(number):
        prefix = f"{number}/"
        places = sorted(int(name.removeprefix(prefix)) for name in arrays if name.startswith(prefix))
        return [on_device(arrays[f"{prefix}{place}"]) for place in places]

    batches = [batch_of(number) for number in range(len(told["tokens"]))]
    loss_of = compiled(arrays["loss"], device)
    (first_loss,) = loss_of([*batches[0], *[on_device(begun(one, weights)) for one in told["parameters"]["loss"]]])
    train = compiled(arrays["step"], device)
    state = [on_device(begun(one, weights)) for one in told["parameters"]["step"]]
    changed = [place for place, one in enumerate(told["parameters"]["step"]) if one["changes"]]
    number = 0

    def next_batch():
        nonlocal number
        batch, tokens = batches[number % len(batches)], told["tokens"][number % len(batches)]
        number += 1
        return batch, tokens, told["batch_size"], told["cells"]

    def step(batch):
        loss, *after = train([*batch, *state])
        for place, value in zip(changed, after, strict=True):
            state[place] = value
        return float(loss)

    protocol.serve(float(first_loss), next_batch, step)


def compiled(module, device):
    """Returns a function of a list of arrays that runs a serialized HLO module on a device."""
    program = _jax.mlir.hlo_to_stablehlo(module.tobytes())
    devices = _jax.DeviceList((device,))
    executable = device.client.compile_and_load(program, devices, get_compile_options(num_replicas=1, num_partitions=1))

    def run(inputs):
        return [parts[0] for parts in executable.execute_sharded(inputs).disassemble_into_single_device_arrays()]

    return run


def begun(parameter, weights):
    """Returns what a parameter begins with: an array of its shape and dtype."""
    if "value" in parameter:
        return np.full(parameter["shape"], parameter["value"], parameter["dtype"])
    array = weights[parameter["weight"]]
    return np.ascontiguousarray(array.T if parameter["transposed"] else array)


if __name__ == "__main__":
    main()
