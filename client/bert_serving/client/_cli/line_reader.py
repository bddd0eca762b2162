"""Reads the rows of text and of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from .corpus import CorpusError, decode_line
from .inputs import decompressed, named
from .rows import MAX_BATCH_BYTES, ReadOptions, Rows, checked_text, ended_early

#: A longer line is an error, because a line is held in memory.
MAX_LINE_BYTES = 64 << 20


class Lines:
    """Lines of a stream.

    Attributes:
        number: number of lines that were read.
    """

    def __init__(self, stream: BinaryIO, path: str, file_format: str, options: ReadOptions, number: int = 0) -> None:
        self.number = number
        self._stream = stream
        self._path = path
        self._is_json = file_format == "jsonl"
        self._column = options.column
        self._blank = options.blank

    def read(self) -> bytes:
        """Returns the next line with its end, ``b""`` after the last one."""
        line = self._stream.readline(MAX_LINE_BYTES + 1)
        if line:
            self.number += 1
            if len(line) > MAX_LINE_BYTES:
                raise CorpusError(f"{self} has more than {MAX_LINE_BYTES >> 20} MiB; divide the text")
        return line

    def parse(self, line: bytes) -> tuple[str | None, Any]:
        """Returns the text of the line that was read last, and its content: the line, or its JSON object."""
        text = decode_line(line, self.number == 1, self)
        if not self._is_json:
            return checked_text(text, self._blank, self), text
        row = self._object(text)
        value = row.get(self._column)
        if value is not None and not isinstance(value, str):
            raise CorpusError(
                f"{self}: {self._column!r} is {type(value).__name__}, not a string; "
                "name the column of the texts with -column"
            )
        return checked_text(value, self._blank, self), row

    def close(self) -> None:
        self._stream.close()

    def __str__(self) -> str:
        """Names the line that was read last, for messages."""
        return f"{self._path}, line {self.number}"

    def _object(self, text: str) -> dict[str, Any]:
        try:
            row = json.loads(text)
            if "\\u" in text:  # the only way to write half of a surrogate pair
                json.dumps(row, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise CorpusError(f"{self} has half of a surrogate pair, which UTF-8 cannot hold") from error
        except (ValueError, RecursionError) as error:
            shown = "it is blank" if not text.strip() else str(error)
            raise CorpusError(f"{self} is not JSON ({shown}); each line must be one JSON object") from error
        if not isinstance(row, dict):
            raise CorpusError(f"{self} is not a JSON object, but {type(row).__name__}; write one object per line")
        return row


class LineReader:
    """Reads text or JSON lines, also compressed.

    Args:
        offsets: position of the first row of each part; without them a part is found by reading up to it.
    """

    def __init__(self, path: str, file_format: str, offsets: list[int], options: ReadOptions) -> None:
        self._path = path
        self._format = file_format
        self._offsets = offsets
        self._options = options
        self._file: BinaryIO | None = None
        self._lines: Lines | None = None

    def rows(self, first: int, count: int) -> Iterator[Rows]:
        with named(self._path):
            lines = self._at(first)
            texts: list[str | None] = []
            contents: list[Any] = []
            size, start = 0, first
            for number in range(first, first + count):
                line = lines.read()
                if not line:
                    raise ended_early(self._path, number)
                text, content = lines.parse(line)
                if texts and (len(texts) == self._options.batch_size or size + len(line) > MAX_BATCH_BYTES):
                    yield Rows(start, texts, contents)
                    texts, contents, size, start = [], [], 0, number
                texts.append(text)
                size += len(line)
                contents.append(content)
            yield Rows(start, texts, contents)

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()
        if self._file is not None:
            self._file.close()
        self._file = self._lines = None

    def _at(self, first: int) -> Lines:
        """Returns the lines from a row on."""
        lines = self._lines
        if lines is not None and lines.number == first:
            return lines
        if lines is None or self._offsets or lines.number > first:
            self.close()
            self._file = cast("BinaryIO", open(self._path, "rb", buffering=0))  # noqa: SIM115, close() closes it
            number = first if self._offsets else 0
            if self._offsets:
                self._file.seek(self._offsets[first // self._options.part_rows])
            lines = Lines(decompressed(self._file, self._path), self._path, self._format, self._options, number)
            self._lines = lines
        while lines.number < first:
            if not lines.read():
                raise ended_early(self._path, lines.number)
        return lines
