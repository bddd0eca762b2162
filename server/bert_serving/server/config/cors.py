"""Parses the value of ``-cors``: the origins that may call the HTTP server from a browser."""

from __future__ import annotations

import re

from ..errors import ConfigError

ANY_ORIGIN = "*"
#: One or more labels of a host name.
_LABELS = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*"
#: ``*`` matches one or more leading labels; the rest of the host name may follow.
_PATTERN = re.compile(r"([a-z][a-z0-9+.-]*://)\*((?:\.[a-z0-9_-]+)*(?::[0-9]+)?)", re.IGNORECASE)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://\[[0-9a-f:.]+\](?::[0-9]+)?", re.IGNORECASE)
#: Characters by which flask-cors detects a regular expression.
_SPECIAL = frozenset("*\\?$^[]()")


def parse_origins(text: str) -> list[str | re.Pattern[str]]:
    """Parses a comma-separated list of origins. An origin with a ``*`` becomes a pattern of the whole origin.

    A ``*`` alone is any origin. In ``https://*.example.com`` it matches one or more labels: ``https://a.example.com``
    and ``https://a.b.example.com`` match, ``https://example.com`` does not.

    Raises:
        ConfigError: a ``*`` in another place, or a regular expression.
    """
    return [_parse_origin(origin.strip()) for origin in text.split(",") if origin.strip()]


def origins(text: str) -> str:
    """Validates the value of the option and returns it unchanged."""
    parse_origins(text)
    return text


def _parse_origin(origin: str) -> str | re.Pattern[str]:
    if origin == ANY_ORIGIN or not _SPECIAL & set(origin):
        return origin
    if _ADDRESS.fullmatch(origin):  # the brackets of an IPv6 address
        return re.compile(rf"{re.escape(origin)}\Z", re.IGNORECASE)
    found = _PATTERN.fullmatch(origin)
    if found is None:
        raise ConfigError(
            f"{origin!r} is not an origin: write it in full, as https://app.example.com, or with one * for the first "
            "labels of the host, as https://*.example.com; * alone is any origin"
        )
    return re.compile(rf"{re.escape(found[1])}{_LABELS}{re.escape(found[2])}\Z", re.IGNORECASE)
