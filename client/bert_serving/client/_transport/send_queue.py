"""The queue in front of the PUSH socket."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from contextlib import suppress

import zmq

from ..protocol import CANCEL, MAX_QUERIED, request_frames
from .request_table import Request, RequestTable

# Plain numbers: an operation on a flag of an enumeration takes longer than the call that it is for.
_NOBLOCK, _MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
#: Messages of at least this many bytes are sent without a copy.
_ZERO_COPY_BYTES = 65536


class SendQueue:
    """Requests that the PUSH socket did not accept yet.

    Every method but `flush` is called with the lock of the table held. The lock also makes the PUSH socket usable from
    any thread.

    Args:
        push: the socket.
        identity: identity of the client, for cancellations.
        table: requests without a reply. A queued request that left the table is skipped.

    Attributes:
        supports_cancel: whether the configuration of the connected server says that it understands ``CANCEL``.
        has_cancelled: whether a cancellation was sent.
    """

    def __init__(self, push: zmq.Socket[bytes], identity: bytes, table: RequestTable) -> None:
        self.supports_cancel = False
        self.has_cancelled = False
        self._push = push
        self._identity = identity
        self._cancelled: deque[int] = deque(maxlen=MAX_QUERIED)  # ids that the server does not know to be cancelled
        self._table = table
        self._first: list[bytes] | None = None
        self._queue: deque[Request] = deque()

    def __bool__(self) -> bool:
        return self._first is not None or bool(self._queue)

    def send(self, request: Request) -> bool:
        """Sends a request at once, or queues it.

        Returns:
            False if the request was queued. The I/O thread must then be woken.
        """
        if not self and self.try_to_send(request.frames):
            return True
        self._queue.append(request)
        return False

    def try_to_send(self, frames: list[bytes]) -> bool:
        """Sends a message, and returns False if the socket does not accept it now."""
        try:
            copy = len(frames[1]) < _ZERO_COPY_BYTES
            for frame in frames[:-1]:
                self._push.send(frame, _MORE, copy=copy)
            self._push.send(frames[-1], _NOBLOCK, copy=copy)
        except zmq.Again:
            return False
        except BaseException:  # KeyboardInterrupt may arrive between two frames
            # The rest of the message has too many frames, so that every server ignores the message.
            with suppress(zmq.ZMQError):
                self._push.send_multipart([b""] * 6, zmq.NOBLOCK)
            raise
        return True

    def cancel(self, wire_ids: Iterable[int]) -> bool:
        """Tells the server to drop requests, now or as soon as it is known to understand this.

        Returns:
            False if the socket does not accept the message now. The I/O thread must then be woken.
        """
        self._cancelled.extend(wire_ids)
        return self._send_cancelled()

    def _send_cancelled(self) -> bool:
        if self._cancelled and self.supports_cancel:
            options = json.dumps({"requests": list(self._cancelled)}).encode()
            if not self.try_to_send(request_frames(self._identity, CANCEL, self._table.wire_id(0), options=options)):
                return False
            self._cancelled.clear()
            self.has_cancelled = True
        return True

    def extend(self, requests: Iterable[Request]) -> None:
        """Queues requests."""
        self._queue.extend(requests)

    def replace(self, requests: Iterable[Request], first: list[bytes] | None = None) -> None:
        """Queues these requests only, after the message ``first``."""
        self._first = first
        self._queue = deque(requests)

    def clear(self) -> None:
        """Drops all queued requests."""
        self.replace(())

    def flush(self) -> bool:
        """Sends the queued requests.

        Returns:
            True if some stay queued because the socket accepts no more.
        """
        while True:
            with self._table.lock:
                if self._first is not None:
                    if not self.try_to_send(self._first):
                        return True
                    self._first = None
                if not self._send_cancelled():
                    return True
                if not self._queue:
                    return False
                request = self._queue[0]
                if request.wire_id in self._table.pending and not self.try_to_send(request.frames):
                    return True
                self._queue.popleft()
