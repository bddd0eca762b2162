"""`AsyncBertClient`: the client for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from typing import Any

from . import protocol
from ._base import BaseClient, TruncationNotice, info_of, or_raise, warn_dropped
from ._deadline import Patience, seconds
from ._encoding import BATCH_SIZE, EncodeCall, Response, has_room
from ._progress import Progress
from ._transport.connection import Answer


class AsyncBertClient(BaseClient):
    """`BertClient` for asyncio: the same arguments, the same errors, and ``await``.

    ``async with AsyncBertClient() as bc: await bc.encode(["hello"])``. The constructor does not wait: the server is
    asked and checked by ``async with``, `connect`, or the first request. A cancelled call drops its request.
    """

    def _start(self) -> None:
        self._handshake = asyncio.Lock()
        self._learnt = not self._any_check

    async def connect(self) -> None:
        """Waits for the server and checks it, once.

        Raises:
            ServerUnreachableError, RequestTimeoutError, VersionMismatchError: as the constructor of `BertClient`.
        """
        if self._learnt:
            return
        async with self._handshake:
            if not self._learnt:
                self._learn(await self._ask(protocol.SHOW_CONFIG))
                self._learnt = True

    async def server_config(self) -> dict[str, Any]:
        """Configuration of the server."""
        return await self._ask(protocol.SHOW_CONFIG)

    async def server_status(self) -> dict[str, Any]:
        """Configuration of the server, with its statistics under ``statistic``."""
        return await self._ask(protocol.SHOW_STATUS)

    async def encode(
        self,
        texts: Iterable[Any],
        is_tokenized: bool = False,
        show_tokens: bool = False,
        *,
        show_progress_bar: bool = False,
        batch_size: int | None = BATCH_SIZE,
        timings: list[dict[str, float]] | None = None,
    ) -> Any:
        """Encodes texts; arguments, result and errors are those of `BertClient.encode`."""
        self._connection.check_usable()
        await self.connect()
        self._check_timings(timings)
        call = EncodeCall(self._checked(texts, is_tokenized, stacklevel=2), batch_size, timings)
        arrivals = _Arrivals()
        patience = self._patience(self.timeout)
        progress = Progress(call.num_texts, show_progress_bar)
        try:
            while not call.done:
                while (chunk := call.next_chunk()) is not None:
                    number = self._connection.new_number()
                    call.sent(number, chunk)
                    message = protocol.texts_to_json(chunk.texts)
                    self._connection.submit(number, message, len(chunk.texts), arrivals.put, call.options)
                number, answer = await self._next_answer(arrivals, patience)
                progress.update(call.place(number, or_raise(answer)))
                patience.restart(time.monotonic())
        finally:
            progress.close()
            for number in call.in_flight:
                self._connection.forget(number)
        return self._finish(call, show_tokens, stacklevel=2)

    async def encode_async(
        self,
        batches: Iterable[Iterable[Any]] | AsyncIterable[Iterable[Any]],
        max_num_batch: int | None = None,
        *,
        is_tokenized: bool = False,
    ) -> AsyncGenerator[Response, None]:
        """Encodes batches while their results are already being used.

        Args:
            batches: yields what `encode` takes; may be endless, and asynchronous. Enough batches are kept on their way
                to keep a server busy, no more.
            max_num_batch: stop after so many batches; ``None`` for all.
            is_tokenized: the texts are lists of tokens.

        Yields:
            `Response` in order of arrival; its ``id`` rises with the order of sending.

        Raises:
            Exception: what ``batches`` raised, after the results of all batches before; a server's error, at once.
        """
        await self.connect()
        arrivals = _Arrivals()
        notice = TruncationNotice(self)
        in_flight: dict[int, int] = {}  # number of a request and of its texts, until the result is taken
        taken = asyncio.Event()

        async def feed() -> None:
            source = _async_iterator(batches)
            sent = 0
            while not max_num_batch or sent < max_num_batch:
                while not has_room(len(in_flight), sum(in_flight.values())):
                    taken.clear()
                    await taken.wait()
                try:
                    texts = await source.__anext__()
                except StopAsyncIteration:
                    return
                checked = self._checked(texts, is_tokenized, stacklevel=2)
                number = self._connection.new_number()
                in_flight[number] = len(checked)
                self._connection.submit(number, protocol.texts_to_json(checked), len(checked), arrivals.put)
                sent += 1

        feeding = asyncio.create_task(feed())
        feeding.add_done_callback(lambda _: arrivals.notify())
        try:
            while in_flight or not feeding.done():
                if not in_flight:
                    await arrivals.wait(None)  # for the first batch, or the end of them
                    if not arrivals.answers:
                        continue
                number, answer = await self._next_answer(arrivals, self._patience(self.timeout))
                rows = in_flight.pop(number)
                taken.set()
                reply = or_raise(answer)
                notice.see(reply, rows, stacklevel=2)
                yield self._response(number, reply)
            await feeding
        finally:
            feeding.cancel()
            for number in in_flight:
                self._connection.forget(number)

    def listen(self, timeout: float | None = None, max_queued: int = 10_000) -> AsyncListening:
        """Every result that is published to this identity; see `BertClient.listen`."""
        listening = AsyncListening(self, timeout, max_queued)
        self._connection.listen(listening)
        return listening

    async def close(self) -> None:
        """Closes the connection. Calls that wait raise `ClientClosedError`. May be repeated."""
        await asyncio.to_thread(self._finalizer)

    async def __aenter__(self) -> AsyncBertClient:
        try:
            await self.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def _ask(self, command: bytes) -> dict[str, Any]:
        arrivals = _Arrivals()
        number = self._connection.new_number()
        self._connection.submit(number, command, 0, arrivals.put)
        try:
            _, answer = await self._next_answer(arrivals, self._patience(self.timeout))
        finally:
            self._connection.forget(number)
        return info_of(or_raise(answer))

    async def _next_answer(self, arrivals: _Arrivals, patience: Patience) -> tuple[int, Answer]:
        """Waits for the next answer.

        Raises:
            RequestTimeoutError, ServerUnreachableError: patience is at an end.
        """
        link = self._connection.link
        while not arrivals.answers:
            await arrivals.wait(patience.nap(time.monotonic(), link.down_since))
            if arrivals.answers:
                break
            self._connection.check_usable()
            verdict = patience.verdict(time.monotonic(), link.down_since)
            if verdict is not None:
                raise await asyncio.to_thread(self._explain, verdict, patience)
            self._hint(patience)
        return arrivals.answers.popleft()


class AsyncListening(AsyncIterator[Response]):
    """Every result that is published to an identity."""

    def __init__(self, client: AsyncBertClient, timeout: float | None, max_queued: int) -> None:
        self._client = client
        self._timeout = seconds(timeout)
        self._arrivals = _Arrivals(max_queued)
        self._ended = False

    def put(self, request_id: int, reply: protocol.Reply) -> None:
        """Called by the I/O thread."""
        self._arrivals.put(request_id, reply)

    def end(self) -> None:
        """No more results will come."""
        self._ended = True
        self._arrivals.notify_threadsafe()

    async def __anext__(self) -> Response:
        if not self._arrivals.answers and not self._ended:
            await self._arrivals.wait(self._timeout)
        if not self._arrivals.answers:
            raise StopAsyncIteration
        dropped, self._arrivals.dropped = self._arrivals.dropped, 0
        if dropped:
            warn_dropped(dropped, stacklevel=2)
        request_id, reply = self._arrivals.answers.popleft()
        return self._client._response(request_id, or_raise(reply))


class _Arrivals:
    """Answers on their way from the I/O thread to one task."""

    def __init__(self, max_queued: int | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self.answers: deque[tuple[int, Answer]] = deque(maxlen=max_queued)
        self.dropped = 0

    def put(self, number: int, answer: Answer) -> None:
        """Called by the I/O thread."""
        self._call(self._arrive, number, answer)

    def notify_threadsafe(self) -> None:
        self._call(self.notify)

    def notify(self) -> None:
        """Ends the wait."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, limit: float | None) -> None:
        """Waits for an answer or a notification, ``limit`` seconds at most."""
        if self.answers:
            return
        self._waiter = self._loop.create_future()
        timer = self._loop.call_later(limit, self.notify) if limit is not None else None
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _arrive(self, number: int, answer: Answer) -> None:
        self.dropped += len(self.answers) == self.answers.maxlen
        self.answers.append((number, answer))
        self.notify()

    def _call(self, function: Any, *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(function, *args)


async def _async_iterator(batches: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(batches, AsyncIterable):
        async for batch in batches:
            yield batch
    else:
        for batch in batches:
            yield batch
