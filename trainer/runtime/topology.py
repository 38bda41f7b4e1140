"""Devices to compile for: a slice of TPUs that is not here, by the real TPU compiler; or this machine's own."""

import dataclasses
import math
import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from trainer import files
from trainer.errors import UserError, install_hint, suggestion
from trainer.runtime import pjrt
from trainer.runtime.hlo import memory_traffic
from trainer.runtime.jax_library import jax_library
from trainer.runtime.program import Program
from trainer.runtime.stablehlo import all_reduced_bytes

CHIPS = Path(__file__).parent / "chips.yaml"
LOCAL = "local"
# libtpu asks a TPU VM's metadata server what it is, unless it is told; any type does, for nothing is run.
COMPILES_ONLY = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a device can do; of a chip with two devices each has half.

    Attributes:
      name: as "v5e".
      memory_bytes: that a program may use.
      peak_flops: in bfloat16, FLOP/s.
      bandwidth: of its memory, bytes/s.
      interconnect: to other devices, in both directions together, bytes/s; 0 where there is one device.
      dollars_per_hour: None where it is not known.
      source: where the figures come from.
    """

    name: str
    memory_bytes: float
    peak_flops: float
    bandwidth: float
    interconnect: float
    dollars_per_hour: float | None
    source: str


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices that programs are compiled for.

    Attributes:
      name: as given.
      chip: what each of them can do.
      devices: for a run's placement.
      hosts: machines that hold them.
    """

    name: str
    chip: Chip
    devices: pjrt.Devices
    hosts: int

    @property
    def is_here(self) -> bool:
        """Whether programs could run as well."""
        return self.name == LOCAL


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What a compiler says of a program, for each device.

    Attributes:
      peak_bytes: memory needed at once, arguments included.
      arguments_bytes, temporaries_bytes: of it, what the program is given, and what it makes and drops.
      flops, moved_bytes: computed, and moved between main memory and cores; in one run, the body of a loop counted once.
      accessed_bytes: by XLA's own count, which takes in what is read from a TPU core's own memory, and the copies to there.
      all_reduced_bytes: given into sums over the replicas.
      seconds: that compiling took.
      over_memory: (bytes needed, bytes there) where the compiler refuses it for that; most else is 0 then.
    """

    peak_bytes: int
    arguments_bytes: int
    temporaries_bytes: int
    flops: float
    moved_bytes: float
    accessed_bytes: float
    all_reduced_bytes: int
    seconds: float
    over_memory: tuple[float, float] | None = None


def chips_in(path: str | None) -> dict[str, dict[str, Any]]:
    """Returns {name: figures} of a table of chips.

    Raises:
      UserError: it is no such table.
    """
    named = path or str(CHIPS)
    try:
        table = yaml.safe_load(files.read_text(named))
        for figures in table.values():
            for key in ("memory_gib", "peak_tflops", "memory_gb_per_second", "interconnect_gb_per_second", "devices"):
                float(figures[key])
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--chips: {named} is no table of chips ({reason}); copy {CHIPS} and edit it") from None
    return table


def _chip(name: str, figures: dict[str, Any], price: float | None) -> Chip:
    devices = figures["devices"]
    dollars = price if price is not None else figures.get("dollars_per_hour")
    return Chip(
        name,
        figures["memory_gib"] * GIB / devices,
        figures["peak_tflops"] * 1e12 / devices,
        figures["memory_gb_per_second"] * 1e9 / devices,
        figures["interconnect_gb_per_second"] * 1e9 / devices,
        None if dollars is None else dollars / devices,
        str(figures.get("source", "no source given")),
    )


def find(name: str, chips_path: str | None = None, price: float | None = None, cpu_devices: int = 1) -> Topology:
    """Returns the devices that a name means.

    Args:
      name: "v5e:2x2", a generation and the shape of a slice in chips; or "local".
      chips_path: another table of chips than ours.
      price: dollars an hour and chip, instead of the table's.
      cpu_devices: devices to cut a CPU into, for "local".

    Raises:
      UserError: no such topology, no figures for the chip, or the extra is not installed.
    """
    table = chips_in(chips_path)
    if name == LOCAL:
        return _local(table, price, cpu_devices)
    parsed = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", name)
    if not parsed:
        raise UserError(f"--topology: {name!r} is no topology; write a generation and its shape, as v5e:2x2, or local")
    generation, shape = parsed[1], [int(part) for part in parsed[2].split("x")]
    known = [chip for chip in table if not chip.startswith("NVIDIA")]
    if generation not in known:
        raise UserError(
            f"--topology: no figures for {generation!r}{suggestion(generation, known)}; the table has {', '.join(known)}, and "
            "--chips=FILE names another one"
        )
    os.environ.update({key: os.environ.get(key, value) for key, value in COMPILES_ONLY.items()})
    jax_library()
    from jax.experimental import topologies

    # A host has 2 x 2 chips of a slice, or all of a smaller one.
    bounds = [math.gcd(size, 2) for size in (*shape, 1)][:2]
    try:
        description = topologies.get_topology_desc(
            topology_name=name, platform="tpu", chips_per_host_bounds=(*bounds, *([1] if len(bounds) == 2 else []))
        )
    except Exception as error:  # JAX raises what libtpu and its loader say
        reason = (str(error).strip().splitlines() or [""])[0]
        if "libtpu" in reason or "tpu is not" in reason.lower() or "Unable to initialize" in reason:
            raise UserError(f"preflight compiles for TPUs with libtpu ({reason}); {install_hint('preflight')}") from None
        raise UserError(f"--topology={name}: the TPU compiler knows no such slice: {reason}") from None
    devices: tuple[Any, ...] = tuple(description.devices)
    chip = _chip(generation, table[generation], price)
    return Topology(name, chip, pjrt.Devices(devices, devices, 0, 1), len({device.process_index for device in devices}))


def _local(table: dict[str, dict[str, Any]], price: float | None, cpu_devices: int) -> Topology:
    devices = pjrt.start(cpu_devices)
    if devices.target == "cpu":
        return Topology(LOCAL, measured_cpu(price, len(devices.all)), devices, 1)
    found = _name_of(devices, table)
    if found is None:
        kind = devices.all[0].device_kind
        raise UserError(f"--topology=local: no figures for {kind}; add it to a copy of {CHIPS}, and name that with --chips")
    return Topology(LOCAL, _chip(found, table[found], price), devices, devices.processes)


def _name_of(devices: pjrt.Devices, table: dict[str, dict[str, Any]]) -> str | None:
    """Returns the name that a table has for the chip of these devices; None: it does not have it."""
    kind = devices.all[0].device_kind
    return next((name for name, figures in table.items() if kind == figures.get("kind", "") or kind.startswith(name)), None)


def published_peak_flops(devices: pjrt.Devices) -> float:
    """Returns what all of these devices reach together by our table, FLOP/s in bfloat16; infinity where it has none."""
    table = chips_in(None)
    name = _name_of(devices, table)
    return float("inf") if name is None else _chip(name, table[name], None).peak_flops * len(devices.all)


def measured_cpu(price: float | None, devices: int) -> Chip:
    """Returns what this machine's CPU does: a large float32 product, a copy of 256 MB, the memory that is free."""
    size = 2048
    matrix = np.ones([size, size], np.float32)
    source = np.ones(2**26, np.float32)
    target = np.empty_like(source)

    def fastest(work) -> float:
        times = []
        for _ in range(5):
            begun = time.perf_counter()
            work()
            times.append(time.perf_counter() - begun)
        return min(times)

    flops = 2.0 * size**3 / fastest(lambda: matrix @ matrix)
    bandwidth = 2.0 * source.nbytes / fastest(lambda: np.copyto(target, source))
    memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    dollars = None if price is None else price / devices
    return Chip("CPU", memory / devices, flops / devices, bandwidth / devices, 0.0, dollars, "measured now, in float32")


def compile_for(topology: Topology, program: Program) -> Compiled:
    """Compiles a program for the first of a topology's devices, as many as it has replicas.

    Raises:
      UserError: the compiler cannot take it, for another reason than memory.
    """
    from jaxlib import _jax

    devices = topology.devices.all[: program.replicas]
    options = pjrt.compile_options(program.replicas, [device.id for device in devices])
    begun = time.perf_counter()
    summed = all_reduced_bytes(program.module)
    try:
        client, mlir = devices[0].client, jax_library().interpreters.mlir
        if topology.is_here:
            executable = client.compile_and_load(program.module, _jax.DeviceList(devices), options)
        else:
            with mlir.make_ir_context():
                executable = client.compile(mlir.ir.Module.parse(program.module), _jax.DeviceList(devices), options)
    except _jax.JaxRuntimeError as error:
        sizes = over_memory(str(error))
        if sizes is None:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"the {program.name} step does not compile for {topology.name}: {reason}") from None
        return Compiled(0, 0, 0, 0.0, 0.0, 0.0, summed, time.perf_counter() - begun, sizes)
    memory, cost = executable.get_compiled_memory_stats(), executable.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    needed = max(
        memory.peak_memory_in_bytes,
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + (memory.temp_size_in_bytes if topology.is_here else 0),
    )
    accessed = float(cost.get("bytes accessed", 0.0))
    moved = accessed if topology.is_here else float(memory_traffic(executable.hlo_modules()[0].to_string()))
    return Compiled(
        needed,
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        float(cost.get("flops", 0.0)),
        moved,
        accessed,
        summed,
        time.perf_counter() - begun,
    )


def over_memory(message: str) -> tuple[float, float] | None:
    """Returns (bytes needed, bytes there) from a compiler's message that memory does not suffice; None: it says another thing.

    >>> over_memory("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 24.00G of 16.00G hbm.")
    (25769803776.0, 17179869184.0)
    """
    if "RESOURCE_EXHAUSTED" not in message and "memory" not in message:
        return None
    amount = r"([\d.]+)([KMGT])"
    patterns = (
        rf"Used {amount}i?B? of {amount}",
        rf"\({amount}i?B?\) exceeds available \w+ \({amount}",
        rf"needed? {amount}.* {amount}",
    )
    found = next((match for pattern in patterns if (match := re.search(pattern, message))), None)
    if found is None:
        return None
    scale = {"K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40}
    return float(found[1]) * scale[found[2]], float(found[3]) * scale[found[4]]
