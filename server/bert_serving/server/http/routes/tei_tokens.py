"""Serves ``/tokenize`` and ``/decode`` of text-embeddings-inference, in this process and without the service."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import msgspec
from flask import Blueprint, Response

from .. import schemas
from ..encoding_service import EncodingService
from ..errors import BodyTooLarge, InvalidTokenId
from ..fields import read_tei_fields
from ..inputs import read_id_rows, read_texts
from ..models import choose
from ..request_context import JSON, read_body
from ..validation import parse_bool, parse_object, parse_prompt, require_field


def blueprint(service: EncodingService) -> Blueprint:
    routes = Blueprint("tei_tokens", __name__)

    @routes.post("/tokenize")
    def tokenize() -> Response:
        values = read_tei_fields(parse_object(read_body()), schemas.TokenizeRequest)
        chosen = choose(service, values, "/tokenize")
        texts = read_texts(require_field(values, "inputs", "a text or a list of texts"), "inputs")
        has_frame = parse_bool({"add_special_tokens": True} | values, "add_special_tokens")
        prompt = chosen.find_prompt(parse_prompt(values))
        return Response(_token_rows(chosen, texts, prompt, has_frame), mimetype=JSON)

    @routes.post("/decode")
    def decode() -> Response:
        values = parse_object(read_body())
        chosen = choose(service, values, "/decode")
        rows = read_id_rows(require_field(values, "ids", "token ids, or a list of lists of token ids"), "ids")
        skip_special = parse_bool({"skip_special_tokens": True} | values, "skip_special_tokens")
        try:
            texts = [chosen.tokenizer.decode(row, skip_special) for row in rows]
        except ValueError as error:
            raise InvalidTokenId(f"{error}: send ids of this model, as /tokenize returns them", "ids") from None
        return Response(msgspec.json.encode(texts), mimetype=JSON)

    return routes


def _token_rows(service: EncodingService, texts: list[str], prompt: str | None, has_frame: bool) -> bytes:
    """Returns the tokens of each text as JSON.

    Raises:
        BodyTooLarge: the response would be larger than the largest body.
    """
    _check_length(service, texts)
    body, limit = bytearray(b"["), service.config.http_max_body
    for number, text in enumerate(texts):
        body += b",[" if number else b"["
        for index, token in enumerate(_tokens(service, text, prompt, has_frame)):
            body += b",%b" % token if index else token
            if len(body) > limit:
                raise BodyTooLarge(
                    f"the tokens of {len(texts)} texts have more than {limit} bytes of JSON (-http_max_body): send "
                    "fewer texts per request"
                )
        body += b"]"
    return bytes(body + b"]")


def _tokens(service: EncodingService, text: str, prompt: str | None, has_frame: bool) -> Iterator[bytes]:
    """Yields the tokens of a text as JSON."""
    tokenizer = service.tokenizer
    ids = tokenizer.segment(text, prompt)
    front, behind = ([tokenizer.frame.start], [tokenizer.frame.end]) if has_frame else ([], [])
    special = chain([True] * len(front), [False] * len(ids), [True] * len(behind))
    for index, is_special in zip([*front, *ids, *behind], special, strict=True):
        yield msgspec.json.encode(schemas.Token(index, tokenizer.token(index), is_special))


def _check_length(service: EncodingService, texts: list[str]) -> None:
    limit = service.config.max_text_length
    for index, text in enumerate(texts):
        if len(text) > limit:
            raise BodyTooLarge(
                f"text {index} has {len(text)} characters; the limit is {limit} (-max_text_length): shorten it"
            )
