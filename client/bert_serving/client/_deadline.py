"""How long a blocked call waits for a reply, and why a wait ends. Pure: the clock comes in as numbers."""

from __future__ import annotations

from enum import Enum
from numbers import Real
from threading import TIMEOUT_MAX

from .errors import OptionError

#: A call that starts while no server is connected waits this long (s) for one more attempt to connect, but not longer
#: than ``connect_timeout``.
GRACE = 1.5
#: A blocked call checks the state of the connection at least this often (s).
POLL_INTERVAL = 1.0
#: A client of several servers looks at their first connections at this interval (s).
SETTLE_INTERVAL = 0.01
#: After this long (s) with a connected server and no reply, a warning is logged, once per wait.
WARN_AFTER = 30.0


class Expiry(Enum):
    """Why a wait ends."""

    TIMED_OUT = "timed out"
    UNREACHABLE = "unreachable"


def seconds(milliseconds: float | None, name: str = "timeout") -> float | None:
    """Converts a time limit from milliseconds to seconds; returns ``None`` for no limit (negative or ``None``).

    Raises:
        OptionError: it is not a number.
    """
    if milliseconds is None:
        return None
    is_number = type(milliseconds) in (int, float) or isinstance(milliseconds, Real)  # the second check is slow
    if not is_number or milliseconds != milliseconds:
        raise OptionError(
            f"{name} must be a number of milliseconds (-1 for no limit), but is {type(milliseconds).__name__} "
            f"({milliseconds!r})"
        )
    limit = float(milliseconds) / 1000
    return None if limit < 0 or limit > TIMEOUT_MAX else limit


class WaitPolicy:
    """The limits of one wait. All times are seconds of one monotonic clock.

    Args:
        timeout: longest wait for the next reply, ``None`` for no limit.
        connect_timeout: longest wait while no server is connected, ``None`` for no limit.
        now: start of the wait.
    """

    def __init__(self, timeout: float | None, connect_timeout: float | None, now: float) -> None:
        self.timeout = timeout
        self.connect_timeout = connect_timeout
        self.started = now
        self._warn_at = now + WARN_AFTER

    def restart(self, now: float) -> None:
        """Starts the wait for the next reply."""
        self.started = now
        self._warn_at = now + WARN_AFTER

    def expiry(self, now: float, down_since: float | None) -> Expiry | None:
        """Returns why the wait is over, or ``None``.

        Args:
            down_since: time of the loss of the connection; ``None`` while a server is connected.
        """
        if self.timeout is not None and now >= self.started + self.timeout:
            return Expiry.TIMED_OUT
        limit = self._unreachable_at(down_since)
        return Expiry.UNREACHABLE if limit is not None and now >= limit else None

    def next_check_in(self, now: float, down_since: float | None) -> float:
        """Returns the seconds until `expiry` must be checked again, at least 0."""
        limits = [now + POLL_INTERVAL]
        if self.timeout is not None:
            limits.append(self.started + self.timeout)
        unreachable_at = self._unreachable_at(down_since)
        if unreachable_at is not None:
            limits.append(unreachable_at)
        return max(0.0, min(limits) - now)

    def should_warn(self, now: float) -> bool:
        """Returns True once, when the wait exceeds ``WARN_AFTER``."""
        if now < self._warn_at:
            return False
        self._warn_at = float("inf")
        return True

    def _unreachable_at(self, down_since: float | None) -> float | None:
        if down_since is None or self.connect_timeout is None:
            return None
        return max(down_since + self.connect_timeout, self.started + min(self.connect_timeout, GRACE))
