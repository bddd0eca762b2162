"""Who may call from a browser: the value of ``-cors``, read so that no pattern lets in more than it says."""

from __future__ import annotations

import re

from ..errors import ConfigError

EVERYONE = "*"
#: One or more labels of a host name.
_LABELS = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*"
#: ``*`` stands for the labels in front: behind them comes the rest of the name, or nothing.
_PATTERN = re.compile(r"([a-z][a-z0-9+.-]*://)\*((?:\.[a-z0-9_-]+)*(?::[0-9]+)?)", re.IGNORECASE)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://\[[0-9a-f:.]+\](?::[0-9]+)?", re.IGNORECASE)
#: What flask-cors takes for the signs of a regular expression.
_SPECIAL = frozenset("*\\?$^[]()")


def read_origins(text: str) -> list[str | re.Pattern[str]]:
    """The origins that ``-cors`` names: as they are, or where one holds a ``*``, as a pattern of the whole origin.

    A ``*`` alone is everyone. In ``https://*.example.com`` it stands for one or more labels, so ``https://a.example.com``
    and ``https://a.b.example.com`` may call, and ``https://example.com`` may not.

    Raises:
        ConfigError: a ``*`` at another place, or a regular expression.
    """
    return [_read(origin.strip()) for origin in text.split(",") if origin.strip()]


def cors(text: str) -> str:
    """Checks the value of the option, and leaves it as it is."""
    read_origins(text)
    return text


def _read(origin: str) -> str | re.Pattern[str]:
    if origin == EVERYONE or not _SPECIAL & set(origin):
        return origin
    if _ADDRESS.fullmatch(origin):  # the brackets of an IPv6 address
        return re.compile(rf"{re.escape(origin)}\Z", re.IGNORECASE)
    found = _PATTERN.fullmatch(origin)
    if found is None:
        raise ConfigError(
            f"{origin!r} is no origin: name it whole, as https://app.example.com, or with one * for the first labels "
            "of its host, as https://*.example.com; * alone is everyone"
        )
    return re.compile(rf"{re.escape(found[1])}{_LABELS}{re.escape(found[2])}\Z", re.IGNORECASE)
