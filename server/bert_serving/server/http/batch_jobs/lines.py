"""Reads the input of a batch job: one JSON object with a request in each line."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import msgspec
import numpy as np

from ..errors import HttpError
from ..validation import parse_object, printable, truncate_repr

#: The only route whose requests a batch job may have.
ENDPOINT = "/v1/embeddings"
#: Maximum number of requests in an input, and of characters in a ``custom_id``.
MAX_REQUESTS, MAX_CUSTOM_ID = 1_000_000, 512
#: Bytes of a line beside the body of its request.
ENVELOPE = 4096
_PIECE = 2**20


class LineError(ValueError):
    """A line is not a request.

    Attributes:
        code: OpenAI's name of the error.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Line(NamedTuple):
    """A line that is not blank.

    Attributes:
        number: its position in the input, from 1.
        data: its bytes; None if it is longer than allowed.
        end: offset of the next line in the input.
    """

    number: int
    data: bytes | None
    end: int


def read_lines(file: BinaryIO, max_length: int, number: int = 0, offset: int = 0) -> Iterator[Line]:
    """Yields the lines that are not blank. Holds one line of at most ``max_length`` bytes at a time.

    Args:
        number, offset: lines and bytes that were read before.
    """
    file.seek(offset)
    while piece := file.readline(max_length + 1):
        number += 1
        offset += len(piece)
        is_long = len(piece) > max_length and not piece.endswith(b"\n")
        rest = piece
        while is_long and rest and not rest.endswith(b"\n"):
            rest = file.readline(_PIECE)
            offset += len(rest)
        if is_long or not piece.isspace():
            yield Line(number, None if is_long else piece.removesuffix(b"\n"), offset)


class Scan(NamedTuple):
    """What a pass over a whole input finds.

    Attributes:
        total: number of requests; at most one more than `MAX_REQUESTS`.
        digest: BLAKE2b of the content, in hexadecimal.
        duplicates: numbers of the lines whose ``custom_id`` an earlier line has.
    """

    total: int
    digest: str
    duplicates: frozenset[int]


def stamp_of(file: BinaryIO) -> tuple[int, int]:
    """Returns what changes when another program writes to a file: its size, and the time of the last change."""
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns


def scan(file: BinaryIO, max_length: int) -> Scan:
    """Reads a whole input."""
    hasher = hashlib.blake2b()
    while piece := file.read(_PIECE):
        hasher.update(piece)
    total = 0
    keys, numbers = array("Q"), array("Q")
    for line in read_lines(file, max_length):
        total += 1
        if total > MAX_REQUESTS:
            break
        custom_id = custom_id_of(line)
        if custom_id is not None:
            keys.frombytes(hashlib.blake2b(custom_id.encode(), digest_size=8).digest())
            numbers.append(line.number)
    return Scan(total, hasher.hexdigest(), frozenset(_repeated(np.asarray(keys), np.asarray(numbers)).tolist()))


def _repeated(keys: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Returns the numbers of the lines whose key an earlier line has."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    return np.sort(numbers[order[1:][ordered[1:] == ordered[:-1]]])


def custom_id_of(line: Line) -> str | None:
    """Returns the ``custom_id`` of a line, of an invalid request too; None if it cannot be read."""
    try:
        return _custom_id(_object(line))
    except LineError:
        return None


def parse_line(line: Line, max_length: int, duplicates: frozenset[int]) -> dict[str, Any]:
    """Returns the body of the request in a line.

    Raises:
        LineError: the line is not a request.
    """
    if line.data is None:
        raise LineError(
            "line_too_long", f"line {line.number} is longer than {max_length} bytes (-http_max_body): split its input"
        )
    values = _object(line)
    if _custom_id(values) is None:
        raise LineError(
            "invalid_custom_id",
            f"'custom_id' must be a string of 1 to {MAX_CUSTOM_ID} characters, received "
            f"{printable(truncate_repr(values.get('custom_id')))}",
        )
    if line.number in duplicates:
        raise LineError("duplicate_custom_id", "an earlier line has the same 'custom_id': give each line its own")
    if values.get("method") != "POST":
        raise LineError("invalid_method", f"'method' must be 'POST', received {_shown(values, 'method')}")
    if values.get("url") != ENDPOINT:
        raise LineError("invalid_url", f"'url' must be {ENDPOINT!r}, received {_shown(values, 'url')}")
    body = values.get("body")
    if not isinstance(body, dict):
        raise LineError("invalid_body", f"'body' must be an object, received {_shown(values, 'body')}")
    return body


def _object(line: Line) -> dict[str, Any]:
    try:
        return parse_object(line.data or b"")
    except HttpError as error:
        message = str(error).replace("the body", f"line {line.number}")
        raise LineError("invalid_json_line", printable(message)) from None


def _custom_id(values: dict[str, Any]) -> str | None:
    value = values.get("custom_id")
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_CUSTOM_ID:
        return None
    try:
        msgspec.json.encode(value)
    except UnicodeEncodeError:  # a lone surrogate
        return None
    return value


def _shown(values: dict[str, Any], name: str) -> str:
    return printable(truncate_repr(values[name])) if name in values else "no such field"
