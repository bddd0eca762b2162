"""Writes log lines to stderr without ever blocking or failing: a line that stderr does not take is dropped and counted.

A full pipe blocks its writers; a full disk and a closed pipe raise errors. Neither may stop a process.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Callable

#: Largest size of the queue in bytes.
QUEUE_BYTES = 2**20


class LogWriter:
    """Writes to a file at once, and to anything else, which may block, from a bounded queue in a thread.

    Args:
        fd: file descriptor, which is duplicated. Lines are dropped if it is closed.
        describe_dropped: returns the line that reports a number of dropped lines.
    """

    def __init__(self, fd: int, describe_dropped: Callable[[int], str], limit: int = QUEUE_BYTES) -> None:
        self._describe_dropped, self._limit = describe_dropped, limit
        self._lines: deque[bytes] = deque()
        self._size = self._num_dropped = 0
        self._changed = threading.Condition()
        try:
            self._fd = os.dup(fd)
        except OSError:
            self._fd = os.open(os.devnull, os.O_WRONLY)
        self._is_file = stat.S_ISREG(os.fstat(self._fd).st_mode)
        if not self._is_file:
            threading.Thread(target=self._write_queue, name="log", daemon=True).start()

    def write(self, text: str) -> None:
        """Writes ``text``, or drops it."""
        data = text.encode(errors="backslashreplace")
        with self._changed:
            if self._is_file:
                self._write(data)
            elif self._size + len(data) > self._limit:
                self._num_dropped += 1
            else:
                self._lines.append(data)
                self._size += len(data)
                self._changed.notify_all()

    def flush(self, seconds: float = 1.0) -> None:
        """Waits until the queue is empty, at most ``seconds``."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._size and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)

    def _write_queue(self) -> None:
        while True:
            with self._changed:
                while not self._lines:
                    self._changed.wait()
                data = self._lines.popleft()
            self._write(data)
            with self._changed:
                self._size -= len(data)
                self._changed.notify_all()

    def _write(self, data: bytes) -> None:
        num_dropped = self._num_dropped
        notice = self._describe_dropped(num_dropped).encode() if num_dropped else b""
        try:
            self._write_all(notice + data)
            change = -num_dropped
        except OSError:
            change = 1
        with self._changed:
            self._num_dropped += change

    def _write_all(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:  # another process made the descriptor non-blocking
                with contextlib.suppress(OSError):
                    select.select([], [self._fd], [])
