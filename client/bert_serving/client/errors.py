"""The exceptions of the client, as one tree.

Each class is also a subclass of the nearest builtin. Code that catches ``TimeoutError``, ``ValueError``, ``TypeError``
or ``AttributeError`` from the client of bert-as-service 1.10 keeps working::

    BertServingError (Exception)
    ├── InvalidInputError
    │   ├── InputTypeError (TypeError)              not a list of texts
    │   ├── InputValueError (ValueError)            empty list, blank text, ...
    │   └── OptionError (ValueError, AttributeError)  an argument of the client is not valid
    ├── ClientStateError (RuntimeError)
    │   ├── ClientClosedError                       used after close()
    │   └── ClientForkedError                       used in a forked child process
    ├── ServerUnreachableError (ConnectionError, TimeoutError)  no server is connected
    ├── RequestTimeoutError (TimeoutError)          no reply within ``timeout``
    ├── VersionMismatchError (AttributeError)       the server speaks another protocol
    ├── TaskError (RuntimeError)                    the server's ``-task`` is not that of the method
    ├── ReplyError (ValueError)                     a reply that cannot be read
    └── ServerError                                 the server refused the request or failed
        ├── InvalidRequestError (ValueError)
        ├── TooLargeError (ValueError)
        ├── VectorSpaceError (ValueError)           the vectors are of another space than expected
        ├── EncodingFailedError (RuntimeError)
        ├── OverloadedError (RuntimeError)          try again after a while
        ├── RateLimitedError (RuntimeError)         a limit of the key is used up; try again after ``retry_after``
        ├── DrainingError (ConnectionError)         the server is stopping
        ├── ForbiddenError (PermissionError)
        └── InternalServerError (RuntimeError)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

__all__ = [
    "BertServingError",
    "ClientClosedError",
    "ClientForkedError",
    "ClientStateError",
    "DrainingError",
    "EncodingFailedError",
    "ForbiddenError",
    "InputTypeError",
    "InputValueError",
    "InternalServerError",
    "InvalidInputError",
    "InvalidRequestError",
    "OptionError",
    "OverloadedError",
    "RateLimitedError",
    "ReplyError",
    "RequestTimeoutError",
    "ServerError",
    "ServerUnreachableError",
    "TaskError",
    "TooLargeError",
    "VectorSpaceError",
    "VersionMismatchError",
]


class BertServingError(Exception):
    """Base class of all exceptions of this package."""


class InvalidInputError(BertServingError):
    """An argument is not valid. Nothing was sent."""


class InputTypeError(InvalidInputError, TypeError):
    """The texts are not an iterable of ``str`` (or of token lists)."""


class InputValueError(InvalidInputError, ValueError):
    """The texts have the right type, but a value that cannot be encoded, for example a blank text."""


class OptionError(InvalidInputError, ValueError, AttributeError):
    """An argument of the client has a value that is not valid."""


class ClientStateError(BertServingError, RuntimeError):
    """The client cannot be used."""


class ClientClosedError(ClientStateError):
    """The client was closed before or during the call."""


class ClientForkedError(ClientStateError):
    """The client was made in another process; sockets and threads do not survive a fork."""


class ServerUnreachableError(BertServingError, ConnectionError, TimeoutError):
    """No server was connected for longer than ``connect_timeout``. The message describes each port."""


class RequestTimeoutError(BertServingError, TimeoutError):
    """No reply arrived within ``timeout``. A later reply is dropped."""


class VersionMismatchError(BertServingError, AttributeError):
    """The server speaks a protocol that this client does not know."""


class TaskError(BertServingError, RuntimeError):
    """The server has another ``-task`` than a method needs: ``classify()`` or ``rerank()``. Nothing was sent."""


class ReplyError(BertServingError, ValueError):
    """The frames of a reply are inconsistent."""


class ServerError(BertServingError):
    """The server replied with an error.

    Attributes:
        type: one of the keys of :data:`bert_serving.client.protocol.ERROR_TYPES`.
        message: the message of the server.
        request_id: the number of the request in this client, as in ``Response.id``.
    """

    remedy: ClassVar[str] = ""

    def __init__(self, type: str, message: str, request_id: int) -> None:
        self.type = type
        self.message = message
        self.request_id = request_id
        self._details: tuple[object, ...] = ()  # further arguments of the constructor
        text = f"request {request_id}: the server replied with {type!r}: {message}"
        super().__init__(f"{text}\n{self.remedy}" if self.remedy else text)

    def __reduce__(self) -> tuple[object, ...]:
        return self.__class__, (self.type, self.message, self.request_id, *self._details)

    def renumbered(self, request_id: int) -> ServerError:
        """Returns the error with another number."""
        return self.__class__(self.type, self.message, request_id, *self._details)

    def with_message(self, message: str) -> ServerError:
        """Returns the error with another message."""
        return self.__class__(self.type, message, self.request_id, *self._details)


class InvalidRequestError(ServerError, ValueError):
    """The message or a value in it is not valid. The same request always fails."""


class TooLargeError(ServerError, ValueError):
    """A limit of the server is exceeded; the message names the limit.

    Attributes:
        is_divisible: whether the server accepts the texts in several requests.
    """

    remedy = "send fewer or shorter texts at a time (encode(batch_size=...)), or raise the limit on the server"

    def __init__(self, type: str, message: str, request_id: int, is_divisible: bool = False) -> None:
        super().__init__(type, message, request_id)
        self.is_divisible = is_divisible
        self._details = (is_divisible,)


class VectorSpaceError(ServerError, ValueError):
    """The vectors are of another space than the request expects, or than the first vectors of the same call."""


class EncodingFailedError(ServerError, RuntimeError):
    """The engine could not encode one of the texts; other requests were not affected."""


class OverloadedError(ServerError, RuntimeError):
    """The server dropped the result because too many results were unread."""

    remedy = "the request is valid: send it again, and read results faster"


class RateLimitedError(ServerError, RuntimeError):
    """A limit of the client's key is used up. The message names the limit.

    Attributes:
        retry_after: seconds after which the request may be sent again; ``None`` if the server did not say.
    """

    remedy = "send it again after the attribute retry_after, in seconds"

    def __init__(self, type: str, message: str, request_id: int, retry_after: float | None = None) -> None:
        super().__init__(type, message, request_id)
        self.retry_after = retry_after
        self._details = (retry_after,)


class DrainingError(ServerError, ConnectionError):
    """The server is stopping and accepts no new requests."""

    remedy = "try again when the server is back, or use another server"


class ForbiddenError(ServerError, PermissionError):
    """The client has no permission for this request."""


class InternalServerError(ServerError, RuntimeError):
    """The server failed unexpectedly. Its log has the details."""


_BY_TYPE: dict[str, type[ServerError]] = {
    "invalid_request": InvalidRequestError,
    "vector_space_mismatch": VectorSpaceError,
    "encoding_failed": EncodingFailedError,
    "overloaded": OverloadedError,
    "draining": DrainingError,
    "forbidden": ForbiddenError,
    "internal": InternalServerError,
}


def server_error(type: str, message: str, request_id: int, details: Mapping[str, Any] | None = None) -> ServerError:
    """Returns the exception for an ``error`` object of a reply; a plain `ServerError` for an unknown type.

    Args:
        details: further values of the object.
    """
    details = details or {}
    if type == "rate_limited":
        delay = details.get("retry_after")
        return RateLimitedError(type, message, request_id, float(delay) if isinstance(delay, (int, float)) else None)
    if type == "too_large":
        # The end of the message tells it in earlier servers.
        is_divisible = bool(details.get("divisible", message.endswith("several requests")))
        return TooLargeError(type, message, request_id, is_divisible)
    return _BY_TYPE.get(type, ServerError)(type, message, request_id)
