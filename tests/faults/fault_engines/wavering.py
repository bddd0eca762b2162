"""An engine that declares that vectors do not depend on the batch, but they do: their last bits have its size."""

from __future__ import annotations

import numpy as np

from bert_serving.server.engines.base import Batch, Device, EngineInfo, EngineSpec

from .faulty import prepare, unavailable, vectors
from .sound import SoundEngine

__all__ = ["INFO", "create", "prepare", "unavailable"]

INFO = EngineInfo("wavering", padding_free=True, dtypes={"cpu": ("fp32",)}, deterministic=frozenset(("fp32",)))


class WaveringEngine(SoundEngine):
    def encode(self, batch: Batch) -> np.ndarray:
        return vectors(batch) * np.float32(1 + batch.num_sequences * 1e-6)


def create(spec: EngineSpec, device: Device) -> WaveringEngine:
    return WaveringEngine()
