"""Serves the files and batches of OpenAI, for requests that are encoded in the background.

https://platform.openai.com/docs/api-reference/batch
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from functools import wraps
from itertools import islice
from typing import Any, BinaryIO

import msgspec
from flask import Blueprint, Response, request

from ..batch_job_schemas import Batch, BatchList, BatchRequest, ExpiresAfter, FileDeleted, FileList
from ..batch_jobs.lines import ENDPOINT
from ..batch_jobs.records import ENDED, FileRecord, JobRecord, new_id
from ..batch_jobs.store import MAX_JOBS, Damaged, Store
from ..batch_jobs.views import describe_file, describe_job
from ..encoding_service import EncodingService
from ..errors import BadRequest, BodyTooLarge, HttpError, NotFound, StorageError
from ..http_access import HttpAccess
from ..models import choose
from ..request_context import BYTES, json_response, read_body
from ..scores import require_text_vectors
from ..validation import parse_object, printable, require_field, truncate_repr

#: Key of the environment with the `FileRecord` of an upload.
UPLOADED_KEY = "bert_serving.uploaded"
#: Maximum number of items in a list, by default and at all.
MAX_FILES_LISTED = 1000
BATCHES_LISTED, MAX_BATCHES_LISTED = 20, 100
#: Limits of the metadata: number of pairs, characters of a name and of a value.
MAX_PAIRS, MAX_NAME, MAX_VALUE = 16, 64, 512
#: Longest completion window in hours.
MAX_HOURS = 720
_PIECE = 262_144
_LIMIT = re.compile(r"[0-9]{1,9}")
_WINDOW = re.compile(r"([1-9][0-9]{0,2})h")


def _explained(view: Callable[..., Response]) -> Callable[..., Response]:
    """Returns a view that reports errors of the disk as such."""

    @wraps(view)
    def explained(*args: Any, **kwargs: Any) -> Response:
        try:
            return view(*args, **kwargs)
        except HttpError:
            raise
        except OSError as error:
            raise StorageError(f"the folder of the batch jobs cannot be used ({error.strerror}): retry later") from None

    return explained


def blueprint(service: EncodingService, store: Store, access: HttpAccess) -> Blueprint:
    """Returns the routes. With ``-http_keys``, each name has its own files and batches."""
    routes = Blueprint("batch_jobs", __name__, url_prefix="/v1")

    def owner() -> str:
        return access.name_of(request.headers.get("Authorization", ""))

    @routes.post("/files")
    def upload_file() -> Response:
        return json_response(describe_file(request.environ[UPLOADED_KEY]))

    @routes.get("/files")
    @_explained
    def list_files() -> Response:
        return _list_files(store, owner())

    @routes.get("/files/<name>")
    @_explained
    def get_file(name: str) -> Response:
        return json_response(describe_file(_file(store, name, owner())))

    @routes.delete("/files/<name>")
    @_explained
    def delete_file(name: str) -> Response:
        _delete_file(store, name, owner())
        return json_response(FileDeleted(name))

    @routes.get("/files/<name>/content")
    @_explained
    def get_content(name: str) -> Response:
        return _content(store, name, owner())

    @routes.post("/batches")
    @_explained
    def create_batch() -> Response:
        return json_response(_create(service, store, owner()))

    @routes.get("/batches")
    @_explained
    def list_batches() -> Response:
        return _list_batches(store, owner())

    @routes.get("/batches/<name>")
    @_explained
    def get_batch(name: str) -> Response:
        return json_response(_batch(store, name, owner()))

    @routes.post("/batches/<name>/cancel")
    @_explained
    def cancel_batch(name: str) -> Response:
        return json_response(_cancel(store, name, owner()))

    return routes


# -- files ----------------------------------------------------------------------------------------------------


def _file(store: Store, name: str, owner: str) -> FileRecord:
    record = store.read_file(name)
    if record is None or record.owner != owner:
        raise NotFound(f"the file {truncate_repr(name)} does not exist; it may be deleted, or its time is over")
    return record


def _list_files(store: Store, owner: str) -> Response:
    purpose, ids = request.args.get("purpose"), store.ids("file")
    limit, after = _page(ids, MAX_FILES_LISTED, MAX_FILES_LISTED)
    found = []
    for file_id in after:
        record = store.read_file(file_id)
        if record is not None and record.owner == owner and purpose in (None, record.purpose):
            found.append(describe_file(record))
        if len(found) > limit:
            break
    shown = found[:limit]
    first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
    return json_response(FileList(data=shown, first_id=first, last_id=last, has_more=len(found) > limit))


def _delete_file(store: Store, name: str, owner: str) -> None:
    _file(store, name, owner)
    for job_id in store.jobs():
        try:
            job = store.read_job(job_id)
        except Damaged:
            continue
        if job is None or job.input_file_id != name:
            continue
        batch = describe_job(store, job_id)
        if batch is not None and batch.status not in ENDED:
            raise BadRequest(f"the file {name!r} is the input of {job_id}, which has not ended: cancel it first")
    store.remove_file(name)


def _content(store: Store, name: str, owner: str) -> Response:
    record = _file(store, name, owner)
    try:
        file = open(store.content_path(name), "rb")  # noqa: SIM115, the response closes it
    except FileNotFoundError:
        raise NotFound(f"the file {name!r} does not exist any more") from None
    if os.fstat(file.fileno()).st_size < record.bytes:
        file.close()
        raise StorageError(f"the file {name!r} is damaged on the disk of the server, which has less than was written")
    response = Response(_pieces(file, record.bytes), mimetype=BYTES)
    response.call_on_close(file.close)
    response.headers["Content-Length"] = str(record.bytes)
    return response


def _pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size and (piece := file.read(min(size, _PIECE))):
        size -= len(piece)
        yield piece


def _page(ids: list[str], default: int, maximum: int) -> tuple[int, list[str]]:
    """Returns the number of items that the query asks for, and the ids after its cursor."""
    text = request.args.get("limit", str(default))
    if _LIMIT.fullmatch(text) is None or int(text) < 1:
        raise BadRequest(f"'limit' must be an integer from 1 to 999999999, received {truncate_repr(text)}", "limit")
    order = request.args.get("order", "desc")
    if order not in ("asc", "desc"):
        raise BadRequest(f"'order' must be asc or desc, received {truncate_repr(order)}", "order")
    if order == "asc":
        ids = ids[::-1]
    after = request.args.get("after")
    if after is not None:  # the item itself may be gone
        ids = [each for each in ids if (each > after if order == "asc" else each < after)]
    return min(int(text), maximum), ids


# -- batches --------------------------------------------------------------------------------------------------


def _batch(store: Store, name: str, owner: str) -> Batch:
    batch = describe_job(store, name, owner)
    if batch is None:
        raise NotFound(f"the batch {truncate_repr(name)} does not exist; its time may be over")
    return batch


def _list_batches(store: Store, owner: str) -> Response:
    limit, after = _page(store.ids("job"), BATCHES_LISTED, MAX_BATCHES_LISTED)
    batches = (describe_job(store, job_id, owner) for job_id in after)
    found = list(islice((batch for batch in batches if batch is not None), limit + 1))
    shown = found[:limit]
    first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
    return json_response(BatchList(data=shown, first_id=first, last_id=last, has_more=len(found) > limit))


def _cancel(store: Store, name: str, owner: str) -> Batch:
    batch = _batch(store, name, owner)
    if batch.status in ENDED:
        raise BadRequest(f"the batch {name!r} has ended, with the status {batch.status}")
    try:
        store.cancel(name)
    except OSError as error:
        raise StorageError(f"the batch cannot be cancelled ({error.strerror}): its disk may be full") from None
    return _batch(store, name, owner)


def _create(service: EncodingService, store: Store, owner: str) -> Batch:
    """Creates the batch of the request; see `BatchRequest`.

    Raises:
        HttpError: the request is invalid, or the folder is full.
    """
    require_text_vectors(choose(service, {}, ENDPOINT))
    values = parse_object(read_body())
    for name in values:
        if name not in BatchRequest.__struct_fields__ and values[name] is not None:
            known = ", ".join(BatchRequest.__struct_fields__)
            raise BadRequest(f"the field {printable(name[:60])!r} is unknown: omit it; known fields: {known}", "name")
    endpoint = require_field(values, "endpoint", f"send {ENDPOINT!r}")
    if endpoint != ENDPOINT:
        raise BadRequest(f"'endpoint' must be {ENDPOINT!r}, received {_shown(endpoint)}", "endpoint")
    file_id = require_field(values, "input_file_id", "the id of a file with the purpose batch")
    record = store.read_file(file_id) if isinstance(file_id, str) else None
    if record is None or record.purpose != "batch" or record.owner != owner:
        raise BadRequest(f"'input_file_id' {_shown(file_id)} is not a file with the purpose batch", "input_file_id")
    window = require_field(values, "completion_window", "send '24h'")
    match = _WINDOW.fullmatch(window) if isinstance(window, str) else None
    if match is None or int(match[1]) > MAX_HOURS:
        raise BadRequest(
            f"'completion_window' must be '24h', or another number of hours up to '{MAX_HOURS}h', received "
            f"{_shown(window)}",
            "completion_window",
        )
    metadata, seconds = _read_metadata(values), _read_output_seconds(values)
    num_waiting = _num_waiting(store)
    if num_waiting >= MAX_JOBS or not store.has_room(0):
        raise BodyTooLarge(
            f"the folder of the batch jobs is full: {num_waiting} batches have not ended, of {MAX_JOBS}, and all files "
            f"may have {store.limit} bytes (-http_jobs_bytes). Delete files, or cancel batches"
        )
    now = int(time.time())
    job = JobRecord(
        new_id("batch_"), ENDPOINT, record.id, window, now, now + int(match[1]) * 3600, seconds or 0, metadata, owner
    )
    try:
        store.write(store.job_path(job.id), job)
    except OSError as error:
        raise StorageError(f"the batch cannot be written ({error.strerror}): its disk may be full") from None
    return _batch(store, job.id, owner)


def _num_waiting(store: Store) -> int:
    """Returns the number of batches that have not ended; 0 if there are few batches."""
    jobs = store.jobs()
    if len(jobs) < MAX_JOBS:
        return 0
    batches = (describe_job(store, job_id) for job_id in jobs)
    return sum(batch is not None and batch.status not in ENDED for batch in batches)


def _read_metadata(values: dict[str, Any]) -> dict[str, str] | None:
    metadata = values.get("metadata")
    if metadata is None:
        return None
    is_valid = isinstance(metadata, dict) and len(metadata) <= MAX_PAIRS
    if not is_valid or not all(
        len(name) <= MAX_NAME and isinstance(value, str) and len(value) <= MAX_VALUE for name, value in metadata.items()
    ):
        raise BadRequest(
            f"'metadata' must be an object of up to {MAX_PAIRS} strings of up to {MAX_VALUE} characters, with names of "
            f"up to {MAX_NAME} characters, received {_shown(metadata)}",
            "metadata",
        )
    return {printable(name): printable(value) for name, value in metadata.items()}


def _read_output_seconds(values: dict[str, Any]) -> int | None:
    expires_after = values.get("output_expires_after")
    if expires_after is None:
        return None
    try:
        return msgspec.convert(expires_after, ExpiresAfter).seconds
    except msgspec.ValidationError as error:
        raise BadRequest(
            f"'output_expires_after' must have the anchor 'created_at' and 3600 to 2592000 seconds: {error}",
            "output_expires_after",
        ) from None


def _shown(value: Any) -> str:
    return printable(truncate_repr(value))
