"""Encodes parts of a corpus with one server, one after the other without a pause."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING, NamedTuple

from .._client import BertClient
from ..rate_limits import Report
from .corpus import CorpusError
from .inputs import InputFile
from .part_files import Layout, PartWriter
from .parts import Holder, Part, PartQueue
from .readers import Reader, open_reader, state_of
from .requests import encoded
from .rows import ReadOptions, Rows

if TYPE_CHECKING:
    from .._request_options import OutputOptions


class Job(NamedTuple):
    """What is encoded, and how.

    Attributes:
        folder: the output.
        paths: the inputs.
        inputs: what is known of them, in the same order.
        states: size and time of modification of each, from before it was read first.
        read_options: how rows become texts.
        layout: the content of the output.
        is_tokenized: texts are tokens, separated by spaces.
        options: options of the requests.
    """

    folder: str
    paths: Sequence[str]
    inputs: Sequence[InputFile]
    states: Sequence[tuple[int, int]]
    read_options: ReadOptions
    layout: Layout
    is_tokenized: bool
    options: OutputOptions


class PartRows(NamedTuple):
    """Rows of a part that are encoded in one request."""

    part: Part
    rows: Rows
    path: str

    @property
    def texts(self) -> list[str | None]:
        return self.rows.texts

    @property
    def where(self) -> str:
        return f"{self.path}, rows {self.rows.first + 1:,} to {self.end:,}"

    @property
    def end(self) -> int:
        """Number of rows of the input up to the last of these."""
        return self.rows.first + len(self.rows.texts)

    @property
    def is_last(self) -> bool:
        return self.end == self.part.first + self.part.rows


def encode_parts(
    client: BertClient,
    job: Job,
    queue: PartQueue,
    holder: Holder,
    show: Callable[[int], None],
    written: Callable[[PartWriter], None],
    report: Report,
    tag: str = "",
) -> None:
    """Encodes parts until the queue has no more for the holder, which is released in any case.

    Args:
        client: a client that no other call uses.
        show: receives the number of rows that are encoded, negative if they are to be encoded again.
        written: receives each part whose rows are all appended.
        report: receives a sentence while a limit of the server is used up.
        tag: distinguishes the temporary files from those of other processes.

    Raises:
        CorpusError: a part cannot be encoded; the message names the rows.
        BertServingError: the server was lost.
    """
    writer: PartWriter | None = None
    rows = 0
    try:
        chunks = encoded(client, _chunks(job, queue, holder), job.is_tokenized, job.options, report)
        with closing(chunks):  # type: ignore[type-var]
            for chunk, response in chunks:
                if writer is None:
                    input_format = job.inputs[chunk.part.file].format
                    writer = PartWriter(job.folder, chunk.part, input_format, job.layout, tag)
                if response is None:
                    writer.append(chunk.rows, None)
                else:
                    writer.append(chunk.rows, response.embedding, response.parts, response.outputs)
                rows += len(chunk.texts)
                show(len(chunk.texts))
                if chunk.is_last:
                    written(writer)
                    writer, rows = None, 0
    finally:
        if writer is not None:
            with suppress(OSError):
                writer.discard()
            show(-rows)
        queue.release(holder)


def _chunks(job: Job, queue: PartQueue, holder: Holder) -> Iterator[PartRows]:
    """Yields the rows of parts, until no part is left."""
    reader: Reader | None = None
    file = -1
    try:
        while (part := queue.take(holder)) is not None:
            path = job.paths[part.file]
            if reader is None or part.file != file:
                if reader is not None:
                    reader.close()
                file = part.file
                reader = open_reader(path, job.inputs[file], job.read_options)
            for rows in reader.rows(part.first, part.rows):
                chunk = PartRows(part, rows, path)
                if chunk.is_last and state_of(path) != job.states[file]:
                    raise CorpusError(f"{path} was changed during the run; start over with -overwrite")
                yield chunk
    finally:
        if reader is not None:
            reader.close()
