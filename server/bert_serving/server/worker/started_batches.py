"""Holds the batches that a worker has started, and sends their results in order.

A GPU computes a batch by itself. So the worker starts the next one before it takes the result of the first. An engine
that computes in threads of its own may get the next batch while it computes the first: its threads go on with it at
once, and none waits for the slowest. Other batches are computed when their result is taken.
"""

from __future__ import annotations

import gc
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf

from ..engines.base import DeviceLost, OutOfMemory
from ..ipc.messages import BatchMessage, Result
from ..ipc.process_context import ProcessContext
from .batch_encoder import BatchEncoder, Encoded
from .front_connection import FrontConnection

#: Batches that are started at most: one that the device computes, and one that follows.
MAX_STARTED = 2


@dataclass(frozen=True, slots=True)
class _Started:
    """A batch that was started.

    Attributes:
        began: when, in monotonic nanoseconds.
        finish: waits for its result.
        ready: set when a batch that threads of the engine compute is done; None for other batches.
    """

    message: BatchMessage
    began: int
    finish: Callable[[], Encoded]
    ready: threading.Event | None = None


class StartedBatches:
    """The started batches of a worker, oldest first.

    Args:
        token_level: each token has a vector.
        max_tokens: tokens of a full batch. Behind a batch of less than half of them none waits, so the worker waits
            for its result at once, which takes less time.
        wake_worker: threads of the engine call it when a batch of ``is_computing`` is done.

    Attributes:
        last_read: id of the last batch that is finished, or that the ventilator named as the last sent.
    """

    def __init__(
        self,
        process: ProcessContext,
        front: FrontConnection,
        encoder: BatchEncoder,
        token_level: bool,
        max_tokens: int = 0,
        wake_worker: Callable[[], None] = lambda: None,
    ) -> None:
        self.last_read = 0
        self._process, self._front, self._encoder = process, front, encoder
        self._token_level, self._wake_worker = token_level, wake_worker
        self._enqueue_tokens = max_tokens // 2 if encoder.enqueues else inf
        self._limit = MAX_STARTED if encoder.overlaps else 1
        self._batches: deque[_Started] = deque()
        self._finished_at = 0

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def is_full(self) -> bool:
        """Whether a result must be taken before the next batch is started."""
        return len(self._batches) >= (MAX_STARTED if self._batches and self._batches[0].ready else self._limit)

    @property
    def is_computing(self) -> bool:
        """Whether threads of the engine compute the first batch, so that the worker may wait for messages."""
        ready = self._batches[0].ready if self._batches else None
        return ready is not None and not ready.is_set()

    def start(self, message: BatchMessage) -> None:
        """Starts a batch. An error of the engine is reported when the results before it are sent.

        Raises:
            DeviceLost: the device fails.
        """
        began, finish, ready = time.monotonic_ns(), None, None
        try:
            if message.batch.num_tokens >= self._enqueue_tokens:
                ready = threading.Event()
                finish = self._encoder.enqueue(message, partial(self._on_done, ready))
            if finish is None:
                finish, ready = self._encoder.start(message), None
        except DeviceLost:  # ends this process; another worker computes the batch
            raise
        except Exception as error:  # any other error fails the batch only
            finish, ready = _raise(error), None
        self._batches.append(_Started(message, began, finish, ready))

    def _on_done(self, ready: threading.Event) -> None:
        """Wakes the worker, from a thread of the engine."""
        ready.set()
        self._wake_worker()

    def finish_first(self) -> None:
        """Waits for the first batch, and sends its result.

        Raises:
            DeviceLost: the device fails; the ventilator requeues the batches of this worker.
        """
        first = self._batches.popleft()
        message = first.message
        try:
            array, lengths, outputs = first.finish()
        except DeviceLost:
            raise
        except Exception as error:
            self._process.log.warning("cannot encode a batch of %d sequences: %s", message.batch.num_sequences, error)
            self._front.send_failure(message.id, _kind(error), f"{type(error).__name__}: {str(error)[:300]}")
            gc.collect()
        else:
            # The time of a batch that waited for the one before it counts once.
            elapsed = time.monotonic_ns() - max(first.began, self._finished_at)
            result = Result(
                message.id,
                array,
                lengths,
                message.manifest,
                self._token_level,
                elapsed,
                message.announcements,
                message.vector_codes,
                outputs=outputs,
            )
            self._front.send_result(result.frames())
            self._process.log.debug("job done\tsize: %s\tbatch: %d", array.shape, message.id)
        self._finished_at = time.monotonic_ns()
        self.last_read = message.id

    def drop(self) -> None:
        """Forgets the started batches; the ventilator sends them to others."""
        self._batches.clear()


def _raise(error: Exception) -> Callable[[], Encoded]:
    """Returns a function that raises an error."""

    def finish() -> Encoded:
        raise error

    return finish


def _kind(error: Exception) -> bytes:
    if isinstance(error, OutOfMemory | MemoryError):
        return b"oom"
    return b"nonfinite" if isinstance(error, FloatingPointError) else b"error"
