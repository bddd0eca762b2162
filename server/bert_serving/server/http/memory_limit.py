"""Limits the memory of HTTP requests in progress: bodies, parsed values, vectors and responses.

Small requests have a quarter of the memory for themselves, so that large ones, or clients that do not read their
responses, never keep them waiting.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .errors import Overloaded
from .memory_pool import MemoryPool
from .output_sizes import OutputSizes
from .paths import OUTPUT_PATHS

#: Maximum body size (bytes) of a request that uses the memory of small ones.
SMALL_BODY = 65_536
#: Total memory (bytes) if ``-http_max_body`` is small, and its multiple otherwise.
MIN_MEMORY, MAX_BODIES = 256 * 2**20, 8
#: Memory (bytes) of a parsed value beside its text.
_VALUE_BYTES = 64
#: Memory (bytes) of the offsets of a part of a text.
PART_BYTES = 256
#: A letter that no encoder of JSON escapes.
_ESCAPED_LETTER = re.compile(rb"\\u00[4-7]")
#: Size (bytes) of a token in the response of /tokenize.
TOKEN_BYTES = 80
#: Vectors of at most this size (bytes) are converted to JSON at once, which takes `_JSON_FACTOR` times their size.
STREAM_ABOVE, _JSON_FACTOR = 2 * 2**20, 12


def memory_limit(http_max_body: int) -> int:
    """Returns the memory (bytes) that all requests may hold."""
    return max(MIN_MEMORY, MAX_BODIES * http_max_body)


class MemoryLimiter:
    """Memory of all requests. Runs in the thread of the event loop.

    Args:
        limit: maximum memory (bytes).
        max_vectors: maximum size (bytes) of the vectors of a response.
        row_bytes: maximum size (bytes) of the dense vectors of a text.
        max_length: longest sequence in tokens.
        pair_paths: paths whose requests compare a text with others, and send it to the service with each of them.
        pooled_row_bytes: that of a text whose request has a pooling of its own.
        outputs: bound the size of other vectors than dense ones, one for each model.
        has_names: requests have names, each of which may hold a part of the memory.
    """

    def __init__(
        self,
        limit: int,
        max_vectors: int,
        row_bytes: int,
        pair_paths: frozenset[str] = frozenset(),
        max_length: int = 512,
        pooled_row_bytes: int = 0,
        outputs: Sequence[OutputSizes] = (),
        has_names: bool = False,
    ) -> None:
        self._outputs = outputs
        self._pooled_row_bytes = max(row_bytes, pooled_row_bytes)
        self.limit, self.max_vectors, self.row_bytes = limit, max_vectors, row_bytes
        self.pair_paths, self._room = pair_paths, max(1, max_length - 2)
        self.small_limit = limit // 4
        self.large_limit = limit - self.small_limit
        self._small, self._large = (MemoryPool(each, has_names) for each in (self.small_limit, self.large_limit))

    @property
    def held(self) -> int:
        """Memory (bytes) of all requests."""
        return self.limit - self._small.free - self._large.free

    def pool(self, is_small: bool) -> MemoryPool:
        return self._small if is_small else self._large

    def needed(self, body: bytes, path: str = "") -> int:
        """Returns the memory (bytes) that a request needs at most beside its body. Takes 2 ms for 1 MiB."""
        num_values = body.count(b",") + body.count(b"[") + 1
        num_parts = self._num_parts(body)
        vectors = (num_values + num_parts) * self._row_bytes_of(body) + self._bytes_of_outputs(body, path, num_values)
        vectors = min(vectors, self.max_vectors)
        # The text of each value is held twice: parsed, and in the message to the service.
        texts = len(body) * (2 if body.isascii() else 5)
        if path in self.pair_paths:
            texts += min(num_values * len(body), self.max_vectors) + num_values * _VALUE_BYTES  # of the pairs
        if path == "/tokenize":
            vectors = min(len(body) * TOKEN_BYTES, self.max_vectors) * 2  # pieces of the response, then all of it
            return num_values * _VALUE_BYTES + texts + vectors
        values = num_values * _VALUE_BYTES + num_parts * PART_BYTES
        return values + texts + vectors + min(vectors, STREAM_ABOVE) * _JSON_FACTOR

    def _num_parts(self, body: bytes) -> int:
        """Returns how many parts the texts of a body have at most beside the first of each, if it may ask for parts.

        Two consecutive parts and a prompt fill a sequence at least, and a token has one byte or more.
        """
        may_ask = b'"chunks"' in body or b'"late"' in body or _has_escapes(body)
        return 4 * len(body) // self._room if may_ask else 0

    def _row_bytes_of(self, body: bytes) -> int:
        """Returns the maximum size (bytes) of the vectors of a text; that of a pooling if the body may ask for one."""
        if self._pooled_row_bytes == self.row_bytes or not (b'"pooling"' in body or _has_escapes(body)):
            return self.row_bytes
        return self._pooled_row_bytes

    def _bytes_of_outputs(self, body: bytes, path: str, num_values: int) -> int:
        """Returns the maximum size (bytes) of other vectors than dense ones, if the body may ask for them."""
        if not self._outputs:
            return 0
        has_escapes = _has_escapes(body)
        if not (path in OUTPUT_PATHS or has_escapes or b'"outputs"' in body or b'"query"' in body):
            return 0
        may_have_prompt = has_escapes or b'"prompt"' in body
        return max(each.of_body(num_values, len(body), may_have_prompt) for each in self._outputs)


def _has_escapes(body: bytes) -> bool:
    """Returns whether a body has escaped letters, which may hide a word."""
    return _ESCAPED_LETTER.search(body) is not None


class Charge:
    """Memory of one request.

    Args:
        length: declared size (bytes) of the body; None if it is not declared.

    Attributes:
        name: name of the key of the request; empty without one.
    """

    def __init__(self, limiter: MemoryLimiter, length: int | None) -> None:
        self.length, self._limiter, self.name = length, limiter, ""
        self._pool = limiter.pool(is_small=length is not None and length <= SMALL_BODY)
        self._held: list[tuple[MemoryPool, str, int]] = []

    def add(self, size: int) -> None:
        """Counts a piece of the body.

        Raises:
            Overloaded: the memory is in use.
        """
        if size > self._pool.room_of(self.name):
            raise _overloaded(self._limiter)
        self._take(self._pool, size)

    async def reserve(self, size: int, seconds: float) -> None:
        """Waits until ``size`` bytes are free.

        A request that needs more than its name may hold waits until it is the only one of its name.

        Raises:
            Overloaded: the memory is not free within ``seconds``.
        """
        limiter, pool = self._limiter, self._pool
        if size > limiter.small_limit // 16:
            pool = limiter.pool(is_small=False)
        if pool is limiter.pool(is_small=False):
            size = min(size, pool.most - sum(held for where, _, held in self._held if where is pool))
        if not await pool.acquire_for(self.name, size, seconds):
            raise _overloaded(limiter)
        self._held.append((pool, self.name, size))

    def release(self) -> None:
        """Releases all memory of the request."""
        for pool, name, size in self._held:
            pool.release_for(name, size)
        self._held = []

    def _take(self, pool: MemoryPool, size: int) -> None:
        pool.take_for(self.name, size)
        self._held.append((pool, self.name, size))


def _overloaded(limiter: MemoryLimiter) -> Overloaded:
    return Overloaded(
        f"the server is overloaded: requests in progress hold {limiter.held} bytes, of {limiter.limit} "
        "(8 times -http_max_body); retry later, or send fewer texts per request"
    )
