"""Which requests are sent again, and when.

- After a lost connection is back, all pending requests are sent again under the same ids. Encoding is idempotent: a
  server ignores a request that it already holds, and the client drops a second reply.
- The server is queried about requests that wait long. A request that it does not know is sent again.
- A stopping server refuses new requests. A refused request is held, and sent to the server that takes its place.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any

from ..errors import DrainingError
from ..protocol import CANCEL_VERSION, MAX_QUERIED, SHOW_CONFIG, SHOW_PENDING, request_frames
from .connection_state import ConnectionState
from .request_table import Request, RequestTable
from .send_queue import SendQueue

logger = logging.getLogger("bert_serving.client")

#: The server is queried about a request that waits longer than this (s), repeatedly at this interval.
STALE_AFTER = 20.0
#: A configuration without a reply is requested again at this interval (s).
CONFIG_INTERVAL = 5.0
#: Receives the configuration of a server.
OnConfig = Callable[[dict[str, Any]], None]
#: Number of such a query; those of requests begin with 1.
QUERY_NUMBER = 0


class RetryPolicy:
    """Sends requests again. Methods that end in ``_locked`` are called with the lock of the table held.

    Args:
        identity: identity of the client, for queries.
        table: requests without a reply.
        queue: the queue in front of the PUSH socket.
        state: state of both ports.
        drain_grace: seconds to hold a request that a stopping server refused; ``None`` for no limit.
        wake: wakes the I/O thread; called with the lock of the table held.
        config_options: options of a request for the configuration.

    Attributes:
        supports_query: whether the server understands ``SHOW_PENDING``, which an original one does not; ``None`` if
            unknown.
        num_connections: how often the connection came up.
        on_config: receives the configuration of the server after each reconnect, which may be another server; ``None``
            if the client does not ask for it.
    """

    def __init__(
        self,
        identity: bytes,
        table: RequestTable,
        queue: SendQueue,
        state: ConnectionState,
        drain_grace: float | None,
        wake: Callable[[], None],
        config_options: bytes = b"",
    ) -> None:
        self.supports_query: bool | None = None
        self.num_connections = 0
        self.on_config: OnConfig | None = None
        self._config_at = float("inf")  # when the configuration is requested again
        self._identity = identity
        self._table = table
        self._queue = queue
        self._state = state
        self._drain_grace = drain_grace
        self._wake, self._config_options = wake, config_options
        self._refused: dict[int, tuple[float, DrainingError]] = {}  # by request id; the time when the hold ends
        self._query_at = time.monotonic() + STALE_AFTER

    def next_check_at(self) -> float:
        """Returns the monotonic time (s) when `run` has something to do."""
        # The list is a snapshot: callers change the dictionary meanwhile.
        return min([self._query_at, self._config_at, *(until for until, _ in list(self._refused.values()))])

    def run(self) -> None:
        """Does what is due now. Called by the I/O thread."""
        self._expire_refused()
        if time.monotonic() >= self._query_at:
            self._query_stale()
        if time.monotonic() >= self._config_at:
            self.ask_config_in(CONFIG_INTERVAL)
            with self._table.lock:
                if self._state.up:
                    self._send_query(SHOW_CONFIG, self._config_options)

    def ask_config_in(self, seconds: float) -> None:
        """Requests the configuration after some time, if no reply with it arrives before. Called in the I/O thread."""
        self._config_at = time.monotonic() + seconds

    def on_connected_locked(self) -> None:
        """Sends all pending requests again, because the connection came up."""
        self.num_connections += 1
        self._queue.supports_cancel = False
        first = None
        if self.on_config is not None:
            self.supports_query = None
            # Before the requests, so that its reply comes before theirs.
            wire_id = self._table.wire_id(QUERY_NUMBER)
            first = request_frames(self._identity, SHOW_CONFIG, wire_id, options=self._config_options)
            self.ask_config_in(CONFIG_INTERVAL)
        self._queue.replace(self._table.pending.values(), first)
        self._refused.clear()

    def resend_pending_locked(self) -> None:
        """Sends all pending requests again, except those that a stopping server refused."""
        if self._state.up:
            self._queue.extend(request for i, request in self._table.pending.items() if i not in self._refused)

    def forget_locked(self, wire_id: int) -> None:
        """Drops what is known about a request."""
        self._refused.pop(wire_id, None)

    # ---- requests that a stopping server refused -----------------------------------------------------------------

    def hold_refused(self, request: Request, error: DrainingError, connection: int) -> bool:
        """Holds a request that a stopping server refused, until a connection comes up.

        Args:
            connection: ``num_connections`` when the refusal was read.

        Returns:
            False if refused requests are not held.
        """
        if self._drain_grace == 0:
            return False
        until = float("inf") if self._drain_grace is None else time.monotonic() + self._drain_grace
        with self._table.lock:
            self._table.pending[request.wire_id] = request
            if connection == self.num_connections:
                self._refused[request.wire_id] = until, error
            else:  # a connection came up since the refusal was read
                self._queue.extend([request])
        return True

    def _expire_refused(self) -> None:
        """Delivers the refusals of requests that were held long enough."""
        if not self._refused:
            return
        now = time.monotonic()
        with self._table.lock:
            due = [wire_id for wire_id, (until, _) in self._refused.items() if now >= until]
            refusals = [(self._refused.pop(wire_id)[1], self._table.pending.pop(wire_id, None)) for wire_id in due]
        for error, request in refusals:
            if request is not None:
                request.on_reply(request.number, error)

    # ---- requests that wait long ---------------------------------------------------------------------------------

    def _query_stale(self) -> None:
        """Queries the server about the requests that wait longer than ``STALE_AFTER``."""
        now = time.monotonic()
        with self._table.lock:
            pending = self._table.pending
            oldest = next(iter(pending.values()), None)
            if oldest is not None and now - oldest.since < STALE_AFTER:
                self._query_at = oldest.since + STALE_AFTER
                return
            self._query_at = now + STALE_AFTER
            if not self._state.up or self._queue:
                return
            stale = [request for request in pending.values() if now - request.since >= STALE_AFTER]
            # A command is as short as a query. An original server answers it twice, and the second reply is dropped.
            self._queue.extend(request for request in stale if request.is_command)
            ids = [request.wire_id for request in stale if not request.is_command]
            if ids and self.supports_query is not False:
                if self.supports_query:
                    self._send_query(SHOW_PENDING, json.dumps({"requests": ids[:MAX_QUERIED]}).encode())
                else:
                    # The reply tells whether the server supports queries.
                    self._send_query(SHOW_CONFIG, self._config_options)

    def _send_query(self, query: bytes, options: bytes = b"") -> None:
        """Sends a query. If the socket does not accept it, the server is busy; the next query follows."""
        wire_id = self._table.wire_id(QUERY_NUMBER)
        self._queue.try_to_send(request_frames(self._identity, query, wire_id, options=options))

    def on_query_reply(self, info: dict[str, Any]) -> None:
        """Sends the requests again that the server does not know. A request that was answered meanwhile is skipped."""
        if "unknown" not in info:
            self._on_config_reply(info)
            return
        with self._table.lock:
            ids = [wire_id for wire_id in info.get("unknown", ()) if wire_id not in self._refused]
            lost = [self._table.pending[wire_id] for wire_id in ids if wire_id in self._table.pending]
            if self._state.up:
                self._queue.extend(lost)
        if lost:
            logger.warning(
                "the server at %s does not know %d pending requests: they or their replies were lost; "
                "sending them again",
                self._state.ip,
                len(lost),
            )

    # ---- the server's configuration ------------------------------------------------------------------------------

    def start_config(self, config: dict[str, Any], on_config: OnConfig) -> None:
        """Takes over the configuration that the client received first, and asks for it after each reconnect."""
        with self._table.lock:
            self.on_config = on_config
            if self.num_connections <= 1:
                self._set_version(config)
            elif self._state.up:  # the configuration may be that of an earlier server
                self._send_query(SHOW_CONFIG, self._config_options)

    def _on_config_reply(self, config: dict[str, Any]) -> None:
        self._config_at = float("inf")
        if "error" in config:  # the server has no such model; requests get the same error
            if self.on_config is not None:
                self.on_config(config)
            return
        with self._table.lock:
            if self.supports_query is None:
                self._query_at = 0.0
            self._set_version(config)
            self._wake()
        if self.on_config is not None:
            self.on_config(config)

    def _set_version(self, config: dict[str, Any]) -> None:
        version = config.get("protocol_version")
        self.supports_query = version is not None
        self._queue.supports_cancel = (
            self.on_config is not None and isinstance(version, int) and version >= CANCEL_VERSION
        )
