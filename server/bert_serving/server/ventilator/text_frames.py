"""Makes the chunks of jobs whose texts get a frame: queries and documents of late interaction models."""

from __future__ import annotations

from ..scheduling.jobs import Job, JobChunk
from ..tokenization.text_frames import put_frame
from ..tokenization.tokenizer import Tokenized


def chunk_of(job: Job, first_row: int, tokenized: Tokenized) -> JobChunk:
    """Returns a chunk of a job, with the frame that its options name."""
    frame = job.options.frame
    return JobChunk(job, first_row, tokenized if frame is None else put_frame(tokenized, frame))
