"""What the processor of this machine can do."""

from __future__ import annotations

import os
import platform
from functools import lru_cache

#: Any of these features of a processor makes bf16 faster than fp32; the last is Arm's.
BF16_FEATURES = frozenset(("avx512_bf16", "amx_bf16", "bf16"))


@lru_cache
def processor() -> tuple[str, frozenset[str]]:
    """Name and features of this machine's processor; no features where the system has no ``/proc/cpuinfo``."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = [line.partition(":") for line in file if line.startswith(("flags", "Features"))]
    except OSError:
        lines = []
    return platform.machine(), frozenset(lines[0][2].split() if lines else ())


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def lacks_bf16() -> bool:
    """Whether it is known that bf16 would be emulated."""
    features = processor()[1]
    return bool(features) and not features & BF16_FEATURES


def has_amx() -> bool:
    """Whether the processor multiplies tiles of bf16, as Intel's do since Sapphire Rapids."""
    return "amx_bf16" in processor()[1]
