"""Names share the batch jobs and uploads that run at a time: one that waits for its limits keeps no other waiting."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_jobs_harness import FakeService, add_job, new_store, request
from bert_serving.client.errors import RateLimitedError
from bert_serving.server.http.batch_jobs.job_slots import JobSlots
from bert_serving.server.http.batch_jobs.records import ENDED
from bert_serving.server.http.batch_jobs.runner import MAX_RUNNING, JobShares, Runner
from bert_serving.server.http.batch_jobs.store import Store
from bert_serving.server.http.batch_jobs.upload import MAX_UPLOADS, Uploads
from bert_serving.server.http.encoding_service import EncodingResult
from bert_serving.server.http.errors import Overloaded, UnsupportedBody


class LimitedService(FakeService):
    """Refuses all texts of one name, whose limit is used up."""

    async def encode_async(self, texts: Any, is_tokenized: bool, show_tokens: bool, options: Any) -> EncodingResult:
        if options["share"].name == "limited":
            raise RateLimitedError("rate_limited", "used up", 1, retry_after=60)
        return await super().encode_async(texts, is_tokenized, show_tokens, options)


def test_jobs_that_wait_for_a_limit_keep_no_other_name_waiting(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    waiting = [add_job(store, request("a", "one"), owner="limited") for _ in range(MAX_RUNNING + 1)]
    others = [add_job(store, request("a", "one"), owner=name) for name in ("first", "second", "first")]

    def status(job: Any) -> str:
        progress = store.read_progress(job.id)
        return "" if progress is None else progress.status

    async def main() -> None:
        shares = JobShares(frozenset(("limited", "first", "second")), "proof")
        task = asyncio.create_task(
            Runner(store, LimitedService(), 1e6, shares, logging.getLogger("test")).serve()  # type: ignore[arg-type]
        )
        deadline = time.monotonic() + 60
        while not all(status(job) in ENDED for job in others):
            assert time.monotonic() < deadline, "jobs of other names wait"
            await asyncio.sleep(0.01)
        assert [status(job) for job in waiting].count("in_progress") <= MAX_RUNNING
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    assert [status(job) for job in others] == ["completed"] * 3
    assert not any(status(job) in ENDED for job in waiting)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(["", "one", "other"]), st.sampled_from(["acquire", "release", "cancel"]))))
def test_slots_are_granted_within_the_limit_and_never_lost(steps: list[tuple[str, str]]) -> None:
    async def main() -> None:
        slots, held, tasks = JobSlots(2), Counter[str](), []
        cancelled: set[Any] = set()

        async def take(name: str) -> None:
            await slots.acquire(name)
            held[name] += 1

        for name, step in steps:
            if step == "acquire":
                tasks.append((name, asyncio.create_task(take(name))))
            elif step == "cancel" and tasks:
                tasks[0][1].cancel()
                cancelled.add(tasks[0][1])
            elif held[name]:
                held[name] -= 1
                slots.release(name)
            if step != "cancel":  # a release and a cancellation may meet in one turn of the loop
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            waiting = [name for name, task in tasks if not task.done() and task not in cancelled]
            if step != "cancel":
                assert held.total() <= 2 + sum(count > 0 for count in held.values())
                assert all(held[name] for name in waiting), "a name without a slot waits"
        for _, task in tasks:
            task.cancel()
        await asyncio.gather(*(task for _, task in tasks), return_exceptions=True)
        for name, count in held.items():
            for _ in range(count):
                slots.release(name)
        await asyncio.gather(slots.acquire("one"), slots.acquire("one"))  # all are free again

    asyncio.run(main())


def test_uploads_of_one_name_keep_no_other_name_waiting(tmp_path: Path) -> None:
    form = "multipart/form-data; boundary=b"

    async def main() -> None:
        uploads, gate = Uploads(Store(str(tmp_path), "uploads", 10**6), 1e6), asyncio.Event()

        async def read() -> tuple[bytes, bool]:
            await gate.wait()
            return b"", False

        tasks = [asyncio.create_task(uploads.receive(form, read, "busy")) for _ in range(MAX_UPLOADS)]
        await asyncio.sleep(0)
        for owner in ("busy", ""):
            with pytest.raises(Overloaded):
                await uploads.receive(form, read, owner)
        with pytest.raises(UnsupportedBody):  # it was begun
            await uploads.receive("text/plain", read, "other")
        gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
