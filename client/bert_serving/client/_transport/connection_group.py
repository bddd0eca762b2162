"""A client's connections to several servers of one model, which share its requests.

A request is sent to the server with the fewest texts in flight. If this server is lost, is stopping, or is silent for
too long, the request is sent to another one. Its reply is delivered once: the reply of a server that no longer has the
request is dropped. A server that is connected again gets requests again, after its model was compared.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .._fronts import Front, difference, lowest_version
from ..errors import (
    BertServingError,
    ClientClosedError,
    DrainingError,
    OptionError,
    ServerError,
    ServerUnreachableError,
)
from .front_link import FrontLink, GroupState, SharedRequest
from .receiver import Caller, Subscription
from .request_table import OnReply, ReplyOrError
from .retry_policy import OnConfig
from .sockets import Curve

logger = logging.getLogger("bert_serving.client")

#: Seconds between two looks at a server without a worker.
_WORKER_INTERVAL = 1.0
#: A server that has a request and sent no reply for this time (s) is asked whether it has a worker, at this interval.
_ASK_INTERVAL = 5.0


class ConnectionGroup:
    """Connections to several servers, with the interface of `Connection`.

    Locks are taken in this order: that of the group, that of a connection.

    Args:
        fronts: addresses of the servers.
        identity: topic of the results.
        curve: keys for encryption and authentication, the same for all servers.
        config_options: as for `Connection`.

    Attributes:
        num_fronts: number of servers.
        links: what is known of each server.
        state: whether any is connected.

    Raises:
        OptionError: ZeroMQ does not accept an address or a key.
    """

    def __init__(
        self, fronts: Sequence[Front], identity: bytes, curve: Curve | None = None, config_options: bytes = b""
    ) -> None:
        self.num_fronts = len(fronts)
        self.is_identity_shared = False
        self.last_number = 0
        self.links: list[FrontLink] = []
        self.state = GroupState(self.links)
        self._lock = threading.RLock()
        self._pending: dict[int, SharedRequest] = {}
        self._num_sent = 0
        self._reference: tuple[Front, dict[str, Any]] | None = None  # whose model all others must have
        self._on_client_config: OnConfig | None = None
        self._is_closing = False
        try:
            with self._lock:  # no connection calls back before all are there
                for front in fronts:
                    self.links.append(FrontLink(front, identity, curve, self._on_config, self._on_down, config_options))
        except BaseException:
            self.close()
            raise

    # ---- any thread ----------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        return self._is_closing or any(link.connection.closed for link in self.links)

    @property
    def is_settled(self) -> bool:
        """Whether the model of each server is known, or an attempt to connect has failed."""
        return all(link.is_settled for link in self.links)

    @property
    def problems(self) -> list[str]:
        """Why connected servers are not used."""
        return [link.problem for link in self.links if link.problem is not None]

    def to_list(self) -> list[dict[str, Any]]:
        """Returns the state of each server, for the status of a client."""
        with self._lock:
            return [
                {"front": str(link.front), "state": link.state, "num_pending_request": len(link.requests)}
                for link in self.links
            ]

    def merged_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """Returns the configuration of a server, with the lowest protocol version of all connected ones."""
        with self._lock:
            known = [link.config for link in self.links if link.config is not None]
        return {**config, "protocol_version": lowest_version([config, *known])}

    def warn_missing(self) -> None:
        """Logs a warning for each server that is not connected."""
        with self._lock:
            missing = [link for link in self.links if link.config is None and not link.was_lost]
            for link in missing:
                link.was_lost = True
        for link in missing:
            logger.warning("%s is not connected; the other servers get all requests until it is", link.front)

    def new_number(self) -> int:
        """Reserves the number of a request that is about to be submitted."""
        with self._lock:
            self.last_number += 1
            return self.last_number

    def pending_numbers(self) -> set[int]:
        """Returns the numbers of the requests without a reply."""
        with self._lock:
            return set(self._pending)

    def submit(
        self,
        number: int,
        message: bytes,
        num_texts: int,
        on_reply: OnReply,
        options: bytes = b"",
        caller_reads: bool = False,
        is_posted: bool = False,
        link: FrontLink | None = None,
    ) -> None:
        """Sends a request to a server, as soon as one is connected; see `Connection.submit`.

        Args:
            caller_reads, is_posted: as for `Connection`, without an effect.
            link: the only server that can answer it.
        """
        self.check_usable()
        request = SharedRequest(number, message, num_texts, options, on_reply, is_pinned=link is not None)
        with self._lock:
            if self._is_closing:
                raise _closed()
            self._pending[number] = request
            try:
                if link is not None:
                    link.send(request, self._on_reply)
                else:
                    self._send(request)
            except BaseException as error:
                self._pending.pop(number, None)
                raise _renumbered(error, number) from None

    def read(self, caller: Caller, seconds: float) -> bool:
        """Returns False: the I/O threads of the connections read."""
        return False

    def leave(self, caller: Caller) -> None:
        """Does nothing, because no caller reads."""

    def forget(self, *numbers: int) -> None:
        """Drops requests, here and on the servers. A later reply to one of them is dropped as well."""
        with self._lock:
            requests = [self._pending.pop(number) for number in numbers if number in self._pending]
            self._withdraw(requests)
            self.state.update()

    def call_soon(self, function: Callable[[], object]) -> None:
        """Calls a function in an I/O thread. For finalizers, which may not take other locks."""
        self.links[0].connection.call_soon(function)

    def listen(self, subscription: Subscription) -> None:
        """
        Raises:
            OptionError: always; each server publishes the results of its own requests only.
        """
        raise OptionError(
            "listen() needs one server, but ip names several, and each publishes its own results only; pass one "
            "address as ip"
        )

    def check_usable(self) -> None:
        """Raises the errors of `Connection.check_usable`."""
        for link in self.links:
            link.connection.check_usable()

    def start_config(self, config: dict[str, Any], on_config: OnConfig) -> None:
        """Passes the merged configuration to ``on_config`` after each reconnect of a server."""
        self._on_client_config = on_config

    def leave_silent(self, numbers: Iterable[int], limit: float | None, is_over: bool) -> bool:
        """Sends the requests of a call that silent servers have to other servers.

        Args:
            numbers: the requests of the call.
            limit: a server is silent if it has a request of the call and sent no reply for this time (s). It gets no
                more requests until it replies.
            is_over: whether the call itself waited for this time. It then leaves servers that reply to others, too.

        Returns:
            True if a request was sent again. Each is sent to each server at most once.
        """
        now = time.monotonic()
        with self._lock:
            sent = [
                (request, request.link)
                for request in (self._pending[number] for number in list(numbers) if number in self._pending)
                if request.link is not None and not request.is_pinned
            ]
            for request, link in sent:
                if now - max(request.sent_at, link.last_reply, link.asked_at) >= _ASK_INTERVAL:
                    link.ask_config(now)
            if limit is None:
                return False
            then = now - limit
            late = [(request, link) for request, link in sent if request.sent_at <= then]
            if is_over and not late:  # the call waited for this time, and sent them just after it began to wait
                late = sent
            silent = {link for _, link in late if link.last_reply <= then}
            for link in silent:
                if not link.is_silent:
                    link.is_silent = True
                    link.ask_config(now)
            moved = []
            left = set()
            for request, link in late:
                if (is_over or link in silent) and self._others(request):
                    request.silent = (*request.silent, link)
                    left.add(str(link.front))
                    moved.append(request)
            self._withdraw(moved)
            failed = self._send_again(moved)
            self.state.update()
        _deliver(failed)
        if moved:
            named = ", ".join(sorted(left))
            logger.warning("%s did not reply within %g s; %d requests go to other servers", named, limit, len(moved))
        return bool(moved)

    def close(self) -> None:
        """Closes all connections, which cancels their requests. Blocked calls raise `ClientClosedError`."""
        # Without the lock: the garbage collector may close a client in a thread that holds the lock of a connection.
        self._is_closing = True
        for link in self.links:
            link.connection.close()
        for request in list(self._pending.values()):
            if self._pending.pop(request.number, None) is not None:
                request.on_reply(request.number, _closed())

    # ---- with the lock held --------------------------------------------------------------------------------------

    def _others(self, request: SharedRequest) -> list[FrontLink]:
        """Returns the servers that a request which is already sent may be sent to."""
        return [
            link
            for link in self.links
            if link.takes_texts and link is not request.link and link not in request.silent and not link.is_silent
        ]

    def _send(self, request: SharedRequest) -> None:
        """Sends a request to the server with the least load; without a server, the request waits."""
        able = [link for link in self.links if link.takes_texts or (request.is_command and link.config is not None)]
        if able:
            link = min(
                able, key=lambda link: (link.is_silent or link in request.silent, link.num_texts, link.last_used)
            )
            self._num_sent += 1
            link.last_used = self._num_sent
            link.send(request, self._on_reply)

    def _send_again(self, requests: Iterable[SharedRequest]) -> list[tuple[SharedRequest, BertServingError]]:
        """Sends requests to other servers; returns those that no connection accepts, with the errors."""
        failed = []
        for request in requests:
            try:
                if request.is_pinned:
                    raise ServerUnreachableError("the connection to this server was lost; ask again")
                self._send(request)
            except BertServingError as error:
                self._pending.pop(request.number, None)
                failed.append((request, error))
        return failed

    def _withdraw(self, requests: Iterable[SharedRequest]) -> None:
        """Cancels requests on their servers."""
        attempts: dict[FrontLink, list[int]] = {}
        for request in requests:
            if request.link is not None:
                attempts.setdefault(request.link, []).append(request.attempt)
                request.link.take(request)
        for link, numbers in attempts.items():
            link.connection.forget(*numbers)

    # ---- I/O threads ---------------------------------------------------------------------------------------------

    def _on_reply(self, link: FrontLink, attempt: int, reply: ReplyOrError) -> None:
        failed: list[tuple[SharedRequest, BertServingError]] = []
        with self._lock:
            link.last_reply = time.monotonic()
            link.is_silent = False
            request = link.requests.get(attempt)
            if request is None:
                return  # it was sent to another server, or dropped
            link.take(request)
            is_moved = isinstance(reply, DrainingError) and not request.is_pinned and not self._is_closing
            if is_moved:
                is_new, link.is_draining = not link.is_draining, True
                failed = self._send_again([request])
            elif self._pending.pop(request.number, None) is None:
                return  # `close` has ended it
            self.state.update()
        if not is_moved:
            request.on_reply(request.number, _renumbered(reply, request.number))
        elif is_new:
            logger.warning("%s is stopping; new requests go to the other servers", link.front)
        _deliver(failed)

    def _on_down(self, link: FrontLink) -> None:
        with self._lock:
            is_new, link.was_lost = link.config is not None and not link.was_lost, True
            link.config = link.problem = None
            link.is_draining = link.lacks_worker = link.is_silent = False
            moved = list(link.requests.values())
            self._withdraw(moved)
            failed = self._send_again(moved)
            self.state.update()
        if is_new:
            logger.warning("%s is lost; its %d requests go to the other servers", link.front, len(moved))
        _deliver(failed)

    def _on_config(self, link: FrontLink, config: dict[str, Any]) -> None:
        """Compares the model of a server that was connected, and sends requests to it if it is the same."""
        with self._lock:
            if not link.connection.state.up:
                return  # a late reply of a lost connection
            before = link.problem
            link.problem = self._problem_of(link.front, config)
            link.config = config if link.problem is None else None
            link.is_draining = config.get("state") == "draining"
            link.lacks_worker = config.get("state") == "starting" or not config.get("num_ready_worker", 1)
            if link.lacks_worker:
                link.connection.retry.ask_config_in(_WORKER_INTERVAL)
            link.is_silent = False
            link.connection.adopt_limits(config)
            is_back = link.was_lost and link.takes_texts
            link.was_lost = link.was_lost and not is_back
            if link.lacks_worker and any(other.takes_texts for other in self.links):  # it has lost its workers
                self._withdraw([request for request in link.requests.values() if not request.is_command])
            failed = self._send_again([request for request in self._pending.values() if request.link is None])
            self.state.update()
            on_config = self._on_client_config
        if link.problem is not None and link.problem != before:
            logger.warning("%s is not used: %s", link.front, link.problem)
        elif is_back:
            logger.warning("%s is back", link.front)
        if link.problem is None and on_config is not None:
            on_config(self.merged_config(config))
        _deliver(failed)

    def _problem_of(self, front: Front, config: dict[str, Any]) -> str | None:
        """Returns why a server cannot be used with the others; ``None`` if it can."""
        if isinstance(error := config.get("error"), dict):
            return f"{front}: {error.get('message')}"
        if not isinstance(config.get("vector_space"), str) or not isinstance(config.get("protocol_version"), int):
            return f"{front} does not name the vector space of its model, which servers of protocol_version 4 do"
        if self._reference is None:
            self._reference = front, config
        return difference(*self._reference, front, config)


def _deliver(failed: Iterable[tuple[SharedRequest, BertServingError]]) -> None:
    for request, error in failed:
        request.on_reply(request.number, _renumbered(error, request.number))


def _renumbered(reply: Any, number: int) -> Any:
    """Returns a reply; an error of a server with the number that the request has in the client."""
    return reply.renumbered(number) if isinstance(reply, ServerError) else reply


def _closed() -> ClientClosedError:
    return ClientClosedError("this client is closed; make a new one")
