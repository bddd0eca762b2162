"""The rows of a corpus, and how they become texts."""

from __future__ import annotations

from typing import Any, NamedTuple

from .corpus import CorpusError
from .output_columns import column_names

#: Most bytes of the rows that one request encodes, except that one row of any size may be. Batches in flight stay in
#: memory.
MAX_BATCH_BYTES = 4 << 20


class ReadOptions(NamedTuple):
    """How rows become texts.

    Attributes:
        column: the column of the texts.
        vector_column: the column that the output adds.
        blank: a blank text is an ``error``, ``null``, or becomes a row of ``zeros``.
        batch_size: most rows of a batch.
        part_rows: rows of a part.
        has_columns: whether the output keeps the columns of the input.
        has_parts: whether the output has a row for each part of a text.
        outputs: kinds of vectors; none for dense vectors alone.
    """

    column: str
    vector_column: str
    blank: str
    batch_size: int
    part_rows: int
    has_columns: bool
    has_parts: bool = False
    outputs: tuple[str, ...] = ()

    @property
    def added_columns(self) -> tuple[str, ...]:
        """The columns that the output adds to those of the input."""
        if not self.has_columns:
            return ()
        names = column_names(self.vector_column, self.outputs)
        return (*names, *(part_columns(self.vector_column) if self.has_parts else ()))


class Rows(NamedTuple):
    """Consecutive rows of an input.

    Attributes:
        first: number of the first row, from 0.
        texts: one for each row: ``None`` for null, ``""`` for a row of zeros.
        content: the columns: a record batch of Parquet, a list of the objects of JSON lines or of the lines of text.
    """

    first: int
    texts: list[str | None]
    content: Any = None


def checked_text(text: str | None, blank: str, where: object) -> str | None:
    """Returns a text, or what stands for a blank one: ``None`` for null, ``""`` for zeros.

    Raises:
        CorpusError: it is blank, and a blank text is an error.
    """
    if text is None or (text and not text.isspace()):
        return text
    if blank == "error":
        raise CorpusError(
            f"{where} is blank, and a blank text has no vector; "
            "use -blank null to write null for such texts, or -blank zeros to write zeros"
        )
    return None if blank == "null" else ""


def part_columns(vector_column: str) -> tuple[str, str, str]:
    """Returns the columns of a part of a text: the row of the text in its input, and the offsets from and to."""
    return f"{vector_column}_row", f"{vector_column}_start", f"{vector_column}_stop"


def vector_column_error(where: str, column: str) -> CorpusError:
    """Returns the error of an input that has a column of this name."""
    return CorpusError(f"{where} has a column {column!r} already; name the column of the vectors with -vector_column")


def ended_early(path: str, row: int) -> CorpusError:
    """Returns the error of an input that has fewer rows than before."""
    return CorpusError(f"{path} ends after {row:,} rows: it was changed during the run; start over with -overwrite")
