"""The files that ``bert-serving-encode`` writes: vectors row by row, and beside them how far it has come.

An ``.npy`` file is valid at any time: ``numpy.load`` gives the rows so far. It is appended to rather than mapped, so
that its size need not be known beforehand and a full disk is an error at the row where it happens.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, Protocol

import numpy as np

from .corpus import Chunk, CorpusError, Position

FORMATS = ("npy", "jsonl")
#: Enough for any shape, so that the header keeps its length while the number of rows grows.
_HEADER_BYTES = 192


@dataclass(frozen=True)
class Progress:
    """What must be known to go on, the content of ``FILE.progress``.

    Attributes:
        input: place in the input behind what is encoded.
        rows: rows written.
        output_bytes: size of the output with these rows.
        options: those that decide what a row is; they must not change on the way.
        probe: vector of a fixed sentence: a server with other vectors is another server.
    """

    input: Position
    rows: int
    output_bytes: int
    options: dict[str, Any]
    probe: list[float]

    def save(self, path: str) -> None:
        """Replaces the file at once, so that it is never seen half written."""
        with open(path + ".new", "w", encoding="utf-8") as file:
            json.dump(asdict(self) | {"input": self.input._asdict()}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(path + ".new", path)

    @staticmethod
    def load(path: str) -> Progress:
        """
        Raises:
            CorpusError: the file is broken.
        """
        try:
            with open(path, encoding="utf-8") as file:
                values = json.load(file)
            return Progress(**values | {"input": Position(**values["input"])})
        except (ValueError, TypeError, KeyError) as error:
            raise CorpusError(f"{path} cannot be read ({error!r}); start over with -overwrite") from error

    def require(self, now: Progress) -> None:
        """Compares with a run that begins now.

        Raises:
            CorpusError: the rows to come would not fit those that are there.
        """
        for name, before in self.options.items():
            if now.options.get(name) != before:
                raise CorpusError(
                    f"this was begun with {name} {before}, and now it is {now.options.get(name)}; "
                    "make it the same again, or start over with -overwrite"
                )
        probe = np.asarray(self.probe)
        # Room for what bf16 rounds differently from batch to batch; another model is off by far more.
        if len(probe) != len(now.probe) or np.linalg.norm(probe - now.probe) > 0.02 * np.linalg.norm(probe):
            raise CorpusError(
                "the server now gives other vectors than when this was begun: is it another model, layer or pooling? "
                "Start that server again, or start over with -overwrite"
            )


class VectorFile(Protocol):
    """An output that rows are appended to."""

    rows: int

    def append(self, chunk: Chunk, vectors: np.ndarray, tokens: Any) -> None: ...

    def sync(self) -> int:
        """Makes what was appended last, and returns the size of the file in bytes."""
        ...

    def close(self) -> None: ...


class NpyFile:
    """Rows of one shape and dtype, behind a header that is written anew as they become more.

    The format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html

    Args:
        file: at its end, with ``rows`` rows before.
        row: an array like a row, for its shape and dtype.
    """

    def __init__(self, file: BinaryIO, rows: int, row: np.ndarray) -> None:
        self.rows = rows
        self._file = file
        self._row = row
        if not rows:
            self._write_header()

    def append(self, chunk: Chunk, vectors: np.ndarray, tokens: Any) -> None:
        if (vectors.shape[1:], vectors.dtype) != (self._row.shape, self._row.dtype):
            raise CorpusError(
                f"lines {chunk.numbers[0]:,} to {chunk.numbers[-1]:,} have vectors of shape {list(vectors.shape[1:])} "
                f"{vectors.dtype}, others {list(self._row.shape)} {self._row.dtype}, and an .npy file holds one shape "
                "only; start the server with a fixed -max_seq_len or with -fixed_embed_length, or write .jsonl"
            )
        self._file.write(np.ascontiguousarray(vectors).data)
        self.rows += len(vectors)

    def sync(self) -> int:
        size = self._file.tell()
        self._file.seek(0)
        self._write_header()
        self._file.seek(size)
        _sync(self._file)
        return size

    def close(self) -> None:
        self._file.close()

    def _write_header(self) -> None:
        header = {"descr": self._row.dtype.str, "fortran_order": False, "shape": (self.rows, *self._row.shape)}
        start = b"\x93NUMPY\x01\x00" + (_HEADER_BYTES - 10).to_bytes(2, "little")
        self._file.write(start + repr(header).encode("ascii").ljust(_HEADER_BYTES - 11) + b"\n")


class JsonlFile:
    """A JSON object per row: ``line``, ``text``, ``vector``, and ``tokens`` if the server shows them."""

    def __init__(self, file: BinaryIO, rows: int) -> None:
        self.rows = rows
        self._file = file

    def append(self, chunk: Chunk, vectors: np.ndarray, tokens: Any) -> None:
        for row, (number, text, vector) in enumerate(zip(chunk.numbers, chunk.texts, vectors, strict=True)):
            start = json.dumps({"line": number, "text": text}, ensure_ascii=False)[:-1]
            shown = f', "tokens": {json.dumps(tokens[row], ensure_ascii=False)}' if tokens else ""
            self._file.write(f'{start}{shown}, "vector": {"".join(_numbers(vector.tolist()))}}}\n'.encode())
        self.rows += len(vectors)

    def sync(self) -> int:
        _sync(self._file)
        with suppress(OSError):  # a pipe has no place
            return self._file.tell()
        return 0

    def close(self) -> None:
        if self._file is not sys.stdout.buffer:
            self._file.close()


def open_vector_file(path: str, kind: str, row: np.ndarray, before: Progress | None) -> VectorFile:
    """The output, new, or ready for the rows after ``before``; ``-`` is the standard output.

    Args:
        row: an array like a row, for its shape and dtype.

    Raises:
        CorpusError: the file has become shorter than it was.
    """
    if path == "-":
        return JsonlFile(sys.stdout.buffer, 0)
    file = open(path, "r+b" if before else "wb")  # noqa: SIM115, it outlives this function
    rows = before.rows if before else 0
    if before:
        if file.seek(0, os.SEEK_END) < before.output_bytes:
            file.close()
            raise CorpusError(
                f"{path} is shorter than the {before.output_bytes:,} bytes that were written; "
                "start over with -overwrite"
            )
        file.truncate(before.output_bytes)
        file.seek(before.output_bytes)
    return NpyFile(file, rows, row) if kind == "npy" else JsonlFile(file, rows)


def _numbers(value: Any) -> Iterator[str]:
    """Nested lists of floats as JSON, with as many digits as give the same float32 again."""
    if isinstance(value, list):
        yield "["
        for place, item in enumerate(value):
            yield ", " if place else ""
            yield from _numbers(item)
        yield "]"
    else:
        yield f"{value:.9g}"


def _sync(file: BinaryIO) -> None:
    file.flush()
    with suppress(OSError):  # a pipe or a terminal
        os.fsync(file.fileno())
