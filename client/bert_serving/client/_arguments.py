"""Validation of the arguments of a client. Pure."""

from __future__ import annotations

import ipaddress
import operator
import re
import uuid
from typing import Any

from . import protocol
from ._validation import truncate_repr
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
        InputValueError: the identity is too long, or has half of a surrogate pair.
    """
    if identity is None:
        return _random_identity()
    if not isinstance(identity, (str, bytes, bytearray)):
        raise OptionError(
            f"identity must be str or bytes, but is {type(identity).__name__} ({identity!r}); "
            f"pass str(identity), or omit it for a random one"
        )
    try:
        raw = identity.encode("utf-8") if isinstance(identity, str) else bytes(identity)
    except UnicodeEncodeError as error:
        raise InputValueError(
            f"identity must have characters of UTF-8 only, but is {identity!r} ({error.reason}); pass bytes"
        ) from None
    if not raw:
        return _random_identity()
    if len(raw) > protocol.MAX_IDENTITY_BYTES:
        raise InputValueError(f"identity must have at most {protocol.MAX_IDENTITY_BYTES} bytes, but has {len(raw)}")
    return raw


def _random_identity() -> bytes:
    return str(uuid.uuid4()).encode("ascii")


def host_name(ip: Any) -> str:
    """Returns a host name or an address, without spaces around it.

    Raises:
        OptionError: it is neither.
    """
    if not isinstance(ip, str):
        raise OptionError(
            f"ip must be a str, a host name or an address, but is {type(ip).__name__} ({truncate_repr(ip)}); several "
            "addresses are a list"
        )
    host = ip.strip()
    if not host or any(character.isspace() for character in host):
        raise OptionError(f"ip must be a host name or an address, such as localhost or 10.0.0.1, but is {ip!r}")
    if ":" in host or "/" in host:
        address, _, _ = host.strip("[]").partition("%")
        try:
            ipaddress.IPv6Address(address)
        except ValueError:
            named = re.fullmatch(r"(?:\w+://)?(\[[^\]]+\]|[^\s:/\[\]]+)(?::(\d+))?(?::(\d+))?/?", host)
            remedy = "pass the numbers of the ports as port and port_out"
            if named is not None:
                name, *numbers = named.groups()
                ports = zip(("port", "port_out"), numbers, strict=True)
                call = ", ".join([f'ip="{name}"', *(f"{key}={number}" for key, number in ports if number)])
                remedy = f"pass {call}"
            raise OptionError(
                f"ip must be a host name or an address alone, such as localhost or 10.0.0.1, but is {ip!r}; {remedy}"
            ) from None
    if not all(0 < len(label) < 64 for label in host.removesuffix(".").split(".")):
        raise OptionError(
            f"ip must be a host name with 1 to 63 characters between two dots, but is {truncate_repr(host)}; correct it"
        )
    return host


def port_number(name: str, value: Any) -> int:
    """Returns a port as a number.

    Raises:
        OptionError: it is not a number, or not one of a port.
    """
    try:
        number = int(value) if isinstance(value, str) else operator.index(value)
    except (TypeError, ValueError):
        raise OptionError(f"{name} must be a port number, but is {type(value).__name__} ({value!r})") from None
    if isinstance(value, bool) or not 0 < number < 65536:
        raise OptionError(f"{name} must be a port number from 1 to 65535, but is {value!r}")
    return number
