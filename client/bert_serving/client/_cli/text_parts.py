"""Rows of an output with a row for each part of a text, with ``-long chunks``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._parts import TextPart
from ..errors import ReplyError
from ..protocol import FloatArray


@dataclass
class PartRows:
    """The rows of some texts: one for each part of a text, and one for a text without a vector.

    Attributes:
        vectors: array ``[n, ...]``; zeros for a text without a vector.
        sources: number of the text of each row.
        texts: the part of the text; ``None`` for null, ``""`` for a blank text.
        starts, stops: offsets of the part in characters; ``None`` for null.
    """

    vectors: FloatArray
    sources: list[int] = field(default_factory=list)
    texts: list[str | None] = field(default_factory=list)
    starts: list[int | None] = field(default_factory=list)
    stops: list[int | None] = field(default_factory=list)

    def add(self, source: int, text: str | None, start: int | None, stop: int | None) -> None:
        """Adds a row, but not its vector."""
        self.sources.append(source)
        self.texts.append(text)
        self.starts.append(start)
        self.stops.append(stop)


def part_rows(
    texts: Sequence[str | None], vectors: FloatArray | None, parts: Sequence[TextPart] | None, row: FloatArray
) -> PartRows:
    """Returns the rows of texts.

    Args:
        texts: ``None`` for null, ``""`` for a blank text; the others were encoded.
        vectors, parts: those of the reply; ``None`` if no text was encoded.
        row: an array with the shape and dtype of a vector.

    Raises:
        ReplyError: the reply has not the parts of all texts.
    """
    encoded: list[list[TextPart]] = [[] for text in texts if text]
    for part in parts or ():
        encoded[part.text].append(part)
    if vectors is not None and not all(encoded):
        raise ReplyError("the reply has not the parts of all texts: was the server replaced by an older one?")
    rows, following = PartRows(row), iter(encoded)
    for source, text in enumerate(texts):
        if text:
            for part in next(following):
                rows.add(source, text[part.start : part.stop], part.start, part.stop)
        elif text is None:
            rows.add(source, None, None, None)
        else:
            rows.add(source, "", 0, 0)
    filled = np.array([bool(texts[source]) for source in rows.sources], bool)
    rows.vectors = np.zeros((len(filled), *row.shape), row.dtype)
    if vectors is not None:
        rows.vectors = np.zeros((len(filled), *vectors.shape[1:]), vectors.dtype)
        rows.vectors[filled] = vectors  # the parts of a reply are in the order of the texts
    return rows


def part_content(content: Any, rows: PartRows, input_format: str, column: str) -> Any:
    """Returns the columns of an input for the rows of parts. The column of the texts has the parts.

    Args:
        content: that of `Rows`.
    """
    if input_format == "parquet":
        return _record_batch(content, rows, column)
    texts = zip(rows.sources, rows.texts, strict=True)
    if input_format == "text":
        return [text or content[source] for source, text in texts]
    return [{**content[source], column: text} if text else content[source] for source, text in texts]


def _record_batch(content: Any, rows: PartRows, column: str) -> Any:
    import pyarrow as pa

    taken = content.take(pa.array(rows.sources, pa.int64()))
    place = content.schema.get_field_index(column)
    kind = content.schema.field(place).type
    if pa.types.is_null(kind):
        return taken
    before = taken.column(place).to_pylist() if not all(rows.texts) else rows.texts
    texts = pa.array([text or old for text, old in zip(rows.texts, before, strict=True)], pa.string())
    if pa.types.is_dictionary(kind):
        texts = texts.cast(kind.value_type).dictionary_encode()
    return taken.set_column(place, content.schema.field(place), texts.cast(kind))
