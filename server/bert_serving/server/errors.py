"""Defines the errors of the server.

::

    ServingError
    ├── ConfigError (ValueError)          an option has an invalid value
    ├── StartError (RuntimeError)         a process of the server could not start
    │   └── PortInUse (OSError)           another program uses the port
    └── RequestError (ValueError)         a request gets an error instead of vectors
        ├── InvalidRequest                the message, or a value in it, is invalid
        ├── TooLarge                      a limit is exceeded
        │   └── TooManyTexts              several requests do not exceed it
        ├── VectorSpaceMismatch           the vectors are of another space than the request expects
        ├── EncodingFailed                the engine failed on a sequence
        ├── Overloaded                    the queue is full
        ├── RateLimited                   a limit of the sender's key is used up
        ├── Draining                      the server is stopping
        ├── Forbidden (PermissionError)   the sender has no permission
        └── InternalError                 an unexpected error

Errors of engines are in ``engines/base.py``, errors of models in ``model/errors.py``.
"""

from __future__ import annotations

from math import ceil
from typing import Any


class ServingError(Exception):
    """Base class of the server's errors."""


class ConfigError(ServingError, ValueError):
    """An option has an invalid value; the message names the option and the remedy."""


class StartError(ServingError, RuntimeError):
    """A process of the server could not start."""


class PortInUse(StartError, OSError):
    """Another program uses a port of the server."""


class RequestError(ServingError, ValueError):
    """A request gets an error instead of vectors. ``kind`` is the ``error.type`` of the reply."""

    kind = "internal"

    @property
    def details(self) -> dict[str, Any]:
        """Further values of ``error`` in the reply."""
        return {}


class InvalidRequest(RequestError):
    """The message, or a value in it, is invalid."""

    kind = "invalid_request"


class TooLarge(RequestError):
    """The request exceeds a limit of the server; the message names the limit."""

    kind = "too_large"


class TooManyTexts(TooLarge):
    """The texts exceed a limit together: the server accepts them in several requests."""

    @property
    def details(self) -> dict[str, Any]:
        return {"divisible": True}


class VectorSpaceMismatch(RequestError):
    """The vectors are of another space than the request expects."""

    kind = "vector_space_mismatch"


class EncodingFailed(RequestError):
    """The engine failed on a sequence of the request."""

    kind = "encoding_failed"


class Overloaded(RequestError):
    """Waiting requests take all the memory that they may take."""

    kind = "overloaded"


class RateLimited(RequestError):
    """A limit of the sender's key is used up.

    Attributes:
        retry_after: seconds until the request may be sent again.
    """

    kind = "rate_limited"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def details(self) -> dict[str, Any]:
        return {"retry_after": ceil(self.retry_after)}


class Draining(RequestError):
    """The server is stopping and accepts no new requests."""

    kind = "draining"


class Forbidden(RequestError, PermissionError):
    """The sender has no permission for the command."""

    kind = "forbidden"


class InternalError(RequestError):
    """An unexpected error occurred in the server."""

    kind = "internal"
