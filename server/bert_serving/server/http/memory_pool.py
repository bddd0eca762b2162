"""Grants memory to requests, so that the requests of one name do not keep those of others waiting."""

from __future__ import annotations

from .named_limiter import NamedLimiter, NamedRequest, name_of
from .unit_limiter import QueuedRequest


class MemoryPool(NamedLimiter):
    """Grants bytes in order of arrival within a name, and over names but for those that wait for their own requests.

    Args:
        units: bytes.
        has_names: requests have names.
    """

    def __init__(self, units: int, has_names: bool) -> None:
        super().__init__(units, has_names)
        self._has_names = has_names

    async def acquire_for(self, name: str, units: int, seconds: float) -> bool:
        """Takes bytes, or returns false if they are not free within ``seconds``, or the pool is closed."""
        if self.closed:
            return False
        if units <= self.room_of(name) and self._first() is None and name not in map(name_of, self._queue):
            self.take_for(name, units)
            return True
        return await self._wait(NamedRequest(name, units), seconds)

    def _first(self) -> QueuedRequest | None:
        """Returns the first queued request that waits for no other one of its name."""
        full: set[str] = set()
        for each in self._queue:
            name = name_of(each)
            if name in full:
                continue
            if not self._has_names or each.units <= self.most - self._held[name]:
                return each
            full.add(name)
        return None

    def _next(self) -> QueuedRequest | None:
        found = self._first()
        return found if found is not None and found.units <= self.free else None
