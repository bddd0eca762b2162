"""Declares the JSON bodies of the routes of files and batch jobs, in the format of OpenAI."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Seconds = Annotated[int, Meta(ge=3600, le=2_592_000, description="an hour to 30 days")]


class ExpiresAfter(Struct):
    """How long a file is kept."""

    seconds: Seconds
    anchor: Literal["created_at"] = "created_at"


class BatchRequest(Struct):
    """Body of POST /v1/batches."""

    input_file_id: Annotated[str, Meta(description="id of a file with the purpose batch")]
    endpoint: Annotated[Literal["/v1/embeddings"], Meta(description="route of all requests in the file")]
    completion_window: Annotated[
        str, Meta(description="time after which the batch expires: 24h, or another number of hours up to 720h")
    ]
    metadata: Annotated[
        dict[str, str] | None,
        Meta(description="up to 16 strings of up to 512 characters, with names of up to 64 characters"),
    ] = None
    output_expires_after: Annotated[
        ExpiresAfter | None, Meta(description="how long the output is kept; by default -http_jobs_age")
    ] = None


class FileObject(Struct, kw_only=True):
    """A file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"] = "processed"


class FileList(Struct, kw_only=True):
    """Response of GET /v1/files."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool


class FileDeleted(Struct):
    """Response of DELETE /v1/files/{id}."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


class BatchError(Struct):
    """A reason why a batch has failed, or waits."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchErrors(Struct):
    """Reasons why a batch has failed, or waits."""

    data: list[BatchError]
    object: Literal["list"] = "list"


class RequestCounts(Struct):
    """Numbers of the requests in a batch."""

    total: int
    completed: int
    failed: int


class Batch(Struct, kw_only=True):
    """A batch of requests."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: Literal[
        "validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"
    ]
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts
    metadata: dict[str, str] | None = None


class BatchList(Struct, kw_only=True):
    """Response of GET /v1/batches."""

    object: Literal["list"] = "list"
    data: list[Batch]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool
