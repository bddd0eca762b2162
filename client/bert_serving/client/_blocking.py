"""How the blocking client sends requests and waits for replies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from . import protocol
from ._base import BaseClient, command_info, raise_if_error
from ._deadline import GRACE, SETTLE_INTERVAL, WaitPolicy
from ._encoding import E, EncodeCall, SpaceCheck, concatenate, weighted
from ._outputs import EncodedOutputs, join_outputs, name_dense, named_outputs
from ._pending import NoMore, PendingReplies, ReplyStream
from ._progress import ProgressBar
from ._request_options import add_pairs, request_options, require_support, to_json, version_of
from ._transport.connection_group import ConnectionGroup
from ._transport.front_link import FrontLink
from ._transport.request_table import OnReply, ReplyOrError
from ._validation import Validated
from .errors import BertServingError, OptionError, RequestTimeoutError, ServerUnreachableError

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from ._request_options import AllOptions, ProxyOptions


class BlockingClient(BaseClient[E]):
    """Implements the public methods of `BertClient`."""

    def _start(self) -> None:
        self._pending = PendingReplies(self._connection.num_fronts)  # of requests that were sent with blocking=False
        if self._any_check:
            try:
                config = self._ask(protocol.SHOW_CONFIG)
                if isinstance(self._connection, ConnectionGroup):
                    self._wait_for_models(self._connection)
                self._apply_server_config(config)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Closes the connection. Blocked calls raise `ClientClosedError`. May be repeated."""
        self._finalizer()
        self._pending.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _wait_for_models(self, connection: ConnectionGroup) -> None:
        """Waits until the model of each server is known, or an attempt to connect has failed."""
        deadline = time.monotonic() + GRACE
        while not connection.is_settled and time.monotonic() < deadline:
            time.sleep(SETTLE_INTERVAL)
        self._require_one_model()

    # ---- blocking requests ---------------------------------------------------------------------------------------

    def _slot(self) -> AbstractContextManager[None]:
        """Returns a context that is held while a blocking request runs."""
        return nullcontext()

    def _ask_status(self) -> dict[str, Any]:
        """Asks for the status; of several servers under ``fronts``, by address, ``None`` of those without a reply."""
        if not isinstance(self._connection, ConnectionGroup):
            return self._ask(protocol.SHOW_STATUS)
        replies: dict[str, dict[str, Any] | None] = {}
        for link in self._connection.links:
            replies[str(link.front)] = None
            with suppress(ServerUnreachableError, RequestTimeoutError):
                if link.config is not None:
                    replies[str(link.front)] = self._ask(protocol.SHOW_STATUS, link)
        return {"fronts": replies}

    def _ask(self, command: bytes, link: FrontLink | None = None) -> dict[str, Any]:
        """Sends a command about the model and waits for its reply; ``link`` is one of several servers."""
        if self._defaults.model:
            if self._protocol_version is None:  # an earlier server must not get the option
                self._protocol_version = version_of(self._exchange(protocol.SHOW_CONFIG, link))
            require_support(self._defaults.model, self._protocol_version)
        return self._exchange(command, link, to_json(self._defaults.model))

    def _exchange(self, command: bytes, link: FrontLink | None, options: bytes = b"") -> dict[str, Any]:
        pending = PendingReplies()
        number = self._submit(pending, command, 0, link=link, options=options)
        try:
            _, reply = self._expect_reply(pending, self._wait_policy(self.timeout))
        finally:
            self._connection.leave(pending)
            self._connection.forget(number)
        return command_info(reply)

    def _request_options(self, is_tokenized: bool, options: AllOptions | ProxyOptions) -> dict[str, Any]:
        """Validates the options of a request, and checks that the server knows them."""
        if options.get("vector_space") is None:
            options["vector_space"] = self._defaults.vector_space
        return self._supported(request_options(is_tokenized, **options) | self._defaults.model)

    def _prepared(
        self, texts: Iterable[Any], is_tokenized: bool, options: AllOptions | ProxyOptions, stacklevel: int
    ) -> tuple[Validated, dict[str, Any]]:
        """Returns validated texts and the options of their requests; the server knows these options.

        Args:
            stacklevel: for warnings, as of ``warnings.warn`` in the caller.
        """
        values = self._request_options(is_tokenized, options)
        validated = self._validated(texts, is_tokenized, stacklevel=stacklevel + 1)
        return validated, self._with_pairs(values, validated)

    def _with_pairs(self, values: dict[str, Any], texts: Validated) -> dict[str, Any]:
        """Adds to the options of a request whether its texts are pairs, and checks that the server knows pairs."""
        marked = add_pairs(values, texts)
        return values if marked is values else self._supported(marked)

    def _supported(self, values: dict[str, Any]) -> dict[str, Any]:
        if values:
            if self._protocol_version is None:  # the client has not asked for the configuration
                with self._slot():
                    self._protocol_version = version_of(self._ask(protocol.SHOW_CONFIG))
            require_support(values, self._protocol_version)
        return values

    def _encode_in_detail(
        self,
        texts: Iterable[Any],
        is_tokenized: bool,
        batch_size: int,
        timings: list[dict[str, float]],
        check_size: Callable[[int], None] | None = None,
        **options: Unpack[ProxyOptions],
    ) -> EncodeCall:
        """Encodes for a proxy: without a copy, and with all details of the replies; ``check_size`` as `EncodeCall`."""
        self._connection.check_usable()
        validated, values = self._prepared(texts, is_tokenized, options, stacklevel=2)
        call = EncodeCall(validated, batch_size, timings, details=True, options=values, check_size=check_size)
        with self._slot():
            self._run(call, show_progress_bar=False)
        return call

    def _run(self, call: EncodeCall, show_progress_bar: bool) -> None:
        """Sends the requests of a call and collects their replies."""
        pending = PendingReplies()
        policy = self._wait_policy(self.timeout)
        call.num_fronts = self._connection.num_fronts
        progress = ProgressBar(call.num_texts, show_progress_bar)
        try:
            while not call.done:
                while (chunk := call.next_chunk()) is not None:
                    number = self._connection.new_number()
                    call.sent(number, chunk)
                    message = protocol.texts_to_json(chunk.texts)
                    self._submit(pending, message, len(chunk.texts), number=number, options=call.options)
                found = self._next_reply(pending, None, policy)
                assert isinstance(found, tuple)
                number, reply = found
                if isinstance(reply, BertServingError):
                    raise call.locate(number, reply)
                progress.update(call.add_reply(number, reply))
                policy.restart(time.monotonic())
        finally:
            progress.close()
            self._connection.leave(pending)
            self._connection.forget(*call.in_flight)

    def _expect_reply(self, pending: PendingReplies, policy: WaitPolicy) -> tuple[int, protocol.Reply]:
        """Waits for the next reply to a blocking request, and raises it if it is an error."""
        found = self._next_reply(pending, None, policy)
        assert isinstance(found, tuple)
        return found[0], raise_if_error(found[1])

    # ---- requests with blocking=False ----------------------------------------------------------------------------

    def _post(self, texts: Validated, stream: ReplyStream | None, options: dict[str, Any]) -> None:
        """Sends texts as one request, without waiting."""
        frame = self._frame(self._with_pairs(options, texts))
        # A reply with dense vectors alone does not tell that the request had the option.
        on_reply = self._put_named if options.get("outputs") == ("dense",) else None
        message, weight = protocol.texts_to_json(texts), weighted(len(texts), options)
        self._submit(self._pending, message, len(texts), stream, options=frame, on_reply=on_reply, weight=weight)

    def _put_named(self, number: int, reply: ReplyOrError) -> None:
        self._pending.put(number, name_dense(reply))

    def _feed(
        self,
        stream: ReplyStream,
        batches: Iterator[Any],
        max_num_batch: int | None,
        is_tokenized: bool,
        options: dict[str, Any],
    ) -> None:
        """Sends batches from a generator; the thread of `BertClient.encode_async`."""
        failure: BaseException | None = None
        sent = 0
        try:
            while (not max_num_batch or sent < max_num_batch) and self._pending.wait_for_room(stream):
                try:
                    texts = next(batches)
                except StopIteration:
                    break
                self._post(self._validated(texts, is_tokenized, stacklevel=2), stream, options)
                sent += 1
        except BaseException as error:
            failure = error
        self._pending.finish(stream, failure)

    def _fetched(self, timeout: float) -> list[tuple[int, protocol.Reply]]:
        """Returns every reply that can be fetched. If one is an error, raises it and requeues the others."""
        replies: list[tuple[int, protocol.Reply]] = []
        try:
            while not isinstance(found := self._next_reply(self._pending, None, self._wait_policy(timeout)), NoMore):
                replies.append((found[0], raise_if_error(found[1])))
        except BaseException:
            self._pending.requeue(replies)
            raise
        return replies

    def _require_one_kind(self, replies: list[tuple[int, protocol.Reply]]) -> None:
        """Checks that all vectors are of one space, and the same outputs; if not, requeues the replies and raises."""
        spaces = SpaceCheck()
        try:
            for number, reply in replies:
                if named_outputs(reply) != named_outputs(replies[0][1]):  # each output has a space of its own
                    raise OptionError(
                        f"concat=True, but requests {replies[0][0]} and {number} have other outputs; omit concat"
                    )
                spaces.add(number, reply)
        except BaseException:
            self._pending.requeue(replies)
            raise

    def _joined(self, results: list[Any]) -> Any:
        """Returns the results of several requests as one, all embeddings or all `EncodedOutputs`."""
        if isinstance(results[0], EncodedOutputs):
            return join_outputs(results, results[0].names, self._joined)
        if self.output_fmt == "list":
            return [row for embedding in results for row in embedding]
        return self._embedding(concatenate([np.asarray(embedding) for embedding in results]))

    def _cancel(self, stream: ReplyStream | None) -> None:
        """Drops the replies and requests of a stream."""
        if stream is not None:
            self._connection.forget(*self._pending.cancel(stream))

    # ---- both ----------------------------------------------------------------------------------------------------

    def _submit(
        self,
        pending: PendingReplies,
        message: bytes,
        num_texts: int,
        stream: ReplyStream | None = None,
        number: int | None = None,
        options: bytes = b"",
        link: FrontLink | None = None,
        on_reply: OnReply | None = None,
        weight: int | None = None,
    ) -> int:
        """Sends a request, and returns its number."""
        number = number if number is not None else self._connection.new_number()
        pending.expect(number, num_texts if weight is None else weight, stream)
        submit: Callable[..., None] = self._connection.submit
        try:
            if link is not None:
                submit = partial(submit, link=link)
            submit(
                number,
                message,
                num_texts,
                on_reply or pending.put,
                options,
                caller_reads=self._caller_reads(pending),
                is_posted=pending is self._pending and stream is None,
            )
        except BaseException:
            pending.drop(number)
            raise
        return number

    def _caller_reads(self, pending: PendingReplies) -> bool:
        """Returns whether one blocked call awaits these replies and may read them. The client's own are fetched."""
        return pending is not self._pending

    def _next_reply(
        self, pending: PendingReplies, stream: ReplyStream | None, policy: WaitPolicy
    ) -> tuple[int, ReplyOrError] | NoMore:
        """Waits for the next reply.

        Raises:
            RequestTimeoutError, ServerUnreachableError: the wait is over.
        """
        state = self._connection.state
        while True:
            delay = policy.next_check_in(time.monotonic(), state.down_since)
            if self._caller_reads(pending) and self._connection.read(pending, delay):
                delay = 0.0
            found = pending.take(stream, delay)
            if found is not None:
                return found
            self._connection.check_usable()
            if not pending.awaits(stream):  # no request is pending: the generator is slow, not the server
                policy.restart(time.monotonic())
                continue
            expiry = policy.expiry(time.monotonic(), state.down_since)
            if self._leaves_silent(pending.numbers(), policy, expiry):
                continue
            if expiry is not None:
                raise self._timeout_error(expiry, policy)
            self._warn_long_wait(policy)
