"""Decides how many machines a front needs, from its queue and the use of its workers. Pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

#: Seconds for which the queue must be long before machines are added, so that a single large request adds none.
RISE_SECONDS = 5.0
#: Share of the time in which workers compute above which no machine is removed.
MAX_USE = 0.7


class Load(NamedTuple):
    """What the front reports at one time.

    Attributes:
        at: monotonic seconds.
        waiting: queued tokens.
        computed: tokens of all batches since the front started.
        busy, workers: workers that have a batch, and workers that can compute.
        machines: machines of this command that can compute.
    """

    at: float
    waiting: int
    computed: int
    busy: int
    workers: int
    machines: int


class Scaling:
    """Computes the number of machines between two limits.

    Args:
        least, most: the limits.
        queue_seconds: machines are added while the queue is longer than this time of work of all workers.
        idle_seconds: machines are removed that were not needed for this time.

    Attributes:
        wanted: number of machines.
    """

    def __init__(self, least: int, most: int, queue_seconds: float, idle_seconds: float) -> None:
        self.least, self.most = least, most
        self.wanted = least
        self._queue_seconds, self._idle_seconds = queue_seconds, idle_seconds
        self._loads: deque[Load] = deque()

    def observe(self, load: Load) -> int:
        """Takes account of a report. Returns the number of machines."""
        last = self._loads[-1] if self._loads else load
        # The front was started again, or it was away: what was before is no measure.
        if load.computed < last.computed or load.at - last.at > RISE_SECONDS:
            self._loads.clear()
        self._loads.append(load)
        longest = max(RISE_SECONDS, self._idle_seconds)
        while len(self._loads) > 2 and self._loads[1].at <= load.at - longest:
            self._loads.popleft()
        wanted = self._increased(load)
        if wanted is None:
            wanted = self._decreased()
        if wanted is not None:
            self._loads.clear()
            self.wanted = wanted
        return self.wanted

    def _increased(self, load: Load) -> int | None:
        """Returns a larger number, at most twice the present one; ``None`` if the queue is short or may shrink."""
        if not self.wanted and load.waiting and not load.workers and self.most:
            return 1
        recent = self._last(RISE_SECONDS)
        is_steady = all(each.machines >= self.wanted for each in recent)
        if not recent or not is_steady or self.wanted >= self.most:
            return None  # machines that start may be enough
        seconds = self._queue_length(recent)
        if seconds <= self._queue_seconds:
            return None
        needed = self.wanted * seconds / self._queue_seconds
        return min(self.most, max(self.wanted + 1, math.ceil(min(needed, self.wanted * 2))))

    def _decreased(self) -> int | None:
        """Returns a smaller number; ``None`` if all machines were needed."""
        seen = self._last(self._idle_seconds)
        if not seen or self.wanted <= self.least:
            return None
        if any(each.waiting for each in seen) and self._queue_length(seen, max) > self._queue_seconds:
            return None
        is_unused = seen[-1].computed == seen[0].computed and not any(each.busy or each.waiting for each in seen)
        workers = sum(each.workers for each in seen)
        use = sum(each.busy for each in seen) / workers if workers else 0.0
        machines = max(each.machines for each in seen)
        needed = 0 if is_unused else max(1, math.ceil(use * machines / MAX_USE))
        needed = max(self.least, needed)
        return needed if needed < self.wanted else None

    def _last(self, seconds: float) -> list[Load]:
        """Returns the reports of the last seconds, and the one before them; none if there is no such report."""
        start = self._loads[-1].at - seconds
        earlier = sum(each.at <= start for each in self._loads)
        return list(self._loads)[earlier - 1 :] if earlier else []

    def _queue_length(self, loads: list[Load], choose: Callable[[Iterable[int]], int] = min) -> float:
        """Returns the seconds that all workers need for the shortest or longest queue of the reports."""
        waiting = choose(each.waiting for each in loads)
        computed = loads[-1].computed - loads[0].computed
        if not computed:
            return math.inf if waiting else 0.0
        return waiting * (loads[-1].at - loads[0].at) / computed
