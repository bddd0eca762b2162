"""Holds what the dispatcher knows of a worker and of a batch that was sent to it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import zmq

from ..ipc.messages import Command
from .batch_costs import BatchCosts
from .batch_delay import AdaptiveBatchDelay
from .jobs import Job, JobChunk
from .late_bulk import LateBulk
from .scheduler import BatchLimits, BatchSlice

#: Batches that a worker holds: a running and a queued one.
CREDITS = 2


@dataclass(slots=True)
class InFlightBatch:
    """Tracks a batch that was sent to a worker.

    Attributes:
        padding: number of padding tokens, up to the longest sequence.
        announcements: announcements of jobs that travel with this batch only.
        is_bulk: it is one of the bulk lane, or was sent again.
    """

    worker: bytes
    slices: list[BatchSlice[JobChunk]]
    tokens: int
    sequences: int
    padding: int
    announcements: dict[Job, Command]
    is_bulk: bool = False


@dataclass(slots=True)
class WorkerState:
    """Tracks a worker.

    Attributes:
        info: contents of its REGISTER command.
        full_tokens: token limit of a batch before any out-of-memory error.
        in_flight: ids of its batches, oldest first.
        router: socket to the worker.
        machine: name of its machine; empty for a worker of this server.
        is_draining: the worker gets no new batches.
        disconnected_at: since when the worker of a machine is not connected, in monotonic seconds.
        failures: failed batches in a row.
        costs: durations of its batches, if the server has shares.
        late_bulk: when it gets the bulk behind a long batch; of no use if its device computes while it prepares.
    """

    name: bytes
    info: dict[str, Any]
    limits: BatchLimits
    full_tokens: int
    router: zmq.Socket[bytes]
    machine: str = ""
    in_flight: OrderedDict[int, None] = field(default_factory=OrderedDict)
    is_draining: bool = False
    disconnected_at: float | None = None
    num_batches: int = 0
    num_sequences: int = 0
    num_tokens: int = 0
    last_seconds: float = 0.0
    failures: int = 0
    batch_delay: AdaptiveBatchDelay = field(default_factory=AdaptiveBatchDelay)
    costs: BatchCosts = field(default_factory=BatchCosts)
    late_bulk: LateBulk = field(default_factory=LateBulk)

    @property
    def shown_name(self) -> str:
        """Name for the status: of a joined worker the machine and the process, the same on each connection."""
        return f"{self.machine}/{self.info['process']}" if self.machine else self.name.decode()

    @property
    def overlaps(self) -> bool:
        """Whether its device computes a batch while the worker prepares the next one."""
        return bool(self.info.get("overlaps"))

    @property
    def computes_several(self) -> bool:
        """Whether two of its batches may be under way at once."""
        return self.overlaps or bool(self.info.get("enqueues"))

    @property
    def credits(self) -> int:
        """Batches that the worker may hold."""
        return CREDITS + self.overlaps

    def has_credit(self, is_alone: bool) -> bool:
        """Returns whether the worker may get a batch; with ``is_alone``, one that computes several gets one."""
        most = 1 if is_alone and self.computes_several else self.credits
        return len(self.in_flight) < most and not self.is_draining and self.is_available

    @property
    def is_available(self) -> bool:
        """Whether the worker is connected."""
        return self.disconnected_at is None


def without_early(free: list[WorkerState], now: float) -> tuple[list[WorkerState], float | None]:
    """Returns the workers that may get bulk now; if there are none, the time from which one may."""
    due = [state for state in free if not state.in_flight or state.late_bulk.due_at <= now]
    return due, None if due else min(state.late_bulk.due_at for state in free)
