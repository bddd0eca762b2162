"""Tokenizing beside the ventilator's loop: JSON in, pieces of tokens out, in order."""

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

#: Texts tokenized at a time: enough to sort by length and to keep the Rust threads busy, little enough that the
#: first batch of a huge request is computed early, and that two huge requests take turns.
CHUNK = 2048
#: Characters (or tokens) tokenized at a time, unless one text alone has more.
CHUNK_CHARACTERS = 1_000_000


@dataclass(frozen=True, slots=True)
class TokenizedChunk:
    """One piece of a job's texts, or why there is none. ``size`` counts all texts of the job."""

    ticket: int
    size: int = 0
    first_row: int = 0
    tokenized: Any = None
    is_last: bool = False
    error: RequestError | None = None

    @property
    def is_end(self) -> bool:
        """Nothing follows: it was the last piece, it failed, or it was cancelled."""
        return self.is_last or self.tokenized is None


def tokenize(tokenizer: Tokenizer, texts: list[Any]) -> Tokenized:
    """Tokens of some texts.

    Raises:
        InvalidRequest: texts that the tokenizer refuses.
    """
    try:
        return tokenizer.encode(texts)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(str(error)[:500]) from error


class TokenizingThread:
    """Takes messages with :meth:`submit`, gives pieces with :meth:`take` when ``results`` is readable.

    Requests take turns, a chunk each, so a small one is not stuck behind a huge one.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], tokenizer: Tokenizer, limits: RequestLimits) -> None:
        self._tokenizer, self._limits = tokenizer, limits
        self._incoming: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self._outgoing: queue.SimpleQueue[tuple[TokenizedChunk, int]] = queue.SimpleQueue()
        #: Bytes that wait to be tokenized: about four to a token, so this counts quarters of bytes.
        self.backlog = 0
        self._cancelled: set[int] = set()  # added to by the loop, read by the thread
        self.results = make_socket(context, zmq.PULL)
        self.results.bind("inproc://tokenized")
        self._wake = make_socket(context, zmq.PUSH)
        self._wake.connect("inproc://tokenized")
        threading.Thread(target=self._work, name="tokenizer", daemon=True).start()

    def submit(self, ticket: int, message: bytes) -> None:
        self.backlog += len(message) // 4
        self._incoming.put((ticket, message))

    def cancel(self, ticket: int) -> None:
        """Nothing more of this job is wanted."""
        self._cancelled.add(ticket)

    def take(self, most: int) -> Iterator[TokenizedChunk]:
        for _ in range(most):
            try:
                self.results.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            outcome, weight = self._outgoing.get()
            self.backlog -= weight
            if outcome.is_end:
                self._cancelled.discard(outcome.ticket)
            yield outcome

    def _give(self, outcome: TokenizedChunk, weight: int = 0) -> None:
        self._outgoing.put((outcome, weight))
        self._wake.send(b"")

    def _work(self) -> None:
        turns: list[Iterator[None]] = []
        while True:
            while not turns or not self._incoming.empty():
                turns.append(self._chunks(*self._incoming.get()))
            turn = turns.pop(0)
            if next(turn, True) is None:
                turns.append(turn)

    def _chunks(self, ticket: int, message: bytes) -> Iterator[None]:
        """Tokenizes a message, one chunk for each ``next``."""
        weight = len(message) // 4
        try:
            texts = read_texts(message, self._limits)
            del message
            start = 0
            while start < len(texts) and ticket not in self._cancelled:
                stop = chunk_end(texts, start)
                tokenized = tokenize(self._tokenizer, texts[start:stop])
                is_last = stop == len(texts)
                self._give(TokenizedChunk(ticket, len(texts), start, tokenized, is_last), weight if is_last else 0)
                if is_last:
                    return
                start = stop
                yield
            self._give(TokenizedChunk(ticket), weight)
        except RequestError as error:
            self._give(TokenizedChunk(ticket, error=error), weight)
        except Exception as error:  # the thread serves all requests, so it outlives a fault in one
            self._give(TokenizedChunk(ticket, error=InternalError(f"tokenizing failed: {error!r}"[:500])), weight)


def chunk_end(texts: Sequence[Any], start: int) -> int:
    """Where the chunk that begins at ``start`` ends: after at least one text."""
    stop, characters = start, 0
    for text in texts[start : start + CHUNK]:
        characters += len(text)
        if characters > CHUNK_CHARACTERS and stop > start:
            break
        stop += 1
    return stop
