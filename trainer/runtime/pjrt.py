"""Runs traced programs on the devices that JAX's PJRT drives: TPUs, GPUs, CPUs, of one process or of many."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from trainer.errors import UserError
from trainer.runtime.jax_library import jax_library
from trainer.runtime.program import Program, trace
from trainer.runtime.target import AMPERE, Target

WORKER, WORKERS = "BERT_TRAINER_WORKER", "BERT_TRAINER_WORKERS"  # of a TPU slice with several hosts, by run_tpu.sh


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of a run.

    Attributes:
      all: of every process, in the order of the replicas.
      local: those of this process.
      process, processes: this process's number, and how many there are.
    """

    all: tuple[Any, ...]
    local: tuple[Any, ...]
    process: int
    processes: int

    @property
    def target(self) -> Target:
        """The kind of device."""
        kinds: dict[str, Target] = {"tpu": "tpu", "gpu": "gpu", "cuda": "gpu", "rocm": "gpu", "cpu": "cpu"}
        return kinds[self.all[0].platform]

    @property
    def line(self) -> str:
        """What they are, for the log."""
        over = f" of {self.processes} processes" if self.processes > 1 else ""
        return f"{len(self.all)} x {self.all[0].device_kind}{over}, by PJRT"

    def best_precision(self) -> tuple[Literal["bfloat16", "float32"], str]:
        """Returns the faster precision of the two, and why."""
        if self.target == "gpu":
            capability = str(self.all[0].compute_capability)
            if tuple(map(int, capability.split("."))) < AMPERE:
                return "float32", f"a GPU of compute capability {capability}"
        if self.target == "cpu":
            return "float32", "PJRT on a CPU"
        return "bfloat16", self.all[0].device_kind

    @functools.cached_property
    def mesh(self) -> Any:
        """All devices on one axis."""
        return jax_library().sharding.Mesh(np.array(self.all), ("replica",))

    @functools.cached_property
    def apart(self) -> Any:
        """The sharding of what each replica has a part of, along the first axis."""
        return jax_library().sharding.NamedSharding(self.mesh, jax_library().sharding.PartitionSpec("replica"))

    @functools.cached_property
    def alike(self) -> Any:
        """The sharding of what every replica has whole."""
        return jax_library().sharding.NamedSharding(self.mesh, jax_library().sharding.PartitionSpec())

    def sum_over_processes(self, value: float) -> float:
        """Returns the sum of every process's value; all must call it."""
        if self.processes == 1:
            return value
        from jax.experimental import multihost_utils

        return float(np.sum(multihost_utils.process_allgather(np.float64(value))))


def start(cpu_devices: int = 1, cluster: tuple[Sequence[str], int] | None = None) -> Devices:
    """Finds the devices of this process, and of the others where there are some.

    Args:
      cpu_devices: devices to cut a CPU into.
      cluster: the addresses of all processes, of which the first coordinates, and which one this is. None: a TPU slice and
        Slurm tell JAX themselves.

    Raises:
      UserError: JAX is not installed; it runs already with other devices; the other processes cannot be reached.
    """
    jax = jax_library()
    try:
        jax.config.update("jax_num_cpu_devices", max(jax.config.jax_num_cpu_devices, cpu_devices))
    except RuntimeError:  # it has looked at its devices already
        if len(jax.devices()) < cpu_devices and jax.devices()[0].platform == "cpu":
            raise UserError(
                f"runtime.cpu_devices={cpu_devices}: JAX runs already, with {len(jax.devices())} CPU device(s); start a "
                "process of its own for this run"
            ) from None
    if not jax.distributed.is_initialized():
        _join(cluster)
    devices = tuple(jax.devices())
    if devices[0].platform == "cpu" and jax.process_count() == 1:
        devices = devices[:cpu_devices]
    local = tuple(device for device in devices if device.process_index == jax.process_index())
    return Devices(devices, local, jax.process_index(), jax.process_count())


def _join(cluster: tuple[Sequence[str], int] | None) -> None:
    """Joins the other processes of a run, where there are some."""
    jax = jax_library()
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        if cluster is not None and len(cluster[0]) > 1:
            addresses, index = cluster
            jax.distributed.initialize(addresses[0], num_processes=len(addresses), process_id=index)
        elif cluster is None and launched_place()[1] > 1:
            jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(f"runtime.distribution=pjrt: the other processes of this run cannot be joined: {reason}") from error


def launched_place() -> tuple[int, int]:
    """Returns (this process's number, how many there are), as run_tpu.sh, GKE or Slurm say; (0, 1) where none does."""
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").count(",") + 1  # GKE's list of a slice
    for number, count in (
        (WORKER, os.environ.get(WORKERS)),
        ("TPU_WORKER_ID", hosts),
        ("SLURM_PROCID", os.environ.get("SLURM_NTASKS")),
    ):
        told = os.environ.get(number, "")
        if told.isdigit() and int(count or 1) > 1:
            return int(told), int(count or 1)
    return 0, 1


def compile_options(replicas: int, device_ids: Sequence[int] | None = None) -> Any:
    """Returns XLA's options for a program of so many replicas."""
    from jax.extend import backend

    assignment = None if device_ids is None else np.asarray(device_ids).reshape(replicas, 1)
    return backend.get_compile_options(num_replicas=replicas, num_partitions=1, device_assignment=assignment)


class Session:
    """Variables on the devices, and the programs that read and change them.

    Between runs a variable lives where it was changed last: on the devices, until `pull` brings it into its tf.Variable;
    or there, once `forget` says that TensorFlow changed it.

    Args:
      devices: the run's.
    """

    def __init__(self, devices: Devices):
        self.devices = devices
        self._placed: dict[int, tuple[tf.Variable, Any]] = {}  # by id: the variable, and its array on the devices

    def program(
        self, name: str, function: Callable[[Mapping[str, tf.Tensor]], Mapping[str, tf.Tensor]], batch: Mapping[str, Any]
    ) -> "Loaded":
        """Traces and compiles a function of a replica's batch; see `program.trace`."""
        return Loaded(trace(name, function, batch, self.devices.target, len(self.devices.all)), self)

    def array_of(self, variable: tf.Variable) -> Any:
        """Returns a variable's array, every replica's copy of it."""
        key = id(variable)
        if key not in self._placed:
            value = np.array(variable)  # a copy: JAX may keep the memory itself, and TensorFlow writes to its own
            copies = [jax_library().device_put(value, device) for device in self.devices.local]
            self._placed[key] = variable, self._joined(value.shape, self.devices.alike, copies)
        return self._placed[key][1]

    def keep(self, variable: tf.Variable, copies: Sequence[Any]) -> None:
        """Makes the replicas' new values of a variable the ones that the next program reads."""
        array = self._joined(copies[0].shape, self.devices.alike, copies)
        self._placed[id(variable)] = variable, array

    def put(self, batches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Begins to copy batches to this process's devices, one each.

        Args:
          batches: {name: array}, for each local replica.

        Returns:
          {name: all replicas' batches as one array}.
        """
        jax, count = jax_library(), len(self.devices.all)
        placed = {}
        for name in sorted(batches[0]):
            parts = [
                jax.device_put(np.asarray(batch[name]), device)
                for batch, device in zip(batches, self.devices.local, strict=True)
            ]
            shape = parts[0].shape
            placed[name] = self._joined((count * shape[0], *shape[1:]), self.devices.apart, parts)
        return placed

    def pull(self, variables: Iterable[tf.Variable] | None = None) -> None:
        """Copies variables (all by default) from the devices into TensorFlow's."""
        wanted = None if variables is None else {id(variable) for variable in variables}
        for key, (variable, array) in self._placed.items():
            if wanted is None or key in wanted:
                # A copy: TensorFlow may keep the memory itself, and the next step writes to the devices' own.
                variable.assign(np.array(array.addressable_shards[0].data))

    def forget(self) -> None:
        """Makes the next program read TensorFlow's variables."""
        self._placed.clear()

    def _joined(self, shape: tuple[int, ...], sharding: Any, parts: Sequence[Any]) -> Any:
        return jax_library().make_array_from_single_device_arrays(shape, sharding, list(parts))


class Loaded:
    """A program, compiled for a session's devices.

    Args:
      program: traced.
      session: whose variables it reads and changes.
    """

    def __init__(self, program: Program, session: Session):
        self.program, self._session = program, session
        devices = session.devices
        from jaxlib import _jax

        client = devices.all[0].client
        options = compile_options(program.replicas, [device.id for device in devices.all])
        self._executable = client.compile_and_load(program.module, _jax.DeviceList(devices.all), options)
        self._constants = {
            place: session._joined(value.shape, devices.alike, [jax_library().device_put(value, one) for one in devices.local])
            for place, value in enumerate(program.captured)
            if isinstance(value, np.ndarray)
        }

    def __call__(self, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Runs the program on a batch from `Session.put`; it may still run when this returns.

        Returns:
          {name: result} of each local replica.
        """
        program, session = self.program, self._session
        captured = [
            self._constants[place] if place in self._constants else session.array_of(value)
            for place, value in enumerate(program.captured)
        ]
        results = self._executable.execute_sharded([*(batch[name] for name in program.batch), *captured])
        outputs = results.disassemble_into_single_device_arrays()
        count = len(program.results)
        for place, copies in zip(program.changed, outputs[count:], strict=True):
            session.keep(program.captured[place], copies)
        replicas = range(len(session.devices.local))
        return [{name: outputs[i][one] for i, name in enumerate(program.results)} for one in replicas]
