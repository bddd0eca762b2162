"""Describes a share: what the requests of one name may use. The name is that of an HTTP key or of a CURVE key."""

from __future__ import annotations

import msgspec

#: Classes of requests. Queries go before bulk requests.
QUERY, BULK = "query", "bulk"


class Share(msgspec.Struct, frozen=True):
    """What the requests of one name may use.

    Attributes:
        weight: its part of the tokens that workers compute, relative to those of other names.
        request_class: ``query`` or ``bulk``; None: the number of texts in a request decides.
        texts_per_minute, tokens_per_minute: limits in any 60 seconds; None: unlimited.
        waiting_tokens: limit of the tokens of its requests without a reply; None: unlimited.
    """

    name: str
    weight: float = 1.0
    request_class: str | None = None
    texts_per_minute: int | None = None
    tokens_per_minute: int | None = None
    waiting_tokens: int | None = None

    @property
    def as_bulk(self) -> Share:
        """The same share for requests of the class ``bulk``, such as those of batch jobs."""
        return self if self.request_class == BULK else msgspec.structs.replace(self, request_class=BULK)

    @property
    def limits_tokens(self) -> bool:
        """Whether the number of tokens decides if a request is accepted."""
        return self.tokens_per_minute is not None or self.waiting_tokens is not None


#: Name of the share of requests without a key. No name in a file contains parentheses.
NO_NAME = "(none)"
