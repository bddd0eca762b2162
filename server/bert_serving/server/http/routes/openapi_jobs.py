"""Describes the routes of files and batch jobs, which a server with ``-http_jobs`` has."""

from __future__ import annotations

from typing import Any

from .. import batch_job_schemas as jobs
from ..request_context import BYTES
from .openapi_parts import content, operation

_TAG = "Batch jobs"
_READ_ERRORS = ("400", "401", "404")
_FILE = {"name": "name", "in": "path", "required": True, "description": "Id of the file", "schema": {"type": "string"}}
_BATCH = _FILE | {"description": "Id of the batch"}
_REQUESTS = (
    '{"custom_id": "1", "method": "POST", "url": "/v1/embeddings", "body": {"input": "hello world"}}\n'
    '{"custom_id": "2", "method": "POST", "url": "/v1/embeddings", "body": {"input": ["good day!", "hello"]}}\n'
)
_FORM = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["purpose", "file"],
            "properties": {
                "purpose": {"const": "batch", "description": "batch"},
                "file": {"type": "string", "format": "binary", "description": "one request in each line"},
                "expires_after[anchor]": {"const": "created_at", "description": "created_at"},
                "expires_after[seconds]": {
                    "type": "integer",
                    "minimum": 3600,
                    "maximum": 2_592_000,
                    "description": "how long the file is kept; by default, and at most, -http_jobs_age",
                },
            },
        },
        "example": _REQUESTS,
    }
}


def _query(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": {"type": "string"}}


_PAGE = [
    _query("limit", "largest number of items"),
    _query("after", "id of the item before the first"),
    _query("order", "desc, which is the newest first, or asc"),
]

JOB_PATHS: dict[str, Any] = {
    "/v1/files": {
        "get": operation("List files", "", "The files", content(jobs.FileList), _READ_ERRORS[:2], tag=_TAG)
        | {"parameters": [*_PAGE, _query("purpose", "batch or batch_output")]},
        "post": operation(
            "Upload a file of requests",
            "The file has one request in each line, of which this page sends two.",
            "The file",
            content(jobs.FileObject),
            ("400", "401", "413", "415", "503", "507"),
            _FORM,
            _TAG,
        ),
    },
    "/v1/files/{name}": {
        "parameters": [_FILE],
        "get": operation("Get a file", "", "The file", content(jobs.FileObject), _READ_ERRORS, tag=_TAG),
        "delete": operation(
            "Delete a file",
            "The input of a batch that has not ended is not deleted.",
            "The file is deleted",
            content(jobs.FileDeleted),
            _READ_ERRORS,
            tag=_TAG,
        ),
    },
    "/v1/files/{name}/content": {
        "parameters": [_FILE],
        "get": operation(
            "Get the content of a file",
            "",
            "The content",
            {BYTES: {"schema": {"type": "string", "format": "binary"}}},
            _READ_ERRORS,
            tag=_TAG,
        ),
    },
    "/v1/batches": {
        "get": operation("List batches", "", "The batches", content(jobs.BatchList), _READ_ERRORS[:2], tag=_TAG)
        | {"parameters": _PAGE},
        "post": operation(
            "Create a batch",
            "Computes the requests of a file in the background, behind other requests.",
            "The batch",
            content(jobs.Batch),
            ("400", "401", "413", "424", "503", "507"),
            content(
                jobs.BatchRequest,
                example={
                    "input_file_id": "file-0123456789abcdef01234567",
                    "endpoint": "/v1/embeddings",
                    "completion_window": "24h",
                },
            ),
            _TAG,
        ),
    },
    "/v1/batches/{name}": {
        "parameters": [_BATCH],
        "get": operation("Get a batch", "", "The batch", content(jobs.Batch), _READ_ERRORS, tag=_TAG),
    },
    "/v1/batches/{name}/cancel": {
        "parameters": [_BATCH],
        "post": operation(
            "Cancel a batch",
            "The vectors computed so far are in its output.",
            "The batch",
            content(jobs.Batch),
            ("400", "401", "404", "507"),
            tag=_TAG,
        ),
    },
}
