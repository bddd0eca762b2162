"""Runs one batch job to its end, from where an earlier process has left it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import BinaryIO, TypeVar

from ..encoding_service import EncodingService
from ..http_access import RequestShare
from .endings import ENDINGS, Ended, Failed
from .job_slots import JobSlots
from .lines import ENVELOPE, MAX_REQUESTS, Line, Scan, read_lines, scan, stamp_of
from .output import Output, OutputDamaged
from .records import ENDED, FileRecord, JobError, JobRecord, Progress, Status, new_id
from .requests import LOG_SECONDS, Encoder, Request
from .store import Damaged, Store

#: Seconds of work that a killed process loses at most, beside a part.
SAVE_INTERVAL = 1.0
#: Seconds between two attempts to write to a full disk.
ROOM_SECONDS = 2.0
#: Lines that are written at once at the end of a job that is cancelled or expired.
_REST_LINES = 10_000

_T = TypeVar("_T")


class JobRun:
    """Runs one job in the event loop.

    Args:
        age: seconds for which its output is kept, unless the job asks for another time.
        share: what its requests are counted for.
        slots: limits the number of jobs that are computed at a time.

    Attributes:
        cancelled: set when the job is to end.
    """

    def __init__(
        self,
        store: Store,
        service: EncodingService,
        job: JobRecord,
        age: float,
        share: RequestShare | None,
        slots: JobSlots,
        log: logging.Logger,
    ) -> None:
        self._store, self._service, self._job, self._slots, self._log = store, service, job, slots, log
        self._share = share
        self._output_seconds = int(job.output_seconds or age)
        self.cancelled = asyncio.Event()
        self._reasons: list[JobError] = []  # why it ends, unless its client cancels it
        self._progress = Progress(new_id("file-"), new_id("file-"))
        self._output: Output | None = None
        self._saved_at = self._log_at = 0.0

    async def run(self) -> None:
        """Runs the job, unless it has ended."""
        self._load()
        if self._progress.status in ENDED:
            return
        has_slot = False
        try:
            with suppress(Ended):
                has_slot = await self._race(self._slots.acquire(self.owner))
            await self._run()
        except Failed as error:
            self._log.warning("%s has failed: %s", self._job.id, error)
            await self._fail(error.error)
        except OutputDamaged as error:
            self._log.warning("%s has failed: %s", self._job.id, error)
            await self._fail(JobError("output_damaged", f"{error}: create the batch again"))
        except Exception as error:
            self._log.exception("unexpected error in %s", self._job.id)
            await self._fail(JobError("internal_error", f"unexpected error in the server ({type(error).__name__})"))
        finally:
            if has_slot:
                self._slots.release(self.owner)
            if self._output is not None:
                self._output.close()

    def remove_name(self) -> None:
        """Ends the job, because the name of its client is not in the file of ``-http_keys`` any more."""
        if self._reasons:
            return
        message = f"the name {self.owner!r} was removed from the keys of the server: create the batch with another key"
        self._log.warning("%s ends: %s", self._job.id, message)
        self._reasons = [JobError("name_removed", message)]
        self.cancelled.set()

    @property
    def owner(self) -> str:
        return self._job.owner

    @property
    def input_file_id(self) -> str:
        return self._job.input_file_id

    @property
    def output_ids(self) -> tuple[str, str]:
        return self._progress.output_file_id, self._progress.error_file_id

    def _load(self) -> None:
        try:
            found = self._store.read_progress(self._job.id)
        except Damaged as error:
            self._log.warning("%s starts over: %s", self._job.id, error)
            return
        if found is not None:
            self._progress = found

    async def _run(self) -> None:
        await self._save()  # names the outputs
        path = self._store.content_path(self._job.input_file_id)
        with await asyncio.to_thread(self._open, path) as file:
            stamp, scanned = stamp_of(file), await asyncio.to_thread(self._scan, file)
            await self._retry(self._open_output)
            progress = self._progress
            progress.total = scanned.total
            if progress.status == "validating":
                progress.enter("in_progress")
            await self._save()
            encoder = Encoder(self._service, self._job.id, scanned.duplicates, self._share, self._log)
            lines = read_lines(file, self._max_length, progress.lines, progress.offset)
            try:
                if progress.end is None:
                    await self._compute(encoder, lines)
                    if stamp_of(file) != stamp:
                        raise self._changed_input()
            except Ended as ended:
                progress.end = ended.status
                progress.errors = self._reasons or progress.errors
        if progress.end is not None:
            # A thread may still read the other file, of a part that was cancelled.
            with await asyncio.to_thread(self._open, path) as file:
                lines = read_lines(file, self._max_length, progress.lines, progress.offset)
                await self._end_rest(encoder, lines, progress.end)
        await self._finish(progress.end or "completed")

    # -- the input -----------------------------------------------------------------------------------------------------

    @property
    def _max_length(self) -> int:
        return self._service.config.http_max_body + ENVELOPE

    def _open(self, path: str) -> BinaryIO:
        try:
            return open(path, "rb")
        except FileNotFoundError:
            raise Failed("input_file_missing", f"the file {self._job.input_file_id} does not exist any more") from None

    def _scan(self, file: BinaryIO) -> Scan:
        record = self._store.read_file(self._job.input_file_id)
        found = scan(file, self._max_length)
        if record is None:
            raise Failed("input_file_missing", f"the file {self._job.input_file_id} does not exist any more")
        if found.digest != record.digest:
            raise self._changed_input()
        if found.total == 0:
            raise Failed("empty_file", f"the file {record.id} has no lines")
        if found.total > MAX_REQUESTS:
            raise Failed(
                "too_many_requests",
                f"the file {record.id} has more than {MAX_REQUESTS:,} lines: split it, or put several texts into the "
                "input of each line",
            )
        return found

    def _changed_input(self) -> Failed:
        message = f"the file {self._job.input_file_id} is not as it was uploaded: upload it again"
        return Failed("input_file_damaged", message)

    def _open_output(self) -> None:
        """Opens the output where it was left. Starts over if it has changed, or its vectors are of another space."""
        progress, space = self._progress, " ".join(each.vector_space for each in self._service.models)
        reason = ""
        if progress.lines and progress.vector_space != space:
            reason = f"the server has vectors of the space {space}, and had {progress.vector_space}"
        else:
            try:
                self._output = Output(self._store, progress)
            except OutputDamaged as error:
                reason = str(error)
        if reason:
            self._log.warning("%s starts over: %s", self._job.id, reason)
            self._progress = Progress(progress.output_file_id, progress.error_file_id, times=progress.times)
            self._output = Output(self._store, self._progress)
        self._progress.vector_space = space

    # -- computing -----------------------------------------------------------------------------------------------------

    async def _compute(self, encoder: Encoder, lines: Iterator[Line]) -> None:
        """Computes the parts one after the other; each is encoded while the one before is written.

        Raises:
            Ended: the job is cancelled, or its time is over.
        """
        tasks: list[asyncio.Task[list[Request]]] = []

        async def start() -> list[Request]:
            part = await asyncio.to_thread(encoder.read_part, lines)
            await encoder.encode(part)
            return part

        try:
            self._raise_if_ended()
            tasks.append(asyncio.create_task(start()))
            while part := await self._race(tasks[0]):
                self._raise_if_ended()
                tasks = [asyncio.create_task(start())]
                outputs, errors, num_completed = await asyncio.to_thread(encoder.to_lines, part)
                await self._append(outputs, errors)
                self._count(part[-1].line, len(part), num_completed)
                if time.monotonic() >= self._saved_at + SAVE_INTERVAL:
                    await self._save()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _end_rest(self, encoder: Encoder, lines: Iterator[Line], status: Status) -> None:
        """Writes a line of error for each request that was not computed."""
        message = f"{ENDINGS[status]} before this request was computed"

        def read() -> tuple[list[bytes], Line | None]:
            pieces: list[bytes] = []
            last = None
            for last in lines:
                pieces.append(encoder.unfinished_line(last, f"batch_{status}", message))
                if len(pieces) == _REST_LINES:
                    break
            return pieces, last

        while True:
            pieces, last = await asyncio.to_thread(read)
            if last is None:
                return
            assert self._output is not None
            reason = f"-http_jobs_bytes {self._store.limit} is reached"
            try:
                is_written = await asyncio.to_thread(self._output.append, [], pieces)
            except OSError as error:
                is_written, reason = False, str(error)
            if not is_written:
                missing = self._progress.total - self._progress.completed - self._progress.failed
                text = f"{missing} requests that were not computed have no line in the file of errors: {reason}"
                self._progress.errors = [*self._reasons, JobError("storage_full", text)]
                return
            self._count(last, len(pieces), 0)

    def _count(self, last: Line, num_requests: int, num_completed: int) -> None:
        progress = self._progress
        progress.lines, progress.offset = last.number, last.end
        progress.completed += num_completed
        progress.failed += num_requests - num_completed

    async def _append(self, outputs: list[bytes], errors: list[bytes]) -> None:
        """Writes lines; waits while there is no room for them.

        Raises:
            Ended: the job is cancelled, or its time is over.
        """
        assert self._output is not None
        while True:
            reason = f"the folder has the size of -http_jobs_bytes {self._store.limit}: delete files"
            try:
                if await asyncio.to_thread(self._output.append, outputs, errors):
                    break
            except OSError as error:
                reason = f"the folder cannot be written to ({error})"
            self._log_wait(reason)
            if not self._progress.errors:
                self._progress.errors = [JobError("storage_full", f"the batch waits, because {reason}")]
                with suppress(OSError):
                    self._write_progress()
            await self._race(asyncio.sleep(ROOM_SECONDS))
        self._progress.errors = []

    def _raise_if_ended(self) -> None:
        if self.cancelled.is_set():
            raise Ended(self._ending)
        if time.time() >= self._job.expires_at:
            raise Ended("expired")

    @property
    def _ending(self) -> Status:
        return "failed" if self._reasons else "cancelled"

    async def _race(self, work: Awaitable[_T]) -> _T:
        """Waits for a result, until the job is cancelled or its time is over.

        Raises:
            Ended: it is.
        """
        task = asyncio.ensure_future(work)
        cancelled = asyncio.create_task(self.cancelled.wait())
        try:
            seconds = max(0.0, self._job.expires_at - time.time())
            await asyncio.wait({task, cancelled}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise Ended(self._ending if cancelled.done() else "expired")
        finally:
            task.cancel()
            cancelled.cancel()

    # -- the end -------------------------------------------------------------------------------------------------------

    async def _finish(self, status: Status) -> None:
        """Publishes the files of the job, and ends it."""
        progress = self._progress
        if status == "completed" and progress.status != "finalizing":
            progress.enter("finalizing")
        await self._save()
        for file_id, size, digest, name in (
            (progress.output_file_id, progress.output_bytes, progress.output_digest, "output"),
            (progress.error_file_id, progress.error_bytes, progress.error_digest, "errors"),
        ):
            if not size:
                await self._retry(partial(self._store.remove_file, file_id))
                continue
            now = int(time.time())
            expires_at, filename = now + self._output_seconds, f"{self._job.id}_{name}.jsonl"
            record = FileRecord(file_id, size, digest, now, expires_at, filename, "batch_output", self._job.owner)
            await self._retry(partial(self._store.write, self._store.file_path(file_id), record))
        progress.enter(status)
        await self._save()
        self._log.info(
            "%s is %s: %d of %d requests have vectors, %d have errors",
            self._job.id,
            status,
            progress.completed,
            progress.total,
            progress.failed,
        )

    async def _fail(self, error: JobError) -> None:
        self._progress.errors = [error]
        try:
            await self._finish("failed")
        except OutputDamaged:  # so it has none
            assert self._output is not None
            self._output.close()
            self._output, progress = None, self._progress
            progress.output_bytes = progress.error_bytes = progress.completed = progress.failed = 0
            await self._finish("failed")

    async def _save(self) -> None:
        """Saves the progress with the sizes of the output. Waits while the disk is full."""
        await self._retry(self._write_progress)
        self._saved_at = time.monotonic()

    def _write_progress(self) -> None:
        path = self._store.job_path(self._job.id, "progress")
        if self._output is None:
            self._store.write(path, self._progress)
        else:
            self._output.save(self._progress, path)

    async def _retry(self, write: Callable[[], None]) -> None:
        while True:
            try:
                await asyncio.to_thread(write)
                return
            except OSError as error:
                self._log_wait(f"the folder cannot be written to ({error})")
                await asyncio.sleep(ROOM_SECONDS)

    def _log_wait(self, reason: str) -> None:
        now = time.monotonic()
        if now >= self._log_at:
            self._log_at = now + LOG_SECONDS
            self._log.warning("%s waits, because %s", self._job.id, reason)
