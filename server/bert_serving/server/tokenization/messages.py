"""Encodes and decodes the messages between the ventilator and the tokenizer processes.

One message holds the texts of as many requests as wait, so that the cost of a message is shared. The format is
MessagePack, which cannot execute code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from ..errors import InternalError, InvalidRequest, RequestError, TooLarge, TooManyTexts
from .request_texts import RawPiece
from .tokenizer import Tokenized

_ERRORS: dict[str, type[RequestError]] = {
    each.__name__: each for each in (InvalidRequest, TooLarge, TooManyTexts, InternalError)
}
_EMPTY = np.zeros(0, np.int32)


class TextTask(msgspec.Struct, array_like=True):
    """Texts for a tokenizer process: a short message, or a piece of a large one.

    Attributes:
        texts: the JSON message, unless it is a piece.
        prompt, truncate, pairs, long: those of ``JobOptions``.
    """

    id: int
    texts: bytes
    piece: RawPiece | None
    prompt: str | None
    truncate: bool
    pairs: bool | None
    long: str = ""


class TaskResult(msgspec.Struct, array_like=True, omit_defaults=True):
    """Result of a task: the arrays of :class:`Tokenized` as bytes, or the class and the text of an error."""

    id: int
    lengths: bytes = b""
    input_ids: bytes = b""
    truncated: bytes = b""
    num_unknown: int = 0
    type_ids: bytes | None = None
    mask: bytes | None = None
    error_class: str = ""
    error: str = ""
    parts: bytes | None = None
    segments: bytes | None = None

    @classmethod
    def of(cls, task_id: int, tokenized: Tokenized) -> TaskResult:
        types, mask = tokenized.type_ids, tokenized.mask
        return cls(
            task_id,
            tokenized.lengths.tobytes(),
            tokenized.input_ids.tobytes(),
            tokenized.truncated.tobytes(),
            tokenized.num_unknown,
            None if types is None else types.tobytes(),
            None if mask is None else mask.tobytes(),
            parts=None if tokenized.parts is None else tokenized.parts.tobytes(),
            segments=None if tokenized.segments is None else tokenized.segments.tobytes(),
        )

    def to_error(self) -> RequestError | None:
        """Returns the error; None if the texts were tokenized."""
        return _ERRORS[self.error_class](self.error) if self.error_class else None

    def to_tokenized(self) -> Tokenized:
        types, mask = self.type_ids, self.mask
        return Tokenized(
            np.frombuffer(self.input_ids, np.int32),
            None if types is None else np.frombuffer(types, np.int32),
            None if mask is None else np.frombuffer(mask, np.int32),
            np.frombuffer(self.lengths, np.int32),
            np.frombuffer(self.truncated, np.int32) if self.truncated else _EMPTY,
            self.num_unknown,
            None if self.parts is None else np.frombuffer(self.parts, np.int32).reshape(-1, 4),
            None if self.segments is None else np.frombuffer(self.segments, np.int32).reshape(-1, 3),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        size = len(self.lengths) + len(self.input_ids) + len(self.truncated)
        return (
            size
            + len(self.type_ids or b"")
            + len(self.mask or b"")
            + len(self.parts or b"")
            + len(self.segments or b"")
        )


class TaskMessage(NamedTuple):
    """Tasks for one tokenizer process, of the model with this index. All are short messages, or it is one piece."""

    number: int
    model: int
    tasks: Sequence[TextTask]


class ResultMessage(NamedTuple):
    """Results of the tasks of the message with this number, after so many nanoseconds of work."""

    number: int
    duration: int
    results: Sequence[TaskResult]


encode = msgspec.msgpack.Encoder().encode
_decode_tasks = msgspec.msgpack.Decoder(tuple[int, int, list[TextTask]]).decode
_decode_results = msgspec.msgpack.Decoder(tuple[int, int, list[TaskResult]]).decode


def decode_tasks(frame: Any) -> TaskMessage:
    """Decodes the frame of a :class:`TaskMessage`."""
    return TaskMessage(*_decode_tasks(frame))


def decode_results(frame: Any) -> ResultMessage:
    """Decodes the frame of a :class:`ResultMessage`."""
    return ResultMessage(*_decode_results(frame))
