"""The queue in front of the PUSH socket."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import zmq

from .request_table import Request, RequestTable

#: Messages of at least this many bytes are sent without a copy.
_ZERO_COPY_BYTES = 65536


class SendQueue:
    """Requests that the PUSH socket did not accept yet.

    Every method but `flush` is called with the lock of the table held. The lock also makes the PUSH socket usable from
    any thread.

    Args:
        push: the socket.
        table: requests without a reply. A queued request that left the table is skipped.
    """

    def __init__(self, push: zmq.Socket[bytes], table: RequestTable) -> None:
        self._push = push
        self._table = table
        self._queue: deque[Request] = deque()

    def __bool__(self) -> bool:
        return bool(self._queue)

    def send(self, request: Request) -> bool:
        """Sends a request at once, or queues it.

        Returns:
            False if the request was queued. The I/O thread must then be woken.
        """
        if not self._queue and self.try_to_send(request.frames):
            return True
        self._queue.append(request)
        return False

    def try_to_send(self, frames: list[bytes]) -> bool:
        """Sends a message, and returns False if the socket does not accept it now."""
        try:
            self._push.send_multipart(frames, zmq.NOBLOCK, copy=len(frames[1]) < _ZERO_COPY_BYTES)
        except zmq.Again:
            return False
        return True

    def extend(self, requests: Iterable[Request]) -> None:
        """Queues requests."""
        self._queue.extend(requests)

    def replace(self, requests: Iterable[Request]) -> None:
        """Queues these requests only."""
        self._queue = deque(requests)

    def clear(self) -> None:
        """Drops all queued requests."""
        self._queue.clear()

    def flush(self) -> bool:
        """Sends the queued requests.

        Returns:
            True if some stay queued because the socket accepts no more.
        """
        while True:
            with self._table.lock:
                if not self._queue:
                    return False
                request = self._queue[0]
                if request.wire_id in self._table.pending and not self.try_to_send(request.frames):
                    return True
                self._queue.popleft()
