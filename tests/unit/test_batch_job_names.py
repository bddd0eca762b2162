"""The batch jobs of a name of ``-http_keys`` end when the name is removed, and no text is computed for them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch_jobs_harness import FakeService, add_job, new_store, request, require_each_line_once
from bert_serving.server.http.batch_jobs import requests, runner
from bert_serving.server.http.batch_jobs.records import ENDED, JobRecord
from bert_serving.server.http.batch_jobs.runner import JobShares, Runner
from bert_serving.server.http.batch_jobs.store import Store
from bert_serving.server.http.encoding_service import EncodingResult

LINES = [request(name, name * 3) for name in "abcdefgh"]
ONE, BOTH = JobShares(frozenset({"kept"}), "proof"), JobShares(frozenset({"kept", "removed"}), "proof")


class PausingService(FakeService):
    """Replies to some requests, and to later ones when the gate is opened."""

    def __init__(self, num_replies: int) -> None:
        super().__init__()
        self.num_replies = num_replies

    async def encode_async(self, texts: Any, is_tokenized: bool, show_tokens: bool, options: Any) -> EncodingResult:
        if self.num_calls == self.num_replies:
            self.gate.clear()
        return await super().encode_async(texts, is_tokenized, show_tokens, options)


@pytest.mark.parametrize("num_replies", [0, 1, 2])
def test_the_jobs_of_a_removed_name_end_whenever_it_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_replies: int
) -> None:
    """One job is under way, in three parts, and one appears later, as after a start. That of another name goes on."""
    monkeypatch.setattr(requests, "PART_TEXTS", 3)
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.01)
    folder, service = new_store(tmp_path), PausingService(num_replies)
    kept, removed = (add_job(folder, b"\n".join(LINES), owner=owner) for owner in ("kept", "removed"))

    async def main() -> JobRecord:
        jobs = Runner(folder, service, 1e6, BOTH, logging.getLogger("test"))  # type: ignore[arg-type]
        task = asyncio.create_task(jobs.serve())
        await until(lambda: service.num_calls > num_replies)
        jobs.update(ONE)
        later = await asyncio.to_thread(add_job, folder, b"\n".join(LINES), owner="removed")
        await until(lambda: status(folder, removed) in ENDED and status(folder, later) in ENDED)
        num_calls = service.num_calls
        service.gate.set()
        await until(lambda: status(folder, kept) in ENDED)
        assert service.num_calls <= num_calls + 3
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return later

    later = asyncio.run(main())
    for job, ending in ((kept, "completed"), (removed, "failed"), (later, "failed")):
        progress = folder.read_progress(job.id)
        assert progress is not None
        assert progress.status == ending
        require_each_line_once(folder, progress, LINES)
        assert [error.code for error in progress.errors] == ["name_removed"] * (ending == "failed")


def status(folder: Store, job: JobRecord) -> str:
    progress = folder.read_progress(job.id)
    return "" if progress is None else progress.status


async def until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)
