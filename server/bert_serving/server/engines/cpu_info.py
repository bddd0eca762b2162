"""Reports the features of the processor of this machine.

A function that depends on a feature takes the features as an argument; None stands for those of this machine.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
from functools import lru_cache

from ..cgroup import cpu_quota

#: With any of these features bf16 is faster than fp32; the last is that of Arm.
BF16_FEATURES = frozenset(("avx512_bf16", "amx_bf16", "bf16"))
#: With any of these features an x86 processor multiplies uint8 with int8 and adds in 32 bits.
VNNI_FEATURES = frozenset(("avx512_vnni", "avx_vnni"))
#: Features that determine what the server computes.
DECIDING_FEATURES = BF16_FEATURES | VNNI_FEATURES
#: Environment variable with the deciding features to use; other deciding features are ignored.
FEATURES_VARIABLE = "BERT_SERVING_CPU_FEATURES"


def processor(features: frozenset[str] | None = None) -> tuple[str, frozenset[str]]:
    """Returns the architecture of this machine, and ``features``, or those of its processor."""
    return platform.machine(), _features() if features is None else features


@lru_cache
def _features() -> frozenset[str]:
    """Returns the usable features of the processor of this machine; empty without ``/proc/cpuinfo``."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = [line.partition(":") for line in file if line.startswith(("flags", "Features"))]
    except OSError:
        lines = []
    return restrict(frozenset(lines[0][2].split() if lines else ()), os.environ.get(FEATURES_VARIABLE, ""))


def restrict(features: frozenset[str], named: str) -> frozenset[str]:
    """Removes the deciding features that ``named`` does not contain; never add a feature.

    Args:
        features: features of the processor.
        named: names separated by spaces or commas, such as ``avx2``; an empty string keeps all features.
    """
    kept = named.lower().replace(",", " ").split()
    return features - (DECIDING_FEATURES - set(kept)) if kept else features


def describe_processor() -> str:
    """Returns the name of the processor and a digest of its features: equal descriptions choose equal kernels."""
    machine, features = processor()
    digest = hashlib.sha256(" ".join(sorted(features)).encode()).hexdigest()[:8]
    return f"{_name() or machine} ({machine}, features {digest})"


def _name() -> str:
    """Returns the model name of the processor; empty without one in ``/proc/cpuinfo``."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "")
    except OSError:
        return ""


def allowed_cpus() -> list[int]:
    """Returns the numbers of the logical CPUs that this process may use, ascending."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def num_cores() -> int:
    """Returns the number of logical CPUs that this process may use, or the quota of the container if it is less."""
    quota = _quota()
    count = len(allowed_cpus())
    return count if quota is None else max(1, min(count, math.ceil(quota)))


@lru_cache
def _quota() -> float | None:
    return cpu_quota()


def why_no_bf16(features: frozenset[str] | None = None) -> str | None:
    """Returns the reason why bf16 would be emulated; None if the processor has it or its features are unknown."""
    used = processor(features)[1]
    if not used or used & BF16_FEATURES:
        return None
    is_restricted = features is None and os.environ.get(FEATURES_VARIABLE)
    lets = f" that {FEATURES_VARIABLE} lets it use" if is_restricted else ""
    return f"this processor has no bf16 instructions (avx512_bf16 or amx_bf16){lets} and would emulate them; use fp32"


def has_fast_bf16(features: frozenset[str] | None = None) -> bool:
    """Returns whether the processor multiplies bfloat16 in hardware (AVX-512 BF16 or AMX)."""
    return not processor(features)[1].isdisjoint(("avx512_bf16", "amx_bf16"))


def has_amx(features: frozenset[str] | None = None) -> bool:
    """Returns whether the processor multiplies bf16 tiles (AMX, Intel since Sapphire Rapids)."""
    return "amx_bf16" in processor(features)[1]
