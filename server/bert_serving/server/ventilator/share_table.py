"""Finds the name of the sender of each request, and holds what each name uses.

The HTTP server names the owner of the key in each request. A random text, which the supervisor gives to both processes
at their start, proves that the request is from the HTTP server. Other requests have the name of their CURVE key.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any

import msgspec

from ..errors import Forbidden
from ..ipc.process_context import ProcessContext
from ..security.curve import AllowedKeys
from ..shares.job_usage import JobUsage
from ..shares.share import BULK, NO_NAME, Share
from ..shares.usage import ShareUsage
from .requests import Request


class ShareTable:
    """Holds the usage of each name.

    Args:
        shares: those of the file, by name.
        proof: random text of the HTTP server.
        keys: the CURVE keys of clients; None without encryption.
        clock: returns monotonic seconds.

    Attributes:
        usages: usage by name, of all names in the file and of other CURVE keys that have sent a request.
    """

    def __init__(
        self, shares: dict[str, Share], proof: str, keys: AllowedKeys | None, clock: Callable[[], float]
    ) -> None:
        self._proof, self._keys, self._clock = proof.encode(), keys, clock
        self._names: dict[str, str] = {}  # by CURVE key
        self.usages = {NO_NAME: ShareUsage(Share(NO_NAME))} | {name: ShareUsage(each) for name, each in shares.items()}

    @classmethod
    def of(cls, context: ProcessContext, clock: Callable[[], float]) -> ShareTable | None:
        """Returns the table of a server; None without ``-http_keys``."""
        if context.config.http_keys is None:
            return None
        folder = context.options["access"]["folder"]
        keys = None if folder is None else AllowedKeys(folder)
        options = context.options["shares"]
        return cls(_decode(options["shares"]), options["proof"], keys, clock)

    @property
    def reads_users(self) -> bool:
        """Whether clients have CURVE keys."""
        return self._keys is not None

    def update(self, values: dict[str, Any]) -> None:
        """Changes the shares. Names that are not in the file any more have weight 1 and no limits."""
        shares = _decode(values)
        self._names.clear()
        for name in {*shares, *self.usages}:
            share = shares.get(name) or Share(name)
            if name in self.usages:
                self.usages[name].update(share)
            else:
                self.usages[name] = ShareUsage(share)

    def begin(self, request: Request) -> JobUsage:
        """Returns the usage of a new request.

        Raises:
            Forbidden: the request names a share, but is not from the HTTP server.
            RateLimited: a limit of the name is used up.
        """
        name, is_bulk = self._name_of(request)
        usage = self.usages.get(name)
        if usage is None:
            usage = self.usages[name] = ShareUsage(Share(name))
        usage.check(1, 1, self._clock())
        return JobUsage(usage, is_bulk)

    def to_dict(self) -> dict[str, Any]:
        """Returns the usage of each name, as the status reports it."""
        return {name: usage.to_dict() for name, usage in self.usages.items()}

    def _name_of(self, request: Request) -> tuple[str, bool]:
        """Returns the name of the sender, and whether the request is bulk, whatever the class of the name is."""
        share = request.options.share
        if share is not None:
            proof, _, rest = share.partition(":")
            if not hmac.compare_digest(proof.encode(), self._proof):
                raise Forbidden("the option share is for the HTTP server of this service only: omit it")
            name, _, request_class = rest.partition(":")
            return name, request_class == BULK
        if self._keys is None:
            return NO_NAME, False
        name = self._names.get(request.user_id, "")
        if not name:
            name = self._keys.read().get(request.user_id.encode(), NO_NAME)
            if name != NO_NAME:
                self._names[request.user_id] = name
        return name, False


def _decode(values: dict[str, Any]) -> dict[str, Share]:
    return msgspec.convert(values, dict[str, Share])
