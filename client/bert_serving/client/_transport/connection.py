"""The one place that owns sockets, and the thread that serves them.

Any thread submits requests. The I/O thread receives answers and hands each to whom it belongs, by request id; it also
watches the connections. It never waits for anything but its sockets, so what it calls must be quick.

The SUB socket has one reader at a time, who serves all: the I/O thread, or for a moment a caller; see `_lease`.

What makes requests reliable over sockets that drop:

- NoMore is sent before both ports are connected and the subscription is made.
- A request is kept until its answer has come. When the connection to either port was lost and is back, all of them
  are sent again under the same id. Encoding is idempotent: a server ignores a request that it already holds, and a
  second answer to one request is dropped here.
- After requests that wait long the server is asked. One that it does not know is sent again: its answer was lost in
  a way that neither side has seen.
- A server that is stopping refuses what is new. Such a request is kept a while, and sent to the server that takes its
  place.
- Request ids on the wire are unique among clients that share an identity: a random number in the high half, a
  counter in the low half of 63 bits.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import zmq
from zmq.utils.monitor import recv_monitor_message

from ..errors import (
    BertServingError,
    ClientClosedError,
    ClientForkedError,
    DrainingError,
    OptionError,
    ReplyError,
    server_error,
)
from ..protocol import (
    COMMANDS,
    MAX_ASKED,
    SHOW_CONFIG,
    SHOW_PENDING,
    Reply,
    parse_reply,
    request_frames,
)
from .connection_state import ConnectionState, PortState
from .reader_lease import MAX_CALLER_READ, ReaderLease
from .sockets import Curve, Sockets

logger = logging.getLogger("bert_serving.client")

ReplyOrError = Reply | BertServingError
#: Called by the I/O thread with the number of the request and its answer. Must not block or raise.
OnReply = Callable[[int, ReplyOrError], None]

_COUNTER_BITS = 32
_MESSAGES_PER_TURN = 64
#: Messages are sent without a copy from so many bytes on.
_NO_COPY_BYTES = 65536
_JOIN_SECONDS = 5.0
#: A request that waits longer than this (s) is asked after, again and again at this interval.
STALE_AFTER = 20.0
#: The number of such a question; those of requests begin with 1.
_QUERY_NUMBER = 0


class Caller(Protocol):
    """Waits for answers, and can read meanwhile."""

    def has_replies(self) -> bool: ...


class Listener(Protocol):
    """Gets every result that is published to the identity."""

    def put(self, request_id: int, reply: Reply) -> None: ...

    def end(self) -> None: ...


@dataclass(slots=True, eq=False)
class _Request:
    number: int
    frames: list[bytes]
    on_reply: OnReply
    since: float
    is_read: bool


class Connection:
    """A client's connection to the two ports of one server.

    Args:
        ip: host name or address.
        port: where requests go.
        port_out: where results come from.
        identity: the topic of our results.
        curve: keys, to encrypt and authenticate.
        id_base: high half of our request ids; random if not given.
        hold: seconds that a request which a stopping server refused waits for another one, ``None`` for no limit.

    Raises:
        OptionError: ZeroMQ does not accept the address or a key.
    """

    def __init__(
        self,
        ip: str,
        port: int,
        port_out: int,
        identity: bytes,
        curve: Curve | None = None,
        id_base: int | None = None,
        hold: float | None = 0.0,
    ) -> None:
        self.identity = identity
        self.state = ConnectionState(ip, port, port_out, time.monotonic())
        self._id_base = id_base if id_base is not None else secrets.randbelow(2**31 - 1) + 1
        self._pid = os.getpid()
        # Reentrant, because the garbage collector may close a client in any thread and at any moment.
        self._lock = threading.RLock()
        self._reading = threading.Condition(self._lock)  # notified when a caller has read from a client that closes
        self._calls: deque[Callable[[], object]] = deque()
        self._counter = 0
        self._pending: dict[int, _Request] = {}
        self._send_queue: deque[_Request] = deque()
        self._hold = hold
        self._refused: dict[int, tuple[float, DrainingError]] = {}  # wire id -> until when it is held
        self._listeners: weakref.WeakSet[Any] = weakref.WeakSet()
        #: Largest request that the server takes, once it has said so. It cuts the connection to who sends a larger one.
        self.max_message_bytes: int | None = None
        #: Whether the server understands ``SHOW_PENDING``, which an original one does not; None if nobody knows yet.
        self.supports_query: bool | None = None
        self._query_at = time.monotonic() + STALE_AFTER
        self._closing = False
        self._lease = ReaderLease()
        self._was_read = False  # whether the latest answer was awaited by a caller who reads
        self._dispatching: tuple[int, _Request] | None = None  # the request whose answer is being given out
        self._partial = False  # the rest of the message that is being read was dropped
        self._num_connections = 0
        self._sockets = Sockets()
        try:
            self._push, self._push_monitor = self._sockets.open(zmq.PUSH, self.state.requests, curve)
            self._sub, self._sub_monitor = self._sockets.open(zmq.SUB, self.state.results, curve, identity)
            self._callers_poller = zmq.Poller()
            self._callers_poller.register(self._sub, zmq.POLLIN)
            self._thread = threading.Thread(target=self._run, name="bert-client-io", daemon=True)
            self._thread.start()
        except BaseException as error:
            self._sockets.close()
            if isinstance(error, (zmq.ZMQError, ValueError, OverflowError)):
                raise OptionError(f"cannot connect to {ip!r}, ports {port!r} and {port_out!r}: {error}") from error
            raise

    # ---- for any thread ------------------------------------------------------------------------------------------

    @property
    def last_number(self) -> int:
        """Number of requests so far; the first one has number 1."""
        return self._counter

    @property
    def closed(self) -> bool:
        return self._closing

    def new_number(self) -> int:
        """Reserves the number of a request that is about to be submitted."""
        with self._lock:
            self._counter += 1
            return self._counter

    def submit(
        self,
        number: int,
        message: bytes,
        num_texts: int,
        on_reply: OnReply,
        options: bytes = b"",
        is_read: bool = False,
    ) -> None:
        """Sends a request as soon as the server is connected; its answer goes to ``on_reply``.

        ``is_read``: it is awaited in this thread, by `read`.

        Raises:
            ClientClosedError: the client is closed.
            ClientForkedError: this is a forked child of the process that made the client.
            TooLargeError: the server would not take it.
        """
        self.check_usable()
        if self.max_message_bytes is not None and len(message) > self.max_message_bytes:
            limit = f"the limit of the server is {self.max_message_bytes} (-max_message_bytes)"
            raise server_error("too_large", f"the request has {len(message)} bytes; {limit}", number)
        wire_id = self._wire_id(number)
        frames = request_frames(self.identity, message, wire_id, num_texts, options)
        request = _Request(number, frames, on_reply, time.monotonic(), is_read)
        with self._lock:
            if self._closing:
                raise _closed()
            self._pending[wire_id] = request
            if not is_read:
                self._let_thread_read()
            # Sent from here if possible, which saves a change of threads. The lock makes that safe: the I/O thread
            # touches the PUSH socket under the lock too, or when the outbox is not empty.
            if self.state.up and (self._send_queue or not self._try_to_send(request)):
                self._send_queue.append(request)
                self._sockets.wake()

    def read(self, caller: Caller, seconds: float) -> bool:
        """Reads answers in this thread, where ``caller`` waits, until it has one. It does not matter whose they are.

        After a moment it gives up, and the I/O thread goes on. Returns False, at once, if it did not read: because
        another thread does, or because an answer is there.
        """
        try:
            with self._lock:
                if self._closing or caller.has_replies():
                    return False
                if self._lease.owned_by_current_thread():  # a signal's handler interrupted a caller who reads
                    if self._discard_partial():
                        self._resend_pending()
                elif not self._lease.start_read(caller, time.monotonic()):
                    return False
            if self._callers_poller.poll(int(min(seconds, MAX_CALLER_READ) * 1000) + 1):
                self._receive(caller.has_replies)
        except BaseException:  # Ctrl-C, anywhere
            self._recover(caller)
            raise
        self.leave(caller)
        return True

    def leave(self, caller: Caller) -> None:
        """Who read does so no more. To be called at the end in any case: Ctrl-C strikes anywhere."""
        if not self._lease.is_read_by(caller):
            return
        with self._lock:
            if self._closing:
                self._reading.notify_all()
            self._lease.finish_read(time.monotonic())
            if self._pending or self._listeners or not self.state.up:
                self._let_thread_read()

    def _recover(self, caller: Caller) -> None:
        """A caller was interrupted while it read: what it may have had in hand for others is asked for again."""
        with self._lock:
            if self._lease.owned_by_current_thread():
                if self._dispatching is not None:
                    self._pending.setdefault(*self._dispatching)
                self._discard_partial()
                self._resend_pending()
        self.leave(caller)

    def _discard_partial(self) -> bool:
        """Drops what is left of a message that this thread was reading; False if nothing is."""
        is_partial = False
        while self._sub.getsockopt(zmq.RCVMORE):
            self._sub.recv()
            self._partial = is_partial = True
        return is_partial

    def _resend_pending(self) -> None:
        """Asks once more for all answers, but for those that a stopping server refused. Called with the lock held."""
        if self.state.up:
            self._send_queue.extend(self._pending[i] for i in self._pending if i not in self._refused)
            self._sockets.wake()

    def _let_thread_read(self) -> None:
        """Called with the lock held. If a caller reads, it calls this again when it is done."""
        if self._lease.acquire(time.monotonic()):
            self._sockets.wake()

    def _let_callers_read(self) -> None:
        """Called by the I/O thread when it has handed out answers."""
        with self._lock:
            if self._was_read and self.state.up and not self._pending and not self._listeners:
                self._lease.release(time.monotonic())

    def forget(self, number: int) -> None:
        """Drops a request: its answer, should it come, is dropped as well."""
        with self._lock:
            self._pending.pop(self._wire_id(number), None)
            self._refused.pop(self._wire_id(number), None)

    def call_soon(self, function: Callable[[], object]) -> None:
        """Lets the I/O thread call a function: for finalizers, which may not take other locks themselves."""
        self._calls.append(function)
        with self._lock:
            self._sockets.wake()

    def pending_numbers(self) -> set[int]:
        """Numbers of the requests that have no answer yet."""
        with self._lock:
            return {request.number for request in self._pending.values()}

    def listen(self, listener: Listener) -> None:
        """From now on, ``listener`` gets every result of this identity. It is held by a weak reference only."""
        self.check_usable()
        with self._lock:
            if self._closing:
                raise _closed()
            self._listeners.add(listener)
            self._let_thread_read()

    def check_usable(self) -> None:
        if os.getpid() != self._pid:
            raise ClientForkedError(
                f"this client was made in process {self._pid} and cannot be used in process {os.getpid()}: "
                "sockets and threads do not survive a fork. Make a client in each process, after the fork"
            )
        if self._closing:
            raise _closed()

    def close(self) -> None:
        """Ends the thread and releases the sockets; callers that wait get `ClientClosedError`. May be repeated."""
        if os.getpid() != self._pid:
            return  # the sockets belong to the parent
        with self._lock:
            self._closing = True
            self._sockets.wake()
            is_reading = (
                self._lease.owned_by_current_thread()
            )  # a signal's handler calls this, and the thread waits for us
        if threading.current_thread() is not self._thread and not is_reading:
            self._thread.join(_JOIN_SECONDS)

    def _wire_id(self, number: int) -> int:
        return self._id_base << _COUNTER_BITS | number

    # ---- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            poller = zmq.Poller()
            for readable in (self._sockets.woken, self._push_monitor, self._sub_monitor):
                poller.register(readable, zmq.POLLIN)
            while not self._closing:
                sending = self._send()
                if sending:
                    poller.register(self._push, zmq.POLLOUT)
                elif self._push in poller:
                    poller.unregister(self._push)
                with self._lock:
                    poller.register(self._sub, zmq.POLLIN if self._lease.io_thread_reads(time.monotonic()) else 0)
                ready = dict(poller.poll(self._poll_timeout()))
                if self._sockets.woken.fileno() in ready:
                    self._on_wakeup()
                if self._sub in ready:
                    self._receive()
                    self._let_callers_read()
                if self._push_monitor in ready:
                    self._observe(self._push_monitor, self.state.requests)
                if self._sub_monitor in ready:
                    self._observe(self._sub_monitor, self.state.results)
                self._expire_refused()
                self._query_stale()
                self._reconnect(self._push, self.state.requests)
                self._reconnect(self._sub, self.state.results)
        except Exception:
            logger.exception("the connection to %s failed and is closed", self.state.ip)
        finally:
            self._end()

    def _send(self) -> bool:
        """Sends what waits. Returns whether something still waits because the server holds back."""
        while True:
            with self._lock:
                if not self._send_queue:
                    return False
                request = self._send_queue[0]
                if self._wire_id(request.number) in self._pending and not self._try_to_send(request):
                    return True
                self._send_queue.popleft()

    def _try_to_send(self, request: _Request) -> bool:
        """False if the server holds back. Called with the lock held."""
        try:
            is_large = len(request.frames[1]) >= _NO_COPY_BYTES
            self._push.send_multipart(request.frames, zmq.NOBLOCK, copy=not is_large)
        except zmq.Again:
            return False
        return True

    def _query_stale(self) -> None:
        """Asks after the requests that have waited long."""
        now = time.monotonic()
        if now < self._query_at:
            return
        with self._lock:
            oldest = next(iter(self._pending.values()), None)
            if oldest is not None and now - oldest.since < STALE_AFTER:
                self._query_at = oldest.since + STALE_AFTER
                return
            self._query_at = now + STALE_AFTER
            if not self.state.up or self._send_queue:
                return
            late = {i: request for i, request in self._pending.items() if now - request.since >= STALE_AFTER}
            # Commands are as short as the question would be. An original server answers them twice, which does no harm.
            self._send_queue.extend(request for request in late.values() if request.frames[1] in COMMANDS)
            asked = [i for i, request in late.items() if request.frames[1] not in COMMANDS]
            if asked and self.supports_query is not False:
                question, options = SHOW_CONFIG, b""  # which tells what kind of server it is
                if self.supports_query:
                    question, options = SHOW_PENDING, json.dumps({"requests": asked[:MAX_ASKED]}).encode()
                frames = request_frames(self.identity, question, self._wire_id(_QUERY_NUMBER), options=options)
                with contextlib.suppress(zmq.Again):  # the server holds back: it has enough to do
                    self._push.send_multipart(frames, zmq.NOBLOCK)

    def _on_query_reply(self, info: dict[str, Any]) -> None:
        """Sends again what the server says it does not know; what was answered meanwhile is not here any more."""
        if self.supports_query is None:
            self.supports_query, self._query_at = "protocol_version" in info, 0.0
            return
        with self._lock:
            numbers = [number for number in info.get("unknown", ()) if number not in self._refused]
            lost = [self._pending[number] for number in numbers if number in self._pending]
            if self.state.up:
                self._send_queue.extend(lost)
        if lost:
            logger.warning("%d requests had no answer and are sent again to %s", len(lost), self.state.ip)

    def _on_wakeup(self) -> None:
        with self._lock:
            self._sockets.clear_wakeup()
        while self._calls:
            self._calls.popleft()()

    def _receive(self, is_enough: Callable[[], bool] = lambda: False) -> None:
        for _ in range(_MESSAGES_PER_TURN):
            if is_enough():
                return
            self._partial = False
            try:
                frames = self._sub.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            if self._partial:
                continue
            try:
                wire_id = int(frames[-1].bytes)
            except ValueError:
                continue  # nobody can be waiting for it
            self._dispatch(wire_id, frames)

    def _dispatch(self, wire_id: int, frames: list[zmq.Frame]) -> None:
        if wire_id == self._wire_id(_QUERY_NUMBER):
            with contextlib.suppress(Exception):  # no message may end this thread
                self._on_query_reply(parse_reply(frames).info)
            return
        with self._lock:
            request = self._pending.get(wire_id)
            self._dispatching = (wire_id, request) if request is not None else None
            self._pending.pop(wire_id, None)
            listeners = list(self._listeners) if self._listeners else []
            connection = self._num_connections
        ours = wire_id >> _COUNTER_BITS == self._id_base
        if request is None and (ours or not listeners):
            return  # late, repeated, or for a clone of ours
        answer: ReplyOrError
        try:
            answer = parse_reply(frames)
        except Exception as problem:  # no message may end this thread
            answer = ReplyError(f"the answer to request {wire_id} cannot be read: {problem}")
        if isinstance(answer, Reply) and answer.error is None and answer.content is not None:
            for listener in listeners:
                listener.put(request.number if request else wire_id, answer)
        if request is not None:
            self._was_read = request.is_read
            if isinstance(answer, Reply) and answer.error is not None:
                answer = server_error(answer.error["type"], answer.error["message"], request.number)
            if not isinstance(answer, DrainingError) or not self._hold_refused(wire_id, request, answer, connection):
                request.on_reply(request.number, answer)
        self._dispatching = None

    def _hold_refused(self, wire_id: int, request: _Request, answer: DrainingError, connection: int) -> bool:
        """Keeps a request that a stopping server refused; it is sent again when a connection comes up."""
        if self._hold == 0:
            return False
        until = float("inf") if self._hold is None else time.monotonic() + self._hold
        with self._lock:
            self._pending[wire_id] = request
            if connection == self._num_connections:
                self._refused[wire_id] = until, answer
            else:  # one has come up since the answer was read
                self._send_queue.append(request)
                self._sockets.wake()
        return True

    def _expire_refused(self) -> None:
        """Hands out the refusals that have waited long enough."""
        if not self._refused:
            return
        now = time.monotonic()
        with self._lock:
            due = [wire_id for wire_id, (until, _) in self._refused.items() if now >= until]
            refusals = [(self._refused.pop(wire_id)[1], self._pending.pop(wire_id, None)) for wire_id in due]
        for answer, request in refusals:
            if request is not None:
                request.on_reply(request.number, answer)

    def _observe(self, monitor: zmq.Socket[bytes], port: PortState) -> None:
        while monitor.poll(0):
            event = recv_monitor_message(monitor, zmq.NOBLOCK)["event"]
            with self._lock:
                was_up = self.state.up
                came_up = self.state.observe(port, event, time.monotonic())
                if came_up:
                    self._num_connections += 1
                    self._send_queue = deque(self._pending.values())
                    self._refused.clear()
                    if not self._lease.caller_is_reading:
                        # ZeroMQ subscribes anew when someone looks at the socket: now, before requests are sent.
                        self._sub.getsockopt(zmq.EVENTS)
                elif was_up and not self.state.up:
                    self._send_queue.clear()
                    self._let_thread_read()
            if came_up:
                logger.debug("connected to %s", self.state.ip)
            elif was_up and not self.state.up:
                logger.info("lost the connection to %s (%s %d)", self.state.ip, port.name, port.number)

    def _poll_timeout(self) -> int:
        """Milliseconds until a port must be connected anew, a refusal handed out or the server asked."""
        times = [self._query_at, self._lease.expires_at]
        times += [
            port.reconnect_at for port in (self.state.requests, self.state.results) if port.reconnect_at is not None
        ]
        times += [until for until, _ in list(self._refused.values()) if until != float("inf")]
        return int(max(0.0, min(times) - time.monotonic()) * 1000) + 1

    def _reconnect(self, sock: zmq.Socket[bytes], port: PortState) -> None:
        if port.reconnect_at is not None and time.monotonic() >= port.reconnect_at:
            port.reconnect_at = None
            with self._lock:
                if self._lease.caller_is_reading:
                    port.reconnect_at = time.monotonic() + MAX_CALLER_READ
                    return
                with contextlib.suppress(zmq.ZMQError):
                    sock.disconnect(port.endpoint)
                sock.connect(port.endpoint)

    def _end(self) -> None:
        with self._lock:
            self._closing = True
            self._reading.wait_for(lambda: not self._lease.caller_is_reading)
            requests, self._pending = list(self._pending.values()), {}
            self._send_queue.clear()
            listeners = list(self._listeners)
            self._sockets.close()
        for request in requests:
            request.on_reply(request.number, _closed())
        for listener in listeners:
            listener.end()


def _closed() -> ClientClosedError:
    return ClientClosedError("this client is closed; make a new one")
