"""Converts sparse vectors and vectors of tokens to JSON, piece by piece if they are large."""

from __future__ import annotations

import binascii
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

import msgspec
import numpy as np
from flask import Response

from bert_serving.client import SparseVector

from . import serialization, streaming
from .memory_limit import STREAM_ABOVE
from .request_context import JSON

#: Most numbers of sparse vectors in a piece.
_PIECE_NUMBERS = 4096
#: Bytes that base64 converts on their own: a multiple of three.
_PIECE_BYTES = 49_152

_Item = TypeVar("_Item")


def response(encoded: bytes, lists: Mapping[bytes, streaming.Pieces], num_bytes: int) -> Response:
    """Returns a response that has lists in place of the keys of ``lists`` in ``encoded``.

    Args:
        num_bytes: size of the vectors; large ones are streamed.
    """
    if num_bytes > STREAM_ABOVE:
        return streaming.json_pieces_response(encoded, lists, JSON)
    for place, pieces in lists.items():
        encoded = encoded.replace(place, b"[%b]" % b"".join(pieces()))
    return Response(encoded, mimetype=JSON)


def list_response(pieces: streaming.Pieces, num_bytes: int) -> Response:
    """Returns a response that is a list."""
    whole = bytes(streaming.placeholder())
    return response(whole, {whole: pieces}, num_bytes)


def weights(vectors: Sequence[SparseVector]) -> streaming.Pieces:
    """Returns the lists of text-embeddings-inference: an object with ``index`` and ``value`` for each weight."""

    def to_json(vector: SparseVector) -> bytes:
        if not len(vector):
            return b"[]"
        values = serialization.to_json(vector.weights)[1:-1].split(b",")
        pairs = zip(vector.ids.tolist(), values, strict=True)
        return b"[%b]" % b",".join(b'{"index":%d,"value":%b}' % pair for pair in pairs)

    return partial(_grouped, vectors, to_json)


def columns(vectors: Sequence[SparseVector]) -> streaming.Pieces:
    """Returns an object with ``indices``, ``values`` and ``tokens`` for each vector."""

    def to_json(vector: SparseVector) -> bytes:
        indices, values = serialization.to_json(vector.ids), serialization.to_json(vector.weights)
        return b'{"indices":%b,"values":%b,"tokens":%b}' % (indices, values, msgspec.json.encode(vector.tokens))

    return partial(_grouped, vectors, to_json)


def matrices(arrays: Sequence[np.ndarray], is_base64: bool = False) -> streaming.Pieces:
    """Returns a list of rows for each array ``[t, d]``, or its little-endian values as base64."""
    return partial(_of_matrices, arrays, _base64_pieces if is_base64 else _number_pieces)


def _grouped(vectors: Sequence[SparseVector], to_json: Callable[[SparseVector], bytes]) -> Iterator[bytes]:
    found: list[bytes] = []
    num_numbers, comma = 0, b""
    for vector in vectors:
        found.append(to_json(vector))
        num_numbers += len(vector)
        if num_numbers >= _PIECE_NUMBERS:
            yield comma + b",".join(found)
            found, num_numbers, comma = [], 0, b","
    if found:
        yield comma + b",".join(found)


def _of_matrices(arrays: Iterable[np.ndarray], to_pieces: Callable[[np.ndarray], Iterator[bytes]]) -> Iterator[bytes]:
    for number, array in enumerate(arrays):
        if number:
            yield b","
        yield from to_pieces(array)


def _number_pieces(array: np.ndarray) -> Iterator[bytes]:
    comma = b"["
    for rows in streaming.blocks_of_rows(array):
        yield comma + serialization.to_json(rows)[1:-1]
        comma = b","
    yield b"]" if len(array) else b"[]"


def _base64_pieces(array: np.ndarray) -> Iterator[bytes]:
    data = memoryview(serialization.to_bytes(array))
    yield b'"'
    for start in range(0, len(data), _PIECE_BYTES):
        yield binascii.b2a_base64(data[start : start + _PIECE_BYTES], newline=False)
    yield b'"'
