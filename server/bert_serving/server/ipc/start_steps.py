"""Measures where the time of a start goes."""

from __future__ import annotations

import os
import time
from pathlib import Path


class StartSteps:
    """Durations of the steps of a start, one after the other.

    Args:
        began: monotonic seconds at which the first step began.
    """

    def __init__(self, began: float) -> None:
        self._began = self._last = began
        self._seconds: dict[str, float] = {}

    def done(self, step: str) -> None:
        """Records that a step has ended, and the next one begins."""
        now = time.monotonic()
        self._seconds[step] = self._seconds.get(step, 0.0) + now - self._last
        self._last = now

    def __str__(self) -> str:
        steps = ", ".join(f"{step} {seconds:.2f} s" for step, seconds in self._seconds.items())
        total = self._last - self._began
        return f"start took {total:.2f} s, {time.process_time():.2f} s of processor time: {steps}"


def process_start() -> float:
    """Returns the monotonic seconds at which this process was created; where the system has no record, an estimate."""
    try:
        ticks = int(Path("/proc/self/stat").read_text("utf-8").rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        age = time.process_time()
    return time.monotonic() - max(0.0, age)
