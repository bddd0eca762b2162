"""Closes connections whose unread frames take too much memory."""

from __future__ import annotations

import logging

from .connection_monitor import ConnectionMonitor
from .frame_memory import BYTES_PER_WIRE_BYTE, FrameMemory, small_blocks

#: Part of the memory limit of a process that the frames of unread messages may take beside their bytes.
FRAMES_SHARE = 1 / 4


class FrameGuard:
    """Compares the memory of this process with that of the unread messages of all its ports.

    A process has one guard, because memory is measured for the whole process.

    Args:
        max_bytes: memory limit of the process.
        option: option with this limit, for the log.

    Attributes:
        is_growing: whether frames take much memory, so that connections must be checked more often.
    """

    def __init__(self, max_bytes: int, option: str, log: logging.Logger) -> None:
        self._memory = FrameMemory(small_blocks(), int(FRAMES_SHARE * max_bytes))
        self._monitors: list[ConnectionMonitor] = []
        self._option, self._log = option, log
        self.is_growing = False

    def watch(self, monitor: ConnectionMonitor) -> None:
        """Adds the connections of a port."""
        self._monitors.append(monitor)

    def check(self, held: int, now: float) -> None:
        """Closes connections while frames take more than their share.

        Args:
            held: bytes that this process holds in requests or results.
            now: monotonic seconds.
        """
        allowance = self._memory.allowance
        excess = self._memory.excess(held, sum(monitor.total_bytes for monitor in self._monitors), now)
        self.is_growing = 4 * excess > allowance
        if excess <= allowance:
            return
        num_connections = sum(monitor.num_connections for monitor in self._monitors)
        least = excess // (2 * BYTES_PER_WIRE_BYTE * max(1, num_connections))
        for monitor in self._monitors:
            for host, size in monitor.close_framed(least):
                self._log.warning(
                    "closed the connection from %s to port %d: %d bytes of an unfinished message, while frames of such "
                    "messages take %d bytes (limit %d, a quarter of %s)",
                    host,
                    monitor.port,
                    size,
                    excess,
                    allowance,
                    self._option,
                )
