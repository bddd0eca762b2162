"""Calls whose texts travel in several requests to the service: names of texts in errors, and what a refusal ends."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from bert_serving.client.errors import InvalidRequestError, RateLimitedError
from bert_serving.server.http.encoding_call import PartedCall
from bert_serving.server.http.encoding_service import EncodingResult, EncodingService
from bert_serving.server.http.output_scores import CompareCall
from bert_serving.server.http.scores import ScoreCall


def respond(result: EncodingResult) -> Any:
    raise AssertionError("no call has a result")


class Refusing:
    """A service that refuses a request with a text, and never replies to others.

    Attributes:
        ended: texts of requests that were dropped.
    """

    def __init__(self, refused: Any, error: Exception) -> None:
        self.refused, self.error = refused, error
        self.ended: list[Any] = []

    def encode(self, texts: list[Any], options: dict[str, Any]) -> EncodingResult:
        if self.refused in texts:
            raise self.error
        return cast("EncodingResult", None)

    async def encode_async(self, texts: list[Any], options: dict[str, Any]) -> EncodingResult:
        if self.refused in texts:
            raise self.error
        try:
            return await asyncio.Future()
        finally:
            self.ended.append(texts)


RANKING = CompareCall(["a", "b"], respond, query="q", options={"outputs": ["sparse"]})
MIXED = ScoreCall(["a", ("b", "c"), "d"], respond)


@pytest.mark.parametrize(
    ("call", "refused", "others"),
    [(RANKING, "q", ["a", "b"]), (RANKING, "b", ["q"]), (MIXED, "d", [("b", "c")]), (MIXED, ("b", "c"), ["a", "d"])],
)
def test_a_refused_request_ends_the_other_ones(call: PartedCall, refused: Any, others: list[Any]) -> None:
    service = Refusing(refused, RateLimitedError("rate_limited", "used up", 1, 7.0))

    async def check() -> None:
        with pytest.raises(RateLimitedError) as caught:
            await call.encode_async(cast("EncodingService", service))
        assert caught.value.retry_after == 7.0
        assert service.ended == [others]

    asyncio.run(check())


@pytest.mark.parametrize(
    ("call", "refused", "number", "name"),
    [
        (RANKING, "q", 0, "the query"),
        (RANKING, "b", 1, "document 1"),
        (MIXED, "d", 1, "text 2"),
        (MIXED, ("b", "c"), 0, "pair 1"),
    ],
)
def test_errors_name_texts_of_the_call(call: PartedCall, refused: Any, number: int, name: str) -> None:
    error = InvalidRequestError("invalid_request", f"text {number} is blank", 1)
    service = cast("EncodingService", Refusing(refused, error))
    with pytest.raises(InvalidRequestError, match=f": {name} is blank"):
        call.encode(service)
    with pytest.raises(InvalidRequestError, match=f": {name} is blank"):
        asyncio.run(call.encode_async(service))
