"""Decodes the texts of a request and tokenizes them, and enforces the limits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import msgspec

from .. import json_scan
from ..errors import InvalidRequest, TooLarge, TooManyTexts
from .part_modes import tokenize_long
from .text_options import TextOptions
from .tokenizer import Tokenized, Tokenizer

_STRINGS = msgspec.json.Decoder(list[str])
_TOKEN_LISTS = msgspec.json.Decoder(list[list[str]])
_PAIRS = msgspec.json.Decoder(list[tuple[str, str]])
_TOKENIZED = re.compile(rb"\s*\[\s*\[")
#: Largest part of a message that is searched for its first value.
_MAX_INDENT = 2**20
#: Blocks that one step of ``read_pieces`` counts: some 40 ms.
BLOCKS_PER_STEP = 8
#: Largest value that is decoded: this many bytes, or so many for each character of the longest text if that is more.
#: A character takes at most 12 bytes, in two escapes.
MIN_LARGEST_VALUE, MAX_CHARACTER_BYTES = 2**26, 12


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


def _kind(message: bytes | memoryview, pairs: bool) -> _Kind:
    if pairs:
        return _Kind.PAIRS
    if message[:2] == b'["':  # as most clients write it
        return _Kind.TEXTS
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


class RawPiece(msgspec.Struct, array_like=True):
    """Holds consecutive values of a message as a JSON list that is not decoded yet.

    Attributes:
        message: the JSON list.
        start, stop: offsets of its values in the message of the request.
        size: number of texts in the request.
        first_row: number of texts before these.
        is_last, is_only: whether it is the last piece, and the only one.
    """

    message: bytes
    kind: _Kind
    start: int
    stop: int
    size: int
    first_row: int
    is_last: bool
    is_only: bool


@dataclass(frozen=True, slots=True)
class ScannedMessage:
    """Holds a message whose values are counted, and where it is divided into pieces.

    Attributes:
        size: number of texts.
    """

    message: bytes | memoryview
    kind: _Kind
    size: int
    cuts: list[int]
    rows: list[int]
    limits: RequestLimits

    @property
    def num_pieces(self) -> int:
        return len(self.cuts) + 1

    def first_row(self, index: int) -> int:
        """Returns the number of texts before a piece."""
        return self.rows[index - 1] if index else 0

    def piece(self, index: int) -> RawPiece:
        """Copies a piece.

        Raises:
            TooLarge: it is a single value, with more bytes than a text can have.
        """
        cuts = self.cuts
        start = cuts[index - 1] + 1 if index else 0
        stop = cuts[index] if index < len(cuts) else len(self.message)
        row = self.first_row(index)
        if stop - start > json_scan.PIECE_BYTES:
            most = max(MIN_LARGEST_VALUE, MAX_CHARACTER_BYTES * self.limits.max_text_length)
            if stop - start > (2 * most if self.kind is _Kind.PAIRS else most):
                raise _too_long(row, f"{stop - start} bytes", self.limits)
        head, tail = b"[" if index else b"", b"]" if index < len(cuts) else b""
        values = b"".join((head, self.message[start:stop], tail))
        return RawPiece(values, self.kind, start, stop, self.size, row, index == len(cuts), not cuts)


def scan_message(
    message: bytes | memoryview, limits: RequestLimits, pairs: bool = False
) -> Iterator[ScannedMessage | None]:
    """Counts the values of a message in short steps. Each yields None, except for the last one.

    Raises:
        InvalidRequest, TooLarge: as ``read_texts``, if the counts show it.
    """
    counts = json_scan.JsonCounts()
    for number, _ in enumerate(json_scan.scan_blocks(message, counts)):
        if number % BLOCKS_PER_STEP == BLOCKS_PER_STEP - 1:
            yield None
    kind = _kind(message, pairs)
    yield ScannedMessage(message, kind, _check_counts(message, counts, kind, limits), counts.cuts, counts.rows, limits)


def read_piece(piece: RawPiece, limits: RequestLimits) -> list[Any]:
    """Decodes the texts, token lists or pairs of a piece.

    Raises:
        InvalidRequest, TooLarge: as ``read_texts``.
    """
    kind, row = piece.kind, piece.first_row
    is_large = piece.stop - piece.start > json_scan.PIECE_BYTES
    if is_large and kind is _Kind.TOKEN_LISTS:
        # The decoder would create all tokens of the value first.
        tokens = json_scan.scan(piece.message).strings
        if tokens > limits.max_text_length:
            raise _too_long(row, f"{tokens} tokens", limits)
    texts = _decode(piece.message, kind, piece.start - (row > 0), row)
    if not texts:
        if not piece.is_only:
            raise InvalidRequest(f"the texts are not valid JSON: a value is missing before byte {piece.stop}")
        raise InvalidRequest("the list of texts is empty; send at least one text")
    end = row + len(texts)
    if end > piece.size or (piece.is_last and end != piece.size):
        raise InvalidRequest(f"the texts are not valid JSON: send {kind.value}")
    _check_lengths(texts, row, limits)
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
    for scanned in scan_message(message, limits, pairs):
        if scanned is None:
            yield None
            continue
        for index in range(scanned.num_pieces):
            yield _read(scanned.piece(index), limits)


def _read(piece: RawPiece, limits: RequestLimits) -> Piece:
    return Piece(piece.size, piece.first_row, read_piece(piece, limits))


def tokenize(tokenizer: Tokenizer, texts: list[Any], options: TextOptions, first_row: int = 0) -> Tokenized:
    """Tokenizes texts, token lists or pairs; ``first_row`` is the row of the first one in its request.

    Raises:
        InvalidRequest: the tokenizer rejects an item, or the request has a prompt for token lists.
        TooLarge: a text is too long, and the request forbids truncation.
    """
    if options.prompt is not None and texts and not isinstance(texts[0], str) and not options.pairs:
        raise InvalidRequest(
            "a prompt is put before texts, but the request has token lists: omit prompt and prompt_name"
        )
    try:
        if options.long:
            return tokenize_long(tokenizer, texts, options, first_row)
        tokenized = tokenizer.encode(texts, options.prompt, options.pairs)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(str(error)[:500]) from error
    if not options.truncate and len(tokenized.truncated):
        row = int(tokenized.truncated[0])
        if options.pairs:
            one, other = tokenizer.count_pair(texts[row], options.prompt)
            number = one + other + tokenizer.frame.num_of_pair
            counted = f"pair {first_row + row} has {one} and {other} tokens, {number} with special ones"
        else:
            number = tokenizer.count(texts[row], options.prompt, options.pairs)
            counted = f"text {first_row + row} has {number} tokens, special ones included"
        raise TooLarge(
            f"{counted}; the longest sequence of this server is {tokenizer.max_seq_len} (-max_seq_len): shorten the "
            "text, or allow truncation"
        )
    return tokenized


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


def _check_counts(message: bytes | memoryview, found: json_scan.JsonCounts, kind: _Kind, limits: RequestLimits) -> int:
    """Returns the number of texts in a message.

    Raises:
        InvalidRequest: a value is neither a text nor a list of tokens.
        TooManyTexts: more texts, or tokens, than the limits allow.
    """
    size = max(found.strings, found.lists - 1) if kind is _Kind.TEXTS else found.lists - 1
    if size > limits.max_request_size:
        raise _too_many(size, limits)
    if kind is _Kind.PAIRS:
        if found.strings != 2 * size:
            raise InvalidRequest(f"the message has {found.strings} texts in {size} pairs; send {kind.value}")
    elif found.strings > max(limits.max_request_size, limits.max_tokens):
        raise TooManyTexts(
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


def _too_many(size: int, limits: RequestLimits) -> TooManyTexts:
    return TooManyTexts(
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
        decoder = _STRINGS if kind is _Kind.TEXTS else _DECODERS[kind]  # an enumeration's hash is slow
        texts: list[Any] = decoder.decode(message)
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
