"""Grants slots to names in turn, so that the requests of one name do not keep those of others waiting."""

from __future__ import annotations

from collections import Counter

from .http_access import RequestShare
from .named_limiter import NamedLimiter, NamedRequest, name_of
from .unit_limiter import QueuedRequest


class ShareSlots(NamedLimiter):
    """Grants slots by start-time fair queueing over names, in order of arrival within a name."""

    def __init__(self, units: int) -> None:
        super().__init__(units)
        self._queued: Counter[str] = Counter()
        self._start_tags: dict[str, float] = {}  # slots granted to a name, divided by its weight
        self._virtual_time = 0.0

    def queued_of(self, name: str) -> int:
        """Returns the number of queued requests of a name."""
        return self._queued[name]

    def is_free_for(self, name: str) -> bool:
        """Returns whether a request of a name takes a slot without waiting."""
        return self.room_of(name) > 0

    async def acquire_for(self, share: RequestShare, seconds: float) -> NamedSlot | None:
        """Takes a slot; returns None if there is none within ``seconds``, or the limiter is closed."""
        if self.closed:
            return None
        request = _SlotRequest(share)
        if self.is_free_for(share.name):
            self._take(request)
        else:
            self._queued[share.name] += 1
            try:
                if not await self._wait(request, seconds):
                    return None
            finally:
                self._queued[share.name] -= 1
        return NamedSlot(self, share.name)

    def _take(self, request: QueuedRequest) -> None:
        assert isinstance(request, _SlotRequest)
        name = request.name
        self._virtual_time = max(self._virtual_time, self._start_tags.get(name, 0.0))
        self._start_tags[name] = self._virtual_time + 1 / request.weight
        super()._take(request)

    def _next(self) -> QueuedRequest | None:
        """Returns the first request of the name that is due. Takes O(queue)."""
        found: tuple[float, QueuedRequest] | None = None
        for each in self._queue:
            name = name_of(each)
            tag = self._start_tags.get(name, 0.0)
            if self.is_free_for(name) and (found is None or tag < found[0]):
                found = tag, each
        return None if found is None else found[1]


class _SlotRequest(NamedRequest):
    """A request of a name, which needs one slot."""

    def __init__(self, share: RequestShare) -> None:
        super().__init__(share.name, 1)
        self.weight = share.weight


class NamedSlot:
    """A slot that a request of a name holds."""

    def __init__(self, slots: ShareSlots, name: str) -> None:
        self._slots, self._name = slots, name

    def release(self, units: int) -> None:
        """Releases the slot; ``units`` is 1."""
        self._slots.release_for(self._name, units)
