"""The ASGI application: reads and admits requests in the event loop, and calls the WSGI application.

A request is checked in this order: path, method, token, declared length, body, memory, slot. A small request waits for
its vectors in the event loop, without a thread; a large one takes a thread when it is complete and admitted. The WSGI
application makes all responses, those of refused requests too, so that all have the same form. `direct_response` makes
the responses of small encoded requests.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flask import Flask
from werkzeug.datastructures import EnvironHeaders

from . import wsgi
from .batch_jobs import upload
from .batch_jobs.upload import Uploads
from .connections import STATE_KEY, Connection, Connections
from .direct_response import DirectResponses
from .encoding_call import ENCODED_KEY, SHARE_KEY, read_call
from .encoding_service import EncodingService
from .errors import BodyTooLarge, ClientDisconnected, HttpError, Unauthorized
from .http_access import HttpAccess, RequestShare
from .memory_limit import SMALL_BODY, Charge, MemoryLimiter
from .paths import canonical_path
from .route_table import ENCODING_ROUTES
from .routes.batch_jobs import UPLOADED_KEY
from .share_slots import NamedSlot
from .unit_limiter import UnitLimiter

#: Paths that answer without the service, whatever the load.
LIVENESS_PATHS = frozenset(("/healthz",))
#: Maximum body size (bytes) of a request that takes a slot of small ones.
SMALL_REQUEST = 1024
#: Maximum size (bytes) of vectors whose response is made in the event loop.
SMALL_RESULT = 8192
#: Maximum size (bytes) of a refused body that is read and discarded. A client that is still sending when the connection
#: closes gets a connection error instead of the response.
MAX_DISCARD = 2**30
#: Minimum rate (bytes/s) at which a client reads its response, after the first ``-http_read_timeout`` seconds.
MIN_READ_RATE = 2**20
#: Threads of other requests: liveness, refused requests, and status, metrics and pages.
_LIVENESS_THREADS, _REFUSAL_THREADS, _OTHER_THREADS = 1, 1, 4
#: Threads beside those of large requests: for responses that are streamed, and for the work of small requests.
_RESPONSE_THREADS = 4

_log = logging.getLogger("uvicorn.error")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class _Disconnected(Exception):
    """The connection closed before the request was complete."""


class Gateway:
    """ASGI application in front of a WSGI application.

    Args:
        app: the WSGI application. POST requests to its routes take a slot.
        direct: makes the responses of small requests.
        service: encodes the texts of small requests.
        max_body: maximum body size (bytes).
        access: checks the token or the key of these requests.
        uploads: receives files for batch jobs; None if the server runs none.

    Attributes:
        num_active: number of complete requests whose responses are not completely sent.
    """

    def __init__(
        self,
        app: Flask,
        direct: DirectResponses,
        service: EncodingService,
        connections: Connections,
        memory: MemoryLimiter,
        max_body: int,
        access: HttpAccess,
        uploads: Uploads | None = None,
    ) -> None:
        self.app, self.service, self.connections, self.memory = app, service, connections, memory
        self._direct, self._uploads = direct, uploads
        self.limiter = service.limiter
        self.max_body, self.access = max_body, access
        self.num_active = 0
        self._post_paths = {rule.rule for rule in app.url_map.iter_rules() if "POST" in (rule.methods or ())}
        self._workers = ThreadPoolExecutor(self.limiter.limit + _RESPONSE_THREADS, "request")
        self._liveness = ThreadPoolExecutor(_LIVENESS_THREADS, "liveness")
        self._refusals = ThreadPoolExecutor(_REFUSAL_THREADS, "refusal")
        self._others = ThreadPoolExecutor(_OTHER_THREADS, "other")

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        connection: Connection = scope["state"][STATE_KEY]
        connection.begin_request()
        started = time.perf_counter()
        scope["path"] = canonical_path(scope["path"])
        charge = Charge(self.memory, _length(scope))
        try:
            if self._uploads is not None and scope["method"] == "POST" and scope["path"] == upload.PATH:
                await self._upload(self._uploads, scope, receive, send, connection, started)
            elif scope["method"] == "POST" and scope["path"] in self._post_paths:
                await self._encode(scope, receive, send, connection, charge, started)
            else:
                must_close = await self._discard(scope, receive, connection)
                executor = self._liveness if scope["path"] in LIVENESS_PATHS else self._others
                self.num_active += 1
                try:
                    response = await self._call(executor, wsgi.environ_of(scope, b"", started))
                    await self._respond(send, connection, response, must_close)
                finally:
                    self.num_active -= 1
        except _Disconnected:
            pass
        except Exception:
            _log.exception("unexpected error in HTTP request %s %a", scope["method"], scope["path"])
            connection.reject(500, "unexpected error in the server; see its log")
        finally:
            charge.release()
            connection.end_request()

    async def _encode(
        self,
        scope: dict[str, Any],
        receive: Receive,
        send: Send,
        connection: Connection,
        charge: Charge,
        started: float,
    ) -> None:
        """Reads the body of a request that takes a slot, and sends its response."""
        body: bytes | None = None
        refusal: HttpError | None = None
        must_close = False
        try:
            if self._is_authorized(scope):
                if self.access.has_keys and (found := self.access.share_of(_authorization(scope))) is not None:
                    charge.name = found.name
                body = await self._read_body(scope, receive, connection, charge)
        except HttpError as error:
            refusal = error
        if body is None:
            charge.release()
            must_close = await self._discard(scope, receive, connection)
        self.num_active += 1
        slots: UnitLimiter | NamedSlot | None = None
        share = self.access.share_of(_authorization(scope)) if self.access.has_keys else None
        try:
            try:
                if body is not None:
                    if share is None and self.access.has_keys:  # the key was removed while the body arrived
                        raise Unauthorized("the bearer token is not valid any more: send another one")
                    slots = await self._admit(body, scope["path"], charge, share)
                    if connection.is_lost:
                        raise ClientDisconnected("the client closed the connection")
            except HttpError as error:
                refusal = error
            if body is None or refusal is not None:
                body = b""
            environ = wsgi.environ_of(scope, body, started)
            environ[wsgi.REFUSAL_KEY], environ[SHARE_KEY] = refusal, share
            if refusal is None and len(body) <= SMALL_REQUEST and scope["path"] in ENCODING_ROUTES:
                response = await self._encode_small(environ, scope["path"], body)
            else:
                del body
                response = await self._call(self._refusals if slots is None else self._workers, environ)
            del environ
            self.limiter.release(slots)
            slots = None
            await self._respond(send, connection, response, must_close)
        finally:
            self.limiter.release(slots)
            self.num_active -= 1

    async def _upload(
        self,
        uploads: Uploads,
        scope: dict[str, Any],
        receive: Receive,
        send: Send,
        connection: Connection,
        started: float,
    ) -> None:
        """Receives a file, and sends the response."""
        is_complete, must_close, ahead = False, False, 0

        async def read() -> tuple[bytes, bool]:
            nonlocal is_complete, ahead
            if ahead <= 0:
                connection.set_deadline(self.connections.read_timeout, is_reading=True)
                ahead = upload.MIN_PROGRESS
            message = await _receive(receive)
            is_complete = not message["more_body"]
            ahead -= len(message["body"])
            return message["body"], message["more_body"]

        environ = wsgi.environ_of(scope, b"", started)
        try:
            if self._is_authorized(scope):
                self.limiter.raise_if_refused(is_small=True)
                owner = self.access.name_of(_authorization(scope))
                environ[UPLOADED_KEY] = await uploads.receive(environ.get("CONTENT_TYPE", ""), read, owner)
        except HttpError as error:
            environ[wsgi.REFUSAL_KEY] = error
        if not is_complete:
            must_close = await self._discard(scope, receive, connection)
        connection.set_deadline(None)
        self.num_active += 1
        try:
            await self._respond(send, connection, await self._call(self._others, environ), must_close)
        finally:
            self.num_active -= 1

    async def _encode_small(self, environ: dict[str, Any], path: str, body: bytes) -> wsgi.WsgiResponse:
        """Encodes the texts of a small request without a thread, and makes the response."""
        try:
            headers, share = EnvironHeaders(environ), environ.get(SHARE_KEY)
            service, call = read_call(self.service, path, ENCODING_ROUTES[path], body, headers, share)
            result = await call.encode_async(service)
            if result.nbytes <= SMALL_RESULT:
                return self._direct.make(environ, path, call, result)
        except Exception as error:  # the application answers with it
            environ[wsgi.REFUSAL_KEY] = error
            return wsgi.call(self.app, environ)
        environ[ENCODED_KEY] = call, result
        return await self._call(self._workers, environ)

    async def _admit(
        self, body: bytes, path: str, charge: Charge, share: RequestShare | None
    ) -> UnitLimiter | NamedSlot:
        """Waits for memory and a slot. Returns what releases the slot.

        Raises:
            Overloaded, Stopping: the request is refused.
        """
        is_small = len(body) <= SMALL_REQUEST
        self.limiter.raise_if_refused(is_small, share)
        started = time.monotonic()
        await charge.reserve(await self._needed(body, path), self.limiter.queue_timeout)
        return await self.limiter.acquire(is_small, share, time.monotonic() - started)

    def _is_authorized(self, scope: dict[str, Any]) -> bool:
        return self.access.is_open or self.access.allows(_authorization(scope))

    async def _read_body(
        self, scope: dict[str, Any], receive: Receive, connection: Connection, charge: Charge
    ) -> bytes:
        """Reads the body.

        Raises:
            BodyTooLarge: the body is larger than ``-http_max_body``.
            Overloaded: requests in progress hold too much memory.
        """
        if charge.length is not None and charge.length > self.max_body:
            raise self._too_large()
        connection.set_deadline(self.connections.read_timeout, is_reading=True)
        pieces, size = [], 0
        while True:
            message = await _receive(receive)
            piece: bytes = message["body"]
            size += len(piece)
            if size > self.max_body:
                raise self._too_large()
            charge.add(len(piece))
            pieces.append(piece)
            if not message["more_body"]:
                connection.set_deadline(None)
                connection.watch()
                return b"".join(pieces)

    async def _discard(self, scope: dict[str, Any], receive: Receive, connection: Connection) -> bool:
        """Reads and discards the rest of a body. Returns whether a rest remains, so that the connection must close."""
        length = _length(scope)
        if length == 0 and not _header(scope, b"transfer-encoding"):
            return False
        if _header(scope, b"expect") or (length or 0) > MAX_DISCARD:
            return True
        connection.set_deadline(self.connections.read_timeout, is_reading=True)
        size, is_complete = 0, False
        while not is_complete and size <= MAX_DISCARD:
            message = await _receive(receive)
            is_complete = not message["more_body"]
            size += len(message["body"])
        connection.set_deadline(None)
        return not is_complete

    async def _needed(self, body: bytes, path: str) -> int:
        if len(body) <= SMALL_BODY:
            return self.memory.needed(body, path)
        return await asyncio.get_running_loop().run_in_executor(self._others, self.memory.needed, body, path)

    async def _call(self, executor: ThreadPoolExecutor, environ: dict[str, Any]) -> wsgi.WsgiResponse:
        return await asyncio.get_running_loop().run_in_executor(executor, wsgi.call, self.app, environ)

    async def _respond(self, send: Send, connection: Connection, response: wsgi.WsgiResponse, must_close: bool) -> None:
        """Sends a response. The next piece is written when the operating system has taken the one before."""
        timeout, started, sent = self.connections.read_timeout, time.monotonic(), 0

        async def send_piece(piece: Any, is_last: bool) -> None:
            nonlocal sent
            late = started + sent / MIN_READ_RATE - time.monotonic()
            connection.set_deadline(timeout + min(0.0, late))
            await send({"type": "http.response.body", "body": piece, "more_body": not is_last})
            connection.flush()
            await connection.drain()
            sent += len(piece)

        headers = response.headers
        if must_close:
            headers = [*headers, (b"connection", b"close")]
        connection.hold()
        try:
            await send({"type": "http.response.start", "status": response.status, "headers": headers})
            if response.body is not None:
                view = memoryview(response.body)
                for start in range(0, len(view) or 1, wsgi.PIECE_BYTES):
                    end = start + wsgi.PIECE_BYTES
                    await send_piece(view[start:end], end >= len(view))
            else:
                assert response.pieces is not None
                await self._stream(send_piece, connection, response.pieces)
        except Exception:
            connection.abort()  # a part of the response is sent
            raise
        finally:
            connection.flush()
            connection.set_deadline(None)

    async def _stream(
        self, send_piece: Callable[[Any, bool], Awaitable[None]], connection: Connection, pieces: wsgi.PieceReader
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            while not connection.is_lost:
                piece = await loop.run_in_executor(self._workers, pieces.read)
                await send_piece(piece, not piece)
                if not piece:
                    break
        finally:
            pieces.close()

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body is larger than {self.max_body} bytes (-http_max_body)")


async def _receive(receive: Receive) -> Message:
    message = await receive()
    if message["type"] != "http.request":
        raise _Disconnected
    return message


def _authorization(scope: dict[str, Any]) -> str:
    return (_header(scope, b"authorization") or b"").decode("latin-1")


def _header(scope: dict[str, Any], name: bytes) -> bytes | None:
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


def _length(scope: dict[str, Any]) -> int | None:
    """Returns the declared length of the body; None if the body is chunked."""
    value = _header(scope, b"content-length")
    if value is None:
        return None if _header(scope, b"transfer-encoding") else 0
    return int(value)
