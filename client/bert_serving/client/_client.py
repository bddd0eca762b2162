"""`BertClient`: the blocking client, with the interface of bert-as-service 1.10."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from . import protocol
from ._base import BaseClient, TruncationWarner, command_info, raise_if_error
from ._deadline import WaitPolicy
from ._encoding import BATCH_SIZE, EncodeCall, concatenate
from ._iterators import ResultIterator, ResultSubscription
from ._pending import NoMore, PendingReplies, ReplyStream
from ._progress import Progress
from ._transport.request_table import ReplyOrError


class BertClient(BaseClient):
    """Turns sentences into vectors, by asking a server.

    ``bc = BertClient(); bc.encode(["First do it", "then do it right"])``. One client may be used by any number of
    threads. After a fork, make a new one.

    Args:
        ip: host name or address of the server.
        port: the server's ``-port``, where requests go.
        port_out: the server's ``-port_out``, where results come from.
        output_fmt: ``"ndarray"`` for arrays, ``"list"`` for nested lists of floats.
        show_server_config: print the server's configuration once connected.
        identity: topic of the results, ``str`` or ``bytes``, by default a random one; clients with the same identity
            all get each result.
        check_version: refuse a server that speaks another protocol.
        check_length: warn when texts are longer than the server's ``max_seq_len`` and were cut.
        check_token_info: ask whether the server shows its tokens.
        ignore_all_checks: do not talk to the server until the first request; it need not be running yet.
        timeout: longest wait for an answer in milliseconds; -1 for no limit.
        connect_timeout: longest time in milliseconds that a call goes on waiting while no server is connected, or while
            the one that is connected is stopping; -1 for no limit.
        server_key: the server's public CURVE key (Z85, or the path of its file), to encrypt; by default nothing is.
        public_key: this client's public CURVE key, by default that of ``secret_key``.
        secret_key: this client's secret CURVE key, by default a new one.

    Raises:
        ServerUnreachableError: no server was connected for ``connect_timeout``.
        RequestTimeoutError: the server did not answer within ``timeout``.
        VersionMismatchError: the server speaks another protocol.
        OptionError, InputValueError: an argument is not valid.
    """

    def _start(self) -> None:
        self._pending = PendingReplies()
        if self._any_check:
            try:
                self._apply_server_config(self._ask(protocol.SHOW_CONFIG))
            except BaseException:
                self.close()
                raise

    # ---- the server ----------------------------------------------------------------------------------------------

    @property
    def server_config(self) -> dict[str, Any]:
        """Configuration of the server."""
        with self._slot():
            return self._ask(protocol.SHOW_CONFIG)

    @property
    def server_status(self) -> dict[str, Any]:
        """Configuration of the server, with its statistics under ``statistic``."""
        with self._slot():
            return self._ask(protocol.SHOW_STATUS)

    # ---- encode --------------------------------------------------------------------------------------------------

    def encode(
        self,
        texts: Iterable[Any],
        blocking: bool = True,
        is_tokenized: bool = False,
        show_tokens: bool = False,
        *,
        show_progress_bar: bool = False,
        batch_size: int | None = BATCH_SIZE,
        timings: list[dict[str, float]] | None = None,
    ) -> Any:
        """Encodes texts into vectors, a row per text.

        Args:
            texts: a list or another ordered iterable of non-blank ``str``; of lists of tokens if ``is_tokenized``.
                ``"first ||| second"`` is a pair.
            blocking: wait for the result. If False, send all texts as one request and return ``None``; the result
                comes from `fetch` or `fetch_all`.
            is_tokenized: each text is already a list of tokens.
            show_tokens: return the tokens as well.
            show_progress_bar: show one on stderr (tqdm's, if it is installed).
            batch_size: texts of one request; more of them are sent as several, a few at a time, and put back in
                order. ``None`` for always one request.
            timings: a list; for each request, in order of the answers, the seconds that the server took are appended:
                ``tokenize``, ``queue``, ``compute``, and ``total``, their sum. Not with ``blocking=False``.

        Returns:
            A writable float array ``[n, d]``, or ``[n, t, d]`` from a server without pooling, rows in the order of the
            texts (nested lists with ``output_fmt="list"``). With ``show_tokens`` and a server that shows them:
            ``(array, tokens)``, one list of tokens per text.

        Raises:
            InputTypeError, InputValueError: the texts cannot be encoded; the message names the first that cannot.
            ServerError: the server could not do it; see `bert_serving.client.errors`.
            RequestTimeoutError, ServerUnreachableError: no answer.
            ClientClosedError, ClientForkedError: the client cannot be used.
        """
        self._connection.check_usable()
        checked = self._validated(texts, is_tokenized, stacklevel=2)
        self._check_timings(timings, blocking)
        if not blocking:
            self._post(checked, None)
            return None
        call = EncodeCall(checked, batch_size, timings)
        with self._slot():
            self._run(call, show_progress_bar)
        return self._finish(call, show_tokens, stacklevel=2)

    def encode_async(
        self,
        batch_generator: Iterable[Iterable[Any]],
        max_num_batch: int | None = None,
        delay: float = 0.1,
        *,
        is_tokenized: bool = False,
        show_tokens: bool = False,
    ) -> ResultIterator:
        """Encodes batches from a generator while their results are already being used.

        A thread takes batches and sends them, starting now. It holds back when 64 requests, or 16,384 texts, are on
        their way or not consumed yet, so the generator may be endless.

        Args:
            batch_generator: yields what `encode` takes.
            max_num_batch: stop after so many batches; ``None`` for all.
            delay: without effect, accepted because 1.10 had it: results come as soon as they are there.
            is_tokenized: the texts are lists of tokens.
            show_tokens: without effect: ``Response.tokens`` is always set if the server shows tokens.

        Returns:
            An iterator of `Response`, in order of arrival; ``Response.id`` rises with the order of sending. An
            exception of the generator is raised by it, after the results of all batches before.
        """
        self._connection.check_usable()
        batches = iter(batch_generator)
        stream = self._pending.open()
        thread = threading.Thread(
            target=self._feed, args=(stream, batches, max_num_batch, is_tokenized), name="bert-client-feed", daemon=True
        )
        thread.start()
        return self._results(stream)

    def fetch(self, delay: float = 0.0, timeout: float = -1) -> ResultIterator:
        """Hands out the results of requests that were sent with ``blocking=False``.

        Args:
            delay: wait so many seconds first.
            timeout: longest wait in milliseconds for the next result; -1 for no limit while the server is connected.

        Returns:
            An iterator of `Response`, in order of arrival. It ends when no request is left. If a request failed, the
            iterator raises that once and can be continued.
        """
        return self._results(None, timeout, delay)

    def fetch_all(self, sort: bool = True, concat: bool = False, timeout: float = -1) -> Any:
        """All results of requests that were sent with ``blocking=False``, as a list.

        Args:
            sort: in the order of sending, else of arrival.
            concat: put them together into one array (one list with ``output_fmt="list"``).
            timeout: as for `fetch`.

        Returns:
            A list of embeddings, or one; ``None`` if there was no request. If a request failed, that is raised once;
            the results of the others stay, for the next call.
        """
        if not self._pending.numbers():
            return None
        answers = self._fetched(timeout)
        if sort:
            answers.sort(key=lambda answer: answer[0])
        warner = TruncationWarner(self)
        embeddings = []
        for number, reply in answers:
            response = self._response(number, reply)
            warner.check(reply, len(response.embedding), stacklevel=2)
            embeddings.append(response.embedding)
        if not concat:
            return embeddings
        return concatenate(embeddings) if self.output_fmt == "ndarray" else [row for part in embeddings for row in part]

    def listen(self, timeout: float | None = None, max_queued: int = 10_000) -> ResultSubscription:
        """Every result that is published to this identity: those of clones, and those of this client itself.

        Args:
            timeout: end when nothing came for so many milliseconds; ``None`` or -1 to listen until the client is
                closed.
            max_queued: results that are kept for a slow reader; beyond, the oldest is dropped, with a warning.

        Returns:
            An iterator of `Response`; it collects results from this call on. A result may come twice if a clone lost
            its connection meanwhile.
        """
        listening = ResultSubscription(self._response, timeout, max_queued)
        self._connection.listen(listening)
        return listening

    # ---- state ---------------------------------------------------------------------------------------------------

    @property
    def pending_request(self) -> set[int]:
        """Ids of the requests whose result was not handed out yet."""
        return super().pending_request | self._pending.numbers()

    @property
    def pending_response(self) -> dict[int, ReplyOrError]:
        """Answers that have arrived and wait to be fetched, by request id."""
        return self._pending.answers()

    def close(self) -> None:
        """Closes the connection. Calls that wait raise `ClientClosedError`. May be repeated."""
        self._finalizer()
        self._pending.close()

    def __enter__(self) -> BertClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # ---- inside --------------------------------------------------------------------------------------------------

    def _encode_in_detail(
        self, texts: Iterable[Any], is_tokenized: bool, batch_size: int, timings: list[dict[str, float]]
    ) -> EncodeCall:
        """`encode` for a program between this client and others: all that the answers tell, and no copy."""
        self._connection.check_usable()
        call = EncodeCall(self._validated(texts, is_tokenized, stacklevel=2), batch_size, timings, details=True)
        with self._slot():
            self._run(call, show_progress_bar=False)
        return call

    def _slot(self) -> AbstractContextManager[None]:
        """Held while a blocking request runs."""
        return nullcontext()

    def _ask(self, command: bytes) -> dict[str, Any]:
        pending = PendingReplies()
        number = self._submit(pending, command, 0)
        try:
            answer = self._next_reply(pending, None, self._wait_policy(self.timeout))
        finally:
            self._connection.leave(pending)
            self._connection.forget(number)
        assert isinstance(answer, tuple)
        return command_info(raise_if_error(answer[1]))

    def _run(self, call: EncodeCall, show_progress_bar: bool) -> None:
        """Sends the requests of a call and gathers their answers."""
        pending = PendingReplies()
        policy = self._wait_policy(self.timeout)
        progress = Progress(call.num_texts, show_progress_bar)
        try:
            while not call.done:
                while (chunk := call.next_chunk()) is not None:
                    number = self._connection.new_number()
                    call.sent(number, chunk)
                    message = protocol.texts_to_json(chunk.texts)
                    self._submit(pending, message, len(chunk.texts), number=number, options=call.options)
                answer = self._next_reply(pending, None, policy)
                assert isinstance(answer, tuple)
                progress.update(call.add_reply(answer[0], raise_if_error(answer[1])))
                policy.restart(time.monotonic())
        finally:
            progress.close()
            self._connection.leave(pending)
            for number in call.in_flight:
                self._connection.forget(number)

    def _post(self, checked: list[str] | list[list[str]], stream: ReplyStream | None) -> None:
        """Sends texts as one request, without waiting."""
        self._submit(self._pending, protocol.texts_to_json(checked), len(checked), stream)

    def _fetched(self, timeout: float) -> list[tuple[int, protocol.Reply]]:
        """Every answer that can be fetched; puts them back if one is an error."""
        answers: list[tuple[int, protocol.Reply]] = []
        try:
            while not isinstance(found := self._next_reply(self._pending, None, self._wait_policy(timeout)), NoMore):
                answers.append((found[0], raise_if_error(found[1])))
        except BaseException:
            self._pending.requeue(answers)
            raise
        return answers

    def _results(self, stream: ReplyStream | None, timeout: float = -1, delay: float = 0.0) -> ResultIterator:
        return ResultIterator(
            lambda: self._next_reply(self._pending, stream, self._wait_policy(timeout)),
            self._response,
            TruncationWarner(self),
            stream,
            partial(self._cancel, stream),
            self._connection.call_soon,
            delay,
        )

    def _cancel(self, stream: ReplyStream | None) -> None:
        """Drops what an iterator that is given up would still have handed out."""
        if stream is not None:
            for number in self._pending.cancel(stream):
                self._connection.forget(number)

    def _submit(
        self,
        pending: PendingReplies,
        message: bytes,
        num_texts: int,
        stream: ReplyStream | None = None,
        number: int | None = None,
        options: bytes = b"",
    ) -> int:
        number = number if number is not None else self._connection.new_number()
        pending.expect(number, num_texts, stream)
        try:
            self._connection.submit(number, message, num_texts, pending.put, options, self._caller_reads(pending))
        except BaseException:
            pending.drop(number)
            raise
        return number

    def _feed(self, stream: ReplyStream, batches: Iterator[Any], max_num_batch: int | None, is_tokenized: bool) -> None:
        """Thread of `encode_async`."""
        failure: BaseException | None = None
        sent = 0
        try:
            while (not max_num_batch or sent < max_num_batch) and self._pending.wait_for_room(stream):
                try:
                    texts = next(batches)
                except StopIteration:
                    break
                self._post(self._validated(texts, is_tokenized, stacklevel=2), stream)
                sent += 1
        except BaseException as error:
            failure = error
        self._pending.finish(stream, failure)

    def _caller_reads(self, pending: PendingReplies) -> bool:
        """Whether the answers are awaited by one caller, who may read them; those of the client's own are fetched."""
        return pending is not self._pending

    def _next_reply(
        self, pending: PendingReplies, stream: ReplyStream | None, policy: WaitPolicy
    ) -> tuple[int, ReplyOrError] | NoMore:
        """Waits for the next answer.

        Raises:
            RequestTimeoutError, ServerUnreachableError: the wait is over.
        """
        link = self._connection.state
        while True:
            nap = policy.next_check_in(time.monotonic(), link.down_since)
            if self._caller_reads(pending) and self._connection.read(pending, nap):
                nap = 0.0
            found = pending.take(stream, nap)
            if found is not None:
                return found
            self._connection.check_usable()
            if not pending.awaits(stream):  # nothing is asked of the server now: a slow generator is thinking
                policy.restart(time.monotonic())
                continue
            expiry = policy.expiry(time.monotonic(), link.down_since)
            if expiry is not None:
                raise self._timeout_error(expiry, policy)
            self._warn_long_wait(policy)
