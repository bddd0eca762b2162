"""Counts what one name uses, and refuses requests over its limits. Pure: times are arguments, in seconds."""

from __future__ import annotations

from math import ceil, inf
from typing import Any

from ..errors import RateLimited, TooManyTexts
from .minute_limit import MinuteLimit
from .share import Share

#: Seconds after which a request over the limit of waiting tokens may be sent again.
WAITING_RETRY = 1.0


class ShareUsage:
    """Applies the limits of a share. A request is refused as a whole, before it is computed.

    Attributes:
        num_texts, num_tokens: those of accepted requests, special tokens included.
        num_requests, num_refused: accepted requests, and those over a limit.
        waiting_tokens: tokens of its requests without a reply.
    """

    def __init__(self, share: Share) -> None:
        self.num_texts = self.num_tokens = self.num_requests = self.num_refused = self.waiting_tokens = 0
        self._minute: dict[str, MinuteLimit] = {}
        self.update(share)

    def update(self, share: Share) -> None:
        """Changes weight, class and limits. What was used in the last minute still counts."""
        self.share = share
        for unit, most in (("texts", share.texts_per_minute), ("tokens", share.tokens_per_minute)):
            if most is None:
                self._minute.pop(unit, None)
            elif unit in self._minute:
                self._minute[unit].most = most
            else:
                self._minute[unit] = MinuteLimit(most)

    def check(self, texts: int, tokens: int, now: float) -> None:
        """Refuses a request that exceeds a limit.

        Args:
            texts, tokens: those of the request, or of the part of it that is tokenized.

        Raises:
            TooManyTexts: the request alone exceeds the limit.
            RateLimited: it exceeds what is left.
        """
        name = self.share.name
        for unit, limit in self._minute.items():
            amount = texts if unit == "texts" else tokens
            delay = limit.delay(amount, now)
            if delay == inf:
                self.num_refused += 1
                raise TooManyTexts(
                    f"the request has {amount} {unit} or more; the limit of {name!r} is {limit.most} in a minute "
                    f"({unit}_per_minute): send it in several requests"
                )
            if delay:
                self.num_refused += 1
                raise RateLimited(
                    f"{name!r} has used {limit.used} of {limit.most} {unit} in a minute ({unit}_per_minute), and the "
                    f"request needs {amount} or more: send it again after {ceil(delay)} s",
                    delay,
                )
        most = self.share.waiting_tokens
        if most is None or self.waiting_tokens + tokens <= most:
            return
        self.num_refused += 1
        if tokens > most:
            raise TooManyTexts(
                f"the request has {tokens} tokens or more; the limit of waiting tokens of {name!r} is {most} "
                "(waiting_tokens): send it in several requests"
            )
        raise RateLimited(
            f"requests of {name!r} without a reply have {self.waiting_tokens} tokens, and this one {tokens} or more; "
            f"the limit is {most} (waiting_tokens): send it again when others have their replies",
            WAITING_RETRY,
        )

    def accept(self, texts: int, tokens: int, now: float) -> None:
        """Counts texts and tokens of a request that was checked."""
        self.num_texts += texts
        self.num_tokens += tokens
        self.waiting_tokens += tokens
        for unit, limit in self._minute.items():
            limit.add(texts if unit == "texts" else tokens, now)

    def to_dict(self) -> dict[str, Any]:
        """Returns limits and counts, as the status reports them."""
        share = self.share
        return {
            "weight": share.weight,
            "class": share.request_class,
            "texts_per_minute": share.texts_per_minute,
            "tokens_per_minute": share.tokens_per_minute,
            "max_waiting_tokens": share.waiting_tokens,
            "requests": self.num_requests,
            "texts": self.num_texts,
            "tokens": self.num_tokens,
            "refused": self.num_refused,
            "waiting_tokens": self.waiting_tokens,
        }
