"""Parses requests: checks the frames of a message, decodes its texts, and enforces the limits."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import zmq

from bert_serving.client.protocol import COMMANDS, MAX_IDENTITY_BYTES, MAX_QUERIED, MAX_REQUEST_ID_DIGITS

from .. import json_scan
from ..errors import InvalidRequest, TooLarge


class _Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Fifth frame of a request. ``requests`` holds the ids of ``SHOW_PENDING`` and ``CANCEL``."""

    timing: bool = False
    num_tokens: bool = False
    requests: Annotated[list[int], msgspec.Meta(max_length=MAX_QUERIED)] = []


_STRINGS = msgspec.json.Decoder(list[str])
_TOKEN_LISTS = msgspec.json.Decoder(list[list[str]])
_OPTIONS: msgspec.json.Decoder[_Options] = msgspec.json.Decoder(_Options)
#: Largest options frame in bytes: twice the size of ``MAX_QUERIED`` ids of the largest length.
MAX_OPTIONS_BYTES = 65536
_TOKENIZED = re.compile(rb"\s*\[\s*\[")


@dataclass(frozen=True, slots=True)
class Request:
    """Holds the frames of a request with a valid envelope.

    Attributes:
        message: a command, or JSON that is not decoded yet.
        ids: request ids of the same identity that ``SHOW_PENDING`` queries or ``CANCEL`` drops.
    """

    identity: bytes
    message: bytes
    request_id: bytes
    wants_timing: bool = False
    wants_num_tokens: bool = False
    ids: Sequence[int] = ()

    @property
    def is_command(self) -> bool:
        return self.message in COMMANDS


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Limits of one request.

    Attributes:
        max_request_size: texts in a request.
        max_text_length: characters in a text, or tokens in a token list.
        max_tokens: tokens in a request of token lists.
    """

    max_request_size: int
    max_text_length: int
    max_tokens: int = 20_000_000


class BadEnvelope(InvalidRequest):
    """The frames of a message are not those of a request.

    ``reply_to`` is the identity and the request id for an error reply, None if the message has none.
    """

    def __init__(self, message: str, reply_to: tuple[bytes, bytes] | None = None) -> None:
        super().__init__(message)
        self.reply_to = reply_to


def read_envelope(frames: Sequence[zmq.Frame]) -> Request:
    """Checks the number and the format of the frames, not the texts.

    Raises:
        BadEnvelope: wrong number of frames, an oversized identity, a request id that is not a number, unknown options.
    """
    if len(frames) not in (4, 5):
        raise BadEnvelope(f"a request has 4 frames, or 5 with options; received {len(frames)}")
    identity, message, request_id = frames[0].bytes, frames[1].bytes, frames[2].bytes
    if len(identity) > MAX_IDENTITY_BYTES:
        raise BadEnvelope(f"an identity has at most {MAX_IDENTITY_BYTES} bytes, received {len(identity)}")
    if not request_id.isdigit() or len(request_id) > MAX_REQUEST_ID_DIGITS:
        shown = request_id[:MAX_REQUEST_ID_DIGITS]
        raise BadEnvelope(
            f"a request id is a decimal number of at most {MAX_REQUEST_ID_DIGITS} digits, received {shown!r}",
            reply_to=(identity, shown),
        )
    # The fourth frame, the number of texts, is not trusted: the texts are counted instead.
    if len(frames) == 4:
        return Request(identity, message, request_id)
    if len(frames[4]) > MAX_OPTIONS_BYTES:  # the decoder would create a long list before it checks max_length
        raise BadEnvelope(
            f"the options of a request have at most {MAX_OPTIONS_BYTES} bytes, received {len(frames[4])}",
            reply_to=(identity, request_id),
        )
    try:
        options = _OPTIONS.decode(frames[4].bytes)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise BadEnvelope(
            f"the fifth frame, the options of a request, cannot be decoded ({error}); known options: "
            '{"timing": true}, {"num_tokens": true} and {"requests": [numbers]}',
            reply_to=(identity, request_id),
        ) from None
    return Request(identity, message, request_id, options.timing, options.num_tokens, options.requests)


def read_texts(message: bytes, limits: RequestLimits) -> list[str] | list[list[str]]:
    """Decodes the texts or token lists of a message: at least one, all of the same type.

    Raises:
        InvalidRequest: not JSON, not a list, empty, or an item that is neither a text nor a list of tokens.
        TooLarge: a limit is exceeded.
    """
    texts: Any
    is_tokenized = _TOKENIZED.match(message) is not None
    _check_counts(message, is_tokenized, limits)
    try:
        texts = (_TOKEN_LISTS if is_tokenized else _STRINGS).decode(message)
    except (msgspec.DecodeError, RecursionError, ValueError):
        # Rare: invalid input, or a lone surrogate, which msgspec rejects and the tokenizer removes.
        texts = _decode_with_stdlib(message)
    if not texts:
        raise InvalidRequest("the list of texts is empty; send at least one text")
    if len(texts) > limits.max_request_size:
        raise _too_many(len(texts), limits)
    longest = max(map(len, texts))
    if longest > limits.max_text_length:
        index = next(index for index, text in enumerate(texts) if len(text) == longest)
        unit = "characters" if isinstance(texts[index], str) else "tokens"
        raise TooLarge(
            f"text {index} has {longest} {unit}; the limit is {limits.max_text_length} (-max_text_length): shorten it"
        )
    return texts  # type: ignore[no-any-return]


def _check_counts(message: bytes, is_tokenized: bool, limits: RequestLimits) -> None:
    """Rejects a large message with too many values before the decoder creates them.

    Raises:
        TooLarge: more texts, or tokens, than the limits allow.
    """
    if len(message) <= json_scan.SMALL_BYTES:
        return
    if message.count(b'"') <= 2 * limits.max_request_size and message.count(b"[") <= limits.max_request_size:
        return  # common case: these counts are upper bounds, and they are within the limit
    found = json_scan.scan(message)
    size = found.lists - 1 if is_tokenized else max(found.strings, found.lists - 1)
    if size > limits.max_request_size:
        raise _too_many(size, limits)
    if found.strings > max(limits.max_request_size, limits.max_tokens):
        raise TooLarge(
            f"{found.strings} tokens in one request; the limit is {limits.max_tokens} (-max_queue_tokens): "
            f"send them in several requests"
        )


def _too_many(size: int, limits: RequestLimits) -> TooLarge:
    return TooLarge(
        f"{size} texts in one request; the limit is {limits.max_request_size} (-max_request_size): "
        f"send them in several requests"
    )


def _decode_with_stdlib(message: bytes) -> list[Any]:
    if len(message) > json_scan.SMALL_BYTES:
        offset = json_scan.scan(message).first_invalid_offset
        if offset is not None:
            found = message[offset : offset + 20].decode("utf-8", "replace")
            raise InvalidRequest(
                f"byte {offset} of the message begins {found!r}, which is neither a text nor a list of tokens; "
                "send a JSON list of texts or of token lists"
            )
    try:
        texts = json.loads(message)
    except RecursionError:
        raise InvalidRequest("the texts are nested too deeply; send a JSON list of texts or of token lists") from None
    except ValueError as error:
        raise InvalidRequest(f"the texts are not valid JSON: {str(error)[:200]}") from None
    if not isinstance(texts, list):
        raise InvalidRequest(f"the texts must be a JSON list, received {_json_type(texts)}")
    if not texts:
        return texts
    is_tokenized = isinstance(texts[0], list)
    for index, text in enumerate(texts):
        if is_tokenized:
            if not isinstance(text, list):
                raise InvalidRequest(f"item {index} must be a list of tokens as item 0 is, received {_json_type(text)}")
            for position, token in enumerate(text):
                if not isinstance(token, str):
                    raise InvalidRequest(
                        f"token {position} of item {index} must be a string, received {_json_type(token)}"
                    )
        elif not isinstance(text, str):
            raise InvalidRequest(f"item {index} must be a string, received {_json_type(text)}")
    return texts


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
