"""Counts the values of a large JSON message before a decoder creates them.

Decoding can take twenty times the size of the message: ``[],`` creates a list of 56 bytes and a pointer to it. The scan
keeps counters only, and reads the message block by block, so that no call holds the GIL for long. The decoders stop at
the first syntax error. Up to there, the scan sees the same strings and brackets as they do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Messages up to this size are decoded without a scan: the memory that they can take is small.
SMALL_BYTES = 2**20
_BLOCK = 2**20
_QUOTE, _COMMA, _OPEN, _CLOSE, _BRACE = b'",[]{'
_LIST_BYTES = np.frombuffer(b'", []\t\r\n', np.uint8)


@dataclass(slots=True)
class JsonCounts:
    """Numbers of values in a message.

    Attributes:
        commas: number of commas outside of strings.
        first_invalid_offset: offset of the first byte outside of strings that cannot occur in a list of strings or in
            a list of lists of strings; None if there is none.
    """

    strings: int = 0
    lists: int = 0
    objects: int = 0
    commas: int = 0
    first_invalid_offset: int | None = None


def scan(message: bytes) -> JsonCounts:
    """Counts strings, and the lists, objects and commas outside of strings. Takes about 5 ns per byte."""
    found = JsonCounts()
    quotes, start = 0, 0
    while start < len(message):
        block = message[start : start + _BLOCK]
        if (len(block) - len(block.rstrip(b"\\"))) % 2:  # the last backslash escapes the first byte of the next block
            block = message[start : start + _BLOCK + 1]
        marks = np.frombuffer(_mask_escapes(block), np.uint8)
        is_quote = marks == _QUOTE
        # Modulo 256 keeps the parity: odd inside of a string.
        passed = np.cumsum(is_quote, dtype=np.uint8)
        passed += np.uint8(quotes % 2)
        outside = np.flatnonzero((passed % 2 == 0) & ~is_quote)
        counts = np.bincount(marks[outside], minlength=256)
        quotes += int(np.count_nonzero(is_quote))
        found.lists += int(counts[_OPEN])
        found.objects += int(counts[_BRACE])
        found.commas += int(counts[_COMMA])
        if found.first_invalid_offset is None and counts.sum() > counts[_LIST_BYTES].sum():
            found.first_invalid_offset = start + int(outside[~np.isin(marks[outside], _LIST_BYTES)][0])
        start += len(block)
    found.strings = quotes // 2
    return found


def _mask_escapes(block: bytes) -> bytes:
    """Replaces escaped backslashes and quotes by underscores, so that each remaining quote delimits a string."""
    if b"\\" not in block:
        return block
    return block.replace(b"\\\\", b"__").replace(b'\\"', b"__")
