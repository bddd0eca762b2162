"""Grants memory to requests, so that the requests of one name do not keep those of others waiting."""

from __future__ import annotations

from collections import Counter

from .unit_limiter import QueuedRequest, UnitLimiter


class MemoryPool(UnitLimiter):
    """Grants bytes in order of arrival within a name, and over names but for those that wait for their own requests.

    Args:
        units: bytes.
        has_names: requests have names.

    Attributes:
        most: largest number of bytes of one name: three quarters of all; all without names.
    """

    def __init__(self, units: int, has_names: bool) -> None:
        super().__init__(units)
        self._has_names = has_names
        self.most = units - units // 4 if has_names else units
        self._held: Counter[str] = Counter()

    def room_of(self, name: str) -> int:
        """Returns the bytes that a request of a name may take now."""
        return min(self.free, self.most - self._held[name])

    async def acquire_for(self, name: str, units: int, seconds: float) -> bool:
        """Takes bytes, or returns false if they are not free within ``seconds``, or the pool is closed."""
        if self.closed:
            return False
        if units <= self.room_of(name) and self._first() is None and name not in map(_name_of, self._queue):
            self.take_for(name, units)
            return True
        return await self._wait(_NamedRequest(name, units), seconds)

    def take_for(self, name: str, units: int) -> None:
        """Takes bytes, whether they are free or not."""
        self._held[name] += units
        self.take(units)

    def release_for(self, name: str, units: int) -> None:
        self._held[name] -= units
        self.release(units)

    def _first(self) -> QueuedRequest | None:
        """Returns the first queued request that waits for no other one of its name."""
        full: set[str] = set()
        for each in self._queue:
            name = _name_of(each)
            if name in full:
                continue
            if not self._has_names or each.units <= self.most - self._held[name]:
                return each
            full.add(name)
        return None

    def _next(self) -> QueuedRequest | None:
        found = self._first()
        return found if found is not None and found.units <= self.free else None

    def _take(self, request: QueuedRequest) -> None:
        self.take_for(_name_of(request), request.units)

    def _release(self, request: QueuedRequest) -> None:
        self.release_for(_name_of(request), request.units)


class _NamedRequest(QueuedRequest):
    def __init__(self, name: str, units: int) -> None:
        super().__init__(units)
        self.name = name


def _name_of(request: QueuedRequest) -> str:
    assert isinstance(request, _NamedRequest)
    return request.name
