"""Tokenizes large requests in a thread: decodes JSON messages and returns tokenized chunks, in order per request."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import zmq

from ..errors import InternalError, InvalidRequest, RequestError
from ..ipc.sockets import make_socket
from ..tokenization.tokenizer import Tokenized, Tokenizer
from .requests import RequestLimits, read_texts

#: Largest number of texts in a chunk: enough to sort by length, and few enough that the first batch of a large request
#: is computed early and that large requests alternate.
CHUNK_TEXTS = 2048
#: Largest number of characters (or tokens) in a chunk of several texts.
CHUNK_CHARACTERS = 1_000_000


@dataclass(frozen=True, slots=True)
class TokenizedChunk:
    """Holds consecutive tokenized texts of a job, or the error that ends it.

    Attributes:
        local_id: the job's ``local_id``.
        size: number of texts in the job.
        tokenized: None if the job failed or was cancelled.
    """

    local_id: int
    size: int = 0
    first_row: int = 0
    tokenized: Tokenized | None = None
    is_last: bool = False
    error: RequestError | None = None

    @property
    def is_end(self) -> bool:
        """Whether no chunk follows: this is the last one, or the job failed or was cancelled."""
        return self.is_last or self.tokenized is None


def tokenize(tokenizer: Tokenizer, texts: list[Any]) -> Tokenized:
    """Tokenizes texts or token lists.

    Raises:
        InvalidRequest: the tokenizer rejects an item.
    """
    try:
        return tokenizer.encode(texts)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(str(error)[:500]) from error


class TokenizerThread:
    """Tokenizes messages of :meth:`submit`; :meth:`receive` returns the chunks when ``results`` is readable.

    Active requests alternate, one chunk each, so a large request does not block a small one.

    Attributes:
        results: socket to poll for chunks; its messages are empty.
        backlog: size of the messages to tokenize, in quarters of bytes: a token has about four bytes.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], tokenizer: Tokenizer, limits: RequestLimits) -> None:
        self._tokenizer, self._limits = tokenizer, limits
        self._incoming: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self._outgoing: queue.SimpleQueue[tuple[TokenizedChunk, int]] = queue.SimpleQueue()
        self.backlog = 0
        self._cancelled: set[int] = set()  # the loop adds, the thread reads
        self.results = make_socket(context, zmq.PULL)
        self.results.bind("inproc://tokenized")
        self._wake = make_socket(context, zmq.PUSH)
        self._wake.connect("inproc://tokenized")
        threading.Thread(target=self._run, name="tokenizer", daemon=True).start()

    def submit(self, local_id: int, message: bytes) -> None:
        """Queues the JSON message of a job."""
        self.backlog += len(message) // 4
        self._incoming.put((local_id, message))

    def cancel(self, local_id: int) -> None:
        """Stops tokenizing a job."""
        self._cancelled.add(local_id)

    def receive(self, limit: int) -> Iterator[TokenizedChunk]:
        """Yields up to ``limit`` finished chunks without waiting."""
        for _ in range(limit):
            try:
                self.results.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            chunk, weight = self._outgoing.get()
            self.backlog -= weight
            if chunk.is_end:
                self._cancelled.discard(chunk.local_id)
            yield chunk

    def _emit(self, chunk: TokenizedChunk, weight: int = 0) -> None:
        self._outgoing.put((chunk, weight))
        self._wake.send(b"")

    def _run(self) -> None:
        active: list[Iterator[None]] = []
        while True:
            while not active or not self._incoming.empty():
                active.append(self._chunks(*self._incoming.get()))
            chunks = active.pop(0)
            if next(chunks, True) is None:
                active.append(chunks)

    def _chunks(self, local_id: int, message: bytes) -> Iterator[None]:
        """Tokenizes a message, one chunk per ``next``."""
        weight = len(message) // 4
        try:
            texts = read_texts(message, self._limits)
            del message
            start = 0
            while start < len(texts) and local_id not in self._cancelled:
                stop = chunk_end(texts, start)
                tokenized = tokenize(self._tokenizer, texts[start:stop])
                is_last = stop == len(texts)
                self._emit(TokenizedChunk(local_id, len(texts), start, tokenized, is_last), weight if is_last else 0)
                if is_last:
                    return
                start = stop
                yield
            self._emit(TokenizedChunk(local_id), weight)
        except RequestError as error:
            self._emit(TokenizedChunk(local_id, error=error), weight)
        except Exception as error:  # an error in one request does not end the thread, which serves all of them
            self._emit(TokenizedChunk(local_id, error=InternalError(f"tokenizing failed: {error!r}"[:500])), weight)


def chunk_end(texts: Sequence[Any], start: int) -> int:
    """Returns the end of the chunk that begins at ``start``; a chunk has at least one text."""
    stop, characters = start, 0
    for text in texts[start : start + CHUNK_TEXTS]:
        characters += len(text)
        if characters > CHUNK_CHARACTERS and stop > start:
            break
        stop += 1
    return stop
