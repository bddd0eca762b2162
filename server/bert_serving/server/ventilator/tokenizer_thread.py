"""Tokenizes large requests in a thread: decodes JSON messages and returns tokenized chunks, in order per request."""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import zmq

from ..errors import InternalError, RequestError
from ..ipc.sockets import make_socket
from ..scheduling.jobs import NO_OPTIONS, JobOptions
from ..tokenization.request_texts import RequestLimits, ScannedMessage, read_pieces, scan_message, tokenize
from ..tokenization.tokenizer import Tokenized, Tokenizer


@dataclass(frozen=True, slots=True)
class TokenizedChunk:
    """Holds consecutive tokenized texts of a job, or the error that ends it.

    Attributes:
        local_id: the job's ``local_id``.
        size: number of texts in the job.
        tokenized: None if the job failed or was cancelled.
        scanned: the message of the job, if only its values were counted.
    """

    local_id: int
    size: int = 0
    first_row: int = 0
    tokenized: Tokenized | None = None
    is_last: bool = False
    error: RequestError | None = None
    scanned: ScannedMessage | None = None

    @property
    def is_end(self) -> bool:
        """Whether no chunk follows: this is the last one, or the job failed or was cancelled."""
        return self.is_last or self.tokenized is None


class Progress(IntEnum):
    """Which messages the tokenizer thread works on."""

    NONE = 0
    OLDEST = 1
    ALL = 2


class TokenizerThread:
    """Tokenizes messages of :meth:`submit`; :meth:`receive` returns the chunks when ``results`` is readable.

    Active requests alternate, one chunk each, so a large request does not block a small one. Every second turn is that
    of a new request, if there is one: a short request waits for few chunks of large ones.

    Args:
        number: that of this thread in the process.

    Attributes:
        results: socket to poll for chunks; its messages are empty.
        held_bytes: size of the messages that are not tokenized to their end.
        processes, has_processes, has_ready: those of :class:`TokenizerPool`.
    """

    processes = None
    has_processes = has_ready = False

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], tokenizer: Tokenizer, limits: RequestLimits, number: int = 0
    ) -> None:
        self._tokenizer, self._limits = tokenizer, limits
        self._incoming: queue.SimpleQueue[tuple[int, bytes | memoryview, JobOptions, bool]] = queue.SimpleQueue()
        self._outgoing: queue.SimpleQueue[tuple[TokenizedChunk, int]] = queue.SimpleQueue()
        self.held_bytes = 0
        self._cancelled: set[int] = set()  # the loop adds, the thread reads
        self._progress, self._condition = Progress.ALL, threading.Condition()
        self.results = make_socket(context, zmq.PULL)
        self.results.bind(f"inproc://tokenized-{number}")
        self._wake = make_socket(context, zmq.PUSH)
        self._wake.connect(f"inproc://tokenized-{number}")
        threading.Thread(target=self._run, name="tokenizer", daemon=True).start()

    def submit(
        self,
        local_id: int,
        message: bytes | memoryview,
        options: JobOptions = NO_OPTIONS,
        identity: bytes = b"",
        *,
        scans_only: bool = False,
    ) -> None:
        """Queues the JSON message of a job.

        Args:
            identity: the client; the thread does not use it.
            scans_only: the values of the message are counted, and no text is tokenized.
        """
        self.held_bytes += len(message)
        self._incoming.put((local_id, message, options, scans_only))

    def cancel(self, local_id: int) -> None:
        """Stops tokenizing a job."""
        self._cancelled.add(local_id)

    def allow(self, progress: Progress, takes_short: bool = True) -> None:
        """Sets which messages the thread works on. For the thread, ``takes_short`` has no effect."""
        if progress != self._progress:
            with self._condition:
                self._progress = progress
                self._condition.notify()

    def receive(self, limit: int) -> Iterator[TokenizedChunk]:
        """Yields up to ``limit`` finished chunks without waiting."""
        for _ in range(limit):
            try:
                self.results.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            chunk, message_bytes = self._outgoing.get()
            self.held_bytes -= message_bytes
            if chunk.is_end:
                self._cancelled.discard(chunk.local_id)
            yield chunk

    def _emit(self, chunk: TokenizedChunk, message_bytes: int = 0) -> None:
        self._outgoing.put((chunk, message_bytes))
        self._wake.send(b"")

    def _run(self) -> None:
        active: OrderedDict[int, Iterator[None]] = OrderedDict()  # by ``local_id``, the next turn first
        is_turn_of_new = True
        while True:
            with self._condition:
                while self._progress == Progress.NONE:
                    self._condition.wait()
                progress = self._progress
            if active and progress == Progress.OLDEST:
                local_id = min(active)
            elif not active or (is_turn_of_new and not self._incoming.empty()):
                local_id, message, options, scans_only = self._incoming.get()
                steps = self._scan if scans_only else self._chunks
                active[local_id] = self._steps(local_id, len(message), steps(local_id, message, options))
                del message
            else:
                local_id = next(iter(active))
            is_turn_of_new = not is_turn_of_new
            active.move_to_end(local_id)
            if next(active[local_id], True):
                del active[local_id]

    def _steps(self, local_id: int, size: int, chunks: Iterator[TokenizedChunk | None]) -> Iterator[None]:
        """Emits the chunks of a message of ``size`` bytes, one per ``next``."""
        try:
            while local_id not in self._cancelled:
                chunk = next(chunks)
                if chunk is not None:
                    self._emit(chunk, size if chunk.is_end else 0)
                    if chunk.is_end:
                        return
                yield
            self._emit(TokenizedChunk(local_id), size)
        except RequestError as error:
            self._emit(TokenizedChunk(local_id, error=error), size)
        except Exception as error:  # an error in one request does not end the thread, which serves all of them
            self._emit(TokenizedChunk(local_id, error=InternalError(f"tokenizing failed: {error!r}"[:500])), size)

    def _chunks(
        self, local_id: int, message: bytes | memoryview, options: JobOptions
    ) -> Iterator[TokenizedChunk | None]:
        for piece in read_pieces(message, self._limits, options.pairs is True):
            if piece is None:
                yield None
                continue
            tokenized = tokenize(self._tokenizer, piece.texts, options, piece.first_row)
            size, first_row, is_last = piece.size, piece.first_row, piece.is_last
            del piece
            yield TokenizedChunk(local_id, size, first_row, tokenized, is_last)

    def _scan(self, local_id: int, message: bytes | memoryview, options: JobOptions) -> Iterator[TokenizedChunk | None]:
        for scanned in scan_message(message, self._limits, options.pairs is True):
            yield None if scanned is None else TokenizedChunk(local_id, scanned.size, scanned=scanned)
