"""What HTTP answers when it cannot answer with vectors: a status, words, and when to come back.

===  ==================================================================================
400  the body or a value in it is wrong
401  no token, or a wrong one
403  the service does not let its own HTTP door in
404  there is no such thing here
413  more than a limit allows
415  the body comes in a form that is not read here
422  the engine could not encode one of the texts
499  whoever asked has hung up; nobody sees this answer, but it is counted
502  the service gave an answer that cannot be read
503  too much to do, stopping, or the service is away: ``Retry-After`` says when to come back
504  the service is there, and did not answer in time
500  a fault of the service; never the answer to what a user sent
===  ==================================================================================
"""

from __future__ import annotations

from typing import NamedTuple

from bert_serving.client import errors as client_errors

from ..errors import ServingError


class HttpError(ServingError):
    """A request that is not answered with what it asked for.

    Attributes:
        status: HTTP status code.
        retry_after: seconds after which it is worth trying again, or None.
        param: the field of the body that is to blame, or None.
    """

    status = 500
    retry_after: int | None = None

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class BadRequest(HttpError, ValueError):
    """The body, or a value in it, is wrong."""

    status = 400


class MissingField(BadRequest, KeyError):
    """A field that is needed is not there."""

    __str__ = Exception.__str__  # KeyError would put quotes around the message


class Unauthorized(HttpError, PermissionError):
    """The bearer token is missing or wrong."""

    status = 401


class NotFound(HttpError, LookupError):
    """There is no such thing here."""

    status = 404


class BodyTooLarge(HttpError, ValueError):
    """A limit is exceeded; the message names it."""

    status = 413


class UnsupportedBody(HttpError, ValueError):
    """The body comes in a form that is not read here."""

    status = 415


class Overloaded(HttpError, RuntimeError):
    """All places are taken, and nobody left in time."""

    status, retry_after = 503, 1


class Stopping(HttpError, ConnectionError):
    """The server is stopping."""

    status, retry_after = 503, 5


class Gone(HttpError, ConnectionError):
    """Whoever asked has hung up: nobody will read this answer."""

    status = 499


class Answer(NamedTuple):
    """An error as HTTP tells it."""

    status: int
    kind: str
    message: str
    retry_after: int | None = None
    param: str | None = None


#: The client's errors, the special before the general: status, seconds to wait, and words of our own where the
#: client's speak of sockets that are none of the HTTP user's business.
_CLIENT_ERRORS: list[tuple[type[Exception], int, int | None, str]] = [
    (client_errors.InvalidInputError, 400, None, ""),
    (client_errors.InvalidRequestError, 400, None, ""),
    (client_errors.TooLargeError, 413, None, ""),
    (client_errors.EncodingFailedError, 422, None, ""),
    (client_errors.ForbiddenError, 403, None, ""),
    (client_errors.OverloadedError, 503, 1, ""),
    (client_errors.DrainingError, 503, 5, ""),
    (client_errors.ServerUnreachableError, 503, 2, "the service behind this address is not reachable now"),
    (client_errors.ClientStateError, 503, 5, "the server is stopping"),
    (client_errors.RequestTimeoutError, 504, None, "the service did not answer in time (-http_timeout)"),
    (client_errors.ReplyError, 502, None, "the service gave an answer that cannot be read"),
]


def answer_to(error: Exception) -> Answer:
    """How an exception is told to whoever asked. One that nobody foresaw is a 500 without details."""
    kind = type(error).__name__
    if isinstance(error, HttpError):
        return Answer(error.status, kind, str(error), error.retry_after, error.param)
    for wanted, status, retry_after, words in _CLIENT_ERRORS:
        if isinstance(error, wanted):
            message = error.message if isinstance(error, client_errors.ServerError) else str(error)
            return Answer(status, kind, words or message, retry_after)
    return Answer(500, "InternalServerError", "the server failed in a way it did not foresee; its log says more")


def body_of(answer: Answer, path: str) -> dict[str, object]:
    """An error as JSON: in OpenAI's shape below ``/v1``, else in that of 1.10.0."""
    if not path.startswith("/v1/"):
        return {"description": answer.message, "status": answer.status, "type": answer.kind}
    codes = {401: "invalid_api_key", 404: "not_found", 413: "too_large"}
    return {
        "error": {
            "message": answer.message,
            "type": "server_error" if answer.status >= 500 else "invalid_request_error",
            "param": answer.param,
            "code": codes.get(answer.status),
        }
    }
