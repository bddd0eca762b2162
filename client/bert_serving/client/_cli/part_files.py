"""The files of a folder of vectors: each part is written aside, synced to disk and renamed."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Protocol

import numpy as np

from .._outputs import EncodedOutputs
from .._parts import TextPart
from ..protocol import FloatArray
from .corpus import CorpusError
from .inputs import require_pyarrow
from .json_columns import values_of
from .output_columns import OutputColumns, arrow_columns, column_names, columns_of
from .parts import Part
from .rows import Rows, part_columns
from .text_parts import PartRows, part_content, part_rows
from .vector_files import NpyFile

FOLDER_FORMATS = ("parquet", "npy")
#: A row group of Parquet is written at this size in memory.
_ROW_GROUP_BYTES = 32 << 20


class PartRecord(NamedTuple):
    """A part that is written.

    Attributes:
        number: number of the part.
        bytes: size of its file.
        digest: BLAKE2b of its file in hex.
    """

    number: int
    bytes: int
    digest: str


class Layout(NamedTuple):
    """The content of all parts.

    Attributes:
        format: ``parquet`` or ``npy``.
        row: an array with the shape and dtype of a vector.
        column: the column of the texts of text files.
        vector_column: the column of the vectors.
        columns: the columns of JSON lines and their kinds.
        vector_space: space of the vectors; ``None`` if it is not known.
        has_parts: a row for each part of a text.
        outputs: kinds of vectors; none for dense vectors alone.
        multi_type: dtype of the vectors of tokens.
    """

    format: str
    row: FloatArray
    column: str
    vector_column: str
    columns: dict[str, str]
    vector_space: str | None
    has_parts: bool = False
    outputs: tuple[str, ...] = ()
    multi_type: np.dtype[Any] | None = None


class PartFile(Protocol):
    """The rows of a part, on their way into a file."""

    def append(
        self, rows: Rows, vectors: FloatArray, parts: PartRows | None, outputs: OutputColumns | None = None
    ) -> None: ...

    def close(self) -> None:
        """Writes the rows that are in memory, and the end of the file."""
        ...

    def discard(self) -> None:
        """Drops the rows that are in memory."""
        ...


class PartWriter:
    """Writes one part to a temporary file, and renames it when it is complete.

    Args:
        folder: the output.
        part: the part.
        input_format: format of its input.
        layout: what the file holds.
        tag: distinguishes the temporary file from those of other processes.
    """

    def __init__(self, folder: str, part: Part, input_format: str, layout: Layout, tag: str = "") -> None:
        self.part = part
        name = part.name(layout.format)
        self._folder = folder
        self.temporary = os.path.join(folder, temporary_name(name, tag))
        self._name = name
        self._row = layout.row
        self._input_format, self._layout = input_format, layout
        self._is_npy = layout.format == "npy"
        self._rows = 0
        self._file = _DigestWriter(self.temporary)
        self._part_file: PartFile = (
            _NpyPart(self._file, part.rows, layout.row)
            if self._is_npy
            else _ParquetPart(self._file, input_format, layout)
        )

    def append(
        self,
        rows: Rows,
        vectors: FloatArray | None,
        text_parts: Sequence[TextPart] | None = None,
        outputs: EncodedOutputs[Any] | None = None,
    ) -> None:
        """Appends rows.

        Args:
            vectors: array ``[n, ...]``, one for each text that is neither null nor blank, or one for each part of
                such a text; ``None`` if there is none.
            text_parts: the part of each vector.
            outputs: those of the same texts.

        Raises:
            CorpusError: the vectors have another shape or dtype than those of other parts.
        """
        if self._layout.has_parts:
            found = part_rows(rows.texts, vectors, text_parts, self._row)
            self._require_shape(found.vectors)
            self._rows += len(rows.texts)
            content = part_content(rows.content, found, self._input_format, self._layout.column)
            self._part_file.append(Rows(rows.first, found.texts, content), found.vectors, found)
            return
        filled = np.array([bool(text) for text in rows.texts])
        if vectors is None or not filled.all():
            array = np.zeros((len(filled), *self._row.shape), self._row.dtype)
            if vectors is not None:
                self._require_shape(vectors)
                array[filled] = vectors
            if self._is_npy:
                self._write_nulls(array, rows)
            vectors = array
        self._require_shape(vectors)
        self._part_file.append(rows, vectors, None, columns_of(outputs, self._layout.outputs, rows.texts))
        self._rows += len(vectors)

    def finish(self) -> PartRecord:
        """Completes the file, and gives it its name."""
        record = self.complete()
        rename_part(self.temporary, self._folder, self._name)
        return record

    def complete(self) -> PartRecord:
        """Completes the file under its temporary name."""
        if self._rows != self.part.rows:
            raise RuntimeError(f"part {self.part.number} has {self._rows} of {self.part.rows} rows")
        self._part_file.close()
        self._file.sync()
        self._file.close()
        return PartRecord(self.part.number, self._file.bytes, self._file.digest)

    def discard(self) -> None:
        """Removes the temporary file."""
        self._file.is_discarded = True
        self._part_file.discard()
        self._file.close()
        os.remove(self.temporary)

    def _write_nulls(self, array: FloatArray, rows: Rows) -> None:
        """Writes the rows of null texts.

        Raises:
            CorpusError: the array has integers, which have no NaN.
        """
        nulls = [text is None for text in rows.texts]
        if any(nulls) and not np.issubdtype(array.dtype, np.floating):
            raise CorpusError(
                f"row {rows.first + nulls.index(True):,} has a null text, and .npy of {array.dtype} has no null: use "
                "-format parquet, or -blank zeros if the text is blank, or omit -embedding_type"
            )
        if any(nulls):
            array[nulls] = np.nan

    def _require_shape(self, vectors: FloatArray) -> None:
        if (vectors.shape[1:], vectors.dtype) != (self._row.shape, self._row.dtype):
            raise CorpusError(
                f"the server returns vectors of shape {list(vectors.shape[1:])} {vectors.dtype} beside others of "
                f"{list(self._row.shape)} {self._row.dtype}, and a folder holds one shape only; start the server with "
                "a fixed -max_seq_len or with -fixed_embed_length"
            )


class _DigestWriter(io.RawIOBase):
    """A new file that hashes the bytes that are written to it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = open(path, "wb")  # noqa: SIM115, it outlives this function
        self._hash = hashlib.blake2b(digest_size=16)
        self.bytes = 0
        self.is_discarded = False  # then a write has no effect, so that it cannot fail

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.is_discarded:
            return memoryview(data).nbytes
        self._hash.update(data)
        with self._named():
            size = self._file.write(data)
        self.bytes += size
        return size

    def sync(self) -> None:
        with self._named():
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with suppress(OSError) if self.is_discarded else self._named():
            self._file.close()
        super().close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Adds the name of the file to an error of the system, such as a full disk."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._path) from error


class _NpyPart:
    """Rows after a header, which has the final number of rows. A null text has a row of NaN."""

    def __init__(self, file: Any, rows: int, row: FloatArray) -> None:
        self._file = file
        file.write(NpyFile.header(rows, row))

    def append(
        self, rows: Rows, vectors: FloatArray, parts: PartRows | None, outputs: OutputColumns | None = None
    ) -> None:
        self._file.write(np.ascontiguousarray(vectors).data.cast("B"))

    def close(self) -> None:
        pass

    def discard(self) -> None:
        pass


class _ParquetPart:
    """The columns of the input, and the vectors."""

    def __init__(self, file: Any, input_format: str, layout: Layout) -> None:
        self._pa = require_pyarrow("-format parquet")
        self._file = file
        self._input_format = input_format
        self._layout = layout
        self._writer: Any = None
        self._batches: list[Any] = []
        self._bytes = 0
        width = layout.row.shape[0]  # 0 without dense vectors
        self._vectors = self._pa.list_(self._pa.from_numpy_dtype(layout.row.dtype), width) if width else None

    def append(
        self, rows: Rows, vectors: FloatArray, parts: PartRows | None, outputs: OutputColumns | None = None
    ) -> None:
        pa = self._pa
        columns = self._columns(rows)
        added: list[tuple[str, Any]] = []
        if self._vectors is not None:
            mask = pa.array([text is None for text in rows.texts], pa.bool_())
            array = pa.FixedSizeListArray.from_arrays(
                pa.array(np.ascontiguousarray(vectors).ravel()), type=self._vectors, mask=mask
            )
            added.append((self._layout.vector_column, array))
        if outputs is not None:
            added += arrow_columns(pa, outputs, self._layout.vector_column, rows.texts, self._layout.multi_type)
        if parts is not None:
            numbers = [rows.first + source for source in parts.sources]
            values = (numbers, parts.starts, parts.stops)
            columns_of_part = part_columns(self._layout.vector_column)
            added += [(name, pa.array(value, pa.int64())) for name, value in zip(columns_of_part, values, strict=True)]
        schema = columns.schema
        for name, value in added:
            schema = schema.append(pa.field(name, value.type))
        if self._layout.vector_space:
            schema = schema.with_metadata((schema.metadata or {}) | {b"vector_space": self._layout.vector_space})
        batch = pa.RecordBatch.from_arrays([*columns.columns, *(value for _, value in added)], schema=schema)
        if self._writer is None:
            outputs_added = column_names(self._layout.vector_column, self._layout.outputs)
            names = [name for name in schema.names if name not in outputs_added]
            self._writer = pa.parquet.ParquetWriter(self._file, schema, use_dictionary=names)
        self._batches.append(batch)
        self._bytes += batch.nbytes
        if self._bytes >= _ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()

    def discard(self) -> None:
        self._batches = []
        if self._writer is not None:
            with suppress(ValueError, OSError):  # after a failed write it is closed already
                self._writer.close()
            self._writer.is_open = False  # otherwise it is closed again when it is deleted

    def _flush(self) -> None:
        if self._batches:
            self._writer.write_table(self._pa.Table.from_batches(self._batches))
            self._batches, self._bytes = [], 0

    def _columns(self, rows: Rows) -> Any:
        """Returns the columns of the input as a record batch."""
        pa = self._pa
        if self._input_format == "parquet":
            return rows.content
        if self._input_format == "text":
            return pa.RecordBatch.from_arrays([pa.array(rows.content, pa.string())], [self._layout.column])
        kinds = self._layout.columns
        types = {
            "null": pa.null(),
            "bool": pa.bool_(),
            "int": pa.int64(),
            "int64": pa.int64(),
            "double": pa.float64(),
            "string": pa.string(),
            "json": pa.string(),
        }
        arrays = [pa.array(values_of(rows.content, name, kind), types[kind]) for name, kind in kinds.items()]
        return pa.RecordBatch.from_arrays(arrays, list(kinds))


def temporary_name(name: str, tag: str = "") -> str:
    """Returns the name under which a file is written first; readers of folders ignore names that begin with a dot."""
    return f".{name}.{tag}.new" if tag else f".{name}.new"


def rename_part(temporary: str, folder: str, name: str) -> None:
    """Gives a complete file its name."""
    os.replace(temporary, os.path.join(folder, name))
    sync_folder(folder)


def sync_folder(path: str) -> None:
    """Writes the names in a folder to disk, where the system supports it."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # Windows
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
