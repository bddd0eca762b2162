"""Assigns a device to each worker: free GPUs, named GPUs or the CPU. Every fallback is logged."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .. import engines
from ..config.server_config import ServerConfig
from ..engines.base import Device, EngineUnavailable
from ..engines.cpu_info import has_amx, has_fast_bf16
from ..engines.measurement import Candidate, find_candidates
from ..engines.nvml import Gpu, list_gpus
from ..model.architecture import Feature
from .core_split import describe_split, split_cores
from .cpu_topology import Topology, read_topology

#: Dtypes that ``-dtype auto`` may select on the CPU.
_CPU_DTYPES = ("fp32", "bf16", "int8")
#: A GPU counts as free below this share of busy time and of used memory, as in 1.10.0.
FREE_BELOW = 0.9


@dataclass(frozen=True, slots=True)
class WorkerPlacement:
    """Device, engine and dtype of one worker."""

    device: Device
    engine: str
    dtype: str

    def options(self) -> dict[str, Any]:
        return {"device": asdict(self.device), "engine": self.engine, "dtype": self.dtype}

    def describe(self) -> str:
        count = self.device.threads
        threads = f" with {count} thread{'s' * (count != 1)}" if count else ""
        return f"engine {self.engine}, {self.dtype}, on {self.device}{threads}"

    def environment(self) -> dict[str, str]:
        """Returns environment variables that libraries read at their first use."""
        env = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        if self.device.kind == "cpu":  # on a GPU, the engine selects the device
            env |= {"CUDA_VISIBLE_DEVICES": "-1", "OMP_NUM_THREADS": str(self.device.threads)}
            env |= blas_threads(self.device.threads)
        return env


def blas_threads(number: int) -> dict[str, str]:
    """Returns the environment variables with the threads of numpy's BLAS, which prefers them to ``OMP_NUM_THREADS``.

    After each product, threads of OpenBLAS wait actively for 2^28 cycles, a tenth of a second, by default. Those of a
    small head would take a core from the next batch. 2^4 is the minimum.
    """
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(number))
    return threads | {"OPENBLAS_THREAD_TIMEOUT": "4"}


def cpu_threads(placements: Sequence[WorkerPlacement], engine: str, dtype: str) -> list[int]:
    """Returns the numbers of threads of the workers on the CPU with this engine and dtype, ascending."""
    devices = [each.device for each in placements if (each.engine, each.dtype) == (engine, dtype)]
    return sorted({device.threads for device in devices if device.kind == "cpu"})


#: Selects among candidates on a device; None stands for the first one, that of ``-engine auto``.
ChooseEngine = Callable[[Sequence[Candidate], Device], Candidate | None]


def plan_workers(
    config: ServerConfig,
    log: logging.Logger,
    find_gpus: Callable[[], list[Gpu]] = list_gpus,
    features: frozenset[str] | None = None,
    needs: frozenset[Feature] = frozenset(),
    choose: ChooseEngine | None = None,
    find_cores: Callable[[], Topology] = read_topology,
) -> list[WorkerPlacement]:
    """Returns device, engine and dtype of each worker.

    Args:
        config: options of the server.
        log: receives the decisions.
        find_gpus: lists the GPUs.
        features: of the processor, as in ``/proc/cpuinfo``; those of this machine where none are given.
        needs: what the engine must compute, ``ModelConfig.features``.
        choose: selects the engine of workers on the CPU by measurement.
        find_cores: reads the cores of this machine.

    Raises:
        EngineUnavailable: no installed engine supports the options; the message names what to install.
    """
    if config.num_worker == 0:
        return []
    wanted = _gpu_dtype(config)
    indexes = [] if config.cpu else _gpu_indexes(config, find_gpus(), log)
    if indexes:
        try:
            engine = engines.choose(_engine_name(config), "gpu", wanted, None, needs, config.deterministic)
            if config.engine == "measure":
                log.info("-engine measure: nothing is measured on GPUs, which use engine %s", engine)
        except EngineUnavailable as error:
            log.warning("no installed engine can use the GPU: %s", error)
            log.warning("fall back to CPU")
            indexes = []
    count = max(1, len(indexes)) if config.num_worker == "auto" else int(config.num_worker)
    numbers = [indexes[i % len(indexes)] if indexes else -1 for i in range(count)]
    gpus = [Device("gpu", number, 0, config.gpu_memory_fraction) for number in numbers if number >= 0]
    on_cpu: list[WorkerPlacement] = []
    if len(gpus) < len(numbers):
        devices = _cpu_devices(config, len(numbers) - len(gpus), bool(gpus), log, find_cores)
        on_cpu = _cpu_placements(config, devices, log, features, needs, choose)
    if not gpus:
        placements = on_cpu
    else:
        on_gpu = [WorkerPlacement(device, engine, wanted) for device in gpus]
        placements = [(on_cpu if number < 0 else on_gpu).pop(0) for number in numbers]
    log.info("device map: %s", "; ".join(f"worker {i} -> {p.device}" for i, p in enumerate(placements)))
    return placements


def _gpu_indexes(config: ServerConfig, gpus: list[Gpu], log: logging.Logger) -> list[int]:
    if not gpus:
        hint = "" if importlib.util.find_spec("pynvml") else " (GPUs are found with nvidia-ml-py, which is missing)"
        log.warning("no GPU available, fall back to CPU%s", hint)
        return []
    limit = None if config.num_worker == "auto" else int(config.num_worker)
    known = {gpu.index for gpu in gpus}
    if config.device_map:
        missing = [index for index in config.device_map if index >= 0 and index not in known]
        if missing:
            raise EngineUnavailable(f"-device_map names GPU {missing[0]}, but this machine has {sorted(known)}")
        return list(config.device_map[:limit])
    free = sorted((g for g in gpus if g.load < FREE_BELOW and g.memory < FREE_BELOW), key=lambda g: g.memory)
    if not free:
        log.warning("no GPU is free (all of %d are in use), fall back to CPU", len(gpus))
        return []
    if limit is not None and len(free) < limit:
        log.warning('only %d out of %d GPU(s) is available/free, but "-num_worker=%d"', len(free), len(gpus), limit)
    return [gpu.index for gpu in free[:limit]]


def _engine_name(config: ServerConfig) -> str:
    """Returns the name of the only engine that may compute, or auto."""
    if config.engine in ("auto", "measure"):
        return "tensorflow" if config.xla else "auto"
    return config.engine


def _gpu_dtype(config: ServerConfig) -> str:
    if config.fp16:
        return "fp16"
    return "bf16" if config.dtype == "auto" else config.dtype


def _cpu_devices(
    config: ServerConfig, count: int, has_gpus: bool, log: logging.Logger, find_cores: Callable[[], Topology]
) -> list[Device]:
    """Returns the share of the cores of each worker on the CPU.

    Args:
        count: number of the workers; ``-num_worker auto`` selects another one without workers on GPUs.
    """
    topology = find_cores()
    num_tokenizer = 0 if config.num_tokenizer == "auto" or topology.is_part else int(config.num_tokenizer)
    if config.num_worker == "auto" and not has_gpus:
        shares = split_cores(topology, num_tokenizer, config.threads)
        log.info("-num_worker auto: %s", describe_split(shares))
        return [Device("cpu", 0, share.threads, cpus=share.cpus) for share in shares]
    if config.threads is None and not has_gpus and "num_worker" not in config.given:
        shares = split_cores(topology, num_tokenizer)
        if len(shares) > count:
            log.info("-num_worker auto would use the %d cores better: %s", topology.num_usable, describe_split(shares))
    return [Device("cpu", 0, config.threads or max(1, topology.num_threads // count))] * count


def _cpu_placements(
    config: ServerConfig,
    devices: Sequence[Device],
    log: logging.Logger,
    features: frozenset[str] | None,
    needs: frozenset[Feature],
    choose: ChooseEngine | None,
) -> list[WorkerPlacement]:
    """Returns the placements on the CPU, which have one engine and one dtype."""
    name = _engine_name(config)
    dtype = "fp32" if config.fp16 else config.dtype
    if config.fp16:
        log.warning("-fp16: CPUs compute faster in fp32, so this one does; the vectors are sent as float16")
    if config.xla:
        log.warning("-xla: some shapes are compiled before the server is ready, so the start takes longer, and batches "
                    "are padded to them; on a CPU XLA gains on short sequences in fp32 only")  # fmt: skip
    wanted = (features, needs, config.deterministic)
    is_any_dtype = dtype == "auto"
    if is_any_dtype:
        dtype = next((each for each in _fastest_dtypes(name, *wanted) if _can(name, each, *wanted)), "fp32")
    engine = engines.choose(name, "cpu", dtype, *wanted)
    if choose is not None:
        # With -deterministic, a vector must be the same after each start, so timing does not select the dtype.
        dtypes = _CPU_DTYPES if is_any_dtype and not config.deterministic else (dtype,)
        candidates = sorted(find_candidates(name, dtypes, *wanted), key=lambda each: each != Candidate(engine, dtype))
        if (chosen := choose(candidates, devices[0])) is not None:
            return [WorkerPlacement(device, chosen.engine, chosen.dtype) for device in devices]
    if config.engine in ("auto", "measure") or is_any_dtype:
        log.info("engine %s, dtype %s: the fastest here of what is installed", engine, dtype)
    return [WorkerPlacement(device, engine, dtype) for device in devices]


def _fastest_dtypes(
    engine: str, features: frozenset[str] | None, needs: frozenset[Feature], deterministic: bool
) -> tuple[str, ...]:
    """Returns dtypes that are faster than fp32 on this CPU with the installed engines, the fastest first."""
    if not has_fast_bf16(features):
        return ("int8",)
    # With AMX, bf16 in PyTorch is faster than int8 for large batches; bf16 in TensorFlow is not.
    is_ahead = (
        has_amx(features) and engine in ("auto", "torch") and _can("torch", "bf16", features, needs, deterministic)
    )
    return ("bf16", "int8") if is_ahead else ("int8", "bf16")


def _can(
    engine: str, dtype: str, features: frozenset[str] | None, needs: frozenset[Feature], deterministic: bool
) -> bool:
    try:
        engines.choose(engine, "cpu", dtype, features, needs, deterministic)
    except EngineUnavailable:
        return False
    return True
