"""Splits a request with texts in two steps: reading what to encode, and making a response of the vectors.

Between them the texts are encoded, in a thread that waits or in the event loop. Routes are the same for both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from flask import Response, request
from werkzeug.datastructures import Headers

from bert_serving.client.text_names import naming_texts

from .encoding_service import EncodingResult, EncodingService
from .http_access import RequestShare
from .models import choose, naming_models
from .request_context import add_headers, check_coding
from .validation import parse_object

#: Key of the environment with an `EncodingCall` and its `EncodingResult`, if the texts are encoded already.
ENCODED_KEY = "bert_serving.encoded"
#: Key of the environment with the `RequestShare` of the request, if its key has one.
SHARE_KEY = "bert_serving.share"


@dataclass(frozen=True, slots=True)
class EncodingCall:
    """Texts of an HTTP request.

    Attributes:
        texts, is_tokenized, show_tokens, options: arguments of `EncodingService.encode`.
        respond: makes the response, in the context of the Flask request.
    """

    texts: Any
    respond: Callable[[EncodingResult], Response]
    is_tokenized: bool = False
    show_tokens: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def encode(self, service: EncodingService) -> EncodingResult:
        """Encodes the texts; see `EncodingService.encode`."""
        return service.encode(self.texts, self.is_tokenized, self.show_tokens, self.options)

    async def encode_async(self, service: EncodingService) -> EncodingResult:
        """Encodes the texts in the event loop; see `EncodingService.encode_async`."""
        return await service.encode_async(self.texts, self.is_tokenized, self.show_tokens, self.options)


class PartOfCall(NamedTuple):
    """Texts that travel in one request to the service.

    Attributes:
        name: returns the name of a text by its number in the request, for errors.
    """

    texts: list[Any]
    options: dict[str, Any]
    name: Callable[[int], str]


class PartedCall(EncodingCall):
    """Texts that have names in errors, and travel in one or several requests to the service."""

    __slots__ = ()

    def parts(self) -> list[PartOfCall]:
        """Returns the requests, in the order in which they are sent."""
        raise NotImplementedError

    def joined(self, results: list[EncodingResult]) -> EncodingResult:
        """Returns the result of the call, from those of its parts."""
        return results[0]

    def encode(self, service: EncodingService) -> EncodingResult:
        results = []
        for texts, options, name in self.parts():
            with naming_texts(name):
                results.append(service.encode(texts, options=options))
        return self.joined(results)

    async def encode_async(self, service: EncodingService) -> EncodingResult:
        async def encode_part(part: PartOfCall) -> EncodingResult:
            with naming_texts(part.name):
                return await service.encode_async(part.texts, options=part.options)

        tasks = [asyncio.ensure_future(encode_part(part)) for part in self.parts()]
        try:
            return self.joined(await asyncio.gather(*tasks))
        except Exception:  # the other parts are not computed
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            raise


#: Reads a call from the JSON object of a body and from the headers. Raises `HttpError` if the request is invalid.
Prepare = Callable[[EncodingService, dict[str, Any], Headers], EncodingCall]


def read_call(
    service: EncodingService,
    path: str,
    prepare: Prepare,
    body: bytes,
    headers: Headers,
    share: RequestShare | None = None,
) -> tuple[EncodingService, EncodingCall]:
    """Reads a request, of any content type. Returns the service for its model, and the call.

    Args:
        service: that of the first model.

    Raises:
        UnsupportedBody: the body is compressed.
        HttpError: the request is invalid.
    """
    check_coding(headers)
    values = parse_object(body)
    service = choose(service, values, path)
    with naming_models(service):
        call = prepare(service, values, headers)
    return service, call if share is None else replace(call, options={**call.options, "share": share})


def handle(service: EncodingService, path: str, prepare: Prepare) -> Response:
    """Handles the Flask request. It encodes the texts unless the event loop has done so."""
    encoded: tuple[EncodingCall, EncodingResult] | None = request.environ.get(ENCODED_KEY)
    if encoded is None:
        share = request.environ.get(SHARE_KEY)
        service, call = read_call(service, path, prepare, request.get_data(cache=False), request.headers, share)
        encoded = call, call.encode(service)
    call, result = encoded
    return add_headers(call.respond(result), result)
