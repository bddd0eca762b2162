"""Holds the announcements of jobs that the sink does not know yet, because they travel with a batch."""

from __future__ import annotations

from collections.abc import Callable

from ..ipc.messages import Command
from .jobs import Job, JobChunk
from .scheduler import BatchSlice


class Unannounced(dict[Job, Command]):
    """Announcements of complete jobs of one chunk, oldest first.

    Args:
        send_to_sink: called with a command for the sink.
    """

    def __init__(self, send_to_sink: Callable[[Command], None]) -> None:
        super().__init__()
        self._send_to_sink = send_to_sink

    def send(self, job: Job) -> None:
        """Sends the announcement of a job, unless it was sent."""
        if job in self:
            self._send_to_sink(self.pop(job))

    def send_older(self, than: float) -> None:
        """Sends the announcements of jobs that were received before a time, in monotonic seconds."""
        while self and (job := next(iter(self))).received_at < than:
            self._send_to_sink(self.pop(job))

    def take(self, slices: list[BatchSlice[JobChunk]]) -> dict[Job, Command]:
        """Removes and returns the announcements of jobs that a batch contains entirely, and sends those of others."""
        announcements: dict[Job, Command] = {}
        for each in slices:
            job = each.key.job
            announcement = self.pop(job, None)
            if announcement is None:
                continue
            if len(each.rows) == job.size:
                announcements[job] = announcement
            else:
                self._send_to_sink(announcement)
        return announcements

    def restore(self, announcements: dict[Job, Command]) -> None:
        """Takes back the announcements that travelled with a failed batch."""
        self.update({job: each for job, each in announcements.items() if not job.failed})
