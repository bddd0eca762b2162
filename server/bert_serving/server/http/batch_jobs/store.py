"""The folder of the batch jobs: records, contents, and the memory that they take on the disk.

==============================  ===================  =================================================
path                            writer               content
==============================  ===================  =================================================
``files/ID.json``               HTTP, batch jobs     `FileRecord`; a content without one does not count
``files/ID.jsonl``              HTTP, batch jobs     content of a file; outputs grow while a job runs
``jobs/ID.json``                HTTP                 `JobRecord`
``jobs/ID.cancel``              HTTP                 empty; the job is to be cancelled
``jobs/ID.progress``            batch jobs           `Progress`
``uploads/``, ``work/``         HTTP; batch jobs     files that are not complete
``lock``                        batch jobs           locked while a server uses the folder
==============================  ===================  =================================================
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import threading
import time
from collections.abc import Iterable
from typing import Any, Literal, TypeVar

import msgspec

from .records import FileRecord, JobRecord, Progress

#: Maximum number of files. Batch jobs beyond this number are forgotten, those that ended first.
MAX_FILES = MAX_JOBS = 10_000
#: Smallest unit (bytes) in which a file takes space.
BLOCK = 4096
_IDS = {"file": re.compile("file-[0-9a-f]{24}"), "job": re.compile("batch_[0-9a-f]{24}")}
#: Between two scans of the folder pass this many times the duration of one.
_SCAN_PAUSE = 20

_Record = TypeVar("_Record", FileRecord, JobRecord, Progress)


class Damaged(ValueError):
    """A record cannot be read."""


class Store:
    """The folder. Several threads and both processes may use it at a time.

    Args:
        temporary: subfolder for files of this process that are not complete.
        limit: maximum size (bytes) of all files.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, folder: str, temporary: Literal["uploads", "work"], limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._temporary = os.path.join(folder, temporary)
        for name in ("files", "jobs", temporary):
            os.makedirs(os.path.join(folder, name), exist_ok=True)
        self._lock = threading.Lock()
        self._used, self._written, self._next_scan = 0, 0, 0.0

    def clear_temporary(self) -> None:
        """Removes files that an earlier process has not completed."""
        for entry in os.scandir(self._temporary):
            remove(entry.path)

    # -- paths -----------------------------------------------------------------------------------------------------

    def content_path(self, file_id: str) -> str:
        return os.path.join(self.folder, "files", f"{file_id}.jsonl")

    def file_path(self, file_id: str) -> str:
        return os.path.join(self.folder, "files", f"{file_id}.json")

    def job_path(self, job_id: str, suffix: Literal["json", "cancel", "progress"] = "json") -> str:
        return os.path.join(self.folder, "jobs", f"{job_id}.{suffix}")

    def temporary_path(self) -> str:
        """Returns the path of a new file that is not complete yet."""
        return os.path.join(self._temporary, secrets.token_hex(8))

    # -- records ---------------------------------------------------------------------------------------------------

    def write(self, path: str, record: msgspec.Struct) -> None:
        """Writes a record. After a crash the file has the old content or the new one."""
        temporary = self.temporary_path()
        try:
            with open(temporary, "xb") as file:
                file.write(msgspec.json.encode(record))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            remove(temporary)
            raise
        sync_folder(os.path.dirname(path))

    def read_file(self, file_id: str) -> FileRecord | None:
        """Returns the record of a file; None if there is none, or it is damaged."""
        if not _IDS["file"].fullmatch(file_id):
            return None
        with contextlib.suppress(Damaged):
            return self._read(self.file_path(file_id), FileRecord)
        return None

    def read_job(self, job_id: str) -> JobRecord | None:
        """Returns the record of a job; None if there is none.

        Raises:
            Damaged: the record cannot be read.
        """
        return self._read(self.job_path(job_id), JobRecord) if _IDS["job"].fullmatch(job_id) else None

    def read_progress(self, job_id: str) -> Progress | None:
        """Returns how far a job has come; None if it has not begun.

        Raises:
            Damaged: the record cannot be read.
        """
        return self._read(self.job_path(job_id, "progress"), Progress)

    @staticmethod
    def _read(path: str, kind: type[_Record]) -> _Record | None:
        try:
            with open(path, "rb") as file:
                return msgspec.json.decode(file.read(), type=kind)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, ValueError, IsADirectoryError) as error:
            raise Damaged(f"{path} cannot be read: {error}") from None

    def ids(self, kind: Literal["file", "job"]) -> list[str]:
        """Returns the ids of all files or jobs, the newest first."""
        names = os.listdir(os.path.join(self.folder, f"{kind}s"))
        found = {name.removesuffix(".json") for name in names if name.endswith(".json")}
        return sorted(filter(_IDS[kind].fullmatch, found), reverse=True)

    def jobs(self) -> dict[str, bool]:
        """Returns whether the end of each job is requested, by its id, the oldest job first."""
        names = set(os.listdir(os.path.join(self.folder, "jobs")))
        ids = sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))
        return {job_id: f"{job_id}.cancel" in names for job_id in ids if _IDS["job"].fullmatch(job_id)}

    def contents(self) -> list[str]:
        """Returns the ids of all contents, those without a record too."""
        names = os.listdir(os.path.join(self.folder, "files"))
        return [name.removesuffix(".jsonl") for name in names if name.endswith(".jsonl")]

    def cancel(self, job_id: str) -> None:
        """Requests the end of a job."""
        with open(self.job_path(job_id, "cancel"), "ab"):
            pass
        sync_folder(os.path.join(self.folder, "jobs"))

    def remove_file(self, file_id: str) -> None:
        """Removes a file; its record first, without which the content does not count."""
        remove(self.file_path(file_id), self.content_path(file_id))

    def remove_job(self, job_id: str) -> None:
        """Removes the records of a job. Its progress goes last, because a job without one would begin again."""
        remove(*(self.job_path(job_id, suffix) for suffix in ("json", "cancel", "progress")))

    def remove_leftovers(self) -> None:
        """Removes the files of jobs whose record is removed: a process was killed, or the job cancelled meanwhile."""
        folder = os.path.join(self.folder, "jobs")
        for name in os.listdir(folder):
            job_id, _, suffix = name.rpartition(".")
            if suffix in ("cancel", "progress") and not os.path.exists(self.job_path(job_id)):
                remove(os.path.join(folder, name))

    # -- size ------------------------------------------------------------------------------------------------------

    def has_room(self, size: int) -> bool:
        """Returns whether ``size`` more bytes are within the limit, and counts them as used if so."""
        with self._lock:
            now = time.monotonic()
            if now >= self._next_scan:
                self._used, self._written = self.scan(), 0
                self._next_scan = now + _SCAN_PAUSE * (time.monotonic() - now)
            if self._used + self._written + size > self.limit:
                return False
            self._written += size
            return True

    def scan(self) -> int:
        """Returns the size (bytes) of all files, in whole blocks."""
        total = 0
        for name in ("files", "jobs", "uploads", "work"):
            with contextlib.suppress(FileNotFoundError):
                total += sum(_sizes(os.scandir(os.path.join(self.folder, name))))
        return total


def _sizes(entries: Iterable[os.DirEntry[str]]) -> Iterable[int]:
    for entry in entries:
        with contextlib.suppress(FileNotFoundError):
            yield -(-max(1, entry.stat(follow_symlinks=False).st_size) // BLOCK) * BLOCK


def remove(*paths: str) -> None:
    """Removes files, if they exist."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


def sync_folder(path: str) -> None:
    """Writes the names in a folder to the disk. Some systems have no such call."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def lock_folder(folder: str) -> Any | None:
    """Locks the folder until the returned file is closed; returns None if another process holds the lock.

    Raises:
        OSError: the file system has no locks.
    """
    import fcntl

    file = open(os.path.join(folder, "lock"), "ab")  # noqa: SIM115, it stays open
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except BaseException:
        file.close()
        raise
    return file
