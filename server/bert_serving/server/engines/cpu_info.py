"""What the processor of this machine can do.

A function that asks for a feature takes the features as an argument, and looks them up where none are given.
"""

from __future__ import annotations

import os
import platform
from functools import lru_cache

#: Any of these features of a processor makes bf16 faster than fp32; the last is Arm's.
BF16_FEATURES = frozenset(("avx512_bf16", "amx_bf16", "bf16"))
#: Any of these features lets an x86 processor multiply uint8 with int8 and add up in 32 bits.
VNNI_FEATURES = frozenset(("avx512_vnni", "avx_vnni"))
#: Every feature that decides what the server computes with.
DECIDING_FEATURES = BF16_FEATURES | VNNI_FEATURES
#: Environment variable that names the deciding features to use; the others count as absent.
FEATURES_VARIABLE = "BERT_SERVING_CPU_FEATURES"


def processor(features: frozenset[str] | None = None) -> tuple[str, frozenset[str]]:
    """Name the architecture of this machine, and the features given, or else those to use of its processor."""
    return platform.machine(), _features() if features is None else features


@lru_cache
def _features() -> frozenset[str]:
    """Read the features to use of this machine's processor; none where the system has no ``/proc/cpuinfo``."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = [line.partition(":") for line in file if line.startswith(("flags", "Features"))]
    except OSError:
        lines = []
    return restrict(frozenset(lines[0][2].split() if lines else ()), os.environ.get(FEATURES_VARIABLE, ""))


def restrict(features: frozenset[str], named: str) -> frozenset[str]:
    """Leave out the deciding features that ``named`` does not name; it never adds one.

    Args:
        features: what the processor has.
        named: names separated by spaces or commas, such as ``avx2``; all features stay where it is empty.
    """
    kept = named.lower().replace(",", " ").split()
    return features - (DECIDING_FEATURES - set(kept)) if kept else features


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def why_no_bf16(features: frozenset[str] | None = None) -> str | None:
    """Tell why bf16 would be emulated; None where the processor has it, or where its features are not known."""
    used = processor(features)[1]
    if not used or used & BF16_FEATURES:
        return None
    is_held_down = features is None and os.environ.get(FEATURES_VARIABLE)
    lets = f" that {FEATURES_VARIABLE} lets it use" if is_held_down else ""
    return f"this processor has no bf16 instructions (avx512_bf16 or amx_bf16){lets}, they would be emulated; take fp32"


def has_fast_bf16(features: frozenset[str] | None = None) -> bool:
    """Whether the processor is known to multiply bfloat16 in hardware (AVX-512 BF16 or AMX)."""
    return not processor(features)[1].isdisjoint(("avx512_bf16", "amx_bf16"))


def has_amx(features: frozenset[str] | None = None) -> bool:
    """Whether the processor multiplies tiles of bf16, as Intel's do since Sapphire Rapids."""
    return "amx_bf16" in processor(features)[1]
