"""Chooses the devices: a TPU, a multi-worker cluster, the GPUs of this machine, those of PJRT, or one; says what and why."""

import concurrent.futures
import dataclasses
import json
import os
import threading

import tensorflow as tf

from trainer.errors import UserError, install_hint
from trainer.runtime import pjrt
from trainer.runtime.jax_library import has_jax
from trainer.runtime.target import Target, has_tpu_chip, machine_target


@dataclasses.dataclass(frozen=True)
class Placement:
    """The chosen devices.

    Attributes:
      strategy: the tf.distribute strategy; the default one, which knows one replica, where PJRT runs the steps.
      kind: "tpu", "mirrored", "multi_worker", "pjrt" or "default".
      reason: one line for the log: what was chosen and why.
      worker, workers: this process among those that feed data; (0, 1) for one process.
      devices: PJRT's; None where TensorFlow runs the steps.
    """

    strategy: tf.distribute.Strategy
    kind: str
    reason: str
    worker: int = 0
    workers: int = 1
    devices: pjrt.Devices | None = None

    @property
    def is_chief(self) -> bool:
        """Whether this process writes checkpoints and logs."""
        return self.worker == 0

    @property
    def target(self) -> Target:
        """The kind of device that the replicas compute on."""
        if self.devices is not None:
            return self.devices.target
        return "tpu" if self.kind == "tpu" else machine_target()

    @property
    def replicas(self) -> int:
        """Replicas over all workers."""
        return len(self.devices.all) if self.devices is not None else self.strategy.num_replicas_in_sync

    def sum_over_workers(self, value: float) -> float:
        """Returns the sum of every worker's value; all must call it. Alone, the value itself."""
        if self.workers == 1:
            return value
        if self.devices is not None:
            return round(self.devices.sum_over_processes(value), 3)
        share = value / (self.replicas // self.workers)  # every replica of a worker adds its part
        local = self.strategy.experimental_distribute_values_from_function(lambda _: tf.constant(share))
        return round(float(self.strategy.reduce(tf.distribute.ReduceOp.SUM, local, axis=None)), 3)


def worker_index() -> int:
    """Returns this process's number among the workers that TF_CONFIG or its launcher names; 0 alone. Starts nothing."""
    try:
        return _members(os.environ["TF_CONFIG"])[1]
    except (KeyError, ValueError, TypeError):
        return pjrt.launched_place()[0]


def _members(cluster: str) -> tuple[list[str], int]:
    """Returns (the addresses of all processes in TF_CONFIG, this one's number); a "chief" counts first."""
    parsed = json.loads(cluster)
    chiefs, workers = parsed["cluster"].get("chief", []), parsed["cluster"].get("worker", [])
    index = int(parsed["task"]["index"])
    if parsed["task"]["type"] == "worker":
        index += len(chiefs)
    return [*chiefs, *workers], index


def _checked_members(cluster: str) -> tuple[list[str], int]:
    """As `_members`; raises UserError where TF_CONFIG is not what it should be."""
    try:
        return _members(cluster)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"TF_CONFIG cannot be used: {error!r} in {cluster[:200]}") from None


def choose(
    distribution: str,
    tpu: str | None = None,
    cpu_devices: int = 1,
    tpu_connect_seconds: int = 120,
    join_cluster: bool = True,
) -> Placement:
    """Chooses and starts a strategy.

    Args:
      distribution: "auto", "tpu", "mirrored", "multi_worker", "pjrt" or "default".
      tpu: a TPU's name, or "local" on a TPU VM.
      cpu_devices: logical devices to cut the CPU into.
      tpu_connect_seconds: how long to wait for a TPU.
      join_cluster: False leaves TF_CONFIG aside: the command runs in one process.

    Raises:
      UserError: what was asked for is not there.
    """
    if distribution == "pjrt":
        return _pjrt(cpu_devices, os.environ.get("TF_CONFIG") if join_cluster else None, "runtime.distribution=pjrt")
    if cpu_devices > 1:
        _cut_cpu(cpu_devices)
    # Physical devices: listing logical ones would start TensorFlow, and a cluster must be joined before that.
    gpus = tf.config.list_physical_devices("GPU")
    cluster = os.environ.get("TF_CONFIG") if join_cluster else None
    kind, why = _kind(distribution, tpu, bool(cluster), len(gpus), cpu_devices)
    if (tpu == "local" or (kind == "tpu" and tpu is None)) and not has_tpu_chip():
        raise UserError(
            "--tpu=local: this machine has no TPU chip (no /dev/accel* or /dev/vfio device). On a laptop leave --tpu "
            "out; run_tpu.sh creates a TPU VM and starts the job there"
        )
    if kind == "pjrt":
        return _pjrt(cpu_devices, cluster, why)
    if kind == "tpu":
        return _tpu(tpu or "local", why, tpu_connect_seconds)
    if kind == "multi_worker":
        return _multi_worker(cluster, why)
    if kind == "mirrored":
        return _mirrored([device.name for device in tf.config.list_logical_devices("GPU")], cpu_devices, why)
    device = "one GPU" if gpus else "the CPU"
    return Placement(tf.distribute.get_strategy(), "default", f"device: {device} ({why})")


def _kind(distribution: str, tpu: str | None, has_cluster: bool, gpus: int, cpu_devices: int) -> tuple[str, str]:
    if distribution != "auto":
        return distribution, f"runtime.distribution={distribution}"
    if tpu == "local" and has_jax():
        return "pjrt", "auto: --tpu=local is given, and JAX is installed"
    if tpu:
        return "tpu", f"auto: --tpu={tpu} is given"
    if has_cluster:
        return "multi_worker", "auto: TF_CONFIG names a cluster"
    if gpus > 1:
        return "mirrored", f"auto: {gpus} GPUs are here"
    if cpu_devices > 1:
        return "mirrored", f"auto: runtime.cpu_devices={cpu_devices}"
    return "default", "auto: no TPU named, no TF_CONFIG, " + ("one GPU" if gpus else "no GPU")


def for_one_process(distribution: str) -> str:
    """Returns the distribution with which one process evaluates or predicts what another one trained, perhaps elsewhere."""
    is_elsewhere = distribution in ("multi_worker", "tpu") or (distribution == "pjrt" and not has_jax())
    return "auto" if is_elsewhere else distribution


def _pjrt(cpu_devices: int, cluster: str | None, why: str) -> Placement:
    devices = pjrt.start(cpu_devices, _checked_members(cluster) if cluster else None)
    reason = f"devices: {devices.line} ({why})"
    strategy = tf.distribute.get_strategy()
    return Placement(strategy, "pjrt", reason, worker=devices.process, workers=devices.processes, devices=devices)


def _cut_cpu(devices: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
    except RuntimeError:
        found = len(tf.config.list_logical_devices("CPU"))
        if found < devices:
            raise UserError(
                f"runtime.cpu_devices={devices}: TensorFlow runs already, with {found} CPU device(s); "
                "start a process of its own for this run"
            ) from None


def _mirrored(gpus: list[str], cpu_devices: int, why: str) -> Placement:
    devices = gpus
    if not gpus:
        if cpu_devices == 1:
            raise UserError(
                "runtime.distribution=mirrored: TensorFlow sees no GPU here. With an NVIDIA GPU check nvidia-smi and install "
                f"the cuda extra ({install_hint('cuda')}); without one use runtime.distribution=default, or "
                "runtime.cpu_devices=2 to try replicas on the CPU"
            )
        devices = [device.name for device in tf.config.list_logical_devices("CPU")[:cpu_devices]]
    what = f"{len(devices)} {'GPUs' if gpus else 'logical CPU devices'}"
    # Collectives are for devices with links of their own; on one CPU a plain sum is as good and has no state.
    reduction = None if gpus else tf.distribute.ReductionToOneDevice()
    strategy = tf.distribute.MirroredStrategy(devices, cross_device_ops=reduction)
    return Placement(strategy, "mirrored", f"devices: {what}, mirrored ({why})")


def _multi_worker(cluster: str | None, why: str) -> Placement:
    if not cluster:
        raise UserError(
            "runtime.distribution=multi_worker: TF_CONFIG is not set; each worker needs it, as "
            'TF_CONFIG=\'{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}\''
        )
    addresses, index = _checked_members(cluster)
    workers = len(addresses)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    reason = f"devices: worker {index} of {workers}, {strategy.num_replicas_in_sync} replicas in all ({why})"
    return Placement(strategy, "multi_worker", reason, worker=index, workers=workers)


def _tpu(name: str, why: str, seconds: int) -> Placement:
    # Connecting blocks without a word when the TPU is not there (tensorflow#34564): a thread with a deadline. A daemon,
    # for a pool's threads would be waited for when the process ends.
    answer: concurrent.futures.Future = concurrent.futures.Future()
    threading.Thread(target=_answer, args=(answer, name), daemon=True).start()
    try:
        resolver = answer.result(timeout=seconds)
    except concurrent.futures.TimeoutError:
        raise UserError(_unreachable(name, f"no answer within {seconds} s (runtime.tpu_connect_seconds)")) from None
    except Exception as error:  # the resolver raises Google API, gRPC and TensorFlow errors alike
        raise UserError(_unreachable(name, str(error).strip().splitlines()[0])) from error
    strategy = tf.distribute.TPUStrategy(resolver)
    return Placement(strategy, "tpu", f"devices: TPU {name}, {strategy.num_replicas_in_sync} cores ({why})")


def _answer(answer: concurrent.futures.Future, name: str) -> None:
    try:
        answer.set_result(_connect(name))
    except Exception as error:
        answer.set_exception(error)


def _connect(name: str):
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
    if name != "local":
        tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    return resolver


def _unreachable(name: str, reason: str) -> str:
    return (
        f"--tpu={name}: the TPU cannot be reached: {reason}. Check that it exists and is READY (gcloud compute tpus "
        "tpu-vm list), that its zone and project are this machine's, and that the tpu extra is installed "
        "(plain tensorflow cannot drive a TPU VM)"
    )
