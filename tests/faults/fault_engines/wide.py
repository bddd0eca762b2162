"""Vectors as wide as those of the model, at once, so that results take much memory and little time."""

from __future__ import annotations

import numpy as np

from bert_serving.server.engines.base import Batch, Device, EngineInfo, EngineSpec

from .faulty import prepare, unavailable

__all__ = ["INFO", "create", "prepare", "unavailable"]

INFO = EngineInfo("wide", padding_free=True, dtypes={"cpu": ("fp32",)})


class WideEngine:
    """Adds the rows of a table of random numbers for the tokens of a sequence."""

    def __init__(self, spec: EngineSpec) -> None:
        self._table = np.random.default_rng(5).standard_normal((1000, spec.model.hidden_size)).astype(np.float32)

    def encode(self, batch: Batch) -> np.ndarray:
        first = np.cumsum(batch.lengths) - batch.lengths
        result: np.ndarray = np.add.reduceat(self._table[batch.input_ids % 1000], first)
        return result

    def close(self) -> None:
        """There is nothing to give back."""


def create(spec: EngineSpec, device: Device) -> WideEngine:
    return WideEngine(spec)
