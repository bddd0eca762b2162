"""Notices that this process was suspended (Ctrl-Z, a sleeping machine), and for how long that excuses heartbeats."""

from __future__ import annotations

#: Seconds between two steps after which this process counts as having been suspended. Missing heartbeats of that time
#: say nothing about the child processes.
SUSPEND_GAP = 2.0


class Suspension:
    """The time between the steps of the supervisor, in monotonic seconds."""

    def __init__(self, grace_seconds: float) -> None:
        """Args:
        grace_seconds: time after a suspension in which child processes need not have sent heartbeats.
        """
        self._grace_seconds = grace_seconds
        self._last_step = self._grace_until = 0.0

    def step(self, now: float) -> None:
        """Records a step."""
        if self._last_step and now - self._last_step > SUSPEND_GAP:
            self._grace_until = now + self._grace_seconds
        self._last_step = now

    def excuses(self, now: float) -> bool:
        """Returns whether missing heartbeats say nothing."""
        return now < self._grace_until
