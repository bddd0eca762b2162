"""Runs batch jobs in this process, with a service that computes vectors of the texts."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from bert_serving.client.errors import InvalidInputError
from bert_serving.server.http.batch_jobs.job_run import JobRun
from bert_serving.server.http.batch_jobs.job_slots import JobSlots
from bert_serving.server.http.batch_jobs.records import FileRecord, JobRecord, Progress, new_id
from bert_serving.server.http.batch_jobs.store import Store
from bert_serving.server.http.batch_jobs.upload import Uploads
from bert_serving.server.http.encoding_service import EncodingResult

SPACE = "space"


class FakeService:
    """Has what routes and jobs use of `EncodingService`. The vector of a text has its length and its first letter."""

    def __init__(self, space: str = SPACE) -> None:
        self.config = SimpleNamespace(task="embed", http_max_body=2000, pipeline=None)
        self.model_name, self.dimensions, self.vector_space, self.token_level = "model", 2, space, False
        self.num_calls, self.outputs, self.labels, self.max_length = 0, (), (), 25
        self.models = [self]
        self.errors: list[Exception] = []
        #: Waited for before each reply.
        self.gate = asyncio.Event()
        self.gate.set()

    async def encode_async(self, texts: Any, is_tokenized: bool, show_tokens: bool, options: Any) -> EncodingResult:
        self.num_calls += 1
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        if "" in texts:
            raise InvalidInputError("a text is empty")
        rows = [[len(text), ord(text[0])] for text in texts]
        return EncodingResult(np.array(rows, np.float32), len(texts), [], 0, vector_space=self.vector_space)

    def num_tokens(self, texts: list[str], options: Any) -> np.ndarray:
        return np.ones(len(texts), np.int32)


def request(custom_id: Any, text: Any, **changes: Any) -> bytes:
    """Returns a line of an input."""
    values = {"custom_id": custom_id, "method": "POST", "url": "/v1/embeddings", "body": {"input": text}}
    return json.dumps(values | changes).encode()


def upload(store: Store, content: bytes) -> FileRecord:
    """Uploads a file as a client does."""
    boundary = b"b0undary"
    form = b"".join(
        (
            b'--%b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n' % boundary,
            b'--%b\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n' % boundary,
            b"%b\r\n--%b--\r\n" % (content, boundary),
        )
    )

    async def read() -> tuple[bytes, bool]:
        return form, False

    return asyncio.run(Uploads(store, 1e6).receive(f"multipart/form-data; boundary={boundary.decode()}", read))


def add_job(store: Store, content: bytes, seconds: int = 3600, owner: str = "") -> JobRecord:
    """Uploads an input, and creates a job."""
    now = int(time.time())
    file_id = upload(store, content).id
    job = JobRecord(new_id("batch_"), "/v1/embeddings", file_id, "1h", now, now + seconds, 0, None, owner)
    store.write(store.job_path(job.id), job)
    return job


def new_store(folder: Path, limit: int = 10**9) -> Store:
    Store(str(folder), "uploads", limit)
    return Store(str(folder), "work", limit)


def new_run(store: Store, job: JobRecord, service: FakeService) -> JobRun:
    return JobRun(store, service, job, 1e6, None, JobSlots(4), logging.getLogger("test"))  # type: ignore[arg-type]


def run(store: Store, job: JobRecord, service: FakeService | None = None) -> Progress:
    """Runs a job to its end, and returns its progress."""

    async def main() -> None:
        await new_run(store, job, service or FakeService()).run()

    asyncio.run(main())
    progress = store.read_progress(job.id)
    assert progress is not None
    return progress


def results(store: Store, progress: Progress) -> tuple[list[Any], list[Any]]:
    """Returns the lines of the output, and of the file of errors, as the records of both files describe them."""
    found = []
    for file_id in (progress.output_file_id, progress.error_file_id):
        record = store.read_file(file_id)
        content = Path(store.content_path(file_id)).read_bytes() if record is not None else b""
        assert record is None or record.bytes == len(content)
        found.append([json.loads(line) for line in content.splitlines()])
    return found[0], found[1]


def require_each_line_once(store: Store, progress: Progress, lines: list[bytes]) -> None:
    """Checks that each line of the input is in exactly one of the files, and each vector is that of its text."""
    outputs, errors = results(store, progress)
    numbers = sorted(int(each["id"][-8:], 16) for each in outputs + errors)
    assert numbers == [number for number, line in enumerate(lines, 1) if line.strip()]
    assert (progress.completed, progress.failed) == (len(outputs), len(errors))
    assert progress.total == len(numbers)
    for each in outputs:
        text = json.loads(lines[int(each["id"][-8:], 16) - 1])["body"]["input"]
        assert each["response"]["body"]["data"][0]["embedding"] == [len(text), ord(text[0])]
        assert each["custom_id"] == json.loads(lines[int(each["id"][-8:], 16) - 1])["custom_id"]


#: Lines of a job: good ones, bad ones, and a name that is repeated.
LINES = [
    request("a", "one"),
    request("b", "", method="GET"),
    b"no JSON",
    b"  ",
    request("c", ""),
    request("a", "again"),
    request("d", "zwei", url="/v1/other"),
    request("e", "three"),
    request(None, "four"),
    request("f", "f" * 7000),
    request("g", "five"),
    request("h", "six", body="x"),
    request("i", "seven"),
]
CONTENT = b"\n".join(LINES)
