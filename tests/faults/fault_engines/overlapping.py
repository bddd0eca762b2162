"""The engine ``faulty`` with a device of its own: a thread computes one batch after the other, as a GPU does."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bert_serving.server.engines.base import Batch, Device, EngineInfo, EngineSpec

from .faulty import FaultyEngine, prepare, unavailable

__all__ = ["INFO", "create", "prepare", "unavailable"]

INFO = EngineInfo("overlapping", padding_free=True, dtypes={"cpu": ("fp32",)})


def create(spec: EngineSpec, device: Device) -> OverlappingEngine:
    return OverlappingEngine(spec)


class OverlappingEngine(FaultyEngine):
    """Computes in a thread."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        self._thread = ThreadPoolExecutor(1)

    def start(self, batch: Batch) -> Callable[[], np.ndarray]:
        return self._thread.submit(self.encode, batch).result
