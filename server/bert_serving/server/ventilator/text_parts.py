"""Places the parts of long texts in the rows of their job.

The number of parts is known when the last text is tokenized. So a job with the option ``long`` starts when it is
complete. Its tokens count for ``-queue_memory`` until then.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..errors import InvalidRequest, TooManyTexts
from ..scheduling.jobs import Job, JobChunk


def can_start(job: Job) -> bool:
    """Returns whether the sequences of a job may be computed: any are there, and their final number is known."""
    return bool(job.chunks) and (job.is_complete or not job.starts_complete)


def require_token_vectors(long: str, workers: Iterable[dict[str, Any]]) -> None:
    """Checks that the engines of all workers give vectors of tokens beside those of texts.

    Args:
        long: that of the request; another value than ``late`` if it has a pooling of its own.
        workers: what they registered.

    Raises:
        InvalidRequest: one does not.
    """
    for worker in workers:
        if not worker.get("has_token_vectors"):
            asked, remedy = "pooling is set", "omit pooling and pooling_layer"
            if long == "late":
                asked, remedy = "long is 'late'", "set long to mean or chunks"
            raise InvalidRequest(
                f"{asked}, but the engine {worker.get('engine')} of a worker gives no vectors of tokens beside those "
                f"of texts: {remedy}, or start the server with -engine onnx, torch, or tensorflow without -xla"
            )


def place_parts(chunk: JobChunk, max_parts: int, max_tokens: int) -> None:
    """Sets the row of the first part of a chunk, and the number of sequences of its job. Whole texts have theirs.

    Raises:
        TooManyTexts: the texts have more parts than a request may have texts, or more tokens than may wait.
    """
    if chunk.tokenized.parts is None:
        return
    job = chunk.job
    last = job.chunks[-1] if job.chunks else None
    chunk.first_row = 0 if last is None else last.first_row + last.num_rows
    job.size = chunk.first_row + chunk.num_rows
    job.missing = job.num_sequences + len(chunk.tokenized.lengths)
    if job.size > max_parts:
        raise TooManyTexts(
            f"the texts of one request have {job.size} parts or more; the limit is {max_parts} (-max_request_size): "
            "send them in several requests"
        )
    tokens = sum(len(each.tokenized.input_ids) for each in (*job.chunks, chunk))
    if tokens > max_tokens:
        raise TooManyTexts(
            f"the parts of the texts of one request have {tokens} tokens or more; the limit is {max_tokens} "
            "(-max_queue_tokens): send them in several requests"
        )
