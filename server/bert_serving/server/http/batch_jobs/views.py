"""Describes files and batch jobs as OpenAI does."""

from __future__ import annotations

import os
from contextlib import suppress

from ..batch_job_schemas import Batch, BatchError, BatchErrors, FileObject, RequestCounts
from .lines import ENDPOINT
from .records import ENDED, FileRecord, JobRecord, Progress
from .store import Damaged, Store


def describe_file(record: FileRecord) -> FileObject:
    return FileObject(
        id=record.id,
        bytes=record.bytes,
        created_at=record.created_at,
        expires_at=record.expires_at,
        filename=record.filename,
        purpose=record.purpose,
    )


def describe_job(store: Store, job_id: str, owner: str | None = None) -> Batch | None:
    """Returns a job; None if there is none, or it is not of ``owner``. A job whose record is damaged has failed."""
    try:
        job = store.read_job(job_id)
    except Damaged:
        return None if owner else _damaged(job_id)
    if job is None or owner not in (None, job.owner):
        return None
    progress: Progress | None = None
    with suppress(Damaged):  # the job starts over
        progress = store.read_progress(job_id)
    return _describe(job, progress or Progress("", ""), _cancelling_at(store, job_id))


def _describe(job: JobRecord, progress: Progress, cancelling_at: int | None) -> Batch:
    has_ended, times = progress.status in ENDED, progress.times
    errors = [BatchError(error.code, error.message, error.line, error.param) for error in progress.errors]
    return Batch(
        id=job.id,
        endpoint=job.endpoint,
        errors=BatchErrors(errors) if errors else None,
        input_file_id=job.input_file_id,
        completion_window=job.completion_window,
        status="cancelling" if cancelling_at is not None and not has_ended else progress.status,
        output_file_id=progress.output_file_id if has_ended and progress.output_bytes else None,
        error_file_id=progress.error_file_id if has_ended and progress.error_bytes else None,
        created_at=job.created_at,
        in_progress_at=times.get("in_progress"),
        expires_at=job.expires_at,
        finalizing_at=times.get("finalizing"),
        completed_at=times.get("completed"),
        failed_at=times.get("failed"),
        expired_at=times.get("expired"),
        cancelling_at=cancelling_at,
        cancelled_at=times.get("cancelled"),
        request_counts=RequestCounts(progress.total, progress.completed, progress.failed),
        metadata=job.metadata,
    )


def _damaged(job_id: str) -> Batch:
    created_at = int(job_id.removeprefix("batch_")[:12], 16) // 1000
    message = "the record of this batch on the disk of the server is damaged: create the batch again"
    return Batch(
        id=job_id,
        endpoint=ENDPOINT,
        errors=BatchErrors([BatchError("damaged_record", message)]),
        input_file_id="",
        completion_window="",
        status="failed",
        created_at=created_at,
        expires_at=created_at,
        failed_at=created_at,
        request_counts=RequestCounts(0, 0, 0),
    )


def _cancelling_at(store: Store, job_id: str) -> int | None:
    with suppress(FileNotFoundError):
        return int(os.stat(store.job_path(job_id, "cancel")).st_mtime)
    return None
