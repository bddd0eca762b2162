"""Encodes the parts of a corpus with one or several servers at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from .._client import BertClient
from .._fronts import Front
from .._progress import ProgressBar
from ..errors import DrainingError, ServerUnreachableError
from .manifest import OutputFolder
from .part_files import PartWriter
from .part_pipeline import Job, encode_parts
from .parts import Holder, PartQueue
from .requests import RefusedError

#: Seconds between a lost connection and the next attempt.
_RETRY_SECONDS = 1.0
#: Longest wait for the threads that write parts when a run ends. A thread that tries to connect ends later by itself.
_JOIN_SECONDS = 30.0


class PartRun:
    """Shares out parts over servers. If a server is lost, the others encode its parts, and it is tried again.

    Args:
        job: what is encoded.
        queue: the parts.
        folder: the output.
        bar: shows the number of rows.
        reconnect: returns a new client of a server, and checks its model.
        report: receives a sentence about a lost server, or about a limit that is used up.
    """

    def __init__(
        self,
        job: Job,
        queue: PartQueue,
        folder: OutputFolder,
        bar: ProgressBar,
        reconnect: Callable[[Front], BertClient],
        report: Callable[[str], None],
    ) -> None:
        self.job = job
        self.queue = queue
        self.folder = folder
        self.rows_written = 0
        self.reconnect = reconnect
        self.over = threading.Event()
        self._bar = bar
        self.report = report
        self._lock = threading.Lock()
        self._encoders: list[_PartEncoder] = []
        self._lost: set[Front] = set()
        self._error: BaseException | None = None

    def run(self, clients: Sequence[tuple[Front, BertClient]]) -> None:
        """Encodes all parts.

        Raises:
            BaseException: what ended the run; the parts that are written stay.
        """
        if self.queue.is_complete:  # the inputs have no rows
            return
        self._encoders = [_PartEncoder(self, front, client) for front, client in clients]
        try:
            for encoder in self._encoders:
                encoder.start()
            while not self.over.wait(0.5):  # a wait without a limit cannot be interrupted on Windows
                pass
        finally:
            self.over.set()
            self.queue.stop()
            for encoder in self._encoders:
                encoder.close()
            for encoder in self._encoders:
                if encoder.is_connected:
                    encoder.join(_JOIN_SECONDS)
        if self._error is not None:
            raise self._error

    def encoded(self, rows: int) -> None:
        """Shows that rows are encoded, or that they are to be encoded again if the number is negative."""
        with self._lock:
            self._bar.update(rows)

    def written(self, holder: Holder, writer: PartWriter) -> None:
        """Completes the file of a part, and records it."""
        record = writer.finish()
        with self._lock:
            self.folder.add(record)
            self.queue.done(holder, writer.part)
            self.rows_written += writer.part.rows
        if self.queue.is_complete:
            self.over.set()

    def lost(self, front: Front, error: BaseException) -> None:
        """Ends the run if no server is left."""
        with self._lock:
            is_new = front not in self._lost
            self._lost.add(front)
            is_last = len(self._lost) == len(self._encoders)
        if is_last:
            self.failed(error)
        elif is_new:
            self.report(f"{front} is lost, its parts go to the other servers: {str(error).splitlines()[0]}")

    def back(self, front: Front) -> None:
        """Records that a server that was lost encodes parts again."""
        with self._lock:
            self._lost.discard(front)
        self.report(f"{front} is back")

    def failed(self, error: BaseException) -> None:
        """Ends the run with an error; the first one counts."""
        with self._lock:
            if self._error is None and not self.over.is_set():
                self._error = error
        self.over.set()
        self.queue.stop()


class _PartEncoder(threading.Thread):
    """Encodes parts with one server."""

    def __init__(self, run: PartRun, front: Front, client: BertClient) -> None:
        super().__init__(name=f"encode-{front}", daemon=True)
        self._run = run
        self._front = front
        self._client: BertClient | None = client

    def run(self) -> None:
        run = self._run
        try:
            while not run.over.is_set():
                try:
                    if self._client is None:
                        self._client = run.reconnect(self._front)
                        run.back(self._front)
                    self._encode_parts(self._client)
                    return
                except (ServerUnreachableError, DrainingError, RefusedError) as error:
                    if isinstance(error, RefusedError) and not isinstance(error.__cause__, DrainingError):
                        raise
                    self.close()
                    self._client = None
                    run.lost(self._front, error)
                    run.over.wait(_RETRY_SECONDS)
        except BaseException as error:
            run.failed(error)
        finally:
            self.close()

    @property
    def is_connected(self) -> bool:
        return self._client is not None

    def close(self) -> None:
        """Closes the client, which ends its blocked calls."""
        client = self._client
        if client is not None:
            client.close()

    def _encode_parts(self, client: BertClient) -> None:
        """Encodes parts until all are done, or the run is over."""
        run, holder = self._run, Holder()
        encode_parts(
            client, run.job, run.queue, holder, run.encoded, lambda writer: run.written(holder, writer), run.report
        )
