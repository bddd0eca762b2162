"""Decides when the sink reports the memory of results to the ventilator."""

from __future__ import annotations

from ..ipc import commands
from ..ipc.commands import u64
from ..ipc.messages import Command

#: Part of ``-result_memory`` by which finished results change before a report at once.
STEP = 1 / 64
#: Seconds after which other changes are reported.
INTERVAL = 1.0


class MemoryReport:
    """Compares the memory of results with the last report. Pure: no sockets."""

    def __init__(self, max_bytes: int) -> None:
        self._step = STEP * max_bytes
        self._last: tuple[int, ...] | None = None
        self._last_at, self._epoch = 0.0, -1

    @property
    def is_empty(self) -> bool:
        """Whether the last report had no bytes."""
        return not self._last or not any(self._last)

    def command(self, assembling: int, queued: int, in_pipes: int, epoch: int, now: float) -> Command | None:
        """Returns the command to send, or None. A ventilator with another ``epoch`` knows no earlier report."""
        if epoch != self._epoch:
            self._last, self._epoch = None, epoch
        figures = (assembling, queued, in_pipes)
        if figures == self._last:
            return None
        held, before = queued + in_pipes, sum(self._last[1:]) if self._last else 0
        is_step = abs(held - before) >= self._step or (not held and before)
        if self._last is not None and not is_step and now - self._last_at < INTERVAL:
            return None
        self._last, self._last_at = figures, now
        return [commands.RESULT_MEMORY, *map(u64, figures)]
