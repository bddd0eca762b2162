"""Counts the values of a large JSON message before a decoder creates them.

Decoding can take twenty times the size of the message: ``[],`` creates a list of 56 bytes and a pointer to it. The scan
keeps counters only, and reads the message block by block, so that no call holds the GIL for long. The decoders stop at
the first syntax error. Up to there, the scan sees the same strings and brackets as they do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

#: Messages up to this size are decoded without a scan: the memory that they can take is small.
SMALL_BYTES = 2**20
#: Largest piece of a message, in values of the outer list and in bytes; a value of more bytes is a piece of its own.
PIECE_VALUES, PIECE_BYTES = 2048, 2**20
_BLOCK = 2**20
_QUOTE, _COMMA, _OPEN, _CLOSE, _BRACE = b'",[]{'
_STRUCTURE = np.frombuffer(b",[]", np.uint8)
_LIST_BYTES = np.frombuffer(b'", []\t\r\n', np.uint8)


@dataclass(slots=True)
class JsonCounts:
    """Numbers of values in a message.

    Attributes:
        commas: number of commas outside of strings.
        first_invalid_offset: offset of the first byte outside of strings that cannot occur in a list of strings or in
            a list of lists of strings; None if there is none.
        cuts: offsets of commas between values of the outer list, at which the message is divided into pieces.
        rows: number of values of the outer list before each cut.
    """

    strings: int = 0
    lists: int = 0
    objects: int = 0
    commas: int = 0
    first_invalid_offset: int | None = None
    cuts: list[int] = field(default_factory=list, compare=False)
    rows: list[int] = field(default_factory=list, compare=False)


def scan(message: bytes | memoryview) -> JsonCounts:
    """Counts strings, and the lists, objects and commas outside of strings. Takes about 5 ns per byte."""
    found = JsonCounts()
    for _ in scan_blocks(message, found):
        pass
    return found


def scan_blocks(message: bytes | memoryview, found: JsonCounts) -> Iterator[None]:
    """Adds the counts of a message to ``found``, one block per ``next``."""
    quotes, start, depth = 0, 0, 0
    commas = np.zeros(0, np.int64)  # between values of the outer list, since the last cut
    while start < len(message):
        block = bytes(message[start : start + _BLOCK])
        if (len(block) - len(block.rstrip(b"\\"))) % 2:  # the last backslash escapes the first byte of the next block
            block = bytes(message[start : start + _BLOCK + 1])
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
        outside = outside[np.isin(marks[outside], _STRUCTURE)]
        kinds = marks[outside]
        depths = depth + np.cumsum((kinds == _OPEN).astype(np.int64) - (kinds == _CLOSE))
        depth = int(depths[-1]) if len(depths) else depth
        commas = np.concatenate([commas, start + outside[(kinds == _COMMA) & (depths == 1)]])
        start += len(block)
        commas = _cut(found, commas, start)
        found.strings = quotes // 2
        yield


def _cut(found: JsonCounts, commas: np.ndarray, end: int) -> np.ndarray:
    """Appends the cuts that the text up to ``end`` allows, and returns the commas behind the last one."""
    cuts, rows = found.cuts, found.rows
    while len(commas):
        last = cuts[-1] if cuts else 0
        index = min(PIECE_VALUES, int(np.searchsorted(commas, last + PIECE_BYTES, "right"))) - 1
        if index == len(commas) - 1 < PIECE_VALUES - 1 and end - last <= PIECE_BYTES:
            break  # the piece may go on in the next block
        index = max(index, 0)
        cuts.append(int(commas[index]))
        rows.append((rows[-1] if rows else 0) + index + 1)
        commas = commas[index + 1 :]
    return commas


def _mask_escapes(block: bytes) -> bytes:
    """Replaces escaped backslashes and quotes by underscores, so that each remaining quote delimits a string."""
    if b"\\" not in block:
        return block
    return block.replace(b"\\\\", b"__").replace(b'\\"', b"__")
