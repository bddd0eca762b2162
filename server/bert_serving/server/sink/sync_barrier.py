"""Holds back results until the ventilator has announced the jobs that they belong to.

Results and announcements travel on different sockets. After a restart of the sink or of the ventilator, a fast worker's
results arrive before the SYNC that precedes the announcements. A dropped result would lose its batch, which the
ventilator counts as in flight.
"""

from __future__ import annotations

from collections import deque

from ..ipc.messages import Result

#: Bytes of results that are held at most; beyond them the oldest are dropped, and the ventilator sends them out again.
MAX_HELD_BYTES = 256 * 2**20
#: Sweeps for which a synced sink holds results of another ventilator, whose SYNC is late.
MAX_EXPIRIES = 10
#: Memory of a held result beside its arrays, in bytes.
_OVERHEAD = 400


class SyncBarrier:
    """Decides for each result whether it is processed, held or dropped. Pure: no sockets, no clock.

    Batch ids carry the ventilator's epoch in their upper bits and increase. SYNC names the epoch and the first batch
    that the ventilator expects from this sink; results of earlier batches are stale.

    Args:
        max_bytes: memory of held results.
        nonce: random bytes that this sink puts into SYNC_REQUEST.

    Attributes:
        epoch: epoch of the ventilator; meaningless before the first SYNC.
        is_synced: whether a SYNC that answers this sink's request has arrived.
    """

    def __init__(self, max_bytes: int = MAX_HELD_BYTES, nonce: bytes = b"") -> None:
        self.nonce = nonce
        self.epoch = 0
        self.is_synced = False
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._first_batch = self._num_expiries = 0
        self._past_epochs: set[int] = set()
        self._held: deque[Result] = deque()

    @property
    def num_bytes(self) -> int:
        """Memory of the held results."""
        return self._num_bytes

    @property
    def num_held(self) -> int:
        return len(self._held)

    def admit(self, result: Result) -> bool:
        """Returns whether the result can be processed now; otherwise it is held, or dropped if it is stale."""
        epoch = result.batch_id >> 40
        if self.is_synced and epoch == self.epoch:
            return result.batch_id >= self._first_batch
        if epoch not in self._past_epochs:
            self._hold(result)
        return False

    def sync(self, epoch: int, first_batch: int) -> list[Result]:
        """Applies a SYNC. Returns the held results that it releases, in order of arrival."""
        if self.is_synced and epoch != self.epoch:
            self._past_epochs.add(self.epoch)
        self.epoch, self._first_batch, self.is_synced = epoch, first_batch, True
        held, self._held, self._num_bytes = self._held, deque(), 0
        return [result for result in held if result.batch_id >> 40 == epoch and self.admit(result)]

    def expire(self) -> None:
        """Drops results of an epoch whose SYNC has not come. Called once a second."""
        self._num_expiries = self._num_expiries + 1 if self.is_synced and self._held else 0
        if self._num_expiries > MAX_EXPIRIES:
            self._held.clear()
            self._num_bytes = 0

    def _hold(self, result: Result) -> None:
        self._held.append(result)
        self._num_bytes += _size(result)
        while self._num_bytes > self._max_bytes:
            self._num_bytes -= _size(self._held.popleft())


def _size(result: Result) -> int:
    return result.num_bytes + _OVERHEAD
