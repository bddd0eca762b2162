"""Which thread reads results. Pure: the clock comes in as numbers, and the lock is held by the calling code.

A blocked call that awaits one reply after the other reads them itself. A change of threads for each reply takes as long
as a good part of the whole path of a short sentence.

- The I/O thread holds the lease at first. It releases the lease when it delivered the last pending reply and a blocked
  call awaited it. The next blocked call then reads.
- The I/O thread acquires the lease again as soon as a reply is pending that no blocked call is about to read. It then
  keeps the lease for ``HANDOVER_COOLDOWN``: with several concurrent calls, each handover costs as much as it saves.
- The lease returns to the I/O thread when no call has read for ``HANDOVER_COOLDOWN``, because results of clones may
  arrive at any time.
"""

from __future__ import annotations

import threading

#: A call reads for this long (s) at most; beyond, a change of threads does not matter.
MAX_CALLER_READ = 0.1
#: The I/O thread keeps an acquired lease for this long (s), and takes back a lease that no call used for this long.
HANDOVER_COOLDOWN = 1.0


class ReaderLease:
    """The right to read from the SUB socket.

    Args:
        is_io_thread_only: no blocked call reads.
    """

    def __init__(self, is_io_thread_only: bool = False) -> None:
        self._is_io_thread_only = is_io_thread_only
        self._io_thread_reads = True
        self._caller: object = None
        self._ident = 0  # of the caller's thread
        self._since = 0.0
        self._release_from = 0.0

    # ---- the I/O thread ------------------------------------------------------------------------------------------

    def io_thread_reads(self, now: float) -> bool:
        """Returns whether the I/O thread reads now."""
        if self._caller is None and now >= self._since + HANDOVER_COOLDOWN:
            self._io_thread_reads = True
        return self._io_thread_reads

    @property
    def expires_at(self) -> float:
        """When the lease returns to the I/O thread by itself."""
        return float("inf") if self._io_thread_reads else self._since + HANDOVER_COOLDOWN

    def release(self, now: float) -> None:
        """Leaves the lease to the next blocked call, except within ``HANDOVER_COOLDOWN`` after `acquire`."""
        if now >= self._release_from and not self._is_io_thread_only:
            self._io_thread_reads, self._since = False, now

    def acquire(self, now: float) -> bool:
        """Gives the lease to the I/O thread; returns False if it holds the lease or while a call reads."""
        if self._io_thread_reads or self._caller is not None:
            return False
        self._io_thread_reads, self._release_from = True, now + HANDOVER_COOLDOWN
        return True

    # ---- blocked calls -------------------------------------------------------------------------------------------

    @property
    def caller_is_reading(self) -> bool:
        """Whether a call reads now."""
        return self._caller is not None

    def owned_by_current_thread(self) -> bool:
        """Returns whether a call in the current thread reads."""
        return self._caller is not None and self._ident == threading.get_ident()

    def is_read_by(self, caller: object) -> bool:
        """Returns whether ``caller`` reads now."""
        return self._caller is caller

    def start_read(self, caller: object, now: float) -> bool:
        """Lets ``caller`` read; returns False if another thread reads."""
        if self._io_thread_reads or self._caller is not None:
            return False
        self._caller, self._ident, self._since = caller, threading.get_ident(), now
        return True

    def finish_read(self, now: float) -> None:
        """Ends the read of the current caller."""
        self._caller, self._since = None, now
