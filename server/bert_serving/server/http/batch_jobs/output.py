"""Writes the output of a batch job, and its file of errors.

Both only grow. They count up to the sizes in the last saved `Progress`; what a killed process has written behind them
is cut off, and computed again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from typing import Any, BinaryIO

import msgspec

from .records import Progress
from .store import Store

_PIECE = 2**20


class OutputDamaged(ValueError):
    """A file is not as it was written."""


class _GrowingFile:
    """A file to which bytes are appended.

    Args:
        size, digest: size that counts, and BLAKE2b of these bytes.

    Raises:
        OutputDamaged: the file does not begin with these bytes.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: str, size: int, digest: str) -> None:
        self._file: BinaryIO = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)  # noqa: SIM115
        try:
            self._path, self.size, self._hasher = path, size, hashlib.blake2b()
            rest = size
            while rest and (piece := self._file.read(min(rest, _PIECE))):
                self._hasher.update(piece)
                rest -= len(piece)
            if rest or (size and self.digest != digest):
                raise OutputDamaged(f"{path} does not have the {size} bytes that were written")
        except BaseException:
            self._file.close()
            raise

    @property
    def digest(self) -> str:
        return self._hasher.hexdigest()

    def write(self, pieces: list[bytes]) -> None:
        """Writes behind the bytes that count, which stay the same until `count`.

        Raises:
            OutputDamaged: another program has cut the file.
        """
        self._require_size()
        self._file.seek(self.size)
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[self._file.write(view) :]

    def count(self, pieces: list[bytes]) -> None:
        """Counts what `write` has written."""
        for piece in pieces:
            self._hasher.update(piece)
            self.size += len(piece)

    def sync(self) -> None:
        """Cuts off what does not count, and writes the rest to the disk.

        Raises:
            OutputDamaged: another program has cut the file.
        """
        self._require_size()
        self._file.truncate(self.size)
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def _require_size(self) -> None:
        if (found := os.fstat(self._file.fileno()).st_size) < self.size:
            raise OutputDamaged(f"{self._path} has {found} bytes, and {self.size} were written")


class Output:
    """The two files of a job.

    Raises:
        OutputDamaged: a file does not have what was written before.
        OSError: a file cannot be read or written.
    """

    def __init__(self, store: Store, progress: Progress) -> None:
        self._store = store
        self._outputs = _GrowingFile(
            store.content_path(progress.output_file_id), progress.output_bytes, progress.output_digest
        )
        try:
            self._errors = _GrowingFile(
                store.content_path(progress.error_file_id), progress.error_bytes, progress.error_digest
            )
        except BaseException:
            self._outputs.close()
            raise

    def append(self, outputs: list[bytes], errors: list[bytes]) -> bool:
        """Writes lines of both files. Returns false if the limit of the folder leaves no room for them.

        Raises:
            OSError: the disk is full, or fails; none of the lines counts.
            OutputDamaged: another program has cut a file.
        """
        if not self._store.has_room(sum(map(len, outputs)) + sum(map(len, errors))):
            return False
        self._outputs.write(outputs)
        self._errors.write(errors)
        self._outputs.count(outputs)
        self._errors.count(errors)
        return True

    def save(self, progress: Progress, path: str) -> None:
        """Writes both files to the disk, then the progress with their sizes.

        Raises:
            OSError: the disk is full, or fails; the progress before still counts.
            OutputDamaged: another program has cut a file.
        """
        self._outputs.sync()
        self._errors.sync()
        progress.output_bytes, progress.output_digest = self._outputs.size, self._outputs.digest
        progress.error_bytes, progress.error_digest = self._errors.size, self._errors.digest
        self._store.write(path, progress)

    def close(self) -> None:
        self._outputs.close()
        self._errors.close()


def output_line(request_id: str, custom_id: str, status: int, body: Iterable[bytes]) -> list[bytes]:
    """Returns the pieces of a line with a response; ``body`` is JSON."""
    head = b'{"id":"%b","custom_id":%b,"response":{"status_code":%d,"request_id":"%b","body":' % (
        request_id.encode(),
        msgspec.json.encode(custom_id),
        status,
        request_id.encode(),
    )
    return [head, *body, b'},"error":null}\n']


def error_line(request_id: str, custom_id: str | None, code: str, message: str) -> bytes:
    """Returns a line of a request that has no response."""
    values: dict[str, Any] = {"id": request_id, "custom_id": custom_id, "response": None}
    return msgspec.json.encode(values | {"error": {"code": code, "message": message}}) + b"\n"
