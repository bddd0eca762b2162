"""Receives uploaded files: multipart forms that are written to the disk while they arrive."""

from __future__ import annotations

import hashlib
import os
import time
from asyncio import get_running_loop
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Event, Field, File, MultipartDecoder, NeedData

from ..errors import BadRequest, BodyTooLarge, Overloaded, StorageError, UnsupportedBody
from ..validation import printable, truncate_repr
from .records import FileRecord, new_id
from .store import MAX_FILES, Store, remove, sync_folder

#: Path of the route.
PATH = "/v1/files"
#: Maximum number of uploads at a time; beyond it, a name may have one.
MAX_UPLOADS = 8
#: Maximum size (bytes) of the fields of a form beside the file, and maximum number of its parts.
MAX_FIELD, MAX_PARTS = 4096, 16
#: Maximum length (bytes) of the boundary between the parts: that of RFC 2046.
MAX_BOUNDARY = 70
#: Maximum number of characters of the name of a file.
MAX_FILENAME = 255
#: Smallest size (bytes) that must arrive within ``-http_read_timeout``.
MIN_PROGRESS = 262_144
#: Size (bytes) that is decoded and written at once.
_PIECE = 262_144
_BUFFER = 2**20
_REMEDY = "send multipart/form-data with the fields purpose=batch and file"
_MIN_SECONDS, _MAX_SECONDS = 3600, 2_592_000

#: Returns the next piece of the body, and whether more follow.
ReadPiece = Callable[[], Awaitable[tuple[bytes, bool]]]


class Uploads:
    """Writes uploaded files into the folder of the batch jobs. Runs in the thread of the event loop.

    Args:
        age: seconds for which a file is kept, unless its form asks for less.
    """

    def __init__(self, store: Store, age: float) -> None:
        self._store, self._age = store, age
        self._threads = ThreadPoolExecutor(2, "upload")
        self._running: Counter[str] = Counter()

    async def receive(self, content_type: str, read: ReadPiece, owner: str = "") -> FileRecord:
        """Receives a form, and returns the file in it.

        Args:
            content_type: header of the request.
            owner: name of its client.

        Raises:
            BadRequest, UnsupportedBody: the form is invalid.
            BodyTooLarge: the file does not fit into the folder.
            Overloaded: other uploads are in progress.
            StorageError: the disk is full, or fails.
        """
        if self._running.total() >= MAX_UPLOADS and (self._running[owner] or not owner):
            raise Overloaded(f"the server is overloaded: {MAX_UPLOADS} uploads are in progress; retry later")
        kind, options = parse_options_header(content_type)
        boundary = options.get("boundary", "").encode("latin-1", "replace")
        if kind != "multipart/form-data" or not 1 <= len(boundary) <= MAX_BOUNDARY:
            raise UnsupportedBody(f"the Content-Type {truncate_repr(content_type)} is not supported; {_REMEDY}")
        self._running[owner] += 1
        loop = get_running_loop()
        upload: _Upload | None = None
        try:
            upload = await loop.run_in_executor(self._threads, _Upload, self._store, boundary)
            more = True
            while more:
                pieces, size = [], 0
                while more and size < _PIECE:
                    piece, more = await read()
                    pieces.append(piece)
                    size += len(piece)
                await loop.run_in_executor(self._threads, upload.add, b"".join(pieces), not more)
            return await loop.run_in_executor(self._threads, upload.finish, self._age, owner)
        except OSError as error:
            raise StorageError(f"the file cannot be written ({error.strerror}): its disk may be full") from None
        finally:
            self._running[owner] -= 1
            if upload is not None:
                upload.close()


class _Upload:
    """One form."""

    def __init__(self, store: Store, boundary: bytes) -> None:
        if len(store.contents()) >= MAX_FILES:
            raise BodyTooLarge(f"the server holds {MAX_FILES} files: delete some of them (DELETE {PATH}/ID)")
        self._store, self._hasher, self._size = store, hashlib.blake2b(), 0
        self._path = store.temporary_path()
        self._file: BinaryIO = open(self._path, "xb", buffering=0)  # noqa: SIM115, it stays open
        self._decoder = MultipartDecoder(boundary, _BUFFER, max_parts=MAX_PARTS)
        self._fields: dict[str, bytes] = {}
        self._filename: str | None = None
        self._part = ""  # name of the current part

    def add(self, data: bytes, is_last: bool) -> None:
        """Decodes a piece of the body, and writes what belongs to the file."""
        try:
            self._decoder.receive_data(data)
            if is_last:
                self._decoder.receive_data(None)
            while not isinstance(event := self._decoder.next_event(), NeedData):
                self._take(event)
                if self._decoder.state.name == "COMPLETE":
                    return
        except RequestEntityTooLarge:
            raise BadRequest(
                f"the form has more than {MAX_PARTS} parts, or a part with a large head; {_REMEDY}"
            ) from None
        except (ValueError, UnicodeDecodeError) as error:
            if isinstance(error, BadRequest | BodyTooLarge):
                raise
            raise BadRequest(f"the form is invalid ({printable(str(error)[:200])}); {_REMEDY}") from None

    def _take(self, event: Event) -> None:
        if isinstance(event, File | Field):
            self._part = event.name or ""
            if isinstance(event, File) and self._part == "file":
                if self._filename is not None:
                    raise BadRequest(f"the form has several parts with the name 'file'; {_REMEDY}", "file")
                self._filename = printable(event.filename)[:MAX_FILENAME]
        elif isinstance(event, Data):
            if self._part == "file":
                self._write(event.data)
            else:
                field = self._fields.get(self._part, b"") + event.data
                if len(field) > MAX_FIELD:
                    raise BadRequest(f"the field {self._part[:60]!r} is larger than {MAX_FIELD} bytes; {_REMEDY}")
                self._fields[self._part] = field

    def _write(self, data: bytes) -> None:
        if not self._store.has_room(len(data)):
            raise BodyTooLarge(
                f"the file does not fit: all files may have {self._store.limit} bytes (-http_jobs_bytes). Delete files "
                f"that are not needed any more (DELETE {PATH}/ID), or upload a smaller one"
            )
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self._hasher.update(data)
        self._size += len(data)

    def finish(self, age: float, owner: str) -> FileRecord:
        """Checks the form, and makes the file known."""
        purpose = self._fields.get("purpose", b"").decode(errors="replace")
        if purpose != "batch":
            raise BadRequest(f"'purpose' must be 'batch', received {truncate_repr(purpose)}", "purpose")
        if self._filename is None:
            raise BadRequest(f"the form has no part with the name 'file' and a file name; {_REMEDY}", "file")
        if not self._size:
            raise BadRequest("the file is empty: write one request into each line", "file")
        seconds = min(self._seconds() or age, age)
        os.fsync(self._file.fileno())
        now = int(time.time())
        file_id = new_id("file-")
        path = self._store.content_path(file_id)
        os.replace(self._path, path)
        sync_folder(os.path.dirname(path))
        record = FileRecord(
            file_id, self._size, self._hasher.hexdigest(), now, now + int(seconds), self._filename, "batch", owner
        )
        try:
            self._store.write(self._store.file_path(file_id), record)
        except OSError:
            self._store.remove_file(file_id)
            raise
        return record

    def _seconds(self) -> int | None:
        """Returns the fields of the form about its age: ``expires_after[anchor]`` and ``expires_after[seconds]``."""
        name = "expires_after[seconds]"
        anchor, value = (self._fields.get(key) for key in ("expires_after[anchor]", name))
        if anchor not in (None, b"created_at"):
            raise BadRequest(f"'expires_after[anchor]' must be 'created_at', received {truncate_repr(anchor)}")
        if value is None:
            return None
        if not value.isdigit() or not _MIN_SECONDS <= int(value) <= _MAX_SECONDS:
            raise BadRequest(
                f"{name!r} must be {_MIN_SECONDS} to {_MAX_SECONDS}, received {truncate_repr(value)}", name
            )
        return int(value)

    def close(self) -> None:
        """Removes the file, unless it is complete."""
        self._file.close()
        remove(self._path)
