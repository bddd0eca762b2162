"""The parts of long texts in a result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, NamedTuple

import numpy as np

from ._encoding_types import E, Tokens
from .errors import ReplyError
from .protocol import FloatArray, Reply


class TextPart(NamedTuple):
    """A part of a text: ``texts[text][start:stop]``.

    Attributes:
        text: index of the text in the call.
        start, stop: offsets in characters, which are code points.
    """

    text: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class EncodedParts(Generic[E]):
    """The result of ``encode(texts, long="chunks")``, or ``"late"``.

    Attributes:
        embedding: array ``[n, d]``, one row per part; nested lists or a tensor as ``output_fmt`` says.
        parts: the `TextPart` of each row, in the order of the texts. Each text has at least one.
        tokens: the tokens of each part, with ``show_tokens``; else ``""``.
    """

    embedding: E
    parts: list[TextPart]
    tokens: Tokens = ""


def parts_of(reply: Reply, rows: int, first_text: int = 0) -> list[TextPart] | None:
    """Returns the part of each row of a reply; ``None`` if the rows are whole texts.

    Args:
        rows: number of rows.
        first_text: index of the first text of the request in the call.

    Raises:
        ReplyError: the reply does not name the part of each row.
    """
    values: Any = reply.info.get("parts")
    if values is None:
        return None
    try:
        parts = [TextPart(first_text + int(text), int(start), int(stop)) for text, start, stop in values]
    except (TypeError, ValueError) as error:
        raise ReplyError(f"the parts in the reply to request {reply.request_id} cannot be read: {error!r}") from error
    if len(parts) != rows:
        raise ReplyError(f"the reply to request {reply.request_id} has {rows} vectors and {len(parts)} parts")
    return parts


class PartRows:
    """Collects the rows of a call whose texts become parts."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[FloatArray, list[TextPart], Any]] = {}  # by the first text of the request

    def add(self, reply: Reply, vectors: FloatArray, first_text: int, num_texts: int) -> None:
        """Adds the rows of a request.

        Raises:
            ReplyError: the reply does not have the parts of its texts, or its vectors are not like those before.
        """
        parts = parts_of(reply, len(vectors), first_text)
        expected = [*range(first_text, first_text + num_texts)]
        if parts is None or list(dict.fromkeys(part.text for part in parts)) != expected:
            raise ReplyError(
                f"the reply to request {reply.request_id} does not have the parts of its {num_texts} texts"
            )
        for other, *_ in self._found.values():
            if other.dtype != vectors.dtype or other.shape[1:] != vectors.shape[1:]:
                raise ReplyError(
                    f"the vectors changed within one call, from {other.dtype} {other.shape} to {vectors.dtype} "
                    f"{vectors.shape}: was the server restarted with another model? Encode again"
                )
            break
        self._found[first_text] = vectors, parts, reply.info.get("tokens")

    @property
    def embedding(self) -> FloatArray:
        """The vectors of all parts, ``[n, d]``, a writable array."""
        return np.concatenate([vectors for vectors, *_ in self._in_order()])

    @property
    def parts(self) -> list[TextPart]:
        return [part for _, parts, _ in self._in_order() for part in parts]

    @property
    def tokens(self) -> list[list[str]] | None:
        """The tokens of all parts; ``None`` if the server does not show them."""
        found = self._in_order()
        if not all(isinstance(tokens, list) and len(tokens) == len(parts) for _, parts, tokens in found):
            return None
        return [row for *_, tokens in found for row in tokens]

    def _in_order(self) -> list[tuple[FloatArray, list[TextPart], Any]]:
        return [self._found[first] for first in sorted(self._found)]
