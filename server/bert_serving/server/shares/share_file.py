"""Reads the file of ``-http_keys``: keys of HTTP requests, and the shares of names.

::

    [search]                       # a name; a CURVE key NAME.key with this name has this share, too
    keys = ["a-long-random-text"]  # HTTP requests with one of these bearer tokens have this name
    weight = 4                     # four times the tokens of a name of weight 1, while both wait
    class = "query"                # before every "bulk"; by default the number of texts decides
    texts_per_minute = 60_000
    tokens_per_minute = 2_000_000
    waiting_tokens = 500_000       # of requests without a reply
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from ..option_file import read_option_file
from .share import Share

#: Most names, each of which has metrics, and largest size of a key in characters.
MAX_NAMES, MAX_KEY_LENGTH = 1000, 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_REMEDY = 'write a table for each name, such as [search] with keys = ["..."] and weight = 2; see docs/http.md'

_Limit = Annotated[int, msgspec.Meta(ge=1, le=2**53)]


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: list[str] = []
    weight: Annotated[float, msgspec.Meta(ge=0.001, le=1000)] = 1.0
    request_class: Literal["query", "bulk"] | None = msgspec.field(default=None, name="class")
    texts_per_minute: _Limit | None = None
    tokens_per_minute: _Limit | None = None
    waiting_tokens: _Limit | None = None


class ShareFile(msgspec.Struct, frozen=True):
    """Content of a file.

    Attributes:
        shares: the share of each name.
        keys: name of each key. The keys are secret.
    """

    shares: dict[str, Share]
    keys: dict[str, str]

    def __repr__(self) -> str:
        return f"ShareFile({', '.join(self.shares)})"


def read_share_file(path: str) -> ShareFile:
    """Reads a file of ``-http_keys``.

    Raises:
        ConfigError: it cannot be read, or is invalid. The message has no key.
    """
    return read_option_file("-http_keys", path, _convert, "is not a file of keys", _REMEDY, _decode)


def _decode(text: str) -> Any:
    toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    return toml.loads(text)


def _convert(values: Mapping[str, Any]) -> ShareFile:
    if len(values) > MAX_NAMES:
        raise ValueError(f"{len(values)} names; the limit is {MAX_NAMES}")
    shares: dict[str, Share] = {}
    keys: dict[str, str] = {}
    for number, (name, value) in enumerate(values.items(), 1):
        if not isinstance(value, dict):  # its name may be a key, which no message has
            raise ValueError(f"value {number} is no table")
        if not _NAME.fullmatch(name):
            raise ValueError(f"the name {name[:80]!r} is invalid: use at most 64 letters, digits and . _ -")
        try:
            entry = msgspec.convert(value, _Entry)
        except msgspec.ValidationError as error:
            raise ValueError(f"[{name}]: {error}") from None
        shares[name] = Share(
            name, entry.weight, entry.request_class, entry.texts_per_minute, entry.tokens_per_minute,
            entry.waiting_tokens,
        )  # fmt: skip
        for number, key in enumerate(entry.keys, 1):
            if not key.isprintable() or key != key.strip() or not 0 < len(key) <= MAX_KEY_LENGTH:
                raise ValueError(
                    f"[{name}]: key {number} is not a text of 1 to {MAX_KEY_LENGTH} printable characters without "
                    "spaces around it"
                )
            if key in keys:
                raise ValueError(f"[{name}]: key {number} is also a key of [{keys[key]}]")
            keys[key] = name
    if not shares:
        raise ValueError("it has no names")
    return ShareFile(shares, keys)
