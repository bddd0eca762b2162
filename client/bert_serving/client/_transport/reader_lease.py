"""Whose turn it is to read results. Pure: the clock comes in as numbers, and the lock is held by who calls.

A caller that waits for one answer after the other had better read them itself: a change of threads for each takes as
long as a good part of all else that a short sentence passes through. So when the I/O thread has handed out the last
answer that was awaited, and a caller awaited it, the turn is that of the next caller who waits. It comes back to the
thread as soon as an answer is awaited that no caller is about to read, and then it stays there for a while: where
several wait at a time, each turn would cost what it is to save. It also comes back when no caller has read for a while:
results of clones come at any time, and somebody must take them in.
"""

from __future__ import annotations

import threading

#: A caller reads for so long (s) at most; beyond, a change of threads does not matter.
MAX_CALLER_READ = 0.1
#: So long (s) it stays with the thread that had to claim it, and with callers of whom none reads.
HANDOVER_COOLDOWN = 1.0


class ReaderLease:
    """At first it is the I/O thread's."""

    def __init__(self) -> None:
        self._io_thread_reads = True
        self._caller: object = None
        self._ident = 0  # of the caller's thread
        self._since = 0.0
        self._release_from = 0.0

    @property
    def caller_is_reading(self) -> bool:
        """Whether a caller reads now."""
        return self._caller is not None

    def owned_by_current_thread(self) -> bool:
        """Whether the caller who reads is in this very thread."""
        return self._caller is not None and self._ident == threading.get_ident()

    def start_read(self, caller: object, now: float) -> bool:
        """A caller wants to read; False if it is not its turn."""
        if self._io_thread_reads or self._caller is not None:
            return False
        self._caller, self._ident, self._since = caller, threading.get_ident(), now
        return True

    def is_read_by(self, caller: object) -> bool:
        """Whether this caller reads now."""
        return self._caller is caller

    def finish_read(self, now: float) -> None:
        """The caller who reads does so no more."""
        self._caller, self._since = None, now

    def release(self, now: float) -> None:
        """The thread leaves it to the next caller who waits, unless it had to claim it a moment ago."""
        if now >= self._release_from:
            self._io_thread_reads, self._since = False, now

    def acquire(self, now: float) -> bool:
        """It is to be the thread's; False if it is already, or as long as a caller reads."""
        if self._io_thread_reads or self._caller is not None:
            return False
        self._io_thread_reads, self._release_from = True, now + HANDOVER_COOLDOWN
        return True

    def io_thread_reads(self, now: float) -> bool:
        """Whether the thread reads now."""
        if self._caller is None and now >= self._since + HANDOVER_COOLDOWN:
            self._io_thread_reads = True
        return self._io_thread_reads

    @property
    def expires_at(self) -> float:
        """When to ask `is_threads` again."""
        return float("inf") if self._io_thread_reads else self._since + HANDOVER_COOLDOWN
