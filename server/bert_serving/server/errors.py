"""Everything that can go wrong on the server, as a tree.

::

    ServingError
    ├── ConfigError (ValueError)          an option has a value that cannot work
    ├── StartError (RuntimeError)         a part of the server could not start
    │   └── PortInUse (OSError)           another program listens there
    └── RequestError (ValueError)         a request cannot be answered with vectors
        ├── InvalidRequest                the message or a value in it is not valid
        ├── TooLarge                      a limit is exceeded
        ├── EncodingFailed                the engine refused this sequence
        ├── Draining                      the server is stopping
        ├── Forbidden (PermissionError)   the sender may not do this
        └── InternalError                 unforeseen

The engines' own errors are in ``engines/base.py``, a model's in ``model/``.
"""

from __future__ import annotations


class ServingError(Exception):
    """Root of the server's errors."""


class ConfigError(ServingError, ValueError):
    """An option has a value that cannot work; the message names it and the remedy."""


class StartError(ServingError, RuntimeError):
    """A part of the server could not start."""


class PortInUse(StartError, OSError):
    """Another program listens on a port that the server needs."""


class RequestError(ServingError, ValueError):
    """A request cannot be answered with vectors. ``kind`` is the ``error.type`` of the reply."""

    kind = "internal"


class InvalidRequest(RequestError):
    """The message, or a value in it, is not valid."""

    kind = "invalid_request"


class TooLarge(RequestError):
    """A limit of the server is exceeded; the message names it."""

    kind = "too_large"


class EncodingFailed(RequestError):
    """The engine could not encode a sequence of the request."""

    kind = "encoding_failed"


class Draining(RequestError):
    """The server is stopping and takes no new work."""

    kind = "draining"


class Forbidden(RequestError, PermissionError):
    """The sender may not do this."""

    kind = "forbidden"


class InternalError(RequestError):
    """The server failed in a way that it did not foresee."""

    kind = "internal"
