"""Grants units to HTTP requests of names, so that the requests of one name leave some to others."""

from __future__ import annotations

from collections import Counter

from .unit_limiter import QueuedRequest, UnitLimiter


class NamedRequest(QueuedRequest):
    """A queued request of a name."""

    def __init__(self, name: str, units: int) -> None:
        super().__init__(units)
        self.name = name


class NamedLimiter(UnitLimiter):
    """Counts the units that each name holds. Subclasses choose the next request.

    Args:
        has_names: requests have names.

    Attributes:
        most: largest number of units of one name: three quarters of all; all without names.
    """

    def __init__(self, units: int, has_names: bool = True) -> None:
        super().__init__(units)
        self.most = units - units // 4 if has_names else units
        self._held: Counter[str] = Counter()

    def room_of(self, name: str) -> int:
        """Returns the units that a request of a name may take now."""
        return min(self.free, self.most - self._held[name])

    def take_for(self, name: str, units: int) -> None:
        """Takes units, whether they are free or not."""
        self._held[name] += units
        self.take(units)

    def release_for(self, name: str, units: int) -> None:
        self._held[name] -= units
        self.release(units)

    def _take(self, request: QueuedRequest) -> None:
        self.take_for(name_of(request), request.units)

    def _release(self, request: QueuedRequest) -> None:
        self.release_for(name_of(request), request.units)


def name_of(request: QueuedRequest) -> str:
    """Returns the name of a queued request."""
    assert isinstance(request, NamedRequest)
    return request.name
