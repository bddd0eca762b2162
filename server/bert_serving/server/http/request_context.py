"""Taking a request in: a place at the gate, the body, and what form the answer shall have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flask import Response, request

from .encoding_service import Encoded, EncodingService
from .errors import Gone, UnsupportedBody

#: A body up to so many bytes makes a request a small one.
SMALL_BODY = 1024
JSON, BYTES = "application/json", "application/octet-stream"


@contextmanager
def admitted(door: EncodingService) -> Iterator[None]:
    """Waits for a place and holds it while the block runs.

    Raises:
        Overloaded, Stopping: see :meth:`ConcurrencyLimiter.place`.
        Gone: the client has hung up meanwhile, so the work is spared.
    """
    length = request.content_length
    with door.gate.place(is_small=length is not None and length <= SMALL_BODY):
        has_hung_up = request.environ.get("waitress.client_disconnected")
        if has_hung_up is not None and has_hung_up():
            raise Gone("the client has hung up")
        yield


def body() -> bytes:
    """The bytes of the body, whatever its content type says: ``curl -d`` calls JSON a form.

    Raises:
        UnsupportedBody: it is compressed.
    """
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise UnsupportedBody(f"a body with Content-Encoding {coding!r} is not read here; send it plain")
    return request.get_data(cache=False)


def wants_bytes() -> bool:
    """Whether ``Accept`` prefers raw bytes to JSON."""
    accept = request.headers.get("Accept", "")
    if accept in ("", "*/*", JSON, BYTES):  # what most send; the others take a while to read
        return accept == BYTES
    return request.accept_mimetypes.best_match([JSON, BYTES], JSON) == BYTES


def with_timing(response: Response, encoded: Encoded) -> Response:
    """The response with the header ``Server-Timing``, whose durations are milliseconds.

    https://www.w3.org/TR/server-timing/
    """
    if encoded.timing is not None:
        stages = (f"{stage};dur={seconds * 1000:.3f}" for stage, seconds in encoded.timing.items())
        response.headers["Server-Timing"] = ", ".join(stages)
    return response
