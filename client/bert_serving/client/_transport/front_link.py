"""What a client knows of several servers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from .._fronts import Front
from .connection import Connection
from .connection_state import Phase
from .request_table import OnReply
from .sockets import Curve


@dataclass(slots=True, eq=False)
class SharedRequest:
    """A request that one of several servers answers.

    Attributes:
        number: number of the request in this client.
        message, num_texts, options: its content.
        on_reply: receives the reply.
        is_pinned: whether only one server can answer it.
        link: the server that it was sent to; ``None`` while it waits for one.
        attempt: its number in the connection to that server, a new one each time it is sent.
        sent_at: monotonic time (s) of sending.
        silent: servers that did not answer it in time.
    """

    number: int
    message: bytes
    num_texts: int
    options: bytes
    on_reply: OnReply
    is_pinned: bool = False
    link: FrontLink | None = None
    attempt: int = 0
    sent_at: float = 0.0
    silent: tuple[FrontLink, ...] = ()

    @property
    def is_command(self) -> bool:
        return not self.num_texts


class FrontLink:
    """The connection to one of several servers, and its requests. The lock of the group protects all of it.

    Args:
        front: address of the server.
        identity, curve: as for `Connection`.
        on_config, on_down: as for `Connection`, with this object in front.
        config_options: as for `Connection`.

    Attributes:
        config: configuration of the connected server; ``None`` before it is known, and if the server is not used.
        problem: why the connected server is not used; ``None`` if it is.
        is_draining: whether it refused a request because it is stopping.
        lacks_worker: whether no worker of it can compute: it loads its model, or has lost its workers.
        is_silent: whether a request waited too long for it, and it has answered none since.
        requests: requests that were sent to it, by attempt.
        num_texts: number of their texts; a request without texts counts as one.
        last_reply: monotonic time (s) of its last reply.
        asked_at: monotonic time (s) when it was asked last for its configuration because it did not reply.
        last_used: rises with each request, to use servers with equal load in turn.
        was_lost: whether its loss was logged, and its return was not.
    """

    def __init__(
        self,
        front: Front,
        identity: bytes,
        curve: Curve | None,
        on_config: Callable[[FrontLink, dict[str, Any]], None],
        on_down: Callable[[FrontLink], None],
        config_options: bytes = b"",
    ) -> None:
        self.front = front
        self.config: Mapping[str, Any] | None = None
        self.problem: str | None = None
        self.is_draining = False
        self.lacks_worker = False
        self.is_silent = False
        self.requests: dict[int, SharedRequest] = {}
        self.num_texts = 0
        self.last_reply = 0.0
        self.asked_at = 0.0
        self.last_used = 0
        self.was_lost = False
        self.connection = Connection(
            *front,
            identity,
            curve,
            on_config=lambda config: on_config(self, config),
            on_down=lambda: on_down(self),
            config_options=config_options,
        )

    @property
    def takes_texts(self) -> bool:
        """Whether new texts may be sent to it."""
        return self.config is not None and not self.is_draining and not self.lacks_worker

    @property
    def is_alive(self) -> bool:
        """Whether it answers requests, now or after its start."""
        return self.config is not None and (not self.is_draining or bool(self.requests))

    @property
    def is_settled(self) -> bool:
        """Whether its model is known, or an attempt to connect has failed."""
        if self.config is not None or self.problem is not None:
            return True
        state = self.connection.state
        ports = (state.requests, state.results)
        return not state.up and any(port.attempts or port.phase in (Phase.REFUSED, Phase.LOST) for port in ports)

    @property
    def state(self) -> str:
        """Its state in one or two words."""
        if self.problem is not None:
            return "not used"
        if self.config is None:
            return "not connected"
        return "stopping" if self.is_draining else "without a worker" if self.lacks_worker else "connected"

    def describe(self) -> str:
        """Describes its state for an error message. Opens TCP connections, which takes up to 1 s."""
        if self.problem is not None or self.config is not None:
            return f"  {self.front}: {self.problem or self.state}"
        return f"  {self.front}: {self.state}\n{self.connection.state.describe()}".replace("\n", "\n  ")

    def ask_config(self, now: float) -> None:
        """Asks for its configuration, and again until it replies."""
        self.asked_at = now
        self.connection.call_soon(partial(self.connection.retry.ask_config_in, 0.0))

    def send(self, request: SharedRequest, on_reply: Callable[[FrontLink, int, Any], None]) -> None:
        """Sends a request to this server.

        Raises:
            TooLargeError, ClientClosedError: the connection does not accept it.
        """
        request.attempt = attempt = self.connection.new_number()
        request.link = self
        request.sent_at = time.monotonic()
        self.requests[attempt] = request
        self.num_texts += max(1, request.num_texts)
        try:
            self.connection.submit(
                attempt,
                request.message,
                request.num_texts,
                lambda number, reply: on_reply(self, number, reply),
                request.options,
            )
        except BaseException:
            self.take(request)
            raise

    def take(self, request: SharedRequest) -> None:
        """Removes a request, which this server need not answer any more."""
        if self.requests.pop(request.attempt, None) is not None:
            self.num_texts -= max(1, request.num_texts)
        request.link = None


class GroupState:
    """Whether any of several servers is connected; see `ConnectionState`."""

    def __init__(self, links: Sequence[FrontLink]) -> None:
        self._links = links
        self.down_since: float | None = time.monotonic()

    @property
    def up(self) -> bool:
        return self.down_since is None

    def update(self) -> None:
        """Takes over the states of the servers. Called with the lock of the group held, after each change of them."""
        if any(link.is_alive for link in self._links):
            self.down_since = None
        elif self.down_since is None:
            self.down_since = time.monotonic()

    def describe(self) -> str:
        """Describes each server. Opens TCP connections, which takes up to 1 s for each server."""
        return "\n".join(link.describe() for link in self._links)
