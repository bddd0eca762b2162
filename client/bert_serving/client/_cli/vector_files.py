"""The files that ``bert-serving-encode`` writes: vectors row by row, and a checkpoint beside them.

An ``.npy`` file is valid at any time: ``numpy.load`` returns the rows so far. Rows are appended and not memory-mapped.
The final size need not be known in advance, and a full disk is an error at the row that does not fit.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np

from ..protocol import FloatArray
from .corpus import Chunk, CorpusError, Position
from .output_columns import OutputColumns, json_fields
from .text_parts import PartRows

FORMATS = ("npy", "jsonl")
#: Large enough for any shape: the header keeps its length while the number of rows grows.
_HEADER_BYTES = 192


@dataclass(frozen=True)
class Checkpoint:
    """The state to resume from, stored in ``FILE.progress``.

    Attributes:
        input: position in the input after the encoded texts.
        rows: number of rows written.
        output_bytes: size of the output with these rows.
        options: options that determine the content of a row; a resumed run must have the same.
        probe: vector of a fixed sentence, to recognise a server with another model.
    """

    input: Position
    rows: int
    output_bytes: int
    options: dict[str, Any]
    probe: list[float]

    def save(self, path: str) -> None:
        """Replaces the file atomically."""
        with open(path + ".new", "w", encoding="utf-8") as file:
            json.dump(asdict(self) | {"input": self.input._asdict()}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(path + ".new", path)

    @staticmethod
    def load(path: str) -> Checkpoint:
        """Reads the file.

        Raises:
            CorpusError: the file is damaged.
        """
        try:
            with open(path, encoding="utf-8") as file:
                values = json.load(file)
            return Checkpoint(**values | {"input": Position(**values["input"])})
        except (ValueError, TypeError, KeyError) as error:
            raise CorpusError(f"{path} cannot be read ({error!r}); start over with -overwrite") from error

    def require(self, now: Checkpoint) -> None:
        """Checks that a run that starts now can append to the output.

        Raises:
            CorpusError: new rows would be inconsistent with the existing rows.
        """
        require_options(self.options, now.options)
        if not is_same_probe(self.probe, now.probe):
            raise other_vectors()


def require_options(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Checks that options are those of the interrupted run.

    Raises:
        CorpusError: an option has another value.
    """
    for name, value in before.items():
        if now.get(name) != value:
            raise CorpusError(
                f"cannot resume: {name} was {value} and is now {now.get(name)}; "
                "set it to the old value, or start over with -overwrite"
            )


def is_same_probe(one: list[float], other: list[float]) -> bool:
    """Returns whether two vectors of the probe are of the same model.

    The tolerance covers bf16, which rounds differently from batch to batch. Another model differs by far more.
    """
    return len(one) == len(other) and bool(
        np.linalg.norm(np.asarray(one) - other) <= 0.02 * np.linalg.norm(np.asarray(one))
    )


def other_vectors() -> CorpusError:
    """Returns the error of a server that returns other vectors than in the interrupted run."""
    return CorpusError(
        "cannot resume: the server returns other vectors than in the interrupted run (another model, layer or "
        "pooling?); use the same server again, or start over with -overwrite"
    )


def checkpoint_files(output: str) -> tuple[str, str]:
    """Returns the path of the checkpoint beside an output, and the path under which it is written first."""
    return f"{output}.progress", f"{output}.progress.new"


class VectorRows(NamedTuple):
    """Rows of an output.

    Attributes:
        chunk: the lines of the rows.
        vectors: array ``[n, ...]``.
        tokens: the tokens of each row; ``""`` if the server does not show them.
        parts: of rows that are parts of texts, their offsets.
        columns: other outputs than dense vectors.
    """

    chunk: Chunk
    vectors: FloatArray
    tokens: Any
    parts: PartRows | None = None
    columns: OutputColumns | None = None


class VectorFile(Protocol):
    """An output file."""

    rows: int

    def append(self, added: VectorRows) -> None: ...

    def sync(self) -> int:
        """Writes the appended rows to disk, and returns the size of the file in bytes."""
        ...

    def close(self) -> None: ...


class NpyFile:
    """Rows of one shape and dtype after a header, which is rewritten for each new number of rows.

    The format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html

    Args:
        file: the file, positioned behind the last row, with ``rows`` rows.
        row: an array with the shape and dtype of a row.
    """

    def __init__(self, file: BinaryIO, rows: int, row: FloatArray) -> None:
        self.rows = rows
        self._file = file
        self._row = row
        if not rows:
            self._write_header()

    def append(self, added: VectorRows) -> None:
        chunk, vectors = added.chunk, added.vectors
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

    @staticmethod
    def header(rows: int, row: FloatArray) -> bytes:
        """Returns the header of a file with this number of rows."""
        header = {"descr": row.dtype.str, "fortran_order": False, "shape": (rows, *row.shape)}
        start = b"\x93NUMPY\x01\x00" + (_HEADER_BYTES - 10).to_bytes(2, "little")
        return start + repr(header).encode("ascii").ljust(_HEADER_BYTES - 11) + b"\n"

    def _write_header(self) -> None:
        self._file.write(self.header(self.rows, self._row))


class JsonlFile:
    """One JSON object per row: ``line``, ``text``, ``vector``, and ``tokens`` and ``vector_space`` if known.

    Of a part of a text also ``start`` and ``stop``, its offsets in characters. With other outputs, these as ``sparse``
    and ``multi``.
    """

    def __init__(self, file: BinaryIO, rows: int, vector_space: str | None) -> None:
        self.rows = rows
        self._space = f', "vector_space": {json.dumps(vector_space)}' if vector_space else ""
        self._file = file

    def append(self, added: VectorRows) -> None:
        chunk, vectors, tokens, parts, columns = added
        for row, (number, text, vector) in enumerate(zip(chunk.numbers, chunk.texts, vectors, strict=True)):
            head: dict[str, Any] = {"line": number, "text": text}
            if parts is not None:
                head |= {"start": parts.starts[row], "stop": parts.stops[row]}
            start = json.dumps(head, ensure_ascii=False)[:-1]
            shown = f', "tokens": {json.dumps(tokens[row], ensure_ascii=False)}' if tokens else ""
            others = "" if columns is None else json_fields(columns, row, _joined_numbers)
            dense = f', "vector": {_joined_numbers(vector.tolist())}' if vector.size else ""
            self._file.write(f"{start}{shown}{self._space}{dense}{others}}}\n".encode())
        self.rows += len(vectors)

    def sync(self) -> int:
        _sync(self._file)
        with suppress(OSError):  # a pipe has no position
            return self._file.tell()
        return 0

    def close(self) -> None:
        if self._file is not sys.stdout.buffer:
            self._file.close()


def open_vector_file(
    path: str, output_format: str, row: FloatArray, before: Checkpoint | None, vector_space: str | None = None
) -> VectorFile:
    """Opens a new output, or an existing one for the rows after ``before``; ``-`` is the standard output.

    Args:
        row: an array with the shape and dtype of a row.
        vector_space: space of the vectors; ``None`` if it is not known.

    Raises:
        CorpusError: the file is shorter than in the interrupted run.
    """
    if path == "-":
        return JsonlFile(sys.stdout.buffer, 0, vector_space)
    file = open(path, "r+b" if before else "wb")  # noqa: SIM115, it outlives this function
    rows = before.rows if before else 0
    if before:
        if file.seek(0, os.SEEK_END) < before.output_bytes:
            file.close()
            raise CorpusError(
                f"cannot resume: {path} is shorter than the {before.output_bytes:,} bytes that were written; "
                "start over with -overwrite"
            )
        file.truncate(before.output_bytes)
        file.seek(before.output_bytes)
    return NpyFile(file, rows, row) if output_format == "npy" else JsonlFile(file, rows, vector_space)


def _numbers(value: Any) -> Iterator[str]:
    """Yields nested lists of floats as JSON, with enough digits to restore each float32 exactly."""
    if isinstance(value, list):
        yield "["
        for place, item in enumerate(value):
            yield ", " if place else ""
            yield from _numbers(item)
        yield "]"
    else:
        yield f"{value:.9g}"


def _joined_numbers(value: Any) -> str:
    return "".join(_numbers(value))


def _sync(file: BinaryIO) -> None:
    file.flush()
    with suppress(OSError):  # a pipe or a terminal
        os.fsync(file.fileno())
