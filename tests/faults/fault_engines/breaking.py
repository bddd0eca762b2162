"""An engine that cannot be made any more once the file named by ``BREAKS_WITH`` is there: a driver that went away."""

from __future__ import annotations

import os

from bert_serving.server.engines.base import Device, EngineError, EngineInfo, EngineSpec

from .faulty import prepare, unavailable
from .sound import SoundEngine

__all__ = ["INFO", "create", "prepare", "unavailable"]

INFO = EngineInfo("breaking", padding_free=True, dtypes={"cpu": ("fp32",)})


def create(spec: EngineSpec, device: Device) -> SoundEngine:
    if os.path.exists(os.environ["BREAKS_WITH"]):
        raise EngineError("the driver is gone")
    return SoundEngine()
