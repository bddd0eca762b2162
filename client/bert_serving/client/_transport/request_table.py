"""The requests of a connection that have no reply yet."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import BertServingError
from ..protocol import COMMANDS, Reply

ReplyOrError = Reply | BertServingError
#: Receives the number of a request and its reply. Runs in the reading thread, so it must not block or raise.
OnReply = Callable[[int, ReplyOrError], None]

_COUNTER_BITS = 32


@dataclass(slots=True, eq=False)
class Request:
    """A request without a reply.

    Attributes:
        number: number of the request in this client, from 1.
        wire_id: request id in the frames.
        frames: the message.
        on_reply: receives the reply.
        since: monotonic time of the submission in seconds.
        caller_reads: whether the submitting thread reads the reply itself.
        is_posted: whether no call awaits the reply yet. A client with the same identity may await it.
    """

    number: int
    wire_id: int
    frames: list[bytes]
    on_reply: OnReply
    since: float
    caller_reads: bool
    is_posted: bool

    @property
    def is_command(self) -> bool:
        return self.frames[1] in COMMANDS


class RequestTable:
    """Requests without a reply by request id, and the lock that protects the whole connection.

    Request ids are unique among clients that share an identity: a random number in the high half, a counter in the low
    half of 63 bits.

    Attributes:
        lock: protects this table, the send queue, the retry policy and the reader lease. It is reentrant because the
            garbage collector may close a client in any thread at any point.
        pending: requests by id, oldest first.
        closing: whether the connection is closed or about to close.
        last_number: number of the latest request; the first one has number 1.
    """

    def __init__(self, id_base: int | None = None) -> None:
        self.id_base = id_base if id_base is not None else secrets.randbelow(2**31 - 1) + 1
        self.lock = threading.RLock()
        self.pending: dict[int, Request] = {}
        self.closing = False
        self.last_number = 0

    def new_number(self) -> int:
        """Reserves the number of a request that is about to be submitted."""
        with self.lock:
            self.last_number += 1
            return self.last_number

    def wire_id(self, number: int) -> int:
        """Returns the request id of a request's number."""
        return self.id_base << _COUNTER_BITS | number

    def is_own(self, wire_id: int) -> bool:
        """Returns whether a request id belongs to this client and not to a clone."""
        return wire_id >> _COUNTER_BITS == self.id_base

    def pending_numbers(self) -> set[int]:
        """Returns the numbers of the requests without a reply."""
        with self.lock:
            return {request.number for request in self.pending.values()}
