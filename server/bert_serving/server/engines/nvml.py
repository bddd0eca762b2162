"""How much a worker's GPU is used, as the driver counts it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as the driver reports it; ``load`` and ``memory`` are shares from 0 to 1."""

    index: int
    load: float
    memory: float


def list_gpus() -> list[Gpu]:
    """The GPUs that this process may use, by NVML; none where there is no NVIDIA driver or ``nvidia-ml-py``.

    Where ``CUDA_VISIBLE_DEVICES`` is set, ``index`` counts in that list, as CUDA itself does.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no library, no driver, or one that does not answer: all mean no GPU for us
        return []
    gpus = []
    try:
        for index, handle in enumerate(gpu_handles(pynvml)):
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            try:
                load = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
            except pynvml.NVMLError:
                load = 0.0  # a slice of a partitioned GPU has no rate of its own
            gpus.append(Gpu(index, load, memory.used / memory.total))
    finally:
        pynvml.nvmlShutdown()
    return gpus


def gpu_handles(pynvml: Any) -> list[Any]:
    """NVML's handles of the GPUs that this process may use, in the order of CUDA's numbers."""
    every = ",".join(map(str, range(pynvml.nvmlDeviceGetCount())))
    handles = []
    for name in os.environ.get("CUDA_VISIBLE_DEVICES", every).replace(" ", "").split(","):
        try:
            if name.isdigit():
                handles.append(pynvml.nvmlDeviceGetHandleByIndex(int(name)))
            elif name.startswith(("GPU-", "MIG-")):
                handles.append(pynvml.nvmlDeviceGetHandleByUUID(name))
            else:
                break  # CUDA too stops at the first name that is no GPU, such as -1
        except pynvml.NVMLError:
            break
    return handles


class GpuMeter:
    """Reads one GPU. Where there is no driver, or it does not answer, it says nothing.

    Args:
        index: of the GPU among those that this process may use, as CUDA counts them.
    """

    def __init__(self, index: int) -> None:
        self._nvml: Any = None
        try:
            import pynvml

            pynvml.nvmlInit()
            self._handle = gpu_handles(pynvml)[index]
            self._nvml = pynvml
        except Exception:  # no library, no driver, or one that does not answer
            return

    def read(self) -> dict[str, float]:
        """``gpu_memory_used`` and ``gpu_memory_total`` in bytes, of all programs on the GPU; ``gpu_utilization``.

        Utilization is the share of the driver's last sample period in which a kernel ran; a slice of a partitioned
        GPU has none.
        """
        if self._nvml is None:
            return {}
        try:
            memory = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
            facts: dict[str, float] = {"gpu_memory_used": int(memory.used), "gpu_memory_total": int(memory.total)}
        except self._nvml.NVMLError:
            return {}
        try:
            return facts | {"gpu_utilization": self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu / 100}
        except self._nvml.NVMLError:
            return facts
