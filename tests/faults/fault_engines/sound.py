"""An engine without faults, for texts at random: no word of them makes it do anything but compute."""

from __future__ import annotations

import numpy as np

from bert_serving.server.engines.base import Batch, Device, EngineInfo, EngineSpec

from .faulty import prepare, unavailable, vectors

__all__ = ["INFO", "create", "prepare", "unavailable"]

INFO = EngineInfo("sound", padding_free=True, dtypes={"cpu": ("fp32",)})


class SoundEngine:
    """Computes the vectors of the faulty engine."""

    def encode(self, batch: Batch) -> np.ndarray:
        return vectors(batch)

    def close(self) -> None:
        """There is nothing to give back."""


def create(spec: EngineSpec, device: Device) -> SoundEngine:
    return SoundEngine()
