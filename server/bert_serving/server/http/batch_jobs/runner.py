"""Runs all batch jobs of the folder."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, NamedTuple

from ...shares.share import BULK
from ..encoding_service import EncodingService
from ..http_access import RequestShare
from .job_run import JobRun
from .job_slots import JobSlots
from .records import ENDED, JobRecord
from .retention import clean
from .store import Damaged, Store

#: Number of jobs that are computed at a time; each has two parts in memory. Others wait, but for the first of a name.
MAX_RUNNING = 4
#: Seconds between two looks at the folder, and the largest share of time that they take.
POLL_SECONDS, POLL_SHARE = 0.25, 0.05
#: Seconds between two removals of what is too old.
CLEAN_SECONDS = 30.0


class JobShares(NamedTuple):
    """What jobs need to know of the file of ``-http_keys``.

    Attributes:
        names: all names; those without keys too.
        proof: text that proves to the service that a request has the name of a key.
    """

    names: frozenset[str]
    proof: str

    @classmethod
    def of(cls, options: dict[str, Any] | None) -> JobShares | None:
        """Returns those of the options of the process; None without ``-http_keys``."""
        return None if options is None else cls(frozenset(options["names"]), options["proof"])


class Runner:
    """Starts the jobs that appear in the folder. Runs in an event loop.

    Args:
        age: seconds for which files and ended jobs are kept.
        shares: the names of ``-http_keys``; None without the option.
    """

    def __init__(
        self, store: Store, service: EncodingService, age: float, shares: JobShares | None, log: logging.Logger
    ) -> None:
        self._store, self._service, self._age, self._shares, self._log = store, service, age, shares, log
        self._slots = JobSlots(MAX_RUNNING)
        self._runs: dict[str, JobRun] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ended: set[str] = set()

    async def serve(self) -> None:
        """Runs jobs until the task is cancelled."""
        clean_at = 0.0
        try:
            while True:
                started = time.monotonic()
                try:
                    self._look()
                    if started >= clean_at:
                        await self._clean()
                        clean_at = time.monotonic() + CLEAN_SECONDS
                except OSError as error:  # the folder may be back later
                    self._log.error("the folder of the batch jobs cannot be read: %s", error)
                    await asyncio.sleep(CLEAN_SECONDS)
                await asyncio.sleep(max(POLL_SECONDS, (time.monotonic() - started) / POLL_SHARE))
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _look(self) -> None:
        jobs = self._store.jobs()
        self._ended &= jobs.keys()
        for job_id, is_cancelled in jobs.items():
            if job_id in self._ended:
                continue
            if job_id not in self._runs and not self._start(job_id):
                self._ended.add(job_id)
            elif is_cancelled:
                self._runs[job_id].cancelled.set()

    def _start(self, job_id: str) -> bool:
        """Starts a job. Returns false if it has ended, or cannot run."""
        try:
            job = self._store.read_job(job_id)
        except Damaged as error:
            self._log.error("%s cannot run: %s", job_id, error)
            return False
        if job is None:
            return False
        try:
            progress = self._store.read_progress(job_id)
            if progress is not None and progress.status in ENDED:
                return False
        except Damaged:
            pass  # it starts over
        run = JobRun(self._store, self._service, job, self._age, self._share(job), self._slots, self._log)
        self._runs[job_id] = run
        self._end_if_removed(run)
        task = asyncio.get_running_loop().create_task(run.run())
        self._tasks[job_id] = task
        task.add_done_callback(lambda _: self._on_end(job_id))
        return True

    def _share(self, job: JobRecord) -> RequestShare | None:
        """Returns what the requests of a job are counted for: the name of its client. They are bulk."""
        if self._shares is None or not job.owner:
            return None
        return RequestShare(f"{self._shares.proof}:{job.owner}:{BULK}", job.owner, 1.0, is_limited=True)

    def update(self, shares: JobShares) -> None:
        """Changes the names. The jobs of names that are removed end."""
        self._shares = shares
        for run in self._runs.values():
            self._end_if_removed(run)

    def _end_if_removed(self, run: JobRun) -> None:
        if self._shares is not None and run.owner and run.owner not in self._shares.names:
            run.remove_name()

    def _on_end(self, job_id: str) -> None:
        task = self._tasks.pop(job_id)
        del self._runs[job_id]
        self._ended.add(job_id)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("%s stopped", job_id, exc_info=error)

    async def _clean(self) -> None:
        inputs = {run.input_file_id for run in self._runs.values()}
        outputs = {file_id for run in self._runs.values() for file_id in run.output_ids}
        await asyncio.to_thread(clean, self._store, self._age, inputs, outputs)
