"""Finds places where a text may be cut: ends of sentences, white space, and characters that belong together. Pure.

The rules are a short form of those of Unicode (UAX #29, sentences and grapheme clusters).
"""

from __future__ import annotations

import re
import unicodedata
from itertools import islice

_CLOSERS = "\"')\\]}\u2019\u201d\u00bb\u300d\u300f\uff09\u3011"
#: White space behind the end of a sentence; a line break; or a full stop that no white space follows.
_END = re.compile(
    rf"(?<=[.!?\u2026\u061f\u06d4\u0964\u0965\u0589])[{_CLOSERS}]{{0,4}}\s+"
    rf"|\n\s*"
    rf"|(?<=[\u3002\uff01\uff1f\uff61])(?![\u3002\uff01\uff1f\uff61])[{_CLOSERS}]{{0,4}}"
)
_SPACE = re.compile(r"\s")
#: Zero width joiner, which joins the characters on both sides.
_JOINER = "\u200d"


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Returns the offsets from and to of the sentences of a text, without white space around them.

    A sentence ends at a full stop and white space, or at a line break, unless a lower-case letter follows.
    """
    spans = []
    start = 0
    for match in _END.finditer(text):
        end = match.end()
        if end < len(text) and text[end].islower():
            continue
        spans.append((start, end))
        start = end
    spans.append((start, len(text)))
    trimmed = (trim(text, *span) for span in spans)
    return [(first, last) for first, last in trimmed if first < last]


def trim(text: str, start: int, stop: int) -> tuple[int, int]:
    """Returns a span without the white space at its ends."""
    part = text[start:stop]
    stop -= len(part) - len(part.rstrip())
    return min(start + len(part) - len(part.lstrip()), stop), stop


def cuts(text: str, start: int, stop: int, number: int) -> list[int]:
    """Returns up to ``number - 1`` offsets at which a span may be cut into similar pieces; none if it may not be cut.

    The offsets are white space if the span has any. A character and its combining marks, or an emoji and its parts, are
    not separated.
    """
    found: list[int] = []
    find = _next_space if _SPACE.search(text, start, stop) else _next_character
    for index in range(1, number):
        target = start + index * (stop - start) // number
        if found and target <= found[-1]:
            continue
        offset = find(text, max(target, start + 1), stop)
        if offset is None:
            break
        found.append(offset)
    if found:
        return found
    middle = start + (stop - start) // number
    before = (offset for offset in range(middle, start, -1) if find(text, offset, offset + 1) is not None)
    return list(islice(before, 1))


def _next_space(text: str, start: int, stop: int) -> int | None:
    match = _SPACE.search(text, start, stop)
    return None if match is None else match.start()


def _next_character(text: str, start: int, stop: int) -> int | None:
    return next((offset for offset in range(start, stop) if not _continues(text, offset)), None)


def _continues(text: str, offset: int) -> bool:
    """Returns whether the character at an offset belongs to the one before it."""
    char, before = text[offset], text[offset - 1]
    if char.isascii() and before != _JOINER:
        return char == "\n" and before == "\r"
    code = ord(char)
    return (
        before == _JOINER
        or char == _JOINER
        or unicodedata.category(char)[0] == "M"
        or 0x1F3FB <= code <= 0x1F3FF  # skin tones of emoji
        or 0xE0020 <= code <= 0xE007F  # tags of flags
        or 0x1160 <= code <= 0x11FF  # vowels and final consonants of Hangul
        or (_is_regional(code) and _is_second_regional(text, offset))
    )


def _is_regional(code: int) -> bool:
    return 0x1F1E6 <= code <= 0x1F1FF


def _is_second_regional(text: str, offset: int) -> bool:
    """Returns whether a letter of a flag is the second of its pair."""
    first = offset
    while first > 0 and offset - first < 64 and _is_regional(ord(text[first - 1])):
        first -= 1
    return (offset - first) % 2 == 1
