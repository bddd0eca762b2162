"""A client's connection to a server: its sockets, and the thread that serves them.

Any thread submits requests. The I/O thread receives replies, delivers each to its request, and watches the state of
both ports. It blocks on its sockets only, so every callback must return quickly.

A request is sent as soon as both ports are connected and the subscription is made. It stays in the request table until
its reply has arrived; `retry_policy` sends it again when it may be lost.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import zmq

from ..dead_peer import CHECK_INTERVAL, NO_ACK_SECONDS
from ..errors import ClientClosedError, ClientForkedError, OptionError, server_error
from ..protocol import request_frames
from .connection_state import ConnectionState
from .cooperative import Poll, cooperative_poll
from .reader_lease import MAX_CALLER_READ, ReaderLease
from .receiver import Caller, Receiver, Subscription
from .request_table import OnReply, Request, RequestTable
from .retry_policy import OnConfig, RetryPolicy
from .send_queue import SendQueue
from .sockets import Channel, Curve, Sockets, receive_event

logger = logging.getLogger("bert_serving.client")

_JOIN_SECONDS = 5.0
#: Longest wait of `Connection.close` (ms) until a cancellation has left. It waits only for a server that does not read.
CANCEL_LINGER = 1000


class Connection:
    """A client's connection to the two ports of one server.

    Args:
        ip: host name or address.
        port: where requests go.
        port_out: where results come from.
        identity: topic of the results.
        curve: keys for encryption and authentication.
        id_base: high half of the request ids; random if not given.
        drain_grace: seconds to hold a request that a stopping server refused; ``None`` for no limit.
        on_config: receives the server's configuration each time that it is connected, if given. Runs in the I/O thread.
        on_down: called after the connection was lost. Runs in the I/O thread.
        config_options: options of a request for the configuration.

    Attributes:
        num_fronts: number of servers that share the requests.
        state: state of both ports.
        max_message_bytes: size limit of a request, ``None`` if the server did not report one. The server closes the
            connection of a client that sends a larger one.
        retry: sends requests again.
        is_identity_shared: whether another client may have the same identity. The server then keeps the requests whose
            reply no call awaits when this client is closed.

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
        drain_grace: float | None = 0.0,
        on_config: OnConfig | None = None,
        on_down: Callable[[], None] = lambda: None,
        config_options: bytes = b"",
    ) -> None:
        self.num_fronts = 1
        self.identity = identity
        self.state = ConnectionState(ip, port, port_out, time.monotonic())
        self.max_message_bytes: int | None = None
        self.is_identity_shared = False
        self._on_down = on_down
        self._pid = os.getpid()
        self._table = RequestTable(id_base)
        self._calls: deque[Callable[[], object]] = deque()
        self._sockets = Sockets()
        try:
            self._requests = self._sockets.open(zmq.PUSH, self.state.requests, curve)
            self._results = self._sockets.open(zmq.SUB, self.state.results, curve, identity)
            self._channels = (self._requests, self._results)
            self._next_peer_check = 0.0
            self._queue = SendQueue(self._requests.socket, identity, self._table)
            waking = self._sockets.wake, config_options
            self.retry = RetryPolicy(identity, self._table, self._queue, self.state, drain_grace, *waking)
            self.retry.on_config = on_config
            cooperative = cooperative_poll()
            self._poll: Poll = cooperative or zmq.Poller.poll
            self._receiver = Receiver(
                self._results.socket,
                self._table,
                self.retry,
                self.state,
                self._sockets.wake,
                ReaderLease(is_io_thread_only=cooperative is not None),
            )
            self._thread = threading.Thread(target=self._run, name="bert-client-io", daemon=True)
            self._thread.start()
        except BaseException as error:
            self._sockets.close()
            if isinstance(error, (zmq.ZMQError, ValueError, OverflowError)):
                raise OptionError(f"cannot connect to {ip!r}, ports {port!r} and {port_out!r}: {error}") from error
            raise

    # ---- any thread ----------------------------------------------------------------------------------------------

    @property
    def last_number(self) -> int:
        """Number of requests so far; the first one has number 1."""
        return self._table.last_number

    @property
    def closed(self) -> bool:
        return self._table.closing

    def new_number(self) -> int:
        """Reserves the number of a request that is about to be submitted."""
        return self._table.new_number()

    def pending_numbers(self) -> set[int]:
        """Returns the numbers of the requests without a reply."""
        return self._table.pending_numbers()

    def submit(
        self,
        number: int,
        message: bytes,
        num_texts: int,
        on_reply: OnReply,
        options: bytes = b"",
        caller_reads: bool = False,
        is_posted: bool = False,
    ) -> None:
        """Sends a request as soon as the server is connected; ``on_reply`` receives its reply.

        Args:
            caller_reads: whether this thread awaits the reply by `read`.
            is_posted: whether no call awaits the reply yet.

        Raises:
            ClientClosedError: the client is closed.
            ClientForkedError: this process is a forked child of the process that made the client.
            TooLargeError: the message exceeds the server's size limit.
        """
        self.check_usable()
        if self.max_message_bytes is not None and len(message) > self.max_message_bytes:
            limit = f"the limit of the server is {self.max_message_bytes} (-max_message_bytes)"
            raise server_error("too_large", f"the request has {len(message)} bytes; {limit}", number)
        wire_id = self._table.wire_id(number)
        frames = request_frames(self.identity, message, wire_id, num_texts, options)
        request = Request(number, wire_id, frames, on_reply, time.monotonic(), caller_reads, is_posted)
        with self._table.lock:
            if self._table.closing:
                raise _closed()
            self._table.pending[wire_id] = request
            if not caller_reads:
                self._receiver.reclaim_lease()
            # The calling thread sends if it can, which saves a change of threads.
            if self.state.up and not self._queue.send(request):
                self._sockets.wake()

    def start_config(self, config: dict[str, Any], on_config: OnConfig) -> None:
        """Takes over the configuration that the client received first; ``on_config`` receives it after reconnects."""

        def adopt(new: dict[str, Any]) -> None:
            if "error" not in new:
                self.adopt_limits(new)
                on_config(new)

        self.adopt_limits(config)
        self.retry.start_config(config, adopt)

    def adopt_limits(self, config: dict[str, Any]) -> None:
        """Takes over the limits of a server from its configuration."""
        limit = config.get("max_message_bytes")
        self.max_message_bytes = limit if isinstance(limit, int) else None

    def leave_silent(self, numbers: Iterable[int], limit: float | None, is_over: bool) -> bool:
        """Returns False: there is no other server to send requests to."""
        return False

    def read(self, caller: Caller, seconds: float) -> bool:
        """Reads replies in this thread until ``caller`` has one; see `Receiver.read`."""
        return self._receiver.read(caller, seconds)

    def leave(self, caller: Caller) -> None:
        """Stops reading for ``caller``; see `Receiver.leave`."""
        self._receiver.leave(caller)

    def forget(self, *numbers: int) -> None:
        """Drops requests, here and on the server. A later reply to one of them is dropped as well."""
        with self._table.lock:
            dropped = []
            for wire_id in map(self._table.wire_id, numbers):
                request = self._table.pending.pop(wire_id, None)
                self.retry.forget_locked(wire_id)
                if request is not None and not request.is_command:
                    dropped.append(wire_id)
            if dropped and not self._queue.cancel(dropped):
                self._sockets.wake()

    def call_soon(self, function: Callable[[], object]) -> None:
        """Calls a function in the I/O thread. For finalizers, which may not take other locks."""
        self._calls.append(function)
        with self._table.lock:
            self._sockets.wake()

    def listen(self, subscription: Subscription) -> None:
        """Passes every result of this identity to ``subscription``, which is held by a weak reference."""
        self.check_usable()
        with self._table.lock:
            if self._table.closing:
                raise _closed()
            self._receiver.subscriptions.add(subscription)
            self._receiver.reclaim_lease()

    def check_usable(self) -> None:
        """
        Raises:
            ClientClosedError: the client is closed.
            ClientForkedError: this process is a forked child of the process that made the client.
        """
        if os.getpid() != self._pid:
            raise ClientForkedError(
                f"this client was made in process {self._pid} and cannot be used in process {os.getpid()}: "
                "sockets and threads do not survive a fork. Make a client in each process, after the fork"
            )
        if self._table.closing:
            raise _closed()

    def close(self) -> None:
        """Ends the I/O thread and closes the sockets. Blocked calls raise `ClientClosedError`. May be repeated."""
        if os.getpid() != self._pid:
            return  # the sockets belong to the parent
        with self._table.lock:
            self._table.closing = True
            self._sockets.wake()
            # In a signal handler that interrupted a reading call, the I/O thread waits for this thread.
            is_reading = self._receiver.lease.owned_by_current_thread()
        if threading.current_thread() is not self._thread and not is_reading:
            self._thread.join(_JOIN_SECONDS)

    # ---- the I/O thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        push, sub, lease = self._requests.socket, self._results.socket, self._receiver.lease
        channels = self._channels
        try:
            poller = zmq.Poller()
            for readable in (self._sockets.woken, *(channel.monitor for channel in channels)):
                poller.register(readable, zmq.POLLIN)
            while not self._table.closing:
                if self._queue.flush():
                    poller.register(push, zmq.POLLOUT)
                elif push in poller:
                    poller.unregister(push)
                with self._table.lock:
                    poller.register(sub, zmq.POLLIN if lease.io_thread_reads(time.monotonic()) else 0)
                ready = dict(self._poll(poller, self._poll_timeout()))
                if self._sockets.woken.fileno() in ready:
                    self._on_wakeup()
                if sub in ready:
                    self._receiver.receive()
                    with self._table.lock:
                        self._receiver.release_lease()
                for channel in channels:
                    if channel.monitor in ready:
                        self._observe(channel)
                self.retry.run()
                self._close_dead_peer()
                for channel in channels:
                    self._reconnect(channel)
        except Exception:
            logger.exception("closing the connection to %s after an unexpected error", self.state.ip)
        finally:
            self._end()

    def _poll_timeout(self) -> int:
        """Returns the milliseconds until the reader lease, a port or a request needs attention."""
        times = [self.retry.next_check_at(), self._receiver.lease.expires_at]
        times += [c.port.reconnect_at for c in self._channels if c.port.reconnect_at is not None]
        if any(channel.watch.is_connected for channel in self._channels):
            times.append(self._next_peer_check)
        return int(max(0.0, min(times) - time.monotonic()) * 1000) + 1

    def _on_wakeup(self) -> None:
        with self._table.lock:
            self._sockets.clear_wakeup()
        while self._calls:
            self._calls.popleft()()

    def _observe(self, channel: Channel) -> None:
        """Applies the events of one socket to the state of its port."""
        port = channel.port
        while channel.monitor.poll(0):
            event, value = receive_event(channel.monitor)
            if event == zmq.EVENT_CONNECTED:
                channel.watch.on_connected(value)
            with self._table.lock:
                was_up = self.state.up
                came_up = self.state.observe(port, event, time.monotonic())
                went_down = was_up and not self.state.up
                if came_up:
                    self.retry.on_connected_locked()
                    self._receiver.resubscribe()
                elif went_down:
                    self._queue.clear()
                    self._receiver.reclaim_lease()
            if came_up:
                logger.debug("connected to %s", self.state.ip)
            elif went_down:
                logger.info("lost the connection to %s (%s %d); reconnecting", self.state.ip, port.name, port.number)
                self._on_down()

    def _close_dead_peer(self) -> None:
        """Closes the connections to a server that does not acknowledge what was sent to one of its ports.

        Both go over the same path. A full server leaves the other one without anything to acknowledge for minutes.
        """
        now = time.monotonic()
        if now < self._next_peer_check:
            return
        self._next_peer_check = now + CHECK_INTERVAL
        dead = [channel.port for channel in self._channels if channel.watch.is_dead(now)]
        if dead:
            logger.info(
                "%s (%s %d) acknowledged nothing for %g s; closing the connections",
                self.state.ip,
                dead[0].name,
                dead[0].number,
                NO_ACK_SECONDS,
            )
            for channel in self._channels:
                channel.watch.close()

    def _reconnect(self, channel: Channel) -> None:
        """Connects a port again if ZeroMQ gave it up."""
        port = channel.port
        if port.reconnect_at is not None and time.monotonic() >= port.reconnect_at:
            port.reconnect_at = None
            with self._table.lock:
                if self._receiver.lease.caller_is_reading:
                    port.reconnect_at = time.monotonic() + MAX_CALLER_READ
                    return
                with contextlib.suppress(zmq.ZMQError):
                    channel.socket.disconnect(port.endpoint)
                channel.socket.connect(port.endpoint)

    def _end(self) -> None:
        with self._table.lock:
            self._table.closing = True
            self._receiver.wait_for_caller()
            requests = list(self._table.pending.values())
            self._table.pending.clear()
            self._queue.clear()
            subscriptions = list(self._receiver.subscriptions)
            if self.state.up:
                self._queue.cancel(
                    request.wire_id
                    for request in requests
                    if not request.is_command and not (request.is_posted and self.is_identity_shared)
                )
            if self._queue.has_cancelled:
                self._requests.socket.setsockopt(zmq.LINGER, CANCEL_LINGER)
            self._sockets.close()
        for request in requests:
            request.on_reply(request.number, _closed())
        for subscription in subscriptions:
            subscription.end()


def _closed() -> ClientClosedError:
    return ClientClosedError("this client is closed; make a new one")
