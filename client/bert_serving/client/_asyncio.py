"""`AsyncBertClient`: the client for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, overload

from . import protocol
from ._arguments import whole_number
from ._async_iterators import AsyncResultSubscription, async_iterator
from ._base import TruncationWarner, command_info, raise_if_error
from ._deadline import GRACE, SETTLE_INTERVAL, WaitPolicy
from ._encoding import BATCH_SIZE, E, EncodeCall, NestedList, Response, SpaceCheck, Tokens, has_room, weighted
from ._outputs import EncodedOutputs, name_dense
from ._parts import EncodedParts
from ._progress import ProgressBar
from ._reply_queue import LoopCalls, ReplyQueue
from ._request_options import add_pairs, request_options, require_support, to_json, version_of
from ._scoring import AsyncScoringClient
from ._transport.connection_group import ConnectionGroup
from ._transport.front_link import FrontLink
from ._transport.request_table import ReplyOrError
from ._validation import Validated
from .errors import BertServingError, RequestTimeoutError, ServerUnreachableError
from .protocol import FloatArray

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from ._options import Options
    from ._request_options import AllOptions, EncodeOptions, OutputOptions, ProxyOptions, VectorOptions


class AsyncBertClient(AsyncScoringClient[E]):
    """`BertClient` for asyncio: the same arguments, the same errors, and ``await``.

    ``async with AsyncBertClient() as bc: await bc.encode(["hello"])``. The constructor does not wait: ``async with``,
    `connect`, or the first request checks the server. A cancelled call drops its request.
    """

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: AsyncBertClient[FloatArray],
            ip: str | Sequence[str] = "localhost",
            port: int = 5555,
            port_out: int = 5556,
            output_fmt: Literal["ndarray"] = "ndarray",
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
        ) -> None: ...
        @overload
        def __init__(
            self: AsyncBertClient[NestedList],
            ip: str | Sequence[str] = ...,
            port: int = ...,
            port_out: int = ...,
            *,
            output_fmt: Literal["list"],
            **options: Unpack[Options],
        ) -> None: ...
        @overload
        def __init__(
            self: AsyncBertClient[NestedList],
            ip: str | Sequence[str],
            port: int,
            port_out: int,
            output_fmt: Literal["list"],
            **options: Unpack[Options],
        ) -> None: ...
        @overload
        def __init__(self: AsyncBertClient[Any], *args: Any, output_fmt: Literal["torch"], **options: Any) -> None: ...
        def __init__(self, *args: Any, **options: Any) -> None: ...

    def _start(self) -> None:
        self._handshake = asyncio.Lock()
        self._is_configured = not self._any_check
        self._loop_calls: LoopCalls | None = None

    async def connect(self) -> None:
        """Waits for the server, and checks its version and limits once.

        Raises:
            ServerUnreachableError, RequestTimeoutError, VersionMismatchError: as the constructor of `BertClient`.
        """
        if self._is_configured:
            return
        async with self._handshake:
            if not self._is_configured:
                config = await self._ask(protocol.SHOW_CONFIG)
                if isinstance(self._connection, ConnectionGroup):
                    await self._wait_for_models(self._connection)
                self._apply_server_config(config)
                self._is_configured = True

    async def _wait_for_models(self, connection: ConnectionGroup) -> None:
        """Waits until the model of each server is known, or an attempt to connect has failed."""
        deadline = time.monotonic() + GRACE
        while not connection.is_settled and time.monotonic() < deadline:
            await asyncio.sleep(SETTLE_INTERVAL)
        self._require_one_model()

    async def server_config(self) -> dict[str, Any]:
        """Configuration of the server; of several, that of one of them."""
        return await self._ask(protocol.SHOW_CONFIG)

    async def server_status(self) -> dict[str, Any]:
        """Configuration of the server, with its statistics under ``statistic``; see `BertClient.server_status`."""
        if not isinstance(self._connection, ConnectionGroup):
            return await self._ask(protocol.SHOW_STATUS)
        replies: dict[str, dict[str, Any] | None] = {}
        for link in self._connection.links:
            replies[str(link.front)] = None
            with suppress(ServerUnreachableError, RequestTimeoutError):
                if link.config is not None:
                    replies[str(link.front)] = await self._ask(protocol.SHOW_STATUS, link)
        return {"fronts": replies}

    async def vector_space(self) -> str | None:
        """Space of the server's vectors; ``None`` from a server that does not name it."""
        return (await self.server_config()).get("vector_space")

    # fmt: off
    @overload
    async def encode(
        self, texts: Iterable[Any], is_tokenized: bool = ..., show_tokens: bool = ..., *,
        outputs: Sequence[str], show_progress_bar: bool = ..., batch_size: int | None = ...,
        timings: list[dict[str, float]] | None = ..., **options: Unpack[EncodeOptions],
    ) -> EncodedOutputs[E]: ...
    @overload
    async def encode(
        self, texts: Iterable[Any], is_tokenized: bool = ..., show_tokens: bool = ..., *,
        long: Literal["chunks", "late"], show_progress_bar: bool = ..., batch_size: int | None = ...,
        timings: list[dict[str, float]] | None = ...,
        **options: Unpack[VectorOptions],
    ) -> EncodedParts[E]: ...
    @overload
    async def encode(
        self, texts: Iterable[Any], is_tokenized: bool = ..., show_tokens: Literal[False] = ..., *,
        show_progress_bar: bool = ..., batch_size: int | None = ..., timings: list[dict[str, float]] | None = ...,
        **options: Unpack[EncodeOptions],
    ) -> E: ...
    @overload
    async def encode(
        self, texts: Iterable[Any], is_tokenized: bool = ..., *, show_tokens: Literal[True],
        show_progress_bar: bool = ..., batch_size: int | None = ..., timings: list[dict[str, float]] | None = ...,
        **options: Unpack[EncodeOptions],
    ) -> tuple[E, Tokens]: ...
    @overload
    async def encode(
        self, texts: Iterable[Any], is_tokenized: bool = ..., show_tokens: bool = ..., *,
        show_progress_bar: bool = ..., batch_size: int | None = ..., timings: list[dict[str, float]] | None = ...,
        **options: Unpack[EncodeOptions],
    ) -> E | tuple[E, Tokens]: ...
    # fmt: on
    async def encode(
        self,
        texts: Iterable[Any],
        is_tokenized: bool = False,
        show_tokens: bool = False,
        *,
        show_progress_bar: bool = False,
        batch_size: int | None = BATCH_SIZE,
        timings: list[dict[str, float]] | None = None,
        **options: Unpack[OutputOptions],
    ) -> E | tuple[E, Tokens] | EncodedParts[E] | EncodedOutputs[E]:
        """Encodes texts; arguments, result and errors are those of `BertClient.encode`."""
        self._connection.check_usable()
        await self.connect()
        self._check_timings(timings)
        validated, values = await self._prepared(texts, is_tokenized, options, stacklevel=2)
        call = EncodeCall(validated, batch_size, timings, options=values, names_space=self._names_space)
        await self._run(call, show_progress_bar)
        return self._finish(call, show_tokens, stacklevel=2)

    async def _encode_in_detail(
        self,
        texts: Iterable[Any],
        is_tokenized: bool,
        batch_size: int,
        timings: list[dict[str, float]],
        check_size: Callable[[int], None] | None = None,
        **options: Unpack[ProxyOptions],
    ) -> EncodeCall:
        """Encodes for a proxy; see `BlockingClient._encode_in_detail`."""
        self._connection.check_usable()
        await self.connect()
        validated, values = await self._prepared(texts, is_tokenized, options, stacklevel=2)
        call = EncodeCall(validated, batch_size, timings, details=True, options=values, check_size=check_size)
        await self._run(call, show_progress_bar=False)
        return call

    async def _run(self, call: EncodeCall, show_progress_bar: bool) -> None:
        """Sends the requests of a call and collects their replies."""
        replies = self._reply_queue()
        policy = self._wait_policy(self.timeout)
        call.num_fronts = self._connection.num_fronts
        progress = ProgressBar(call.num_texts, show_progress_bar)
        try:
            while not call.done:
                while (chunk := call.next_chunk()) is not None:
                    number = self._connection.new_number()
                    call.sent(number, chunk)
                    message = protocol.texts_to_json(chunk.texts)
                    self._connection.submit(number, message, len(chunk.texts), replies.put, call.options)
                number, reply = await self._next_reply(replies, policy, call.in_flight)
                if isinstance(reply, BertServingError):
                    raise call.locate(number, reply)
                progress.update(call.add_reply(number, reply))
                policy.restart(time.monotonic())
        finally:
            progress.close()
            self._connection.forget(*call.in_flight)

    async def encode_async(
        self,
        batches: Iterable[Iterable[Any]] | AsyncIterable[Iterable[Any]],
        max_num_batch: int | None = None,
        *,
        is_tokenized: bool = False,
        **options: Unpack[OutputOptions],
    ) -> AsyncGenerator[Response[E], None]:
        """Encodes batches from an iterable, and yields results while later batches are in flight.

        Args:
            batches: yields what `encode` takes; may be endless or asynchronous. The client keeps as many batches in
                flight as a server needs to be busy.
            max_num_batch: stop after this many batches; ``None`` for all.
            is_tokenized: the texts are lists of tokens.
            options: ``normalize``, ``prompt_name``, ``prompt``, ``dimensions``, ``truncate``, ``vector_space``,
                ``raw_scores``, ``long``, ``embedding_type``, ``outputs``, ``pooling`` and ``pooling_layer``, as for
                `encode`.

        Yields:
            `Response` in order of arrival; its ``id`` increases in the order of sending.

        Raises:
            Exception: an exception of ``batches``, after the results of all earlier batches; a server's error, at once.
        """
        if max_num_batch is not None:
            max_num_batch = whole_number("max_num_batch", max_num_batch, 0)
        await self.connect()
        values = await self._request_options(is_tokenized, options)
        replies = self._reply_queue()
        warner, spaces = TruncationWarner(self), SpaceCheck()
        in_flight: dict[int, int] = {}  # weight of the texts by number of the request, until the result is taken
        taken = asyncio.Event()

        async def feed() -> None:
            source = async_iterator(batches)
            sent = 0
            while not max_num_batch or sent < max_num_batch:
                while not has_room(len(in_flight), sum(in_flight.values()), self._connection.num_fronts):
                    taken.clear()
                    await taken.wait()
                try:
                    texts = await source.__anext__()
                except StopAsyncIteration:
                    return
                validated = self._validated(texts, is_tokenized, stacklevel=2)
                frame = self._frame(await self._with_pairs(values, validated))
                number = self._connection.new_number()
                in_flight[number] = weighted(len(validated), values)
                self._connection.submit(number, protocol.texts_to_json(validated), len(validated), replies.put, frame)
                sent += 1

        feeding = asyncio.create_task(feed())
        feeding.add_done_callback(lambda _: replies.notify())
        try:
            while in_flight or not feeding.done():
                if not in_flight:
                    await replies.wait(None)  # for the first batch, or the end of the batches
                    if not replies.queue:
                        continue
                number, reply = await self._next_reply(replies, self._wait_policy(self.timeout), in_flight)
                rows = in_flight.pop(number)
                taken.set()
                result = raise_if_error(name_dense(reply) if values.get("outputs") == ("dense",) else reply)
                spaces.add(number, result)
                warner.check(result, rows, stacklevel=2)
                yield self._response(number, result)
            await feeding
        finally:
            feeding.cancel()
            self._connection.forget(*in_flight)

    def listen(self, timeout: float | None = None, max_queued: int = 10_000) -> AsyncResultSubscription[E]:
        """Returns an iterator of all results that are published to this identity; see `BertClient.listen`."""
        subscription = AsyncResultSubscription(self._response, self._reply_queue(max_queued), timeout)
        self._connection.listen(subscription)
        return subscription

    async def close(self) -> None:
        """Closes the connection. Waiting calls raise `ClientClosedError`. May be repeated."""
        await asyncio.to_thread(self._finalizer)

    async def __aenter__(self) -> Self:
        try:
            await self.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def _request_options(self, is_tokenized: bool, options: AllOptions | ProxyOptions) -> dict[str, Any]:
        """Validates the options of a request, and checks that the server knows them."""
        if options.get("vector_space") is None:
            options["vector_space"] = self._defaults.vector_space
        return await self._supported(request_options(is_tokenized, **options) | self._defaults.model)

    async def _prepared(
        self, texts: Iterable[Any], is_tokenized: bool, options: AllOptions | ProxyOptions, stacklevel: int
    ) -> tuple[Validated, dict[str, Any]]:
        """Returns validated texts and the options of their requests, as `BlockingClient._prepared`."""
        values = await self._request_options(is_tokenized, options)
        validated = self._validated(texts, is_tokenized, stacklevel=stacklevel + 1)
        return validated, await self._with_pairs(values, validated)

    async def _with_pairs(self, values: dict[str, Any], texts: Validated) -> dict[str, Any]:
        """Adds to the options of a request whether its texts are pairs, and checks that the server knows pairs."""
        marked = add_pairs(values, texts)
        return values if marked is values else await self._supported(marked)

    async def _supported(self, values: dict[str, Any]) -> dict[str, Any]:
        if values:
            if self._protocol_version is None:  # the client has not asked for the configuration
                self._protocol_version = version_of(await self._ask(protocol.SHOW_CONFIG))
            require_support(values, self._protocol_version)
        return values

    async def _ask(self, command: bytes, link: FrontLink | None = None) -> dict[str, Any]:
        """Sends a command about the model and waits for its reply; ``link`` is one of several servers."""
        if self._defaults.model:
            if self._protocol_version is None:  # an earlier server must not get the option
                self._protocol_version = version_of(await self._exchange(protocol.SHOW_CONFIG, link))
            require_support(self._defaults.model, self._protocol_version)
        return await self._exchange(command, link, to_json(self._defaults.model))

    async def _exchange(self, command: bytes, link: FrontLink | None, options: bytes = b"") -> dict[str, Any]:
        replies = self._reply_queue()
        number = self._connection.new_number()
        submit: Callable[..., None] = self._connection.submit
        if link is not None:
            submit = partial(submit, link=link)
        submit(number, command, 0, replies.put, options)
        try:
            _, reply = await self._next_reply(replies, self._wait_policy(self.timeout), [number])
        finally:
            self._connection.forget(number)
        return command_info(raise_if_error(reply))

    def _reply_queue(self, max_queued: int | None = None) -> ReplyQueue:
        """Returns a queue for replies to the running task."""
        loop = asyncio.get_running_loop()
        if self._loop_calls is None or self._loop_calls.loop is not loop:
            self._loop_calls = LoopCalls(loop)
        return ReplyQueue(self._loop_calls, max_queued)

    async def _next_reply(
        self, replies: ReplyQueue, policy: WaitPolicy, numbers: Iterable[int]
    ) -> tuple[int, ReplyOrError]:
        """Waits for the next reply to one of these requests.

        Raises:
            RequestTimeoutError, ServerUnreachableError: the wait is over.
        """
        state = self._connection.state
        while not replies.queue:
            await replies.wait(policy.next_check_in(time.monotonic(), state.down_since))
            if replies.queue:
                break
            self._connection.check_usable()
            expiry = policy.expiry(time.monotonic(), state.down_since)
            if self._leaves_silent(numbers, policy, expiry):
                continue
            if expiry is not None:
                raise await asyncio.to_thread(self._timeout_error, expiry, policy)
            self._warn_long_wait(policy)
        return replies.queue.popleft()
