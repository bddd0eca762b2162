"""Splitting one ``encode()`` into requests, and assembling the result from the replies. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

import numpy as np

from ._arguments import whole_number
from ._encoding_types import E as E
from ._encoding_types import NestedList as NestedList
from ._encoding_types import Tokens as Tokens
from ._outputs import EncodedOutputs, OutputRows
from ._parts import PartRows, TextPart
from ._request_options import options_frame
from .errors import BertServingError, ReplyError, ServerError, server_error
from .protocol import OUTPUTS_BATCH_SIZE, ROW_MODES, WITH_DETAILS, WITH_SPACE, WITH_TIMING, FloatArray, Reply, Texts
from .text_names import offset_note

#: Default number of texts in one request.
BATCH_SIZE = 4096
#: Most requests of one call in flight: enough to keep a server busy, with bounded memory.
MAX_REQUESTS_IN_FLIGHT = 64
#: Most texts of one call in flight, except that two requests of any size may be.
MAX_TEXTS_IN_FLIGHT = 2 * BATCH_SIZE
#: For how many texts a text counts whose vectors are not one dense vector: they have several times its size.
OUTPUTS_WEIGHT = 16


if TYPE_CHECKING:

    class _ResponseFields(NamedTuple, Generic[E]):
        id: int
        embedding: E
        tokens: Tokens

else:

    class _ResponseFields(NamedTuple):  # a NamedTuple can be generic at runtime from Python 3.11 on
        id: int
        embedding: object
        tokens: object

        __class_getitem__ = classmethod(GenericAlias)


class Response(_ResponseFields[E]):
    """The result of one request.

    Attributes:
        id: number of the request in this client, from 1. From ``listen()``, for the request of a clone: the request id
            on the wire.
        embedding: array ``[n, d]``, or ``[n, t, d]`` without pooling; nested lists or a tensor as ``output_fmt`` says.
        tokens: the tokens of each text; ``""`` if the server does not show them.
        parts: the `TextPart` of each row, of a request with ``long="chunks"`` or ``"late"``; else ``None``.
        outputs: the outputs of a request with ``outputs``; else ``None``. The embedding has their dense vectors, or is
            empty.
    """

    parts: list[TextPart] | None = None
    outputs: EncodedOutputs[E] | None = None

    def __repr__(self) -> str:
        if self.outputs is not None:
            return f"Response(id={self.id}, outputs={', '.join(self.outputs.names)})"
        return f"Response(id={self.id}, shape={self.shape})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the embedding."""
        return tuple(np.shape(self.embedding))


class Chunk(NamedTuple):
    """The texts of one request: rows ``start`` to ``stop`` of the call."""

    start: int
    stop: int
    texts: Texts


def has_room(requests: int, texts: int, num_fronts: int = 1) -> bool:
    """Returns whether one more request may be sent while this many requests and texts are in flight.

    Args:
        num_fronts: number of servers that share them.
    """
    if requests < 2 * num_fronts:
        return True
    return requests < MAX_REQUESTS_IN_FLIGHT * num_fronts and texts < MAX_TEXTS_IN_FLIGHT * num_fronts


def reply_array(reply: Reply, copy: bool = True) -> FloatArray:
    """Returns the vectors of a reply; a read-only view of the received frame if not ``copy``.

    Raises:
        ReplyError: the frames are inconsistent.
    """
    try:
        return reply.array() if copy else reply.view()
    except (KeyError, TypeError, ValueError) as error:
        raise ReplyError(f"the vectors in the reply to request {reply.request_id} cannot be read: {error!r}") from error


def weighted(num_texts: int, options: dict[str, Any]) -> int:
    """Returns the texts of a request as `has_room` counts them: large results for other outputs weigh more."""
    return num_texts * OUTPUTS_WEIGHT if options.get("outputs", ("dense",)) != ("dense",) else num_texts


class SpaceCheck:
    """Checks that all vectors of one call are of one space: the server may be restarted with another model meanwhile.

    Attributes:
        space: space of the vectors; ``None`` if the server did not name it.
    """

    def __init__(self) -> None:
        self.space: str | None = None

    def add(self, number: int, reply: Reply) -> None:
        """Adds the reply to a request.

        Raises:
            VectorSpaceError: its vectors are of another space than those before.
        """
        space = reply.info.get("vector_space")
        if self.space not in (None, space):
            raise server_error(
                "vector_space_mismatch",
                f"the vector space changed within one call, from {self.space} to {space or 'an unnamed one'}: the "
                "server was restarted with another model or other options. Encode all texts again",
                number,
            )
        self.space = space


class EncodeCall:
    """Collects the result of one ``encode()``.

    Args:
        texts: validated texts.
        batch_size: most texts in one request; ``None`` for one request.
        timings: receives the timing of each reply; ``None`` to request no timings.
        details: request the values of `num_tokens` and `truncated`. The vectors of a call of one request are then a
            read-only view of the received frame.
        options: return value of `request_options`.
        names_space: whether the server names the space of the vectors, for a call of several requests.
        check_size: called with the memory (bytes) of all outputs so far after each reply; its exception ends the call.
            At most two requests with outputs are then in flight.

    Attributes:
        num_fronts: number of servers that share the requests.
        num_tokens: number of tokens of the texts, 0 if the server did not report it.
        truncated: rows whose text was truncated; of each request the first 1,000.
        outputs: the outputs of the texts; ``None`` if the call has no option ``outputs``.
    """

    def __init__(
        self,
        texts: Texts,
        batch_size: int | None,
        timings: list[dict[str, float]] | None = None,
        details: bool = False,
        options: dict[str, Any] | None = None,
        names_space: bool = False,
        check_size: Callable[[int], None] | None = None,
    ) -> None:
        if batch_size is not None:
            batch_size = whole_number("batch_size", batch_size, 1)
        self.num_fronts = 1
        self.num_texts = len(texts)
        self.num_done = 0
        self.num_truncated = 0
        self.num_tokens = 0
        self.truncated: list[int] = []
        self._space_check = SpaceCheck()
        self.options = WITH_DETAILS if details else b"" if timings is None else WITH_TIMING
        if options:
            self.options = options_frame(self.options, **options)
        self._part_rows = PartRows() if options and options.get("long") in ROW_MODES else None
        self.outputs = OutputRows(options["outputs"], check_size) if options and "outputs" in options else None
        self._details = details
        self._timings = timings
        self._texts = texts
        if self.outputs is not None and batch_size == BATCH_SIZE:
            batch_size = OUTPUTS_BATCH_SIZE
        size = batch_size or len(texts)
        if names_space and not self.options and len(texts) > size:
            self.options = WITH_SPACE
        self._waiting = deque(range(0, len(texts), size))
        self._size = size
        self._sent: dict[int, Chunk] = {}
        self._texts_in_flight = 0
        self._array: FloatArray | None = None
        self._tokens: list[Any] = [""] * len(texts)
        self._has_tokens = False

    @property
    def vector_space(self) -> str | None:
        """Space of the vectors; ``None`` if the server did not name it."""
        return self._space_check.space

    @property
    def done(self) -> bool:
        return not self._waiting and not self._sent

    @property
    def in_flight(self) -> list[int]:
        """Numbers of the requests without a reply."""
        return list(self._sent)

    def next_chunk(self) -> Chunk | None:
        """Returns the next request to send, or ``None`` if all are sent or enough are in flight."""
        if not self._waiting or not has_room(len(self._sent), self._texts_in_flight, self.num_fronts):
            return None
        if self.outputs is not None and self.outputs.is_limited and len(self._sent) >= 2:
            return None
        start = self._waiting.popleft()
        return Chunk(start, min(start + self._size, self.num_texts), self._texts[start : start + self._size])

    def sent(self, number: int, chunk: Chunk) -> None:
        """Records that a chunk is sent as the request of this number."""
        self._sent[number] = chunk
        self._texts_in_flight += chunk.stop - chunk.start

    def locate(self, number: int, error: BertServingError) -> BertServingError:
        """Returns an error of a request, with the position of the request in the call if it is not the first one."""
        start = self._sent[number].start
        if not isinstance(error, ServerError) or not start:
            return error
        return error.with_message(error.message + offset_note(start))

    def add_reply(self, number: int, reply: Reply) -> int:
        """Adds the reply to a request, and returns the number of its texts.

        Raises:
            ReplyError: the reply does not match the request or the other replies.
        """
        chunk = self._sent.pop(number)
        rows = chunk.stop - chunk.start
        self._texts_in_flight -= rows
        if self.outputs is not None:
            self._space_check.add(number, reply)
            self.outputs.add(reply, chunk.start, rows)
        else:
            self._add_vectors(number, chunk, reply)
        tokens = reply.info.get("tokens")
        if isinstance(tokens, list) and len(tokens) == rows:
            self._tokens[chunk.start : chunk.stop] = tokens
            self._has_tokens = True
        timing = reply.info.get("timing")
        if self._timings is not None and isinstance(timing, dict):
            self._timings.append(timing)
        if self._details:
            self.num_tokens += reply.info.get("num_tokens", 0)
            self.truncated += [chunk.start + row for row in reply.info.get("truncated", ())]
        self.num_truncated += num_truncated(reply)
        self.num_done += rows
        return rows

    def _add_vectors(self, number: int, chunk: Chunk, reply: Reply) -> None:
        rows = chunk.stop - chunk.start
        whole = rows == self.num_texts
        vectors = reply_array(reply, copy=whole and not self._details)
        if self._part_rows is None and (vectors.ndim < 1 or len(vectors) != rows):
            raise ReplyError(f"request {number} has {rows} texts, but its reply has the shape {vectors.shape}")
        self._space_check.add(number, reply)
        if self._part_rows is not None:
            self._part_rows.add(reply, vectors, chunk.start, rows)
        elif whole:
            self._array = vectors
        else:
            self._write_rows(chunk, vectors)

    @property
    def embedding(self) -> FloatArray:
        """The vectors of all texts, or of all parts, in order: a writable array; empty without dense vectors."""
        if self.outputs is not None and self._array is None and self.done:
            dense = self.outputs.dense
            self._array = np.zeros((self.num_texts, 0), np.float32) if dense is None else dense
        if self._part_rows is not None and self._array is None and self.done:
            self._array = self._part_rows.embedding
        if self._array is None or not self.done:
            raise RuntimeError("the call is not complete")
        return self._array

    @property
    def tokens(self) -> list[list[str]] | None:
        """The tokens of all texts, or of all parts, in order; ``None`` if the server does not show them."""
        if self._part_rows is not None:
            return self._part_rows.tokens
        return self._tokens if self._has_tokens else None

    @property
    def parts(self) -> list[TextPart] | None:
        """The part of each row of the result; ``None`` if the rows are whole texts."""
        return None if self._part_rows is None else self._part_rows.parts

    def _write_rows(self, chunk: Chunk, vectors: FloatArray) -> None:
        if self._array is None:
            self._array = np.zeros((self.num_texts, *vectors.shape[1:]), vectors.dtype)
        have, new = self._array.shape, vectors.shape
        if self._array.dtype != vectors.dtype or len(have) != len(new) or have[-1] != new[-1]:
            raise ReplyError(
                f"the vectors changed within one call, from {self._array.dtype} {have} to {vectors.dtype} {new}: "
                "was the server restarted with another model? Encode again"
            )
        if len(new) == 3:
            # Without pooling, a reply is as long as its longest text. Padding is zero, as on the server.
            if new[1] > have[1]:
                grown = np.zeros((have[0], new[1], have[2]), self._array.dtype)
                grown[:, : have[1]] = self._array
                self._array = grown
            self._array[chunk.start : chunk.stop, : new[1]] = vectors
        else:
            self._array[chunk.start : chunk.stop] = vectors


def num_truncated(reply: Reply) -> int:
    """Returns how many texts of a request the server truncated to ``max_seq_len``."""
    number = reply.info.get("num_truncated", 0)
    return number if isinstance(number, int) else 0


def concatenate(arrays: list[FloatArray]) -> FloatArray:
    """Concatenates the arrays of several requests. Arrays without pooling are padded with zeros to the longest."""
    if arrays[0].ndim != 3 or len({array.shape[1] for array in arrays}) == 1:
        return np.concatenate(arrays, axis=0)
    longest = max(array.shape[1] for array in arrays)
    return np.concatenate([np.pad(array, ((0, 0), (0, longest - array.shape[1]), (0, 0))) for array in arrays])
