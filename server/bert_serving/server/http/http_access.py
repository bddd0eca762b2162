"""Decides which requests the HTTP server accepts: all, those with the token, or those with a key of ``-http_keys``."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Any, NamedTuple

from .bearer_token import is_authorized
from .errors import Unauthorized


class HttpAccess:
    """Checks the header ``Authorization``.

    Args:
        token: the only bearer token; None if all requests are accepted, or those with a key.
        options: keys of ``-http_keys``, as the supervisor sends them; None without the option.
    """

    def __init__(self, token: str | None = None, options: dict[str, Any] | None = None) -> None:
        self._token = token
        self._keys = None if options is None else HttpKeys(options)

    @property
    def is_open(self) -> bool:
        """Whether requests need neither token nor key."""
        return self._token is None and self._keys is None

    @property
    def has_keys(self) -> bool:
        """Whether requests need a key, which has a name."""
        return self._keys is not None

    def allows(self, header: str) -> bool:
        """Returns whether a request with this header, decoded as Latin-1, is accepted."""
        if self._keys is not None:
            return self._keys.find(header) is not None
        return self._token is None or is_authorized(header, self._token)

    def share_of(self, header: str) -> RequestShare | None:
        """Returns the share of a request; None without ``-http_keys``, or for a key that was removed meanwhile."""
        return None if self._keys is None else self._keys.find(header)

    def name_of(self, header: str) -> str:
        """Returns the name of the key in this header; empty without ``-http_keys``.

        Raises:
            Unauthorized: the key was removed meanwhile.
        """
        if self._keys is None:
            return ""
        share = self._keys.find(header)
        if share is None:
            raise Unauthorized("the bearer token is not valid any more: send another one")
        return share.name

    def update(self, options: dict[str, Any]) -> None:
        """Replaces the keys."""
        if self._keys is not None:
            self._keys = HttpKeys(options)


class RequestShare(NamedTuple):
    """The share of a request.

    Attributes:
        option: value of the option ``share`` of requests to the service.
        name: the name of the key.
        weight: that of the name.
        is_limited: whether the name has a limit, so that the texts are accepted or refused as a whole.
    """

    option: str
    name: str
    weight: float
    is_limited: bool


class HttpKeys:
    """Finds the share of a key. Immutable.

    A key is found by a digest with a random key, and then compared in constant time. So the duration reveals neither a
    correct prefix nor the number of keys.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self._salt = secrets.token_bytes(32)
        limited, weights = set(options["limited"]), options["weights"]
        self._shares = {
            self._digest(key.encode()): (
                key.encode(),
                RequestShare(f"{options['proof']}:{name}", name, weights[name], name in limited),
            )
            for key, name in options["keys"].items()
        }

    def find(self, header: str) -> RequestShare | None:
        """Returns the share of the key in the header ``Authorization``; None if the key is missing or unknown."""
        scheme, _, sent = header.partition(" ")
        if scheme.lower() != "bearer":
            return None
        key = sent.strip(" \t").encode("latin-1", "replace")  # other spaces of Latin-1 are bytes of UTF-8
        found = self._shares.get(self._digest(key))
        return found[1] if found is not None and hmac.compare_digest(found[0], key) else None

    def _digest(self, key: bytes) -> bytes:
        return hashlib.blake2b(key, key=self._salt, digest_size=32).digest()
