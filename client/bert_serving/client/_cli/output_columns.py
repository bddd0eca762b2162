"""Sparse vectors and vectors of tokens beside the dense vectors of a corpus, with ``-outputs``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from .._outputs import EncodedOutputs, SparseVector

_T = TypeVar("_T")


class OutputColumns(NamedTuple):
    """The outputs of some rows but their dense vectors. A row without a text has none.

    Attributes:
        sparse: the sparse vector of each row; ``None`` if it is not asked for.
        multi: the vectors of the tokens of each row, likewise.
    """

    sparse: list[SparseVector | None] | None
    multi: list[np.ndarray | None] | None


def columns_of(
    outputs: EncodedOutputs[Any] | None, names: Sequence[str], texts: Sequence[str | None]
) -> OutputColumns | None:
    """Returns the outputs of rows; ``None`` if dense vectors are the only ones.

    Args:
        outputs: those of the texts that are neither null nor blank; ``None`` if there is none.
        names: the outputs that are asked for.
        texts: the text of each row; ``None`` for null, ``""`` for a blank one.
    """
    if all(name == "dense" for name in names):
        return None

    def spread(name: str, found: Sequence[_T] | None) -> list[_T | None] | None:
        if name not in names:
            return None
        following = iter(found or ())
        return [next(following) if text else None for text in texts]

    sparse, multi = (None, None) if outputs is None else (outputs.sparse, outputs.multi)
    return OutputColumns(spread("sparse", sparse), spread("multi", multi))


def column_names(vector_column: str, names: Sequence[str]) -> tuple[str, ...]:
    """Returns the columns of outputs: that of dense vectors, and those of the others, named after it."""
    return tuple(vector_column if name == "dense" else f"{vector_column}_{name}" for name in names or ("dense",))


def json_fields(columns: OutputColumns, row: int, numbers: Callable[[Any], str]) -> str:
    """Returns the fields of a row of JSON lines, each after a comma; null for a row without a text.

    Args:
        numbers: converts nested lists of floats.
    """
    fields = ""
    if columns.sparse is not None:
        vector, shown = columns.sparse[row], "null"
        if vector is not None:
            ids, tokens = json.dumps(vector.ids.tolist()), json.dumps(vector.tokens, ensure_ascii=False)
            shown = f'{{"indices": {ids}, "values": {numbers(vector.weights.tolist())}, "tokens": {tokens}}}'
        fields += f', "sparse": {shown}'
    if columns.multi is not None:
        array = columns.multi[row]
        fields += f', "multi": {"null" if array is None else numbers(array.tolist())}'
    return fields


def arrow_columns(
    pa: Any, columns: OutputColumns, vector_column: str, texts: Sequence[str | None], multi_type: np.dtype[Any] | None
) -> list[tuple[str, Any]]:
    """Returns the columns of a Parquet file: a null for a null text, an empty value for a blank one.

    Args:
        texts: the text of each row.
        multi_type: dtype of the vectors of tokens.
    """
    found = []
    if columns.sparse is not None:
        types = {"indices": pa.int32(), "values": pa.float32(), "tokens": pa.string()}
        kind = pa.struct([(name, pa.list_(each)) for name, each in types.items()])
        empty: dict[str, Any] = {name: [] for name in types}
        values = [
            (None if text is None else empty)
            if vector is None
            else {"indices": vector.ids, "values": vector.weights, "tokens": vector.tokens}
            for vector, text in zip(columns.sparse, texts, strict=True)
        ]
        found.append((f"{vector_column}_sparse", pa.array(values, kind)))
    if columns.multi is not None:
        assert multi_type is not None
        kind = pa.list_(pa.list_(pa.from_numpy_dtype(multi_type)))
        rows = [
            (None if text is None else []) if array is None else list(array)
            for array, text in zip(columns.multi, texts, strict=True)
        ]
        found.append((f"{vector_column}_multi", pa.array(rows, kind)))
    return found
