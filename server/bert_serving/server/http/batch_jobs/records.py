"""Records in the folder of the batch jobs, one JSON file each."""

from __future__ import annotations

import secrets
import time
from typing import Literal

from msgspec import Struct

#: States in which a batch job has ended.
ENDED = frozenset(("completed", "failed", "expired", "cancelled"))

Status = Literal["validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelled"]
Purpose = Literal["batch", "batch_output"]


class FileRecord(Struct, frozen=True):
    """A complete file.

    Attributes:
        bytes: size of the content.
        digest: BLAKE2b of the content, in hexadecimal.
        created_at, expires_at: seconds since 1970.
        owner: name in ``-http_keys`` of its client; empty without names.
    """

    id: str
    bytes: int
    digest: str
    created_at: int
    expires_at: int
    filename: str
    purpose: Purpose
    owner: str = ""


class JobRecord(Struct, frozen=True):
    """A batch job as its client has created it.

    Attributes:
        created_at, expires_at: seconds since 1970; the job ends at ``expires_at`` at the latest.
        output_seconds: time that its output is kept.
        owner: name in ``-http_keys`` of its client; empty without names.
    """

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    output_seconds: int
    metadata: dict[str, str] | None = None
    owner: str = ""


class JobError(Struct, frozen=True):
    """A reason why a batch job has failed, or waits."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Progress(Struct):
    """How far a batch job has come. What its files have behind the recorded sizes does not count.

    Attributes:
        vector_space: spaces of the vectors in the output: that of each model.
        total: requests in the input.
        completed, failed: requests in the output, and in the file of errors.
        lines, offset: lines and bytes of the input that were read.
        output_bytes, error_bytes: sizes of the output, and of the file of errors.
        output_digest, error_digest: BLAKE2b of these bytes, in hexadecimal.
        end: state in which the job ends, once the rest of its requests is not computed any more.
        times: seconds since 1970 at which the job reached a state.
    """

    output_file_id: str
    error_file_id: str
    vector_space: str = ""
    status: Status = "validating"
    total: int = 0
    completed: int = 0
    failed: int = 0
    lines: int = 0
    offset: int = 0
    output_bytes: int = 0
    error_bytes: int = 0
    output_digest: str = ""
    error_digest: str = ""
    end: Status | None = None
    times: dict[str, int] = {}
    errors: list[JobError] = []

    def enter(self, status: Status) -> None:
        """Records a state, and when it was reached."""
        self.status = status
        self.times = {**self.times, status: int(time.time())}


def new_id(prefix: str) -> str:
    """Returns a new id; ids sort by the time at which they were made."""
    return f"{prefix}{time.time_ns() // 1_000_000:012x}{secrets.token_hex(6)}"
