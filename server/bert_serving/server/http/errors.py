"""Maps exceptions to HTTP error responses. ``error_format`` writes them, with other statuses on some routes.

===  ================================================================================
400  the body, or a value in it, is invalid
401  the token is missing or wrong
403  the service rejects the key of its own HTTP server
404  the path or the model does not exist
409  the vectors are of another space than the request expects
413  the request exceeds a limit
415  the body has an unsupported content encoding
422  the engine cannot encode one of the texts
424  the model of this server is of another kind than the route needs
429  a limit of the key is used up; ``Retry-After`` gives the delay (s)
499  the client disconnected; the response is not sent, but counted in the metrics
500  unexpected error in the server; never caused by the content of a request
502  the reply of the service cannot be decoded
503  overloaded, stopping, or service unreachable; ``Retry-After`` gives the delay (s)
504  the service is reachable but does not reply in time
507  the disk of the batch jobs is full, or fails
===  ================================================================================
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from bert_serving.client import errors as client_errors

from ..errors import ServingError


class HttpError(ServingError):
    """Base class of errors with an HTTP status.

    Attributes:
        status: HTTP status code.
        retry_after: delay (s) before a retry, or None.
        param: field of the body that caused the error, or None.
    """

    status = 500
    retry_after: int | None = None

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class BadRequest(HttpError, ValueError):
    """The body, or a value in it, is invalid."""

    status = 400


class MissingField(BadRequest, KeyError):
    """A required field is missing."""

    __str__ = Exception.__str__  # KeyError adds quotes around the message


class EmptyInput(BadRequest):
    """The list of texts is empty."""


class InvalidTokenId(BadRequest):
    """The vocabulary of the model has no such token id."""


class Unauthorized(HttpError, PermissionError):
    """The bearer token is missing or wrong."""

    status = 401


class NotFound(HttpError, LookupError):
    """The path or the model does not exist."""

    status = 404


class BodyTooLarge(HttpError, ValueError):
    """The request exceeds a limit, which the message names."""

    status = 413


class UnsupportedBody(HttpError, ValueError):
    """The body has an unsupported content encoding."""

    status = 415


class WrongTask(HttpError, TypeError):
    """The model of this server is of another kind than the route needs."""

    status = 424


class Overloaded(HttpError, RuntimeError):
    """No slot became free, or the queue is full."""

    status, retry_after = 503, 1


class Stopping(HttpError, ConnectionError):
    """The server is stopping."""

    status, retry_after = 503, 5


class StorageError(HttpError, OSError):
    """The disk of the batch jobs is full, or fails."""

    status = 507


class ClientDisconnected(HttpError, ConnectionError):
    """The client closed the connection, so the response is not sent."""

    status = 499


class ErrorResponse(NamedTuple):
    """Content of an error response; ``type`` is the name of the exception class."""

    status: int
    type: str
    message: str
    retry_after: int | None = None
    param: str | None = None


#: Exceptions of the client, subclasses first: status, Retry-After (s), and a message that replaces the client's where
#: that one describes ZeroMQ sockets.
_CLIENT_ERRORS: list[tuple[type[Exception], int, int | None, str]] = [
    (client_errors.InvalidInputError, 400, None, ""),
    (client_errors.InvalidRequestError, 400, None, ""),
    (client_errors.TooLargeError, 413, None, ""),
    (client_errors.VectorSpaceError, 409, None, ""),
    (client_errors.EncodingFailedError, 422, None, ""),
    (client_errors.ForbiddenError, 403, None, ""),
    (client_errors.OverloadedError, 503, 1, ""),
    (client_errors.RateLimitedError, 429, 1, ""),
    (client_errors.DrainingError, 503, 5, ""),
    (client_errors.ServerUnreachableError, 503, 2, "the service behind this HTTP server is unreachable"),
    (client_errors.ClientStateError, 503, 5, "the server is stopping"),
    (client_errors.RequestTimeoutError, 504, None, "the service did not reply in time (-http_timeout)"),
    (client_errors.ReplyError, 502, None, "the reply of the service cannot be decoded"),
]


def to_error_response(error: Exception) -> ErrorResponse:
    """Converts an exception. Unexpected exceptions become a 500 without details."""
    name = type(error).__name__
    if isinstance(error, HttpError):
        return ErrorResponse(error.status, name, str(error), error.retry_after, error.param)
    for error_type, status, retry_after, replacement in _CLIENT_ERRORS:
        if isinstance(error, error_type):
            message = error.message if isinstance(error, client_errors.ServerError) else str(error)
            if isinstance(error, client_errors.RateLimitedError):
                retry_after = max(1, ceil(error.retry_after or 1))
            return ErrorResponse(status, name, replacement or message, retry_after)
    return ErrorResponse(500, "InternalServerError", "unexpected error in the server; see its log")
