"""Measures the memory of unread messages that the number of their bytes does not show.

A frame takes 2 bytes on the wire and 64 bytes in ZeroMQ. ZeroMQ shows no frame before the last one of its message. So
an endless message of tiny frames takes up to 32 times the memory that its bytes suggest. The C library knows how much
memory is allocated in small blocks; large frames are in blocks of their own, which are not counted here.
"""

from __future__ import annotations

import ctypes

#: Largest memory of a byte on the wire: that of an empty frame.
BYTES_PER_WIRE_BYTE = 32
#: Least memory that frames may take beside the bytes of their messages.
MIN_ALLOWANCE = 64 * 2**20
#: Seconds between two measurements while few bytes are unread. One may take 10 ms if the memory is fragmented.
QUIET_INTERVAL = 30.0
#: Blocks of at least this size (bytes) are mapped one by one, and not counted.
_LARGE_BLOCK = 2**20
#: Option of ``mallopt`` (malloc.h).
_M_MMAP_THRESHOLD = -3


class _Mallinfo2(ctypes.Structure):
    """``struct mallinfo2`` (malloc.h)."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


class SmallBlocks:
    """Memory of the C library. From now on, new memory for blocks of 1 MiB and more is not small.

    A process that has freed large blocks before may take small ones from them, and large ones too. The ventilator makes
    this object at its start.

    Raises:
        AttributeError: the library is glibc before 2.33, or another one.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.mallinfo2.restype = _Mallinfo2
        self._library.mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)

    def allocated(self) -> int:
        """Returns the bytes in small blocks."""
        return int(self._library.mallinfo2().uordblks)

    def release(self) -> None:
        """Returns freed memory to the system."""
        self._library.malloc_trim(ctypes.c_size_t(0))


def small_blocks() -> SmallBlocks | None:
    """Returns the small blocks of this process; None where they cannot be measured."""
    try:
        return SmallBlocks()
    except AttributeError:
        return None


class FrameMemory:
    """Compares the allocated memory with the memory that is accounted for. Pure, apart from ``blocks``.

    Args:
        blocks: the small blocks; None if they cannot be measured.
        allowance: bytes that unread messages may take beside those on the wire.
    """

    def __init__(self, blocks: SmallBlocks | None, allowance: int) -> None:
        self._blocks, self.allowance = blocks, max(MIN_ALLOWANCE, allowance)
        self._start = self._baseline = blocks.allocated() if blocks else 0
        self._next_quiet, self._was_exceeded = 0.0, False

    def excess(self, held: int, unread: int, now: float) -> int:
        """Returns the memory of unread messages beside their bytes.

        Other memory grows too, as with the number of connections. Unread bytes explain at most
        ``BYTES_PER_WIRE_BYTE`` times their number, so growth beyond that is other memory.

        Args:
            held: bytes of the requests in progress.
            unread: bytes on the wire of all unread and unfinished messages.
            now: monotonic seconds.
        """
        is_quiet = 4 * BYTES_PER_WIRE_BYTE * unread < self.allowance
        if self._blocks is None or (is_quiet and now < self._next_quiet and not self._was_exceeded):
            return 0
        self._next_quiet = now + QUIET_INTERVAL
        rest = self._blocks.allocated() - held - unread
        self._baseline = max(self._start, min(self._baseline, rest), rest - BYTES_PER_WIRE_BYTE * unread)
        excess = max(0, rest - self._baseline)
        if self._was_exceeded and is_quiet:
            self._blocks.release()
        self._was_exceeded = excess > self.allowance or (self._was_exceeded and not is_quiet)
        return excess
