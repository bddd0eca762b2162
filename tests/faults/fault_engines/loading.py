"""An engine that is never ready once the file named by ``LOADS_WITH`` is there: a large model. It removes the file."""

from __future__ import annotations

import contextlib
import os
import time

from bert_serving.server.engines.base import Device, EngineInfo, EngineSpec

from .faulty import prepare, unavailable
from .sound import SoundEngine

__all__ = ["INFO", "create", "prepare", "unavailable"]

INFO = EngineInfo("loading", padding_free=True, dtypes={"cpu": ("fp32",)})


def create(spec: EngineSpec, device: Device) -> SoundEngine:
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.environ["LOADS_WITH"])
        time.sleep(3600)
    return SoundEngine()
