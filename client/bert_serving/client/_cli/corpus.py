"""The input of ``bert-serving-encode``: a text file, read in chunks, with positions to resume from.

Pure, except for the stream that it reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

#: What to do with a blank line, which the server does not encode.
BLANK = ("error", "skip", "zeros", "null")
_BLOCK = 1 << 20
_BOM = b"\xef\xbb\xbf"


class CorpusError(ValueError):
    """The input cannot be encoded, or differs from the input of the interrupted run."""


class Position(NamedTuple):
    """A position in the input, after a line.

    Attributes:
        lines: number of lines before it.
        bytes: number of bytes before it.
        digest: BLAKE2b of these bytes in hex, to compare the start of another input.
    """

    lines: int
    bytes: int
    digest: str


class Chunk(NamedTuple):
    """Lines that are encoded in one request.

    Attributes:
        texts: one for each row of the output; ``""`` for a row of zeros.
        numbers: line number of each row, from 1.
        end: the position after the last line.
    """

    texts: list[str]
    numbers: list[int]
    end: Position

    @property
    def where(self) -> str:
        """The lines, for messages."""
        return f"lines {self.numbers[0]:,} to {self.numbers[-1]:,}"


class Corpus:
    """Lines of UTF-8 text, in chunks.

    Args:
        stream: the input.
        name: name of the input, for messages.
        blank: what to do with a blank line: ``error``, ``skip`` it, or write a row of ``zeros``.
    """

    def __init__(self, stream: BinaryIO, name: str, blank: str = "error") -> None:
        self._stream = stream
        self._name = name
        self._blank = blank
        self._digest = hashlib.blake2b(digest_size=16)
        self._lines = 0
        self._bytes = 0

    @property
    def position(self) -> Position:
        """The current position."""
        return Position(self._lines, self._bytes, self._digest.hexdigest())

    def skip_to(self, position: Position) -> None:
        """Skips the input up to a position of an earlier run.

        Raises:
            CorpusError: the bytes before it have changed.
        """
        while self._bytes < position.bytes:
            block = self._stream.read(min(_BLOCK, position.bytes - self._bytes))
            if not block:
                break
            self._digest.update(block)
            self._bytes += len(block)
        if self.position.digest != position.digest:
            raise CorpusError(
                f"{self._name} differs from the input of the interrupted run: its first {position.lines:,} lines "
                f"({position.bytes:,} bytes) have changed; start over with -overwrite"
            )
        self._lines = position.lines

    def chunks(self, size: int) -> Iterator[Chunk]:
        """Yields the rest of the input, ``size`` texts at a time. Blank lines belong to the text before them.

        Every chunk has a text that is not blank, except if only blank lines are left.

        Raises:
            CorpusError: a line is not UTF-8, or it is blank and ``blank`` is ``error``.
        """
        texts: list[str] = []
        numbers: list[int] = []
        filled, end = 0, self.position
        for line in self._stream:
            text = self._text(line)
            if text and filled == size:
                yield Chunk(texts, numbers, end)
                texts, numbers, filled = [], [], 0
            self._lines += 1
            self._bytes += len(line)
            self._digest.update(line)
            end = self.position
            if text or self._blank == "zeros":
                texts.append(text)
                numbers.append(self._lines)
                filled += bool(text)
        if texts:
            yield Chunk(texts, numbers, end)

    def _text(self, line: bytes) -> str:
        """Returns the text of a line, ``""`` if it is blank."""
        number = self._lines + 1
        text = decode_line(line, number == 1, f"{self._name}, line {number}")
        if text and not text.isspace():
            return text
        if self._blank == "error":
            raise CorpusError(
                f"{self._name}, line {number} is blank, and a blank text has no vector; "
                "use -blank skip to omit such lines, or -blank zeros to write rows of zeros"
            )
        return ""


def decode_line(line: bytes, is_first: bool, where: object) -> str:
    """Returns the text of a line, without its end and, in the first line, without a byte order mark.

    Args:
        where: file and line, for messages; it is formatted only then.

    Raises:
        CorpusError: the line is not UTF-8.
    """
    try:
        return (line.removeprefix(_BOM) if is_first else line).decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{where}: not UTF-8 ({error}); convert the file to UTF-8") from error


def count_lines(stream: BinaryIO) -> int:
    """Returns the number of lines up to the end of the stream."""
    lines, last = 0, b"\n"
    while block := stream.read(_BLOCK):
        lines += block.count(b"\n")
        last = block[-1:]
    return lines + (last != b"\n")
