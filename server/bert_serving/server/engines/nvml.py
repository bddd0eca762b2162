"""How much a worker's GPU is used, as the driver counts it."""

from __future__ import annotations

from typing import Any

from ..supervisor.placement import gpu_handles


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
