"""Base class of the blocking and the asyncio client: options, identity, and the checks of the server."""

from __future__ import annotations

import logging
import time
import warnings
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, Generic, cast

import numpy as np

from . import protocol
from ._arguments import validate_identity
from ._deadline import WARN_AFTER, Expiry, WaitPolicy, seconds
from ._encoding import E, EncodeCall, Response, Tokens, num_truncated, reply_array
from ._fronts import fronts_of
from ._output_format import convert
from ._outputs import EncodedOutputs, named_outputs, outputs_of
from ._parts import EncodedParts, parts_of
from ._request_options import check_version, request_defaults, to_json, version_of
from ._scores import ServerTask
from ._transport.connection import Connection
from ._transport.connection_group import ConnectionGroup
from ._transport.curve import curve_keys
from ._transport.request_table import ReplyOrError
from ._truncation import Truncation
from ._validation import Validated, too_long, validate_texts
from ._version import __version__
from .errors import (
    BertServingError,
    OptionError,
    ReplyError,
    RequestTimeoutError,
    ServerUnreachableError,
)

logger = logging.getLogger("bert_serving.client")


class BaseClient(Generic[E]):
    """Options and state of a client; see `BertClient` for the arguments."""

    def __init__(
        self,
        ip: str | Sequence[str] = "localhost",
        port: int = 5555,
        port_out: int = 5556,
        output_fmt: str = "ndarray",
        show_server_config: bool = False,
        identity: str | bytes | None = None,
        check_version: bool = True,
        check_length: bool = True,
        check_token_info: bool = True,
        ignore_all_checks: bool = False,
        timeout: float = -1,
        *,
        connect_timeout: float = 10_000,
        server_key: str | None = None,
        public_key: str | None = None,
        secret_key: str | None = None,
        vector_space: str | None = None,
        model: str | None = None,
    ) -> None:
        convert(np.zeros((1, 1), np.float32), output_fmt)  # a format that is not available is an error here
        seconds(timeout)
        self._defaults = request_defaults(vector_space, model)
        fronts = fronts_of(ip, port, port_out)
        is_one = len(fronts) == 1
        self.ip = fronts[0].host if is_one else [str(front) for front in fronts]
        self.port = fronts[0].port if is_one else None
        self.port_out = fronts[0].port_out if is_one else None
        self.output_fmt = output_fmt
        self.timeout = timeout
        self.connect_timeout = connect_timeout
        self._identity = validate_identity(identity)
        self.length_limit: int | None = 0
        self.token_info_available = False
        self._truncation = Truncation(warns=check_length and not ignore_all_checks)
        self._server_space: str | None = None  # None until the server's configuration is known
        self._protocol_version: int | None = None  # None until the server's configuration is known
        self._server_task: ServerTask | None = None  # as above
        self._show_server_config = show_server_config
        self._check_version = check_version and not ignore_all_checks
        self._check_token_info = check_token_info and not ignore_all_checks
        self._any_check = not ignore_all_checks and (
            check_version or show_server_config or check_length or check_token_info
        )
        keys = curve_keys(server_key, public_key, secret_key)
        drain_grace = seconds(connect_timeout, "connect_timeout")
        if not is_one and identity:
            raise OptionError(
                f"identity={identity!r} is for clients that share the results of one server, but ip names several; "
                "omit identity, or pass one address as ip"
            )
        asks = to_json(self._defaults.model)
        self._connection: Connection | ConnectionGroup = (
            Connection(*fronts[0], self._identity, keys, drain_grace=drain_grace, config_options=asks)
            if is_one
            else ConnectionGroup(fronts, self._identity, keys, asks)
        )
        self._connection.is_identity_shared = bool(identity)
        # Closes the connection when the client is garbage-collected, and at interpreter exit; at most once.
        self._finalizer = weakref.finalize(self, _close, self._connection)
        self._start()

    def _start(self) -> None:
        """Finishes the construction of a client; a hook for subclasses."""

    def __repr__(self) -> str:
        state = "closed" if self._connection.closed else "connected" if self._connection.state.up else "not connected"
        ports = "" if self.port is None else f":{self.port}/{self.port_out}"
        space = f", vector space {self._server_space}" if self._server_space else ""
        return f"<{type(self).__name__} of {self._where}{ports}, {state}{space}{self._truncation.describe()}>"

    def __reduce__(self) -> Any:
        raise TypeError(f"a {type(self).__name__} cannot be pickled; create one in the other process")

    @property
    def identity(self) -> bytes:
        """Topic of the results. A program that reads it may give it to another client.

        Raises:
            OptionError: the client has several servers, each of which publishes its own results only.
        """
        if isinstance(self._connection, ConnectionGroup):
            raise OptionError("a client of several servers has no identity to share; pass one address as ip")
        self._connection.is_identity_shared = True
        return self._identity

    @property
    def request_id(self) -> int:
        """Number of requests sent so far, which is the id of the last one."""
        return self._connection.last_number

    @property
    def pending_request(self) -> set[int]:
        """Ids of the requests whose result was not returned yet."""
        return self._connection.pending_numbers()

    @property
    def status(self) -> dict[str, Any]:
        """State of this client."""
        pending = self.pending_request
        connection = self._connection
        is_group = isinstance(connection, ConnectionGroup)
        return {
            "identity": self._identity if is_group else self.identity,
            "identity_text": self._identity.decode("utf-8", "backslashreplace"),
            "num_request": self.request_id,
            "num_pending_request": len(pending),
            "pending_request": pending,
            "output_fmt": self.output_fmt,
            "port": self.port,
            "port_out": self.port_out,
            "server_ip": self.ip,
            "client_version": __version__,
            "timeout": self.timeout,
            "connected": connection.state.up,
            "vector_space": self._server_space,
            "num_text": self._truncation.num_texts,
            "num_truncated": self._truncation.num_truncated,
            **({"fronts": connection.to_list()} if isinstance(connection, ConnectionGroup) else {}),
        }

    @property
    def _where(self) -> str:
        """Address of the server for messages, or the addresses of all."""
        return self.ip if isinstance(self.ip, str) else ", ".join(self.ip)

    # ---- checks --------------------------------------------------------------------------------------------------

    def _apply_server_config(self, config: dict[str, Any]) -> None:
        """Checks the server's configuration, and adopts its limits."""
        if isinstance(self._connection, ConnectionGroup):
            config = self._connection.merged_config(config)
        if self._check_version:
            check_version(config)
        self._adopt_limits(config)
        if self._show_server_config:
            print("server config:")
            for key, value in config.items():
                print(f"{key!s:>30}\t=\t{value!s:<30}")
        # The connection must not keep the client alive, which is closed when it is garbage-collected.
        client = weakref.ref(self)
        self._connection.start_config(config, lambda new: _adopt_limits(client, new))

    def _require_one_model(self) -> None:
        """Checks that all servers which are connected have one model, and names those that are not connected.

        Raises:
            OptionError: the models differ.
        """
        connection = self._connection
        assert isinstance(connection, ConnectionGroup)
        for problem in connection.problems:
            raise OptionError(f"the servers of ip must have the same model and options: {problem}")
        connection.warn_missing()

    def _adopt_limits(self, config: dict[str, Any]) -> None:
        """Adopts the limits of the server. After a reconnect, the thread that reads calls this again."""
        if self._truncation.warns:
            limit = config.get("max_seq_len", 0)
            self.length_limit = None if limit is None else int(limit)
        if self._check_token_info:
            self.token_info_available = bool(config.get("show_tokens_to_client"))
        self._truncation.server_counts = "protocol_version" in config
        self._server_space = config.get("vector_space")
        self._protocol_version = version_of(config)
        self._server_task = ServerTask.of(config)

    def _validated(self, texts: Any, is_tokenized: bool, stacklevel: int) -> Validated:
        """Validates the texts, and returns them as a list.

        Warns of texts that have more words than an original server accepts, because it does not report them.
        """
        validated = validate_texts(texts, is_tokenized)
        if self.length_limit and not self._truncation.server_counts:
            number = too_long(validated, self.length_limit)
            self._truncation.count(number, 0)
            self._truncation.warn(number, len(validated), self.length_limit, stacklevel + 1)
        return validated

    @property
    def _names_space(self) -> bool:
        """Whether the server names the space of its vectors in a reply to a request with options."""
        return (self._protocol_version or 0) >= protocol.OPTIONS_VERSION

    def _frame(self, values: dict[str, Any]) -> bytes:
        """Returns the options frame of a request whose vectors may be put beside those of others."""
        return to_json(values) or (protocol.WITH_SPACE if self._names_space else b"")

    def _check_timings(self, timings: list[dict[str, float]] | None, blocking: bool = True) -> None:
        if timings is not None and not blocking:
            raise OptionError("timings are available to blocking calls only; omit timings, or omit blocking=False")
        if timings is not None and self._protocol_version == 0:
            raise OptionError(
                "this server is an original one of version 1.10.0, which reports no timings; omit timings"
            )

    def _count_truncated(self, number: int, total: int, stacklevel: int) -> None:
        """Counts the texts of a finished call, and warns if some were truncated."""
        self._truncation.count(number, total)
        self._truncation.warn(number, total, self.length_limit, stacklevel + 1)

    def _warn_no_tokens(self, stacklevel: int) -> None:
        warnings.warn(
            "show_tokens=True, but the server does not show its tokens; start it with -show_tokens_to_client",
            stacklevel=stacklevel + 1,
        )

    # ---- waiting and results -------------------------------------------------------------------------------------

    def _wait_policy(self, timeout: float | None) -> WaitPolicy:
        return WaitPolicy(seconds(timeout), seconds(self.connect_timeout, "connect_timeout"), time.monotonic())

    def _leaves_silent(self, numbers: Iterable[int], policy: WaitPolicy, expiry: Expiry | None) -> bool:
        """Sends requests of a call that servers do not answer to other servers.

        Args:
            numbers: the requests of the call, which has no reply now.
            policy, expiry: its wait, and why it is over.

        Returns:
            True if the wait starts again.
        """
        limit = seconds(self.timeout)
        is_own_limit = policy.timeout == limit
        is_over = is_own_limit and expiry is Expiry.TIMED_OUT
        if not self._connection.leave_silent(numbers, limit, is_over) or not is_own_limit:
            return False
        policy.restart(time.monotonic())
        return True

    def _warn_long_wait(self, policy: WaitPolicy) -> None:
        """Logs a warning, once per wait, if the wait is long although the server is connected."""
        if policy.should_warn(time.monotonic()) and self._connection.state.up:
            logger.warning(
                "still waiting for a reply from %s after %.0f s; the server is connected and may be busy. "
                "See BertClient(...).server_status for its load; set a limit with BertClient(timeout=...)",
                self._where if self.port is None else f"{self.ip}:{self.port}",
                WARN_AFTER,
            )

    def _timeout_error(self, expiry: Expiry, policy: WaitPolicy) -> BertServingError:
        """Returns the exception that ends a wait. Probes ports that are not connected, which takes up to 1 s."""
        connection = self._connection.state
        down_since = connection.down_since
        ports = "" if down_since is None else f"\n{connection.describe()}"
        if expiry is Expiry.TIMED_OUT:
            state = "connected" if down_since is None else "not connected"
            waited = f"{(policy.timeout or 0) * 1000:.0f}"
            return RequestTimeoutError(
                f'no response from the server at {self._where} within "timeout"={waited} ms; it is {state}.{ports}\n'
                "check: is the timeout long enough for this number of texts? is the server busy (see server_status)? "
                "do port and port_out belong to the same server?"
            )
        away = time.monotonic() - (down_since if down_since is not None else policy.started)
        return ServerUnreachableError(
            f"no server connected at {self._where} for {away:.1f} s.{ports}\n"
            "check: is the server started, and ready? are ip, port and port_out those of the server? does a firewall "
            "block the ports? to wait longer for a server that starts later, raise connect_timeout "
            f"(milliseconds, now {float(self.connect_timeout):.15g}; -1 for no limit)"
        )

    def _embedding(self, array: protocol.FloatArray) -> E:
        """Returns an array in the format of ``output_fmt``."""
        return cast("E", convert(array, self.output_fmt))

    def _response(self, number: int, reply: protocol.Reply) -> Response[E]:
        tokens = reply.info.get("tokens", "")
        if named_outputs(reply):
            rows = outputs_of(reply)
            outputs = rows.result(self._embedding, tokens)
            no_vectors = np.zeros((rows.num_texts, 0), np.float32)
            response = Response(number, self._embedding(no_vectors) if outputs.dense is None else outputs.dense, tokens)
            response.outputs = outputs
            return response
        array = reply_array(reply)
        response = Response(number, self._embedding(array), tokens)
        response.parts = parts_of(reply, len(array)) if array.ndim else None
        return response

    def _finish(
        self, call: EncodeCall, show_tokens: bool, stacklevel: int
    ) -> E | tuple[E, Tokens] | EncodedParts[E] | EncodedOutputs[E]:
        """Returns the result of ``encode()``."""
        self._count_truncated(call.num_truncated, call.num_texts, stacklevel + 1)
        if show_tokens and call.tokens is None:
            self._warn_no_tokens(stacklevel + 1)
        tokens = (show_tokens and call.tokens) or ""
        if call.outputs is not None:
            return call.outputs.result(self._embedding, tokens)
        embedding = self._embedding(call.embedding)
        if call.parts is not None:
            return EncodedParts(embedding, call.parts, tokens)
        return (embedding, tokens) if tokens else embedding


def _close(connection: Connection | ConnectionGroup) -> None:
    connection.close()


def _adopt_limits(client: weakref.ref[BaseClient[Any]], config: dict[str, Any]) -> None:
    found = client()
    if found is not None:
        found._adopt_limits(config)


class TruncationWarner:
    """Warns of truncated texts, once, at the first result that has any."""

    def __init__(self, client: BaseClient[Any]) -> None:
        self._client = client
        self._given = False

    def check(self, reply: protocol.Reply, rows: int, stacklevel: int) -> None:
        """Counts the texts of this reply, and warns if some were truncated and no warning was given yet."""
        truncation, number = self._client._truncation, num_truncated(reply)
        truncation.count(number, rows)
        if number and not self._given:
            self._given = True
            truncation.warn(number, rows, self._client.length_limit, stacklevel + 1)


def warn_dropped(number: int, stacklevel: int) -> None:
    """Warns of results that `listen` dropped."""
    warnings.warn(
        f"the consumer of listen() is too slow: {number} results were dropped; read faster, or raise max_queued",
        stacklevel=stacklevel + 1,
    )


def raise_if_error(reply: ReplyOrError) -> protocol.Reply:
    """Returns a reply, or raises the error in its place."""
    if isinstance(reply, BertServingError):
        raise reply
    return reply


def command_info(reply: protocol.Reply) -> dict[str, Any]:
    """Returns the reply to a command.

    Raises:
        ReplyError: the reply holds vectors.
    """
    if reply.content is not None:
        raise ReplyError("the server replied with vectors to a command; ask again")
    return reply.info
