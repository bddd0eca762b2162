"""Converts large vectors to the body of a response piece by piece.

A body of JSON has five times the size of its vectors. Its length is computed in a first pass, so that the response has
the header ``Content-Length`` like one that is not streamed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
from flask import Response

from . import serialization
from .memory_limit import STREAM_ABOVE
from .schemas import Embedding

#: Numbers in a piece. Conversion of a piece holds the GIL for less than a millisecond.
_PIECE_NUMBERS = 16_384

#: Converts consecutive rows, of which the first has the given index, to values of a JSON list.
ToValues = Callable[[np.ndarray, int], bytes]
#: Yields a JSON list without its brackets in pieces; is called twice.
Pieces = Callable[[], Iterator[bytes]]


def is_large(array: np.ndarray) -> bool:
    return array.nbytes > STREAM_ABOVE


def blocks_of_rows(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yields some rows of an array ``[t, d]`` at a time."""
    for _, rows in _blocks(array) if array.size else ():
        yield rows


def placeholder() -> msgspec.Raw:
    """Returns a JSON value that occurs nowhere else, to be replaced by the vectors."""
    return msgspec.Raw(b'"%b"' % os.urandom(16).hex().encode())


def pieces_of(array: np.ndarray, to_values: ToValues) -> Pieces:
    """Returns the list of the values of all rows."""
    return lambda: (b"%b%b" % (b"," if start else b"", to_values(rows, start)) for start, rows in _blocks(array))


def json_response(encoded: bytes, replaced: bytes, array: np.ndarray, to_values: ToValues, mimetype: str) -> Response:
    """Returns a response that has a list of all vectors at each place of ``replaced`` in ``encoded``."""
    return json_lists_response(encoded, {replaced: to_values}, array, mimetype)


def json_lists_response(encoded: bytes, lists: Mapping[bytes, ToValues], array: np.ndarray, mimetype: str) -> Response:
    """Returns a response that has lists of all vectors in place of the keys of ``lists`` in ``encoded``.

    Args:
        lists: the conversion to the values of the list, by the place of the list.
    """
    pieces = {place: pieces_of(array, to_values) for place, to_values in lists.items()}
    return json_pieces_response(encoded, pieces, mimetype)


def json_pieces_response(encoded: bytes, lists: Mapping[bytes, Pieces], mimetype: str) -> Response:
    """Returns a response that has lists in place of the keys of ``lists`` in ``encoded``.

    Args:
        lists: pieces of the list without its brackets, by the place of the list.
    """
    # Each odd item is a place.
    parts = re.split(b"(%b)" % b"|".join(map(re.escape, lists)), encoded)

    def body() -> Iterator[bytes]:
        for index, part in enumerate(parts):
            if index % 2:
                yield b"["
                yield from lists[part]()
                yield b"]"
            else:
                yield part

    lengths = {place: 2 + sum(map(len, lists[place]())) for place in lists}
    length = sum(lengths[part] if index % 2 else len(part) for index, part in enumerate(parts))
    return _response(body(), length, mimetype)


def list_response(array: np.ndarray, to_values: ToValues, mimetype: str) -> Response:
    """Returns a response that is a list of the values of all rows."""
    whole = bytes(placeholder())
    return json_response(whole, whole, array, to_values, mimetype)


def bytes_response(array: np.ndarray, mimetype: str) -> Response:
    """Returns a response with the little-endian values."""
    return _response((serialization.to_bytes(rows) for _, rows in _blocks(array)), array.nbytes, mimetype)


def numbers(rows: np.ndarray, _: int) -> bytes:
    return serialization.to_json(rows)[1:-1]


def base64(rows: np.ndarray, _: int) -> bytes:
    return b",".join(b'"%b"' % row for row in serialization.to_base64(rows))


def embeddings(to_values: ToValues, parts: list[tuple[int, int, int]] | None = None) -> ToValues:
    """Returns the conversion to the list ``data`` of OpenAI's API; ``parts`` are those of `EncodingResult`."""

    def convert(rows: np.ndarray, start: int) -> bytes:
        items: list[Any] = [
            Embedding(
                "embedding",
                start + index,
                msgspec.Raw(to_values(rows[index : index + 1], 0)),
                msgspec.UNSET if parts is None else parts[start + index],
            )
            for index in range(len(rows))
        ]
        return msgspec.json.encode(items)[1:-1]

    return convert


def _blocks(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields some rows at a time, and the index of the first."""
    count = max(1, _PIECE_NUMBERS // max(1, array[0].size))
    for start in range(0, len(array), count):
        yield start, array[start : start + count]


def _response(body: Iterator[bytes], length: int, mimetype: str) -> Response:
    response = Response(body, mimetype=mimetype)
    response.headers["Content-Length"] = str(length)
    return response
