"""Reads the rows of Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .corpus import CorpusError
from .inputs import named, require_pyarrow
from .rows import MAX_BATCH_BYTES, ReadOptions, Rows, checked_text, ended_early, vector_column_error


class ParquetReader:
    """Reads Parquet, one batch at a time."""

    def __init__(self, path: str, options: ReadOptions) -> None:
        self._pa = require_pyarrow(f"{path} is Parquet, and")
        self._path = path
        self._options = options
        self._next = -1
        self._batches: Iterator[Any] = iter(())
        with named(path):
            self._file = self._pa.parquet.ParquetFile(path)
        try:
            self.schema = self._file.schema_arrow
            self.num_rows: int = self._file.metadata.num_rows
            self._require_columns()
        except BaseException:
            self.close()
            raise

    def validate(self) -> None:
        """Reads all texts.

        Raises:
            CorpusError: a row is not valid.
        """
        for _ in self._read(0, self.num_rows, [self._options.column]):
            pass

    def rows(self, first: int, count: int) -> Iterator[Rows]:
        return self._read(first, count, None if self._options.has_columns else [self._options.column])

    def close(self) -> None:
        self._file.close(force=True)

    def _require_columns(self) -> None:
        """Checks the names and types of the columns."""
        names, column = list(self.schema.names), self._options.column
        if names.count(column) != 1:
            state = "no column" if column not in names else f"{names.count(column)} columns"
            raise CorpusError(
                f"{self._path} has {state} {column!r}; name the column of the texts with -column. "
                f"Its columns: {', '.join(names)}"
            )
        found = self.schema.field(column).type
        types = self._pa.types
        value = found.value_type if types.is_dictionary(found) else found
        if not (
            types.is_string(value)
            or types.is_large_string(value)
            or types.is_string_view(value)
            or types.is_null(value)
        ):
            raise CorpusError(
                f"{self._path}: the column {column!r} is {found}, not a string; name another with -column"
            )
        for name in self._options.added_columns:
            if name in names:
                raise vector_column_error(self._path, name)

    def _read(self, first: int, count: int, columns: list[str] | None) -> Iterator[Rows]:
        with named(self._path):
            batches = self._at(first, columns)
            self._next = -1  # until the position is known again
            end = first + count
            position = first
            while position < end:
                batch: Any = next(batches, None)
                if batch is None:
                    raise ended_early(self._path, position)
                if batch.num_rows > end - position:  # the rest belongs to the next part
                    self._batches = batches = _chain(batch.slice(end - position), batches)
                    batch = batch.slice(0, end - position)
                yield from self._split(position, batch)
                position += batch.num_rows
                self._next = position

    def _at(self, first: int, columns: list[str] | None) -> Iterator[Any]:
        """Returns the batches from a row on. Row groups before it are not read."""
        if first == self._next:
            return self._batches
        group, start, metadata = 0, 0, self._file.metadata
        while group < metadata.num_row_groups and start + metadata.row_group(group).num_rows <= first:
            start += metadata.row_group(group).num_rows
            group += 1
        size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
        row_bytes = max(1, size // max(1, self.num_rows))
        batches = self._file.iter_batches(
            max(1, min(self._options.batch_size, MAX_BATCH_BYTES // row_bytes)),
            row_groups=range(group, metadata.num_row_groups),
            columns=columns,
        )
        self._batches = _without(first - start, batches)
        return self._batches

    def _split(self, first: int, batch: Any) -> Iterator[Rows]:
        """Yields a batch in pieces that fit in one request."""
        values = batch.column(batch.schema.get_field_index(self._options.column)).to_pylist()
        texts = [
            value
            if value and not value.isspace()
            else checked_text(value, self._options.blank, f"{self._path}, row {row}")
            for row, value in enumerate(values, first + 1)
        ]
        start, size = 0, 0
        for place, text in enumerate(texts):
            chars = len(text or "")
            if place > start and size + chars > MAX_BATCH_BYTES:
                yield Rows(first + start, texts[start:place], batch.slice(start, place - start))
                start, size = place, 0
            size += chars
        yield Rows(first + start, texts[start:], batch.slice(start))


def _chain(batch: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield batch
    yield from rest


def _without(rows: int, batches: Iterator[Any]) -> Iterator[Any]:
    """Drops the first rows of record batches."""
    for batch in batches:
        if rows >= batch.num_rows:
            rows -= batch.num_rows
            continue
        yield batch.slice(rows)
        rows = 0
