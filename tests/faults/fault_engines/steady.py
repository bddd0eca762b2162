"""An engine of a known speed: so many tokens a second, whatever the machine does beside it."""

from __future__ import annotations

import time

import numpy as np

from bert_serving.server.engines.base import Batch, Device, EngineInfo, EngineSpec

from .faulty import FaultyEngine, prepare, unavailable

__all__ = ["INFO", "create", "prepare", "unavailable"]

TOKENS_PER_SECOND = 20_000
INFO = EngineInfo("steady", padding_free=True, dtypes={"cpu": ("fp32",)})


class SteadyEngine(FaultyEngine):
    """Takes as long as its tokens cost."""

    def encode(self, batch: Batch) -> np.ndarray:
        time.sleep(batch.num_tokens / TOKENS_PER_SECOND)
        return super().encode(batch)


def create(spec: EngineSpec, device: Device) -> SteadyEngine:
    return SteadyEngine(spec)
