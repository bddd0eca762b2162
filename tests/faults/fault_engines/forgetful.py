"""An engine with little memory: a batch of more than ``MEMORY`` tokens does not fit."""

from __future__ import annotations

import numpy as np

from bert_serving.server.engines.base import Batch, Device, EngineInfo, EngineSpec, OutOfMemory

from .faulty import FaultyEngine, prepare, unavailable

__all__ = ["INFO", "create", "prepare", "unavailable"]

MEMORY = 150
INFO = EngineInfo("forgetful", padding_free=True, dtypes={"cpu": ("fp32",)})


class ForgetfulEngine(FaultyEngine):
    """Refuses large batches, once the server has started."""

    is_warm = False
    memory = MEMORY

    def encode(self, batch: Batch) -> np.ndarray:
        self.is_warm = self.is_warm or bool(batch.input_ids.any())
        if self.is_warm and batch.num_tokens > self.memory:
            raise OutOfMemory(f"{batch.num_tokens} tokens do not fit")
        return super().encode(batch)


def create(spec: EngineSpec, device: Device) -> ForgetfulEngine:
    return ForgetfulEngine(spec)
