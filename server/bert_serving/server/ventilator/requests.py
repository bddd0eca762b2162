"""Parses requests: checks the frames of a message, decodes its texts, and enforces the limits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import msgspec
import zmq

from bert_serving.client.protocol import COMMANDS, MAX_IDENTITY_BYTES, MAX_REQUEST_ID_DIGITS

from .. import json_scan
from ..errors import InvalidRequest, TooLarge
from .request_options import MAX_OPTIONS_BYTES, NO_REQUEST_OPTIONS, RequestOptions, decode_options
from .request_source import UNKNOWN_SOURCE, RequestSource, source_of

_STRINGS = msgspec.json.Decoder(list[str])
_TOKEN_LISTS = msgspec.json.Decoder(list[list[str]])
_PAIRS = msgspec.json.Decoder(list[tuple[str, str]])
_TOKENIZED = re.compile(rb"\s*\[\s*\[")
#: Largest part of a message that is searched for its first value.
_MAX_INDENT = 2**20
#: Messages up to this size are decoded as a whole, larger ones piece by piece.
INLINE_BYTES = 8192
#: Blocks that one step of ``read_pieces`` counts: some 40 ms.
BLOCKS_PER_STEP = 8
#: Largest value that is decoded: this many bytes, or so many for each character of the longest text if that is more.
#: A character takes at most 12 bytes, in two escapes.
MIN_LARGEST_VALUE, MAX_CHARACTER_BYTES = 2**26, 12


@dataclass(frozen=True, slots=True)
class Request:
    """Holds the frames of a request with a valid envelope.

    Attributes:
        message: a command, or JSON that is not decoded yet. A large one is the buffer of its frame.
        options: the fifth frame.
        source: connection of the message.
    """

    identity: bytes
    message: bytes | memoryview
    request_id: bytes
    options: RequestOptions = NO_REQUEST_OPTIONS
    source: RequestSource = UNKNOWN_SOURCE

    @property
    def is_command(self) -> bool:
        return isinstance(self.message, bytes) and self.message in COMMANDS


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


class _Kind(Enum):
    """What the items of a message are."""

    TEXTS = "a JSON list of texts or of token lists"
    TOKEN_LISTS = "a JSON list of lists of tokens"
    PAIRS = "a JSON list of pairs, each a list of two texts"


#: Decoders by kind of the items.
_DECODERS: dict[_Kind, msgspec.json.Decoder[Any]] = {
    _Kind.TEXTS: _STRINGS,
    _Kind.TOKEN_LISTS: _TOKEN_LISTS,
    _Kind.PAIRS: _PAIRS,
}


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
    if len(frames[0]) > MAX_IDENTITY_BYTES:
        raise BadEnvelope(f"an identity has at most {MAX_IDENTITY_BYTES} bytes, received {len(frames[0])}")
    identity, request_id = frames[0].bytes, bytes(frames[2].buffer[: MAX_REQUEST_ID_DIGITS + 1])
    # A large message is not copied.
    message = frames[1].bytes if len(frames[1]) <= INLINE_BYTES else frames[1].buffer
    if not request_id.isdigit() or len(request_id) > MAX_REQUEST_ID_DIGITS:
        shown = request_id[:MAX_REQUEST_ID_DIGITS]
        raise BadEnvelope(
            f"a request id is a decimal number of at most {MAX_REQUEST_ID_DIGITS} digits, received {shown!r}",
            reply_to=(identity, shown),
        )
    # The fourth frame, the number of texts, is not trusted: the texts are counted instead.
    if len(frames) == 4:
        return Request(identity, message, request_id, source=source_of(frames[-1]))
    if len(frames[4]) > MAX_OPTIONS_BYTES:  # the decoder would create a long list before it checks max_length
        raise BadEnvelope(
            f"the options of a request have at most {MAX_OPTIONS_BYTES} bytes, received {len(frames[4])}",
            reply_to=(identity, request_id),
        )
    try:
        options = decode_options(frames[4].bytes)
    except ValueError as error:
        raise BadEnvelope(str(error), reply_to=(identity, request_id)) from None
    return Request(identity, message, request_id, options, source_of(frames[-1]))


def _kind(message: bytes | memoryview, pairs: bool) -> _Kind:
    if pairs:
        return _Kind.PAIRS
    return _Kind.TEXTS if _TOKENIZED.match(bytes(message[:_MAX_INDENT])) is None else _Kind.TOKEN_LISTS


def read_texts(message: bytes, limits: RequestLimits, pairs: bool = False) -> list[Any]:
    """Decodes the texts, token lists or pairs of a short message: at least one, all of the same type.

    Args:
        pairs: each item must be a list of two texts.

    Raises:
        InvalidRequest: not JSON, not a list, empty, or an item that is neither a text nor a list of tokens.
        TooLarge: a limit is exceeded.
    """
    texts = _decode(message, _kind(message, pairs), 0, 0)
    if not texts:
        raise InvalidRequest("the list of texts is empty; send at least one text")
    if len(texts) > limits.max_request_size:
        raise _too_many(len(texts), limits)
    _check_lengths(texts, 0, limits)
    return texts


class Piece(NamedTuple):
    """Holds consecutive texts, token lists or pairs of a message.

    Attributes:
        size: number of texts in the message.
        first_row: number of texts before these.
    """

    size: int
    first_row: int
    texts: list[Any]

    @property
    def is_last(self) -> bool:
        return self.first_row + len(self.texts) == self.size


def read_pieces(message: bytes | memoryview, limits: RequestLimits, pairs: bool = False) -> Iterator[Piece | None]:
    """Decodes a message of any size piece by piece.

    Each ``next`` takes a short step and keeps no decoded texts. A step that counts values before the first piece
    yields None.

    Raises:
        InvalidRequest, TooLarge: as ``read_texts``, with the first piece that has the error.
    """
    counts = json_scan.JsonCounts()
    for number, _ in enumerate(json_scan.scan_blocks(message, counts)):
        if number % BLOCKS_PER_STEP == BLOCKS_PER_STEP - 1:
            yield None
    kind = _kind(message, pairs)
    size = _check_counts(message, counts, kind, limits)
    cuts, row = counts.cuts, 0
    for index in range(len(cuts) + 1):
        start = cuts[index - 1] + 1 if index else 0
        stop = cuts[index] if index < len(cuts) else len(message)
        if stop - start > json_scan.PIECE_BYTES:
            _check_large_value(message[start:stop], row, kind, limits)
        head, tail = b"[" if index else b"", b"]" if index < len(cuts) else b""
        texts = _decode(head + bytes(message[start:stop]) + tail, kind, start - len(head), row)
        if not texts:
            if cuts:
                raise InvalidRequest(f"the texts are not valid JSON: a value is missing before byte {stop}")
            raise InvalidRequest("the list of texts is empty; send at least one text")
        if row + len(texts) > size or (index == len(cuts) and row + len(texts) != size):
            raise InvalidRequest(f"the texts are not valid JSON: send {kind.value}")
        _check_lengths(texts, row, limits)
        yield Piece(size, row, texts)
        row += len(texts)


def _check_lengths(texts: list[Any], first_row: int, limits: RequestLimits) -> None:
    """Rejects a text that is too long.

    Raises:
        TooLarge: it has more characters, or tokens, than the limit.
    """
    length = _length_of_pair if isinstance(texts[0], tuple) else len
    longest = max(map(length, texts))
    if longest > limits.max_text_length:
        index = next(index for index, text in enumerate(texts) if length(text) == longest)
        unit = "tokens" if isinstance(texts[index], list) else "characters"
        raise _too_long(first_row + index, f"{longest} {unit}", limits)


def _length_of_pair(pair: tuple[str, str]) -> int:
    return max(map(len, pair))


def _too_long(row: int, length: str, limits: RequestLimits) -> TooLarge:
    return TooLarge(f"text {row} has {length}; the limit is {limits.max_text_length} (-max_text_length): shorten it")


def _check_large_value(value: bytes | memoryview, row: int, kind: _Kind, limits: RequestLimits) -> None:
    """Rejects a single value with more bytes or strings than a text can have, before the decoder creates it.

    Raises:
        TooLarge: the value exceeds the limit.
    """
    most = max(MIN_LARGEST_VALUE, MAX_CHARACTER_BYTES * limits.max_text_length)
    if len(value) > (2 * most if kind is _Kind.PAIRS else most):
        raise _too_long(row, f"{len(value)} bytes", limits)
    if kind is _Kind.TOKEN_LISTS and (tokens := json_scan.scan(value).strings) > limits.max_text_length:
        raise _too_long(row, f"{tokens} tokens", limits)


def _check_counts(message: bytes | memoryview, found: json_scan.JsonCounts, kind: _Kind, limits: RequestLimits) -> int:
    """Returns the number of texts in a message.

    Raises:
        InvalidRequest: a value is neither a text nor a list of tokens.
        TooLarge: more texts, or tokens, than the limits allow.
    """
    size = max(found.strings, found.lists - 1) if kind is _Kind.TEXTS else found.lists - 1
    if size > limits.max_request_size:
        raise _too_many(size, limits)
    if kind is _Kind.PAIRS:
        if found.strings != 2 * size:
            raise InvalidRequest(f"the message has {found.strings} texts in {size} pairs; send {kind.value}")
    elif found.strings > max(limits.max_request_size, limits.max_tokens):
        raise TooLarge(
            f"{found.strings} tokens in one request; the limit is {limits.max_tokens} (-max_queue_tokens): "
            f"send them in several requests"
        )
    # The decoder names the item in an error, but it would create all values of a large message first.
    offset = found.first_invalid_offset if len(message) > json_scan.SMALL_BYTES else None
    if offset is not None:
        shown = bytes(message[offset : offset + 20]).decode("utf-8", "replace")
        raise InvalidRequest(
            f"byte {offset} of the message begins {shown!r}, which is neither a text nor a list of tokens; "
            f"send {kind.value}"
        )
    if not found.lists and len(message) > json_scan.SMALL_BYTES:
        raise InvalidRequest(f"the message has no list; send {kind.value}")
    return size


def _too_many(size: int, limits: RequestLimits) -> TooLarge:
    return TooLarge(
        f"{size} texts in one request; the limit is {limits.max_request_size} (-max_request_size): "
        f"send them in several requests"
    )


def _decode(message: bytes, kind: _Kind, offset: int, first_row: int) -> list[Any]:
    """Decodes a JSON list of texts, of token lists, or of pairs, which become tuples.

    Args:
        offset: position of its first byte in the request's message.
        first_row: number of texts before it in the request.

    Raises:
        InvalidRequest: not JSON, not a list, or an item of the wrong type.
    """
    try:
        texts: list[Any] = _DECODERS[kind].decode(message)
    except (msgspec.DecodeError, RecursionError, ValueError):
        # Rare: invalid input, or a lone surrogate, which msgspec rejects and the tokenizer removes.
        return _decode_with_stdlib(message, kind, offset, first_row)
    return texts


def _decode_with_stdlib(message: bytes, kind: _Kind, offset: int, first_row: int) -> list[Any]:
    try:
        texts = json.loads(message)
    except RecursionError:
        raise InvalidRequest(f"the texts are nested too deeply; send {kind.value}") from None
    except json.JSONDecodeError as error:
        position = offset + len(error.doc[: error.pos].encode("utf-8", "surrogatepass"))
        raise InvalidRequest(f"the texts are not valid JSON: {error.msg}, at byte {position}") from None
    except ValueError as error:
        raise InvalidRequest(f"the texts are not valid JSON: {str(error)[:200]}") from None
    if not isinstance(texts, list):
        raise InvalidRequest(f"the texts must be a JSON list, received {_json_type(texts)}")
    if kind is _Kind.PAIRS:
        return [_as_pair(row, pair) for row, pair in enumerate(texts, first_row)]
    for row, text in enumerate(texts, first_row):
        if kind is _Kind.TOKEN_LISTS:
            if not isinstance(text, list):
                raise InvalidRequest(f"item {row} must be a list of tokens as item 0 is, received {_json_type(text)}")
            for position, token in enumerate(text):
                if not isinstance(token, str):
                    raise InvalidRequest(
                        f"token {position} of item {row} must be a string, received {_json_type(token)}"
                    )
        elif not isinstance(text, str):
            raise InvalidRequest(f"item {row} must be a string, received {_json_type(text)}")
    return texts


def _as_pair(row: int, pair: Any) -> tuple[str, str]:
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
        received = f"a list of {len(pair)} values" if isinstance(pair, list) else _json_type(pair)
        if isinstance(pair, list) and len(pair) == 2:
            received = f"a list of {' and '.join(map(_json_type, pair))}"
        raise InvalidRequest(f"item {row} must be a pair, a list of two texts, received {received}")
    return pair[0], pair[1]


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
