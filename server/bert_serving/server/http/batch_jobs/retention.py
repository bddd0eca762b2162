"""Removes files and batch jobs whose time is over, and what killed processes have left."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection

from .records import ENDED
from .store import MAX_JOBS, Damaged, Store

#: Age (s) of a content without a record, from which it belongs to no upload in progress.
ORPHAN_SECONDS = 3600


def clean(store: Store, age: float, inputs: Collection[str], outputs: Collection[str]) -> None:
    """Removes what is too old.

    Args:
        age: seconds for which ended jobs and damaged records are kept.
        inputs, outputs: ids of the files of jobs that have not ended.
    """
    now = time.time()
    for file_id in store.ids("file"):
        record = store.read_file(file_id)
        expires_at = _modified(store.file_path(file_id)) + age if record is None else record.expires_at
        if expires_at <= now and file_id not in inputs:
            store.remove_file(file_id)
    for file_id in store.contents():
        path = store.content_path(file_id)
        is_orphan = file_id not in outputs and not os.path.exists(store.file_path(file_id))
        if is_orphan and _modified(path) + ORPHAN_SECONDS <= now:
            store.remove_file(file_id)
    ended = {job_id: ended_at for job_id in store.jobs() if (ended_at := _ended_at(store, job_id)) is not None}
    surplus = len(store.jobs()) - MAX_JOBS
    for position, (job_id, ended_at) in enumerate(sorted(ended.items(), key=lambda item: item[1])):
        if position < surplus or ended_at + age <= now:
            store.remove_job(job_id)
    store.remove_leftovers()


def _ended_at(store: Store, job_id: str) -> float | None:
    """Returns when a job ended; None if it has not. A job whose record is damaged cannot run."""
    try:
        if store.read_job(job_id) is None:
            return None
        progress = store.read_progress(job_id)
    except Damaged:
        return _modified(store.job_path(job_id))
    if progress is None or progress.status not in ENDED:
        return None
    return float(progress.times.get(progress.status, 0))


def _modified(path: str) -> float:
    with contextlib.suppress(FileNotFoundError):
        return os.stat(path).st_mtime
    return time.time()
