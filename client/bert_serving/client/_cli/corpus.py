"""A text file as the input of ``bert-serving-encode``: lines become chunks, and every place in it can be found again.

Pure, apart from the stream that it reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

#: What is done with a blank line, which the server does not encode.
BLANK = ("error", "skip", "zeros")
_BLOCK = 1 << 20
_BOM = b"\xef\xbb\xbf"


class CorpusError(ValueError):
    """The input cannot be encoded, or is not the one that was begun."""


class Position(NamedTuple):
    """A place in the input, behind a line.

    Attributes:
        lines: number of lines before it.
        bytes: number of bytes before it.
        digest: BLAKE2b of these bytes, in hex: tells whether another input starts the same.
    """

    lines: int
    bytes: int
    digest: str


class Chunk(NamedTuple):
    """Lines that are encoded in one request.

    Attributes:
        texts: one for each row of the output; ``""`` for a row of zeros.
        numbers: the line of each row, from 1.
        end: the place behind the last line.
    """

    texts: list[str]
    numbers: list[int]
    end: Position


class Corpus:
    """Lines of UTF-8 text, in chunks.

    Args:
        stream: what to read.
        name: its name, for messages.
        blank: what a blank line is: an ``error``, left out (``skip``), or a row of ``zeros``.
    """

    def __init__(self, stream: BinaryIO, name: str, blank: str = "error") -> None:
        self._stream = stream
        self._name = name
        self._blank = blank
        self._digest = hashlib.blake2b(digest_size=16)
        self._lines = 0
        self._bytes = 0

    @property
    def mark(self) -> Position:
        """Where the reading is now."""
        return Position(self._lines, self._bytes, self._digest.hexdigest())

    def skip_to(self, mark: Position) -> None:
        """Reads on to a place that was reached before.

        Raises:
            CorpusError: the bytes before it are not those of that time.
        """
        while self._bytes < mark.bytes:
            block = self._stream.read(min(_BLOCK, mark.bytes - self._bytes))
            if not block:
                break
            self._digest.update(block)
            self._bytes += len(block)
        if self.mark.digest != mark.digest:
            raise CorpusError(
                f"{self._name} is not what was begun: its first {mark.lines:,} lines ({mark.bytes:,} bytes) have "
                "changed; start over with -overwrite"
            )
        self._lines = mark.lines

    def chunks(self, size: int) -> Iterator[Chunk]:
        """The rest of the input, ``size`` texts at a time; blank lines belong to the text before them.

        Every chunk has a text that is not blank, except where blank lines are all that is left.

        Raises:
            CorpusError: a line is not UTF-8, or blank where that is an error.
        """
        texts: list[str] = []
        numbers: list[int] = []
        filled, end = 0, self.mark
        for line in self._stream:
            text = self._text(line)
            if text and filled == size:
                yield Chunk(texts, numbers, end)
                texts, numbers, filled = [], [], 0
            self._lines += 1
            self._bytes += len(line)
            self._digest.update(line)
            end = self.mark
            if text or self._blank == "zeros":
                texts.append(text)
                numbers.append(self._lines)
                filled += bool(text)
        if texts:
            yield Chunk(texts, numbers, end)

    def _text(self, line: bytes) -> str:
        """The text of a line, ``""`` if it is blank."""
        number = self._lines + 1
        try:
            text = (line.removeprefix(_BOM) if number == 1 else line).decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise CorpusError(f"{self._name}, line {number}: not UTF-8 ({error}); convert the file first") from error
        if text and not text.isspace():
            return text
        if self._blank == "error":
            raise CorpusError(
                f"{self._name}, line {number} is blank, and a blank text has no vector; "
                "-blank skip leaves such lines out, -blank zeros makes them rows of zeros"
            )
        return ""


def count_lines(stream: BinaryIO) -> int:
    """Number of lines from here to the end of the stream."""
    lines, last = 0, b"\n"
    while block := stream.read(_BLOCK):
        lines += block.count(b"\n")
        last = block[-1:]
    return lines + (last != b"\n")
