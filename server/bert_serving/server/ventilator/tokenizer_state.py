"""Holds what the ventilator knows of a tokenizer process, and of the texts that it waits for."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..scheduling.jobs import JobOptions
from ..tokenization.messages import TaskResult
from ..tokenization.request_texts import RawPiece, ScannedMessage
from .tokenizer_thread import TokenizedChunk

#: Memory of a task besides its texts: its objects, and its places in the queues.
TASK_BYTES = 800


class TaskSource(Protocol):
    """The texts of one model, as the processes need them; see :class:`~.tokenizer_pool.TokenizerPool`."""

    model: int

    @property
    def has_tasks(self) -> bool: ...

    @property
    def num_short(self) -> int: ...

    def send_short(self, states: list[TokenizerState], num_others: int) -> bool: ...

    def send_pieces(self, states: list[TokenizerState]) -> bool: ...

    def read_piece(self, task: Task) -> RawPiece | None: ...

    def on_result(self, task: Task, result: TaskResult) -> int: ...

    def end(self, task: Task, chunk: TokenizedChunk, nbytes: int = 0) -> None: ...


@dataclass(eq=False, slots=True)
class Task:
    """Texts of a request, from their arrival until their tokens are returned in order.

    Attributes:
        source: queued it, and takes its result.
        stream: tasks that return in order, this one included.
        identity: client of a short message.
        large: the message of a piece; None for a short message.
        texts: the short message.
        crashes: number of processes that died with this task alone.
        chunk: the result. A cancelled task has none.
    """

    id: int
    source: TaskSource
    local_id: int
    options: JobOptions
    stream: deque[Task]
    identity: bytes = b""
    texts: bytes = b""
    large: LargeMessage | None = None
    index: int = 0
    held_bytes: int = TASK_BYTES
    crashes: int = 0
    is_done: bool = False
    chunk: TokenizedChunk | None = None


@dataclass(eq=False, slots=True)
class LargeMessage:
    """A message of several pieces. ``next_index`` is the next one to send."""

    local_id: int
    options: JobOptions
    scanned: ScannedMessage
    next_index: int = 0
    stream: deque[Task] = field(default_factory=deque)


@dataclass(eq=False, slots=True)
class TokenizerState:
    """What is known of a tokenizer process.

    Attributes:
        in_flight: its tasks by the number of their message.
        num_pieces: number of these messages that are pieces.
        is_isolated: it has one task only, which was in flight at a process that died or does not answer.
        silence: number of measurements since its last answer, if it holds texts.
        busy_seconds: time for which it has tokenized.
        busy_share: share of busy time in the last measured second.
    """

    name: bytes
    in_flight: dict[int, list[Task]] = field(default_factory=dict)
    num_pieces: int = 0
    is_isolated: bool = False
    silence: int = 0
    num_texts: int = 0
    busy_seconds: float = 0.0
    busy_share: float = 0.0
    measured_seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns the values for the status."""
        return {
            "name": self.name.decode(),
            "texts": self.num_texts,
            "in_flight": sum(map(len, self.in_flight.values())),
            "busy_seconds": round(self.busy_seconds, 6),
            "busy_share": round(self.busy_share, 4),
        }
