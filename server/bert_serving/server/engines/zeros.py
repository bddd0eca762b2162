"""Returns zeros of the correct shape, to measure everything around the model."""

from __future__ import annotations

import numpy as np

from ..model.architecture import Feature
from .base import Device, EngineInfo, EngineSpec, Log
from .batch import Batch

_ALL = ("fp32", "bf16", "fp16", "int8")
INFO = EngineInfo(
    "zeros",
    padding_free=True,
    dtypes={"cpu": _ALL, "gpu": _ALL},
    features=frozenset(Feature),
    deterministic=frozenset(_ALL),
)


def unavailable(device_kind: str, dtype: str, features: frozenset[str] | None = None) -> str | None:
    return None


def prepare(spec: EngineSpec, log: Log) -> None:
    log("nothing to prepare: the engine returns zeros")


def create(spec: EngineSpec, device: Device) -> ZerosEngine:
    return ZerosEngine(spec)


class ZerosEngine:
    """Returns zeros of the shape and dtype of a real engine."""

    def __init__(self, spec: EngineSpec) -> None:
        width = spec.model.hidden_size
        if not spec.needs_pooler:
            width *= len(spec.pooling_layers)
        self._token_width = width
        self._width = 2 * width if spec.pooling_strategy == "REDUCE_MEAN_MAX" else width
        self._token_level = spec.is_token_level
        self._dtype = np.dtype(spec.output_dtype)

    def encode(self, batch: Batch) -> np.ndarray:
        rows = batch.num_tokens if self._token_level else batch.num_sequences
        return np.zeros((rows, self._width), self._dtype)

    def encode_tokens(self, batch: Batch) -> np.ndarray:
        return np.zeros((batch.num_tokens, self._token_width), np.float32)

    def close(self) -> None:
        """Does nothing: the engine holds no memory."""
