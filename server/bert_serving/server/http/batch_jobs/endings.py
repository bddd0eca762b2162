"""How a batch job ends before its requests are computed."""

from __future__ import annotations

from .records import JobError, Status

#: What the lines of requests that are not computed say.
ENDINGS: dict[Status, str] = {
    "cancelled": "the batch was cancelled",
    "expired": "the completion window ended",
    "failed": "the name of the batch was removed from the keys of the server",
}


class Ended(Exception):
    """The job is cancelled, its name is removed, or its time is over.

    Attributes:
        status: the state in which it ends.
    """

    def __init__(self, status: Status) -> None:
        super().__init__(status)
        self.status = status


class Failed(Exception):
    """The job cannot be run."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.error = JobError(code, message)
