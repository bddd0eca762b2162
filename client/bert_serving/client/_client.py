"""`BertClient`: the blocking client, with the interface of bert-as-service 1.10."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from . import protocol
from ._arguments import whole_number
from ._base import TruncationWarner
from ._encoding import BATCH_SIZE, E, EncodeCall, NestedList, Tokens
from ._iterators import ResultIterator, ResultSubscription
from ._parts import EncodedParts
from ._pending import ReplyStream
from ._request_options import given_options
from ._scoring import ScoringClient
from ._transport.request_table import ReplyOrError
from .protocol import FloatArray

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._options import Options
    from ._outputs import EncodedOutputs
    from ._request_options import EncodeOptions, LongMode, OutputOptions, VectorOptions

Timings = list[dict[str, float]]


class BertClient(ScoringClient[E]):
    """Client of a server that encodes sentences into vectors.

    ``bc = BertClient(); bc.encode(["First do it", "then do it right"])``. Any number of threads may share one client.
    A forked process needs a client of its own.

    Args:
        ip: host name or address of the server. A list of ``HOST[:PORT[:PORT_OUT]]`` names several servers of one
            model, which share the requests.
        port: the server's ``-port``, which receives requests. Not with a list as ``ip``.
        port_out: the server's ``-port_out``, which publishes results. Not with a list as ``ip``.
        output_fmt: ``"ndarray"`` for arrays, ``"list"`` for nested lists of floats, ``"torch"`` for tensors.
        show_server_config: print the server's configuration once connected.
        identity: topic of the results, ``str`` or ``bytes``; random by default. Clients with the same identity all
            receive each result.
        check_version: raise an error if the server speaks another protocol.
        check_length: warn if the server truncates texts to its ``max_seq_len``.
        check_token_info: ask whether the server shows its tokens.
        ignore_all_checks: send nothing to the server before the first request; the server may start later.
        timeout: longest wait for a reply in milliseconds; -1 for no limit.
        connect_timeout: longest wait in milliseconds while no server is connected, or while the connected server is
            stopping; -1 for no limit.
        server_key: the server's public CURVE key (Z85, or the path of its file), for encryption; no encryption by
            default.
        public_key: this client's public CURVE key; that of ``secret_key`` by default.
        secret_key: this client's secret CURVE key; a new one by default.
        vector_space: the space that all vectors must be of; vectors of another one are an error. Any by default.
        model: name of a model of the server, which gets all requests of this client; the first one by default.

    Raises:
        ServerUnreachableError: no server was connected for ``connect_timeout``.
        RequestTimeoutError: the server did not reply within ``timeout``.
        VersionMismatchError: the server speaks another protocol.
        OptionError, InputValueError: an argument is not valid.
    """

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: BertClient[FloatArray],
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
            self: BertClient[NestedList],
            ip: str | Sequence[str] = ...,
            port: int = ...,
            port_out: int = ...,
            *,
            output_fmt: Literal["list"],
            **options: Unpack[Options],
        ) -> None: ...
        @overload
        def __init__(
            self: BertClient[NestedList],
            ip: str | Sequence[str],
            port: int,
            port_out: int,
            output_fmt: Literal["list"],
            **options: Unpack[Options],
        ) -> None: ...
        @overload
        def __init__(self: BertClient[Any], *args: Any, output_fmt: Literal["torch"], **options: Any) -> None: ...
        def __init__(self, *args: Any, **options: Any) -> None: ...

    # ---- the server ----------------------------------------------------------------------------------------------

    @property
    def server_config(self) -> dict[str, Any]:
        """Configuration of the server; of several, that of one of them."""
        with self._slot():
            return self._ask(protocol.SHOW_CONFIG)

    @property
    def server_status(self) -> dict[str, Any]:
        """Configuration of the server, with its statistics under ``statistic``.

        Of several servers: these under ``fronts``, by address; ``None`` of those that are not connected.
        """
        with self._slot():
            return self._ask_status()

    @property
    def vector_space(self) -> str | None:
        """Space of the server's vectors; ``None`` from a server that does not name it."""
        return self.server_config.get("vector_space")

    # ---- encode --------------------------------------------------------------------------------------------------

    # fmt: off
    @overload
    def encode(
        self, texts: Iterable[Any], blocking: Literal[True] = ..., is_tokenized: bool = ..., show_tokens: bool = ..., *,
        outputs: Sequence[str], show_progress_bar: bool = ..., batch_size: int | None = ...,
        timings: Timings | None = ..., **options: Unpack[EncodeOptions],
    ) -> EncodedOutputs[E]: ...
    @overload
    def encode(
        self, texts: Iterable[Any], blocking: Literal[True] = ..., is_tokenized: bool = ..., show_tokens: bool = ..., *,
        long: Literal["chunks", "late"], show_progress_bar: bool = ..., batch_size: int | None = ...,
        timings: Timings | None = ..., **options: Unpack[VectorOptions],
    ) -> EncodedParts[E]: ...
    @overload
    def encode(
        self, texts: Iterable[Any], blocking: Literal[True] = ..., is_tokenized: bool = ...,
        show_tokens: Literal[False] = ..., *, show_progress_bar: bool = ..., batch_size: int | None = ...,
        timings: Timings | None = ..., **options: Unpack[EncodeOptions],
    ) -> E: ...
    @overload
    def encode(
        self, texts: Iterable[Any], blocking: Literal[True] = ..., is_tokenized: bool = ..., *,
        show_tokens: Literal[True], show_progress_bar: bool = ..., batch_size: int | None = ...,
        timings: Timings | None = ..., **options: Unpack[EncodeOptions],
    ) -> tuple[E, Tokens]: ...
    @overload
    def encode(
        self, texts: Iterable[Any], blocking: Literal[False], is_tokenized: bool = ..., show_tokens: bool = ..., *,
        outputs: Sequence[str] | None = ..., show_progress_bar: bool = ..., batch_size: int | None = ...,
        timings: None = ..., **options: Unpack[EncodeOptions],
    ) -> None: ...
    @overload
    def encode(
        self, texts: Iterable[Any], blocking: bool = ..., is_tokenized: bool = ..., show_tokens: bool = ..., *,
        show_progress_bar: bool = ..., batch_size: int | None = ..., timings: Timings | None = ...,
        **options: Unpack[EncodeOptions],
    ) -> E | tuple[E, Tokens] | None: ...
    # fmt: on
    def encode(
        self,
        texts: Iterable[Any],
        blocking: bool = True,
        is_tokenized: bool = False,
        show_tokens: bool = False,
        *,
        show_progress_bar: bool = False,
        batch_size: int | None = BATCH_SIZE,
        timings: Timings | None = None,
        normalize: bool | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        truncate: bool | None = None,
        vector_space: str | None = None,
        raw_scores: bool = False,
        long: LongMode | None = None,
        embedding_type: str | None = None,
        outputs: Sequence[str] | None = None,
        pooling: str | None = None,
        pooling_layer: int | Sequence[int] | None = None,
    ) -> E | tuple[E, Tokens] | EncodedParts[E] | EncodedOutputs[E] | None:
        """Encodes texts into vectors, one row per text.

        Args:
            texts: a list or another ordered iterable of non-blank ``str``; of lists of tokens if ``is_tokenized``.
                A tuple of two texts is a pair, and so is ``"first ||| second"``.
            blocking: wait for the result. If False, send all texts as one request and return ``None``; `fetch` or
                `fetch_all` return the result.
            is_tokenized: each text is a list of tokens.
            show_tokens: return the tokens as well; the server needs ``-show_tokens_to_client``.
            show_progress_bar: show a progress bar on stderr (tqdm's, if it is installed).
            batch_size: most texts in one request. More texts are sent as several requests, a few at a time, and their
                results are put in order. ``None`` for one request.
            timings: a list. For each request, in order of the replies, the server's times in seconds are appended:
                ``tokenize``, ``queue``, ``compute``, and ``total``, their sum. Not with ``blocking=False``.
            normalize: whether vectors have length 1; ``None`` as the server does it.
            prompt_name: name of a prompt of the model to put before each text; ``None`` for the server's.
            prompt: text to put before each text, in place of a named prompt; ``""`` for none.
            dimensions: number of leading dimensions to keep. Vectors of length 1 are scaled to it again.
            truncate: True is ``long="cut"``, and False is ``long="error"``; ``None`` as ``long`` says.
            vector_space: the space that the vectors must be of; another one is an error. ``None`` as the client.
            raw_scores: logits in place of scores, from a server with ``-task classify`` or ``rerank``.
            long: what happens to a text longer than the server's ``max_seq_len``. ``"cut"``, the default, truncates it,
                ``"error"`` is an error that names both lengths, ``"mean"`` averages its parts, ``"chunks"`` returns a
                vector for each part, and ``"late"`` does so with the context of the parts around it.
            embedding_type: type of the numbers: ``float``, ``float16``, ``int8``, ``uint8``, or bits as ``binary`` and
                ``ubinary``: int8 and uint8 with the signs of eight numbers. ``None`` as the server does it.
            outputs: kinds of vectors: some of ``"dense"``, ``"sparse"`` and ``"multi"`` that
                ``server_config["outputs"]`` has. A request has at most 256 texts then, unless ``batch_size`` differs
                from its default. ``None`` for dense vectors alone.
            pooling: strategy, such as ``"CLS_TOKEN"``; one of ``server_config["request_pooling"]["strategies"]``. Its
                vectors have a vector space of their own. ``None`` as the server does it.
            pooling_layer: a layer, or a list of layers whose vectors are joined, of ``["request_pooling"]["layers"]``;
                ``None`` for all of them.

        Returns:
            A writable float array ``[n, d]``, ``[n, t, d]`` from a server without pooling, or ``[n, labels]`` from one
            of scores, rows in the order of the texts; nested lists or a tensor as ``output_fmt`` says. With
            ``show_tokens`` and a server that shows them: ``(array, tokens)``, one list of tokens per text. With
            ``long="chunks"`` or ``"late"``: `EncodedParts`. With ``outputs``: `EncodedOutputs`.

        Raises:
            InputTypeError, InputValueError: the texts cannot be encoded; the message names the first invalid text.
            ServerError: the server refused the request or failed; see `bert_serving.client.errors`.
            RequestTimeoutError, ServerUnreachableError: no reply arrived.
            ClientClosedError, ClientForkedError: the client cannot be used.
        """
        self._connection.check_usable()
        about_vectors = normalize, prompt_name, prompt, dimensions, truncate, vector_space, raw_scores, long
        about_form = embedding_type, outputs, pooling, pooling_layer
        values = self._request_options(is_tokenized, given_options(*about_vectors, *about_form))
        validated = self._validated(texts, is_tokenized, stacklevel=2)
        self._check_timings(timings, blocking)
        if not blocking:
            self._post(validated, None, values)
            return None
        values = self._with_pairs(values, validated)
        call = EncodeCall(validated, batch_size, timings, options=values, names_space=self._names_space)
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
        **options: Unpack[OutputOptions],
    ) -> ResultIterator[E]:
        """Encodes batches from a generator, and returns results while later batches are in flight.

        A thread takes batches and sends them, starting now. It pauses while 64 requests or 8,192 texts are in flight
        or not consumed, so the generator may be endless.

        Args:
            batch_generator: yields what `encode` takes.
            max_num_batch: stop after this many batches; ``None`` for all.
            delay: ignored; 1.10 had it. Results are returned as soon as they arrive.
            is_tokenized: the texts are lists of tokens.
            show_tokens: ignored; ``Response.tokens`` is always set if the server shows tokens.
            options: ``normalize``, ``prompt_name``, ``prompt``, ``dimensions``, ``truncate``, ``vector_space``,
                ``raw_scores``, ``long``, ``embedding_type``, ``outputs``, ``pooling`` and ``pooling_layer``, as for
                `encode`. With ``long="chunks"`` or ``"late"``, ``Response.parts`` has the part of each row; with
                ``outputs``, ``Response.outputs`` has them.

        Returns:
            An iterator of `Response`, in order of arrival; ``Response.id`` increases in the order of sending. It
            raises an exception of the generator after the results of all earlier batches.
        """
        self._connection.check_usable()
        if max_num_batch is not None:
            max_num_batch = whole_number("max_num_batch", max_num_batch, 0)
        values = self._request_options(is_tokenized, options)
        batches = iter(batch_generator)
        stream = self._pending.open()
        thread = threading.Thread(
            target=self._feed,
            args=(stream, batches, max_num_batch, is_tokenized, values),
            name="bert-client-feed",
            daemon=True,
        )
        thread.start()
        return self._results(stream)

    def fetch(self, delay: float = 0.0, timeout: float = -1) -> ResultIterator[E]:
        """Returns the results of requests that were sent with ``blocking=False``, as an iterator.

        Args:
            delay: seconds to wait before the first result.
            timeout: longest wait in milliseconds for the next result; -1 for no limit while the server is connected.

        Returns:
            An iterator of `Response`, in order of arrival. It ends when no request is left. It raises the error of a
            failed request once, and can be continued.
        """
        return self._results(None, timeout, delay)

    @overload
    def fetch_all(self, sort: bool = ..., concat: Literal[False] = ..., timeout: float = ...) -> list[E] | None: ...
    @overload
    def fetch_all(self, sort: bool = ..., *, concat: Literal[True], timeout: float = ...) -> E | None: ...
    @overload
    def fetch_all(self, sort: bool = ..., concat: bool = ..., timeout: float = ...) -> list[E] | E | None: ...
    def fetch_all(self, sort: bool = True, concat: bool = False, timeout: float = -1) -> list[E] | E | None:
        """Returns the results of all requests that were sent with ``blocking=False``, as a list.

        Args:
            sort: in the order of sending; otherwise in the order of arrival.
            concat: concatenate them into one array (one list with ``output_fmt="list"``).
            timeout: as for `fetch`.

        Returns:
            A list of embeddings, or one embedding; ``None`` if there was no request. A request with ``outputs`` has
            `EncodedOutputs` in place of an embedding. The error of a failed request is raised once; the next call
            returns the results of the others.

        Raises:
            VectorSpaceError: with ``concat``, vectors are of two spaces. A call without it still returns all results.
            OptionError: with ``concat``, requests have other outputs. A call without it still returns all results.
        """
        if not self._pending.numbers():
            return None
        replies = self._fetched(timeout)
        if sort:
            replies.sort(key=lambda reply: reply[0])
        if concat:
            self._require_one_kind(replies)
        warner = TruncationWarner(self)
        results: list[Any] = []
        for number, reply in replies:
            response = self._response(number, reply)
            warner.check(reply, len(response.embedding), stacklevel=2)
            results.append(response.embedding if response.outputs is None else response.outputs)
        return cast("E", self._joined(results)) if concat else results

    def listen(self, timeout: float | None = None, max_queued: int = 10_000) -> ResultSubscription[E]:
        """Returns an iterator of all results that are published to this identity, of clones and of this client.

        Args:
            timeout: end if no result arrives for this many milliseconds; ``None`` or -1 to end when the client is
                closed.
            max_queued: most results that are kept for a slow consumer. Beyond it, the oldest is dropped with a warning.

        Returns:
            An iterator of `Response`; it collects results from this call on. A result may occur twice if a clone lost
            its connection.
        """
        subscription = ResultSubscription(self._response, timeout, whole_number("max_queued", max_queued, 1))
        self._connection.listen(subscription)
        return subscription

    # ---- state ---------------------------------------------------------------------------------------------------

    @property
    def pending_request(self) -> set[int]:
        """Ids of the requests whose result was not returned yet."""
        return super().pending_request | self._pending.numbers()

    @property
    def pending_response(self) -> dict[int, ReplyOrError]:
        """Replies that have arrived and were not fetched yet, by request id."""
        return self._pending.replies()

    def _results(self, stream: ReplyStream | None, timeout: float = -1, delay: float = 0.0) -> ResultIterator[E]:
        return ResultIterator(
            lambda: self._next_reply(self._pending, stream, self._wait_policy(timeout)),
            self._response,
            TruncationWarner(self),
            stream,
            partial(self._cancel, stream),
            self._connection.call_soon,
            delay,
        )
