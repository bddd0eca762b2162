"""Limits the number of batch jobs that run at a time. A name whose jobs wait for its limits stops no other name."""

from __future__ import annotations

import asyncio
from collections import Counter


class JobSlots:
    """Grants slots in order of arrival. A name without a slot gets one at once, also if none is free.

    Args:
        count: number of slots.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._held: Counter[str] = Counter()
        self._waiting: dict[asyncio.Future[None], str] = {}  # in order of arrival

    async def acquire(self, name: str) -> bool:
        """Waits for a slot. Returns true."""
        if self._may_take(name):
            self._held[name] += 1
            return True
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[granted] = name
        try:
            await granted
        except asyncio.CancelledError:
            if self._waiting.pop(granted, None) is None:  # it was granted at this moment
                self.release(name)
            raise
        return True

    def release(self, name: str) -> None:
        self._held[name] -= 1
        for granted, other in list(self._waiting.items()):
            if self._may_take(other):
                del self._waiting[granted]
                self._held[other] += 1
                granted.set_result(None)

    def _may_take(self, name: str) -> bool:
        return not self._held[name] or self._held.total() < self._count
