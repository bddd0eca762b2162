"""Validation of the arguments of a client. Pure."""

from __future__ import annotations

import operator
import uuid
from typing import Any

from . import protocol
from .errors import InputValueError, OptionError


def whole_number(name: str, value: Any, least: int) -> int:
    """Returns an argument that must be a whole number.

    Raises:
        OptionError: it is not, or is less than ``least``.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise OptionError(f"{name} must be a whole number, but is {type(value).__name__} ({value!r})") from None
    if number < least:
        raise OptionError(f"{name} must be at least {least}, but is {number}")
    return number


def validate_identity(identity: str | bytes | None) -> bytes:
    """Returns the identity as bytes; a random one if none is given.

    Raises:
        OptionError: the identity is neither ``str`` nor ``bytes``.
        InputValueError: the identity is too long.
    """
    if identity is None:
        return _random_identity()
    if not isinstance(identity, (str, bytes, bytearray)):
        raise OptionError(
            f"identity must be str or bytes, but is {type(identity).__name__} ({identity!r}); "
            f"pass str(identity), or omit it for a random one"
        )
    raw = identity.encode("utf-8") if isinstance(identity, str) else bytes(identity)
    if not raw:
        return _random_identity()
    if len(raw) > protocol.MAX_IDENTITY_BYTES:
        raise InputValueError(f"identity must have at most {protocol.MAX_IDENTITY_BYTES} bytes, but has {len(raw)}")
    return raw


def _random_identity() -> bytes:
    return str(uuid.uuid4()).encode("ascii")


def port_number(name: str, value: Any) -> int:
    """Returns a port as a number.

    Raises:
        OptionError: it is not a number.
    """
    try:
        return int(value)
    except (TypeError, ValueError):
        raise OptionError(f"{name} must be a port number, but is {type(value).__name__} ({value!r})") from None
