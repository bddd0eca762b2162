"""Computes the digests of large messages in short steps, so that the loop serves other clients meanwhile."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Collection

from .request_source import UNKNOWN_SOURCE, RequestSource
from .requests import Request

#: Bytes of a step: some 20 ms.
STEP_BYTES = 2**24


def digest(message: bytes | memoryview) -> bytes:
    """Returns the digest of a message. A repeated request has the same one."""
    return hashlib.blake2b(message).digest()


class DigestQueue:
    """Holds requests whose digest is not complete, in order of arrival.

    Attributes:
        held_bytes: size of their messages.
    """

    def __init__(self) -> None:
        self.held_bytes = 0
        self._requests: deque[Request] = deque()
        self._hash, self._offset = hashlib.blake2b(), 0  # of the first request

    def __bool__(self) -> bool:
        return bool(self._requests)

    def add(self, request: Request) -> None:
        self.held_bytes += len(request.message)
        self._requests.append(request)

    def has(self, identity: bytes, request_id: bytes) -> bool:
        """Returns whether a request of this client with this id is in the queue."""
        return any((each.identity, each.request_id) == (identity, request_id) for each in self._requests)

    def cancel(self, identity: bytes, request_ids: Collection[bytes], source: RequestSource = UNKNOWN_SOURCE) -> int:
        """Drops requests of a client by their ids, if ``source`` may cancel them, and returns their number."""

        def is_cancelled(each: Request) -> bool:
            is_named = each.identity == identity and each.request_id in request_ids
            return is_named and each.source.lets_cancel(source)

        kept = [each for each in self._requests if not is_cancelled(each)]
        num_dropped = len(self._requests) - len(kept)
        if num_dropped and (not kept or kept[0] is not self._requests[0]):
            self._hash, self._offset = hashlib.blake2b(), 0
        self._requests = deque(kept)
        self.held_bytes = sum(len(each.message) for each in kept)
        return num_dropped

    def step(self) -> tuple[Request, bytes] | None:
        """Takes one step. Returns the first request and its digest if this step completes it."""
        message = memoryview(self._requests[0].message)
        self._hash.update(message[self._offset : self._offset + STEP_BYTES])
        self._offset += STEP_BYTES
        if self._offset < len(message):
            return None
        result = self._requests.popleft(), self._hash.digest()
        self.held_bytes -= len(message)
        self._hash, self._offset = hashlib.blake2b(), 0
        return result
