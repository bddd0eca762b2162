"""Reads the utilization and memory of GPUs from NVML, the library of the NVIDIA driver."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as reported by the driver; ``load`` and ``memory`` are fractions from 0 to 1."""

    index: int
    load: float
    memory: float


def list_gpus() -> list[Gpu]:
    """Returns the GPUs that this process may use; empty without an NVIDIA driver or without ``nvidia-ml-py``.

    If ``CUDA_VISIBLE_DEVICES`` is set, ``index`` counts in that list, as in CUDA.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no library, no driver, or no response: no GPU
        return []
    gpus = []
    try:
        for index, handle in enumerate(gpu_handles(pynvml)):
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            try:
                load = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
            except pynvml.NVMLError:
                load = 0.0  # a slice of a partitioned GPU has no utilization
            gpus.append(Gpu(index, load, memory.used / memory.total))
    finally:
        pynvml.nvmlShutdown()
    return gpus


def gpu_handles(pynvml: Any) -> list[Any]:
    """Returns the NVML handles of the GPUs that this process may use, in the order of the CUDA indexes."""
    every = ",".join(map(str, range(pynvml.nvmlDeviceGetCount())))
    handles = []
    for name in os.environ.get("CUDA_VISIBLE_DEVICES", every).replace(" ", "").split(","):
        try:
            if name.isdigit():
                handles.append(pynvml.nvmlDeviceGetHandleByIndex(int(name)))
            elif name.startswith(("GPU-", "MIG-")):
                handles.append(pynvml.nvmlDeviceGetHandleByUUID(name))
            else:
                break  # CUDA also stops at the first invalid name, such as -1
        except pynvml.NVMLError:
            break
    return handles


class GpuMeter:
    """Reads the utilization of one GPU; returns nothing without a responding driver.

    Args:
        index: CUDA index among the GPUs that this process may use.
    """

    def __init__(self, index: int) -> None:
        self._nvml: Any = None
        try:
            import pynvml

            pynvml.nvmlInit()
            self._handle = gpu_handles(pynvml)[index]
            self._nvml = pynvml
        except Exception:  # no library, no driver, or no response
            return

    def read(self) -> dict[str, float]:
        """Returns ``gpu_memory_used`` and ``gpu_memory_total`` in bytes, and ``gpu_utilization``.

        Memory is that of all processes on the GPU. Utilization is the fraction of the driver's last sample period in
        which
        a kernel ran. A slice of a partitioned GPU has no utilization.
        """
        if self._nvml is None:
            return {}
        try:
            memory = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
            values: dict[str, float] = {"gpu_memory_used": int(memory.used), "gpu_memory_total": int(memory.total)}
        except self._nvml.NVMLError:
            return {}
        try:
            return values | {"gpu_utilization": self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu / 100}
        except self._nvml.NVMLError:
            return values
