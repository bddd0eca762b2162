"""Measures how busy the ventilator is."""

from __future__ import annotations

import time

#: Seconds between two measurements.
_INTERVAL = 1.0


class BusyMeter:
    """Measures the CPU time of this process, which has one interpreter lock and so at most about one core.

    Attributes:
        share: CPU time divided by elapsed time, 0 to 1, of the last measured interval.
    """

    def __init__(self, now: float) -> None:
        self.share = 0.0
        self._measured_at, self._cpu_seconds = now, time.process_time()

    def step(self, now: float) -> float:
        """Measures if an interval has passed. Returns its seconds, else 0. ``now`` is in monotonic seconds."""
        seconds = now - self._measured_at
        if seconds < _INTERVAL:
            return 0.0
        cpu_seconds = time.process_time()
        self.share = min(1.0, (cpu_seconds - self._cpu_seconds) / seconds)
        self._measured_at, self._cpu_seconds = now, cpu_seconds
        return seconds
