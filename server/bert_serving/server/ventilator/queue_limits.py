"""Limits of the queue: tokens, and the memory of requests."""

from __future__ import annotations

from typing import Protocol

from ..config.memory import default_memory
from ..config.server_config import ServerConfig
from ..errors import Overloaded
from ..scheduling.jobs import JobChunk
from ..tokenization.request_texts import RequestLimits
from .tokenizer_thread import Progress

#: Memory of a request besides its message and its arrays: the job, its keys, and its place in the tables and queues.
REQUEST_BYTES = 1200
#: The same for a chunk: its objects, and the headers of its arrays.
CHUNK_BYTES = 1000
#: Bytes for each sequence in the scheduler: row, length and offset.
SEQUENCE_BYTES = 20
#: The same for a sequence that may wait for an equal one that a worker computes.
COALESCED_BYTES = 160
#: Part of each limit at which large messages wait before they are tokenized.
FIRST_MARK = 0.75
#: Part of ``-queue_memory`` above the limit at which unread messages are refused.
UNREAD_SHARE = 0.25


class HoldsBytes(Protocol):
    """Holds messages in memory."""

    @property
    def held_bytes(self) -> int: ...


class QueueLimits:
    """Counts the memory of requests, and compares it and the queued tokens with the limits.

    The memory is that of the requests of all models; the tokens are those of one.

    Attributes:
        of_request: limits of one request.
        max_bytes: value of ``-queue_memory``.
        tokenized_bytes: memory of the requests, without messages that are not tokenized to their end.
        messages: hold these messages.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.of_request = RequestLimits(config.max_request_size, config.max_text_length, config.max_queue_tokens)
        self.max_tokens = config.max_queue_tokens
        self.max_bytes = config.queue_memory or default_memory()
        self.tokenized_bytes = 0
        self.messages: list[HoldsBytes] = []
        self._sequence_bytes = SEQUENCE_BYTES + COALESCED_BYTES * (config.cache_mb > 0)

    @property
    def held_bytes(self) -> int:
        """Memory of the requests in progress."""
        held = self.tokenized_bytes
        for each in self.messages:
            held += each.held_bytes
        return held

    def progress(self, tokens: int) -> Progress:
        """Returns which messages the tokenizer thread may work on.

        Queued tokens decrease while workers compute. The memory of a request is freed when the request is complete,
        so the oldest request is always tokenized to its end.
        """
        if tokens >= FIRST_MARK * self.max_tokens:
            return Progress.NONE
        return Progress.OLDEST if self.tokenized_bytes >= FIRST_MARK * self.max_bytes else Progress.ALL

    def refuses(self, held_bytes: int, unread_bytes: int) -> bool:
        """Returns whether unread messages take so much memory that they are read and refused."""
        return held_bytes >= self.max_bytes and held_bytes + unread_bytes > self.max_with_unread

    def check(self, held_bytes: int, may_exceed: bool) -> None:
        """Rejects a message that was read although the queue is full, because too many are unread.

        Raises:
            Overloaded: the queue is full.
        """
        if held_bytes >= self.max_bytes and not may_exceed:
            raise Overloaded(
                f"waiting requests take {held_bytes} bytes, and unread ones more; the limit is {self.max_bytes} "
                "(-queue_memory): send the request again later"
            )

    @property
    def max_with_unread(self) -> int:
        """Limit of the requests and the unread messages together."""
        return int((1 + UNREAD_SHARE) * self.max_bytes)

    def chunk_bytes(self, chunk: JobChunk) -> int:
        """Returns the memory of a chunk in the ventilator."""
        tokenized = chunk.tokenized
        size = tokenized.input_ids.nbytes + tokenized.lengths.nbytes + tokenized.truncated.nbytes
        for array in (tokenized.type_ids, tokenized.mask, tokenized.parts, tokenized.segments):
            if array is not None:
                size += array.nbytes
        return size + len(chunk.tokens_json) + CHUNK_BYTES + self._sequence_bytes * len(tokenized.lengths)
