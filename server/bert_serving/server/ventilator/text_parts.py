"""Places the parts of long texts in the rows of their job.

The number of parts is known when the last text is tokenized. So a job with the option ``long`` starts when it is
complete. Its tokens count for ``-queue_memory`` until then.
"""

from __future__ import annotations

from ..errors import TooLarge
from ..scheduling.jobs import Job, JobChunk


def can_start(job: Job) -> bool:
    """Returns whether the sequences of a job may be computed: any are there, and their final number is known."""
    return bool(job.chunks) and (job.is_complete or not job.options.long)


def place_parts(chunk: JobChunk, max_parts: int, max_tokens: int) -> None:
    """Sets the row of the first part of a chunk, and the number of sequences of its job. Whole texts have theirs.

    Raises:
        TooLarge: the texts have more parts than a request may have texts, or more tokens than may wait.
    """
    if chunk.tokenized.parts is None:
        return
    job = chunk.job
    last = job.chunks[-1] if job.chunks else None
    chunk.first_row = 0 if last is None else last.first_row + len(last.tokenized.lengths)
    job.size = job.missing = chunk.first_row + len(chunk.tokenized.lengths)
    if job.size > max_parts:
        raise TooLarge(
            f"the texts of one request have {job.size} parts or more; the limit is {max_parts} (-max_request_size): "
            "send them in several requests"
        )
    tokens = sum(len(each.tokenized.input_ids) for each in (*job.chunks, chunk))
    if tokens > max_tokens:
        raise TooLarge(
            f"the parts of the texts of one request have {tokens} tokens or more; the limit is {max_tokens} "
            "(-max_queue_tokens): send them in several requests"
        )
