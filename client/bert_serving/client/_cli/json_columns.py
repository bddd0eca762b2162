"""The columns of JSON lines: one type for each column, over all rows of all files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from .corpus import CorpusError
from .rows import ReadOptions, vector_column_error

#: More columns are an error: names that differ from row to row are data.
MAX_COLUMNS = 1000
#: Whole numbers up to this size are exact as a float64.
_EXACT = 2**53


class JsonColumns:
    """Collects the columns of one file.

    Attributes:
        kinds: the kind of each column, in order of appearance: ``null``, ``bool``, ``int``, ``int64``, ``double``,
            ``string``, or ``json`` for nested and mixed values.
    """

    def __init__(self, path: str, options: ReadOptions) -> None:
        self.kinds: dict[str, str] = {}
        self._path = path
        self._options = options

    def add(self, row: dict[str, Any], number: int) -> None:
        """Adds the object in a line.

        Raises:
            CorpusError: the line has the column of the vectors, or too many columns.
        """
        for name, value in row.items():
            before, kind = self.kinds.get(name), kind_of(value)
            if before is None:
                self._require_name(name, number)
                self.kinds[name] = kind
            elif kind != before:
                self.kinds[name] = merged(before, kind)

    def require_text_column(self, rows: int) -> None:
        """Checks that at least one row has a text.

        Raises:
            CorpusError: there are rows, and none has the column of the texts.
        """
        if rows and self._options.column not in self.kinds:
            raise CorpusError(
                f"{self._path} has no column {self._options.column!r}; name the column of the texts with -column. "
                f"Its columns: {', '.join(self.kinds) or 'none'}"
            )

    def _require_name(self, name: str, number: int) -> None:
        where = f"{self._path}, line {number}"
        if name in self._options.added_columns:
            raise vector_column_error(where, name)
        if len(self.kinds) == MAX_COLUMNS:
            raise CorpusError(f"{where} has the column {name!r} after {MAX_COLUMNS} others; write fewer columns")


def kind_of(value: Any) -> str:
    """Returns the kind of a value."""
    if isinstance(value, str):
        return "string"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if abs(value) <= _EXACT else "int64" if -(2**63) <= value < 2**63 else "json"
    return "double" if isinstance(value, float) else "json"


def merged(one: str, other: str) -> str:
    """Returns the kind that holds the values of both kinds."""
    kinds = {one, other} - {"null"}
    if not kinds:
        return "null"
    if len(kinds) == 1:
        return kinds.pop()
    if kinds == {"int", "int64"}:
        return "int64"
    return "double" if kinds == {"int", "double"} else "json"


def merged_columns(files: Iterable[dict[str, str]]) -> dict[str, str]:
    """Returns the columns of all files, so that all parts have the same columns."""
    columns: dict[str, str] = {}
    for file in files:
        for name, kind in file.items():
            columns[name] = merged(columns.get(name, "null"), kind)
    return columns


def values_of(rows: list[dict[str, Any]], name: str, kind: str) -> list[Any]:
    """Returns the values of a column; nested and mixed ones as JSON text."""
    values = [row.get(name) for row in rows]
    if kind != "json":
        return values
    return [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
