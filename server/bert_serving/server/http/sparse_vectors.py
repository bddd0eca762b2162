"""Serializes sparse vectors as those of text-embeddings-inference: objects with ``index`` and ``value``."""

from __future__ import annotations

from collections.abc import Iterable

from bert_serving.client import SparseVector

from . import serialization


def to_json(vectors: Iterable[SparseVector]) -> bytes:
    """Returns a list of lists of objects, one for each weight. Numbers are those of ``serialization.to_json``."""
    return b"[%b]" % b",".join(map(_row, vectors))


def _row(vector: SparseVector) -> bytes:
    if not len(vector):
        return b"[]"
    values = serialization.to_json(vector.weights)[1:-1].split(b",")
    pairs = zip(vector.ids.tolist(), values, strict=True)
    return b"[%b]" % b",".join(b'{"index":%d,"value":%b}' % pair for pair in pairs)
