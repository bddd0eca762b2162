"""The relevance of documents by their sparse vectors, or by the vectors of their tokens. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._outputs import OutputRows
from ._validation import truncate_repr
from .errors import InputValueError, OptionError
from .protocol import FloatArray

if TYPE_CHECKING:
    from ._request_options import ProxyOptions

#: Outputs by which documents are compared with a query.
COMPARED = ("sparse", "multi")
#: Most inner products of tokens that are held at once: 1 MiB.
_MAX_PRODUCTS = 1 << 18


def require_compared(by: Any) -> None:
    """Checks the output by which documents are ranked.

    Raises:
        OptionError: it is no such output.
    """
    if by not in COMPARED:
        raise OptionError(f"by must be one of {', '.join(map(repr, COMPARED))}, or None, but is {by!r}")


def texts_of_roles(pairs: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Returns the query, and the documents, of pairs of both. Unlike a cross-encoder, vectors need texts.

    Raises:
        InputValueError: a text is blank; the message names it.
    """
    query, documents = pairs[0][0], [document for _, document in pairs]
    for name, text in (("query", query), *((f"documents[{row}]", text) for row, text in enumerate(documents))):
        if not text or text.isspace():
            raise InputValueError(f"{name} is {truncate_repr(text)}, which has no vectors; pass another text")
    return [query], documents


def roles_of(by: str, prompts: tuple[str, ...], truncate: bool) -> list[ProxyOptions]:
    """Returns the options of the query, and those of the documents, which have prompts of their own.

    Args:
        prompts: names of the prompts of the model.
    """
    names = [name if name in prompts else None for name in ("query", "document")]
    return [{"outputs": [by], "prompt_name": name, "truncate": truncate, "pairs": False} for name in names]


def relevance(query: OutputRows | None, documents: OutputRows | None) -> FloatArray:
    """Returns the score of each document, ``[n, 1]``: the inner product of sparse vectors, or MaxSim."""
    assert query is not None
    assert documents is not None
    if query.sparse is not None and documents.sparse is not None:
        scores = [query.sparse[0].dot(document) for document in documents.sparse]
    else:
        own, others = query.multi or [], documents.multi or []
        scores = max_sims(own[0], others)
    return np.array(scores, np.float32)[:, None]


def max_sims(query: FloatArray, documents: Sequence[FloatArray]) -> list[float]:
    """Returns `max_sim` of each document. Short documents share a product: many small ones are slow in several threads.

    Args:
        query: float array ``[q, d]``.
        documents: float arrays ``[t, d]``.
    """
    tokens = query.astype(np.float32, copy=False)
    scores, limit = [0.0] * len(documents), _MAX_PRODUCTS // max(1, len(query))
    group: list[int] = []
    size = 0
    for number, document in enumerate(documents):
        if not len(query) or not len(document):
            continue
        if len(document) > limit:
            scores[number] = max_sim(tokens, document)
            continue
        if size + len(document) > limit:
            _score_group(tokens, documents, group, scores)
            group, size = [], 0
        group.append(number)
        size += len(document)
    _score_group(tokens, documents, group, scores)
    return scores


def _score_group(query: FloatArray, documents: Sequence[FloatArray], group: list[int], scores: list[float]) -> None:
    """Writes the scores of the documents with these numbers, none of which is empty."""
    if not group:
        return
    rows = np.concatenate([documents[number] for number in group]).astype(np.float32, copy=False)
    starts = np.cumsum([0, *(len(documents[number]) for number in group[:-1])])
    best = np.maximum.reduceat(query @ rows.T, starts, axis=1).sum(0, dtype=np.float64)
    for number, score in zip(group, best.tolist(), strict=True):
        scores[number] = score


def max_sim(query: FloatArray, document: FloatArray) -> float:
    """Returns the sum, over the tokens of a query, of the largest inner product with a token of the document.

    Args:
        query: float array ``[q, d]``, the vectors of the tokens.
        document: float array ``[t, d]``.

    Returns:
        The score; 0 for a query or a document without vectors.
    """
    if not len(query) or not len(document):
        return 0.0
    tokens, others = query.astype(np.float32, copy=False), document.astype(np.float32, copy=False).T
    step = max(1, _MAX_PRODUCTS // len(document))
    best = [(tokens[start : start + step] @ others).max(1) for start in range(0, len(tokens), step)]
    return float(np.concatenate(best).sum(dtype=np.float64))
