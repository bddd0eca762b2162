"""Finished results on their way to their readers.

A result is published when its reader is subscribed, not before: no sleep, and no loss, in front of a subscriber who
is still connecting. A reader that is slow never loses a result to a full pipe: it waits here, bounded in bytes and in
age, and nobody else waits with it. What belongs to a client that left is let go. What a reader is owed is counted in
bytes, both here and in ZeroMQ's pipe to it: ZeroMQ itself counts messages only, and one of them may be gigabytes.

An identity receives its own results only. ZeroMQ matches subscriptions by prefix, so with plain topics ``user1`` would
read what is meant for ``user12``. Here a subscription to an identity is replaced by one to the identity and a keyed
hash of it (XPUB_MANUAL), which is no prefix of any other topic, and which no client can know.

libzmq 4.3.5 pairs pending subscriptions with the wrong connections after a message that is no subscription (its
``xpub_t`` notes no connection for such a message, yet takes one from the list when it is read). No honest client sends
one. When one has come, and subscriptions behind it, these are not applied: all connections are cut, and every client
connects and subscribes again, and is counted anew. The connections are cut, and the socket is not closed, because
libzmq also aborts when it closes such a socket while a peer of protocol version 1 completes its handshake.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zmq

from bert_serving.client.protocol import MAX_IDENTITY_BYTES, error_info

from ..ipc.sockets import bind_tcp, keep_alive
from ..ipc.tcp_guard import close_accepted
from ..security.curve import CurveAuth

#: Messages that ZeroMQ itself keeps for one reader; beyond them the outbox does.
PIPE_MESSAGES = 64
#: Bytes of large messages in ZeroMQ's hands for one reader; beyond them the outbox keeps what follows.
PIPE_BYTES = 64 * 2**20
#: Frames from this size on are handed to ZeroMQ without a copy, and watched until it lets go of them.
LARGE_FRAME = 65536
#: Identities with results here that nobody has ever subscribed to: beyond so many, the oldest is let go.
MAX_STRANGERS = 10_000
#: Seconds that a greeting waits for one more subscriber, see ``ResultPublisher.greet``; and how many may wait.
GREETING_SECONDS = 2.0
MAX_GREETINGS = 1000
#: Seconds within which word comes of the end of connections that were cut.
CUT_SECONDS = 5.0
#: Of one reader: requests whose results were let go, and who is to be told so.
MAX_LOST = 1000
#: Messages of subscribers that are read before others get their turn, and so many times as many before all are cut.
BURST, LAST_BURSTS = 1024, 64
#: Identities that may be subscribed, and their bytes: ZeroMQ takes about 100 bytes of memory for each of those.
MAX_IDENTITIES, MAX_BYTES_OF_IDENTITIES = 50_000, 2 * 2**20
#: What a letter costs beside its frames, in bytes.
_OVERHEAD = 400


@dataclass(frozen=True, slots=True)
class _Letter:
    frames: list[Any]
    size: int
    since: float


@dataclass(slots=True)
class _Reader:
    """An identity: how many sockets subscribe to it, what waits for them, and what ZeroMQ has of theirs.

    ``doubtful`` counts subscriptions that could not be applied; nothing is sent until their connections are cut.
    ``cut`` counts the subscribers of those connections until word comes of their end.
    ``lost`` has the numbers of requests whose result was let go, until the reader is told.
    ``greeted`` counts the subscribers whose first question was answered.
    """

    subscribers: int = 0
    doubtful: int = 0
    greeted: int = 0
    cut: int = 0
    absent_since: float = 0.0
    size: int = 0
    letters: deque[_Letter] = field(default_factory=deque)
    lost: deque[bytes] = field(default_factory=lambda: deque(maxlen=MAX_LOST))
    on_way: list[tuple[zmq.MessageTracker, int]] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        return self.subscribers > 0 and not self.doubtful

    def has_room(self) -> bool:
        self.on_way = [(tracker, size) for tracker, size in self.on_way if not tracker.done]
        return sum(size for _, size in self.on_way) < PIPE_BYTES


class ResultPublisher:
    """The results socket and what waits for its readers. Times are monotonic seconds, given by the caller.

    Args:
        max_bytes: of all that waits; beyond it, who has most waiting loses the oldest.
        ttl: seconds that a result waits for a reader who is connected and does not read.
        absent_ttl: seconds that it waits for one who is not connected.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        host: str,
        port: int,
        log: logging.Logger,
        max_bytes: int,
        ttl: float,
        absent_ttl: float,
        guard: CurveAuth,
    ) -> None:
        self.log, self.max_bytes, self.ttl, self.absent_ttl = log, max_bytes, ttl, min(ttl, absent_ttl)
        self.num_bytes = self.num_sent = self.num_dropped = self.num_renewals = 0
        self.readers: dict[bytes, _Reader] = {}
        self._blocked: dict[bytes, None] = {}  # subscribed, but their pipe was full
        # Results are here, and never a subscription was. A plain dict would be slow at giving up its oldest key.
        self._strangers: OrderedDict[bytes, None] = OrderedDict()
        self._secret = secrets.token_bytes(16)
        self._let_go = error_info(
            "overloaded",
            f"the result was let go: it waited more than {ttl:g} s for its reader (-result_ttl), or more than "
            f"{max_bytes} bytes of results waited (-result_memory); read results sooner, or ask for fewer at a time",
        )
        self._num_identities = self._bytes_of_identities = 0  # of those that are subscribed
        self._is_shifted = False  # libzmq pairs what is still unread with the wrong connections
        self._must_renew = ""  # why
        self._renewed_at = -CUT_SECONDS
        self._greetings: deque[tuple[bytes, Sequence[Any], float]] = deque()
        self.socket = context.socket(zmq.XPUB)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.XPUB_MANUAL, 1)
        self.socket.setsockopt(zmq.XPUB_NODROP, 1)
        self.socket.setsockopt(zmq.SNDHWM, PIPE_MESSAGES)
        self.socket.setsockopt(zmq.MAXMSGSIZE, 64 * 1024)  # what comes in here are subscriptions
        keep_alive(self.socket)  # not by heartbeats: a reader that is slow does not answer them
        guard.apply(context, self.socket)
        bind_tcp(self.socket, host, port)

    def _topic(self, identity: bytes) -> bytes:
        return identity + hashlib.blake2b(identity, key=self._secret, digest_size=8).digest()

    def owes(self, now: float, patience: float) -> bool:
        """Whether an answer waits for one who reads, is about to, or left less than ``patience`` seconds ago."""
        if self._greetings:
            return True
        return self.num_bytes > 0 and any(
            reader.letters
            and (reader.subscribers or now - max(reader.absent_since, reader.letters[-1].since) < patience)
            for reader in self.readers.values()
        )

    @property
    def is_blocked(self) -> bool:
        """Whether :meth:`flush` should be called again soon."""
        return bool(self._blocked)

    def has_reader(self, identity: bytes) -> bool:
        """Whether someone is subscribed to this identity."""
        reader = self.readers.get(identity)
        return reader is not None and reader.subscribers + reader.doubtful > 0

    def greet(self, identity: bytes, frames: Sequence[Any], now: float) -> None:
        """Publishes the answer to the first question of a new client, when the client is likely to be subscribed.

        A clone's question may arrive before its subscription, while others of its identity are subscribed. Published
        then, the answer would reach only them. So if each of them had such an answer already, it waits for one more.
        """
        if not self._greet(identity, frames, now):
            self._greetings.append((identity, frames, now))
            if len(self._greetings) > MAX_GREETINGS:
                self.put(*self._greetings.popleft()[:2], now)

    @property
    def has_greetings(self) -> bool:
        """Whether :meth:`deliver_greetings` should be called again soon."""
        return bool(self._greetings)

    def deliver_greetings(self, now: float) -> None:
        """Publishes the answers whose reader has come meanwhile, and those that waited long enough."""
        for _ in range(len(self._greetings)):
            identity, frames, since = greeting = self._greetings.popleft()
            if self._greet(identity, frames, now):
                continue
            if now - since >= GREETING_SECONDS:
                self.put(identity, frames, now)
            else:
                self._greetings.append(greeting)

    def _greet(self, identity: bytes, frames: Sequence[Any], now: float) -> bool:
        reader = self.readers.get(identity)
        if reader is not None and reader.greeted >= reader.subscribers:
            return False
        self.put(identity, frames, now)
        if identity in self.readers:
            self.readers[identity].greeted += 1
        return True

    def put(self, identity: bytes, frames: Sequence[Any], now: float) -> None:
        """Publishes ``frames`` (without the topic) to ``identity``, at once or when its reader can take them."""
        reader = self.readers.get(identity)
        if reader is None:
            reader = self.readers[identity] = _Reader(absent_since=now)
            self._strangers[identity] = None
            if len(self._strangers) > MAX_STRANGERS:
                self._let_go_of(next(iter(self._strangers)))
        if reader.is_open and not reader.letters and not reader.lost and self._send(identity, reader, frames):
            return
        kept = [_without_neighbours(frame) for frame in frames]
        size = sum(_size(frame) for frame in kept) + _OVERHEAD
        reader.letters.append(_Letter(kept, size, now))
        reader.size += size
        self.num_bytes += size
        if reader.is_open:
            self._blocked[identity] = None
        if self.num_bytes > self.max_bytes:
            self._make_room()

    def _send(self, identity: bytes, reader: _Reader, frames: Sequence[Any]) -> bool:
        size = max(_size(frame) for frame in frames)
        is_large = size > LARGE_FRAME
        if is_large and not reader.has_room():
            return False
        message = [self._topic(identity), *frames]
        if is_large:
            message = [zmq.Frame(f, track=True, copy=False) if _size(f) == size else f for f in message]
        try:
            self.socket.send_multipart(message, zmq.NOBLOCK, copy=not is_large)
        except zmq.Again:
            return False
        if is_large:
            tracked = next(frame for frame in message if isinstance(frame, zmq.Frame))
            reader.on_way.append((tracked.tracker, size))
        self.num_sent += 1
        return True

    def on_subscription(self, now: float) -> bool:
        """Reads what subscribers said, a bounded part of it at a time. Call it when the socket is readable.

        Returns:
            Whether that was all.
        """
        for _ in range(BURST):
            try:
                message = self.socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                self._is_shifted = False
                return True
            kind, identity = message[:1], message[1:]
            if kind not in (b"\x00", b"\x01"):
                self._is_shifted = True
            elif len(identity) > MAX_IDENTITY_BYTES:
                continue  # no request can carry it
            elif kind == b"\x01":
                self._on_subscribe(identity)
            else:
                if not self._is_shifted:
                    self.socket.setsockopt(zmq.UNSUBSCRIBE, self._topic(identity))
                self._on_unsubscribe(identity, now)
        return False

    def _on_subscribe(self, identity: bytes) -> None:
        if not self.has_reader(identity):
            size = self._bytes_of_identities + len(identity)
            if self._num_identities >= MAX_IDENTITIES or size > MAX_BYTES_OF_IDENTITIES:
                # Nobody knows whose they are. When all are cut, those who are only clients are back at once.
                self._must_renew = f"there are subscriptions to more than {self._num_identities} identities"
                return
            self._num_identities += 1
            self._bytes_of_identities = size
        self._strangers.pop(identity, None)
        reader = self.readers.setdefault(identity, _Reader())
        if self._is_shifted:
            self._must_renew = "someone sent what no client sends to the port of results"
            reader.doubtful += 1
        else:
            self.socket.setsockopt(zmq.SUBSCRIBE, self._topic(identity))
            reader.subscribers += 1
        self._set_blocked(identity, reader)

    def _on_unsubscribe(self, identity: bytes, now: float) -> None:
        reader = self.readers.get(identity)
        if reader is None:
            return
        if reader.cut:
            reader.cut -= 1
            return
        if not reader.subscribers and not reader.doubtful:
            return
        if reader.doubtful:
            reader.doubtful -= 1
        else:
            reader.subscribers -= 1
            reader.greeted = min(reader.greeted, reader.subscribers)
        if not reader.subscribers and not reader.doubtful:
            self._num_identities -= 1
            self._bytes_of_identities -= len(identity)
            reader.absent_since = now
            if not reader.letters and not reader.cut:
                del self.readers[identity]
        self._set_blocked(identity, reader)

    def _set_blocked(self, identity: bytes, reader: _Reader) -> None:
        if reader.is_open and (reader.letters or reader.lost):
            self._blocked[identity] = None
        else:
            self._blocked.pop(identity, None)

    def _renew(self, now: float) -> None:
        """Cuts all connections, because subscriptions cannot be told apart: each client makes a new one."""
        for _ in range(LAST_BURSTS):
            if self.on_subscription(now):  # what those connections said before
                break
        self.log.warning("%s; all connections are cut, and clients connect again", self._must_renew)
        self.num_renewals += 1
        self._must_renew = ""
        endpoint = self.socket.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(endpoint, bytes)
        close_accepted(int(endpoint.rstrip(b"\0").rpartition(b":")[2]))
        self._renewed_at = now
        self._num_identities = self._bytes_of_identities = 0
        for reader in self.readers.values():
            if reader.subscribers or reader.doubtful:
                reader.cut, reader.absent_since = reader.subscribers + reader.doubtful, now
                reader.subscribers = reader.doubtful = reader.greeted = 0
        self._blocked.clear()

    def flush(self) -> None:
        """Sends what waited for subscribed readers, as far as their pipes take it."""
        for identity in list(self._blocked):
            reader = self.readers[identity]
            while reader.lost and self._send(identity, reader, [self._let_go, b"", reader.lost[0]]):
                reader.lost.popleft()
            while reader.letters and not reader.lost and self._send(identity, reader, reader.letters[0].frames):
                self._take_out(reader)
            if not reader.letters and not reader.lost:
                del self._blocked[identity]

    def _take_out(self, reader: _Reader) -> None:
        size = reader.letters.popleft().size
        reader.size -= size
        self.num_bytes -= size

    def _drop_oldest(self, reader: _Reader) -> None:
        """Lets the oldest result go; a reader who is there learns which request it was of."""
        frames = reader.letters[0].frames
        if reader.subscribers and len(frames) == 3:
            reader.lost.append(bytes(frames[-1]))
        self._take_out(reader)
        self.num_dropped += 1

    def _let_go_of(self, identity: bytes) -> None:
        """Drops all that waits for someone who is not connected."""
        reader = self.readers.pop(identity)
        self._strangers.pop(identity, None)
        self.num_bytes -= reader.size
        self.num_dropped += len(reader.letters)

    def sweep(self, now: float) -> None:
        """What is done once a second: lets go what waited too long, and who must subscribe again."""
        if self._must_renew and now - self._renewed_at >= CUT_SECONDS:
            self._renew(now)
        is_settled = now - self._renewed_at >= CUT_SECONDS
        for identity, reader in list(self.readers.items()):
            reader.cut = 0 if is_settled else reader.cut
            oldest = now - (self.ttl if reader.subscribers else self.absent_ttl)
            dropped = 0
            while reader.letters and max(reader.letters[0].since, reader.absent_since) < oldest:
                self._drop_oldest(reader)
                dropped += 1
            if dropped:
                why = "did not read" if reader.subscribers else "is gone"
                self.log.warning("client %r %s; %d of its results are let go", identity, why, dropped)
            self._set_blocked(identity, reader)
            if not reader.letters and not reader.subscribers and not reader.doubtful and not reader.cut:
                self._let_go_of(identity)

    def _make_room(self) -> None:
        """Lets go a sixteenth of what may wait, so that this is not done for every letter that follows.

        Those who have most waiting lose their oldest letters, up to half of what they have; then the next ones.
        """
        before, goal = self.num_dropped, self.max_bytes - self.max_bytes // 16
        readers = sorted(self.readers.items(), key=lambda item: item[1].size, reverse=True)
        while self.num_bytes > goal:
            for _, reader in readers:
                half = reader.size // 2
                while reader.size > half and self.num_bytes > goal:
                    self._drop_oldest(reader)
                if self.num_bytes <= goal:
                    break
        self.log.warning(
            "more than %d bytes of results wait (-result_memory); %d are let go, the oldest of those with most, first "
            "of client %r, who does not read",
            self.max_bytes,
            self.num_dropped - before,
            readers[0][0],
        )


def _size(frame: Any) -> int:
    return frame.nbytes if isinstance(frame, np.ndarray) else len(frame)


def _without_neighbours(frame: Any) -> Any:
    """A copy of an array that is a small part of a buffer, which it would keep alive as long as it waits."""
    if not isinstance(frame, np.ndarray) or frame.base is None:
        return frame
    base: Any = frame
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    return frame.copy() if 2 * frame.nbytes < memoryview(base).nbytes else frame
