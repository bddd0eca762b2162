"""How long a caller waits for an answer, and what ends its wait. Pure: the clock comes in as numbers."""

from __future__ import annotations

from enum import Enum

#: A call made while the server is known to be away still waits this long (s) for the next attempt to connect.
GRACE = 1.5
#: A waiting call looks at the state of the connection at least this often (s).
POLL_INTERVAL = 1.0
#: After so long (s) with a connected and silent server a hint is logged, once per call.
WARN_AFTER = 30.0


class Expiry(Enum):
    """Why a wait is over."""

    TIMED_OUT = "timed out"
    UNREACHABLE = "unreachable"


def seconds(milliseconds: float | None) -> float | None:
    """A time limit as users give it, in seconds: negative or ``None`` is no limit, given back as ``None``."""
    return None if milliseconds is None or milliseconds < 0 else milliseconds / 1000


class WaitPolicy:
    """The limits of one wait; all times in seconds of one monotonic clock.

    Args:
        timeout: longest wait for the next answer, ``None`` for no limit.
        connect_timeout: longest time without a server, ``None`` for no limit.
        now: when the wait begins.
    """

    def __init__(self, timeout: float | None, connect_timeout: float | None, now: float) -> None:
        self.timeout = timeout
        self.connect_timeout = connect_timeout
        self.started = now
        self._warn_at = now + WARN_AFTER

    def restart(self, now: float) -> None:
        """An answer has come: the wait for the next one begins."""
        self.started = now
        self._warn_at = now + WARN_AFTER

    def expiry(self, now: float, down_since: float | None) -> Expiry | None:
        """Whether the wait is over; ``down_since`` is ``None`` while a server is connected."""
        if self.timeout is not None and now >= self.started + self.timeout:
            return Expiry.TIMED_OUT
        limit = self._unreachable_at(down_since)
        return Expiry.UNREACHABLE if limit is not None and now >= limit else None

    def next_check_in(self, now: float, down_since: float | None) -> float:
        """How long to sleep before the next look, at least 0."""
        limits = [now + POLL_INTERVAL]
        if self.timeout is not None:
            limits.append(self.started + self.timeout)
        unreachable_at = self._unreachable_at(down_since)
        if unreachable_at is not None:
            limits.append(unreachable_at)
        return max(0.0, min(limits) - now)

    def should_warn(self, now: float) -> bool:
        """True once, when the wait has become long."""
        if now < self._warn_at:
            return False
        self._warn_at = float("inf")
        return True

    def _unreachable_at(self, down_since: float | None) -> float | None:
        if down_since is None or self.connect_timeout is None:
            return None
        return max(down_since + self.connect_timeout, self.started + min(self.connect_timeout, GRACE))
