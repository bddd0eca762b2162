"""Reads the rows of a corpus in batches, and from any part on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, Protocol, cast

from .inputs import DigestReader, InputFile, decompressed, digest_of, format_of, named
from .json_columns import JsonColumns
from .line_reader import LineReader, Lines
from .parquet_reader import ParquetReader
from .rows import ReadOptions, Rows


class Reader(Protocol):
    """Reads an input. A reader goes on where it stopped, or from the first row of any part."""

    def rows(self, first: int, count: int) -> Iterator[Rows]:
        """Yields the rows from ``first``, the first row of a part, to ``first + count``.

        Raises:
            CorpusError: a row is not valid.
        """
        ...

    def close(self) -> None: ...


def open_reader(path: str, known: InputFile, options: ReadOptions) -> Reader:
    """Returns a reader of an input that was surveyed."""
    if known.format == "parquet":
        return ParquetReader(path, options)
    return LineReader(path, known.format, known.offsets, options)


def survey(path: str, options: ReadOptions, progress: Callable[[int], None]) -> InputFile:
    """Reads an input once: validates each row, and collects what later reading needs.

    Args:
        progress: is called with numbers of bytes that were read.

    Raises:
        CorpusError: the file or a row is not valid.
    """
    file_format, compression = format_of(path)
    if file_format == "parquet":
        reader = ParquetReader(path, options)
        try:
            reader.validate()
            rows = reader.num_rows
        finally:
            reader.close()
        size, digest = digest_of(path, progress)
        return InputFile(path, "parquet", size, digest, rows)
    with open(path, "rb", buffering=0) as file, named(path):
        source = DigestReader(cast("BinaryIO", file), progress)
        lines = Lines(decompressed(source, path), path, file_format or "text", options)
        columns = JsonColumns(path, options)
        offsets: list[int] = []
        position = 0
        while line := lines.read():
            if not compression and (lines.number - 1) % options.part_rows == 0:
                offsets.append(position)
            position += len(line)
            _, row = lines.parse(line)
            if file_format == "jsonl":
                columns.add(row, lines.number)
        if file_format == "jsonl":
            columns.require_text_column(lines.number)
        digest = source.drain()
    return InputFile(path, file_format or "text", source.bytes, digest, lines.number, offsets, columns.kinds)


class Reading:
    """Reads whole inputs, one after the other."""

    def survey(self, paths: Sequence[str], options: ReadOptions, show: Callable[[int], None]) -> list[InputFile]:
        """Validates all inputs, as `survey` does.

        Raises:
            CorpusError: one is not valid.
        """
        return [survey(path, options, show) for path in paths]

    def digests(self, paths: Sequence[str], show: Callable[[int], None]) -> Iterable[tuple[int, str]]:
        """Yields size and digest of each input."""
        return (digest_of(path, show) for path in paths)


def state_of(path: str) -> tuple[int, int]:
    """Returns size and time of modification of a file, to notice changes during a run."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns
