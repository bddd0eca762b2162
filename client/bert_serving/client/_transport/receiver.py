"""Reading replies from the SUB socket, in the I/O thread or in a calling thread."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import zmq

from ..errors import DrainingError, ReplyError, server_error
from ..protocol import Reply, parse_reply
from .connection_state import ConnectionState
from .reader_lease import MAX_CALLER_READ, ReaderLease
from .request_table import ReplyOrError, Request, RequestTable
from .retry_policy import QUERY_NUMBER, RetryPolicy

#: Messages that one `Receiver.receive` reads at most, so that the I/O thread also serves its other sockets.
_MAX_MESSAGES = 64
_NOBLOCK = int(zmq.NOBLOCK)


class Caller(Protocol):
    """A blocked call, which may read replies itself."""

    def has_replies(self) -> bool: ...


class Subscription(Protocol):
    """Receives every result that is published to the identity."""

    def put(self, request_id: int, reply: Reply) -> None: ...

    def end(self) -> None: ...


class Receiver:
    """Reads replies and delivers each to its request.

    The SUB socket has one reader at a time, the I/O thread or a blocked call; see `reader_lease`. The reader delivers
    all replies, also those of other calls.

    Args:
        sub: the socket.
        table: requests without a reply.
        retry: is told about refused requests and replies to queries.
        state: state of both ports.
        wake: wakes the I/O thread; called with the lock of the table held.
        lease: tells which thread reads.

    Attributes:
        subscriptions: receive every result; held by weak references.
    """

    def __init__(
        self,
        sub: zmq.Socket[bytes],
        table: RequestTable,
        retry: RetryPolicy,
        state: ConnectionState,
        wake: Callable[[], None],
        lease: ReaderLease,
    ) -> None:
        self.lease = lease
        self.subscriptions: weakref.WeakSet[Any] = weakref.WeakSet()
        self._sub = sub
        self._table = table
        self._retry = retry
        self._state = state
        self._wake = wake
        sub.setsockopt(zmq.RCVTIMEO, int(MAX_CALLER_READ * 1000))  # of `receive` that waits
        self._poller = zmq.Poller()  # of calling threads, for shorter waits
        self._poller.register(sub, zmq.POLLIN)
        self._caller_left = threading.Condition(table.lock)  # notified if the connection is closing
        self._caller_awaited_last = False  # whether the latest reply was awaited by a call that reads
        self._dispatching: Request | None = None  # the request whose reply is being delivered
        self._num_discarded = 0  # messages whose rest was dropped between two frames

    # ---- calling threads -----------------------------------------------------------------------------------------

    def read(self, caller: Caller, seconds: float) -> bool:
        """Reads replies in the calling thread until ``caller`` has one.

        Reading ends after ``MAX_CALLER_READ``; the I/O thread then continues.

        Returns:
            False, at once, if nothing was read because another thread reads or ``caller`` has a reply.
        """
        try:
            with self._table.lock:
                if self._table.closing or caller.has_replies():
                    return False
                if self.lease.owned_by_current_thread():  # a signal handler interrupted a call that reads
                    if self._discard_partial():
                        self._resend_pending()
                elif not self.lease.start_read(caller, time.monotonic()):
                    return False
            if seconds >= MAX_CALLER_READ:
                self.receive(caller.has_replies, waits=True)
            elif self._poller.poll(int(seconds * 1000) + 1):
                self.receive(caller.has_replies)
        except BaseException:  # KeyboardInterrupt may arrive at any point
            self._recover(caller)
            raise
        self.leave(caller)
        return True

    def leave(self, caller: Caller) -> None:
        """Releases the reader lease. Call it in ``finally``: KeyboardInterrupt may arrive at any point."""
        if not self.lease.is_read_by(caller):
            return
        with self._table.lock:
            if self._table.closing:
                self._caller_left.notify_all()
            self.lease.finish_read(time.monotonic())
            if self._table.pending or self.subscriptions or not self._state.up:
                self.reclaim_lease()

    def _recover(self, caller: Caller) -> None:
        """Requests all replies again after an interrupted read, which may have lost replies of other calls."""
        with self._table.lock:
            if self.lease.owned_by_current_thread():
                if self._dispatching is not None:
                    self._table.pending.setdefault(self._dispatching.wire_id, self._dispatching)
                self._discard_partial()
                self._resend_pending()
        self.leave(caller)

    def _discard_partial(self) -> bool:
        """Drops the rest of a message that this thread was reading; returns False if there is none."""
        is_partial = False
        while self._sub.getsockopt(zmq.RCVMORE):
            self._sub.recv()
            is_partial = True
        self._num_discarded += is_partial
        return is_partial

    def _resend_pending(self) -> None:
        self._retry.resend_pending_locked()
        self._wake()

    # ---- the lease, with the lock of the table held --------------------------------------------------------------

    def reclaim_lease(self) -> None:
        """Lets the I/O thread read. If a call reads now, `leave` does this."""
        if self.lease.acquire(time.monotonic()):
            self._wake()

    def release_lease(self) -> None:
        """Lets calls read. Called by the I/O thread after it delivered replies."""
        if self._caller_awaited_last and self._state.up and not self._table.pending and not self.subscriptions:
            self.lease.release(time.monotonic())

    def wait_for_caller(self) -> None:
        """Waits until no call reads."""
        self._caller_left.wait_for(lambda: not self.lease.caller_is_reading)

    def resubscribe(self) -> None:
        """Sends the subscription on a new connection, before requests are sent."""
        if not self.lease.caller_is_reading:
            self._sub.getsockopt(zmq.EVENTS)  # ZeroMQ processes the new connection, and subscribes, in this call

    # ---- messages ------------------------------------------------------------------------------------------------

    def receive(self, is_enough: Callable[[], bool] = lambda: False, waits: bool = False) -> None:
        """Reads and delivers the replies that are there, until ``is_enough``.

        Args:
            waits: waits for the first one, at most ``MAX_CALLER_READ``. A poll before takes four more system calls.
        """
        flags = 0 if waits else _NOBLOCK
        for _ in range(_MAX_MESSAGES):
            if is_enough():
                return
            num_discarded = self._num_discarded
            try:
                frames = self._read_message(flags)
            except zmq.Again:
                return
            flags = _NOBLOCK
            if self._num_discarded != num_discarded:  # a signal handler read between two frames
                continue
            try:
                wire_id = int(frames[-1].bytes)
            except ValueError:
                continue  # no request has such an id
            self._dispatch(wire_id, frames)

    def _read_message(self, flags: int) -> list[zmq.Frame]:
        """Reads a message in less time than ``recv_multipart``, which asks for ``zmq.RCVMORE`` after each frame."""
        receive, num_discarded = self._sub.recv, self._num_discarded
        frame = receive(flags, copy=False)
        frames = [frame]
        while frame.more and self._num_discarded == num_discarded:
            frame = receive(_NOBLOCK, copy=False)
            frames.append(frame)
        return frames

    def _dispatch(self, wire_id: int, frames: list[zmq.Frame]) -> None:
        table = self._table
        if wire_id == table.wire_id(QUERY_NUMBER):
            with contextlib.suppress(Exception):  # no message may end the I/O thread
                self._retry.on_query_reply(parse_reply(frames).info)
            return
        with table.lock:
            self._dispatching = request = table.pending.get(wire_id)
            table.pending.pop(wire_id, None)
            subscriptions = list(self.subscriptions) if self.subscriptions else []
            connection = self._retry.num_connections
        if request is None and (table.is_own(wire_id) or not subscriptions):
            return  # late, repeated, or for a clone
        reply: ReplyOrError
        try:
            reply = parse_reply(frames)
        except Exception as problem:  # no message may end the I/O thread
            reply = ReplyError(f"the reply to request {wire_id} cannot be read: {problem}")
        if isinstance(reply, Reply) and reply.error is None and reply.content is not None:
            for subscription in subscriptions:
                subscription.put(request.number if request else wire_id, reply)
        if request is not None:
            self._caller_awaited_last = request.caller_reads
            if isinstance(reply, Reply) and reply.error is not None:
                reply = server_error(reply.error["type"], reply.error["message"], request.number, reply.error)
            if isinstance(reply, DrainingError) and self._retry.hold_refused(request, reply, connection):
                with table.lock:
                    self._wake()
            else:
                request.on_reply(request.number, reply)
        self._dispatching = None
