"""An engine with hardly any memory: not even one sequence of more than ``MEMORY`` tokens fits."""

from __future__ import annotations

from bert_serving.server.engines.base import Device, EngineInfo, EngineSpec

from .faulty import prepare, unavailable
from .forgetful import ForgetfulEngine

__all__ = ["INFO", "create", "prepare", "unavailable"]

MEMORY = 30
INFO = EngineInfo("cramped", padding_free=True, dtypes={"cpu": ("fp32",)})


def create(spec: EngineSpec, device: Device) -> ForgetfulEngine:
    engine = ForgetfulEngine(spec)
    engine.memory = MEMORY
    return engine
