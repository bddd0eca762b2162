"""Tests batch jobs without a server: each line has one result, whatever stops a job, and whatever is damaged."""

from __future__ import annotations

import asyncio
import errno
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_jobs_harness import (
    CONTENT,
    LINES,
    FakeService,
    add_job,
    new_run,
    new_store,
    request,
    require_each_line_once,
    results,
    run,
    upload,
)
from bert_serving.client.errors import EncodingFailedError, OverloadedError, RateLimitedError
from bert_serving.server.http.batch_jobs import job_run, lines, output, requests
from bert_serving.server.http.batch_jobs.store import Store
from bert_serving.server.http.batch_jobs.views import describe_job


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "PART_TEXTS", 3)
    monkeypatch.setattr(job_run, "SAVE_INTERVAL", 0.0)
    monkeypatch.setattr(job_run, "ROOM_SECONDS", 0.01)
    monkeypatch.setattr(requests, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(os, "fsync", lambda _: None)


# -- lines -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([b"", b" ", b"a", b"bb", b"x" * 9, b"y" * 10, b"z" * 25])), st.booleans())
def test_lines_are_read_with_the_offsets_where_the_next_begin(parts: list[bytes], has_end: bool) -> None:
    content = b"\n".join(parts) + b"\n" * has_end
    found = list(lines.read_lines(io.BytesIO(content), 9))
    assert [line.data for line in found] == [part if len(part) <= 9 else None for part in parts if part.strip()]
    for index, line in enumerate(found):
        assert list(lines.read_lines(io.BytesIO(content), 9, line.number, line.end)) == found[index + 1 :]


@settings(max_examples=25)
@given(st.lists(st.sampled_from("abc") | st.text(min_size=1, max_size=3), max_size=20))
def test_a_scan_finds_the_repeated_names(names: list[str]) -> None:
    content = b"\n".join(request(name, "x") for name in names)
    found = lines.scan(io.BytesIO(content), 10_000)
    assert found.total == len(names)
    assert found.duplicates == {index + 1 for index, name in enumerate(names) if name in names[:index]}


# -- the results -------------------------------------------------------------------------------------------------------


def test_bad_lines_are_in_the_file_of_errors_with_their_names_and_cost_no_other(tmp_path: Path) -> None:
    folder = new_store(tmp_path)
    progress = run(folder, add_job(folder, CONTENT))
    assert progress.status == "completed"
    require_each_line_once(folder, progress, LINES)
    outputs, errors = results(folder, progress)
    assert [each["custom_id"] for each in outputs] == ["a", "e", "g", "i"]
    found = {int(each["id"][-8:], 16): each for each in errors}
    codes = {number: each["error"]["code"] for number, each in found.items() if each["error"]}
    assert codes == {
        2: "invalid_method",
        3: "invalid_json_line",
        6: "duplicate_custom_id",
        7: "invalid_url",
        9: "invalid_custom_id",
        10: "line_too_long",
        12: "invalid_body",
    }
    assert found[5]["custom_id"] == "c"
    assert found[5]["response"]["status_code"] == 400
    assert "empty" in found[5]["response"]["body"]["error"]["message"]


def test_requests_with_equal_options_share_a_request_to_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "PART_TEXTS", 100)
    folder, service = new_store(tmp_path), FakeService()
    content = [request(str(index), "x" * (index + 1)) for index in range(50)]
    content += [request(f"s{index}", "y", body={"input": "y", "dimensions": 1}) for index in range(20)]
    progress = run(folder, add_job(folder, b"\n".join(content)), service)
    require_each_line_once(folder, progress, content[:50] + [request(f"s{index}", "y") for index in range(20)])
    assert service.num_calls == 2


def test_an_error_of_the_service_costs_its_line_only_and_a_temporary_one_no_line(tmp_path: Path) -> None:
    folder, service = new_store(tmp_path), FakeService()
    content = [request(str(index), "text") for index in range(3)]
    service.errors = [
        OverloadedError("overloaded", "later", 1),
        RateLimitedError("rate_limited", "used up", 1, 0.02),
        *(EncodingFailedError("encoding_failed", "no", 1) for _ in range(2)),
    ]
    progress = run(folder, add_job(folder, b"\n".join(content)), service)
    _, errors = results(folder, progress)
    assert [(each["custom_id"], each["response"]["status_code"]) for each in errors] == [("0", 422)]
    require_each_line_once(folder, progress, content)


# -- kills -------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for the end of the process."""


class Disk:
    """Counts the changes of the disk, and ends or fails one of them, half done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_changes, self.ends_at = 0, 0
        self.error: Callable[[], BaseException] = Killed
        write = output._GrowingFile.write

        def cut(file: Any, pieces: list[bytes]) -> None:
            whole = b"".join(pieces)
            self.change(lambda: write(file, [whole[: len(whole) // 2]]))
            write(file, pieces)

        monkeypatch.setattr(output._GrowingFile, "write", cut)
        for module, name in ((output._GrowingFile, "sync"), (Store, "write"), (Store, "remove_file")):
            self._wrap(monkeypatch, module, name)
        monkeypatch.setattr(os, "replace", self._around(os.replace))

    def _wrap(self, monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
        monkeypatch.setattr(module, name, self._around(getattr(module, name)))

    def _around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self.change(lambda: None)
            result = function(*args)
            self.change(lambda: None)
            return result

        return call

    def change(self, half: Callable[[], None]) -> None:
        self.num_changes += 1
        if self.num_changes == self.ends_at:
            half()
            raise self.error()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def killed_runs(folder: Store, content: bytes, disk: Disk, seconds: int = 3600, cancel: bool = False) -> Iterator[Any]:
    """Yields jobs that were killed at each of their changes of the disk, one after the other."""
    ends_at = 1
    while True:
        disk.ends_at = 0
        job = add_job(folder, content, seconds)
        if cancel:
            folder.cancel(job.id)
        disk.num_changes, disk.ends_at = 0, ends_at

        async def main(job: Any = job) -> None:
            each = new_run(folder, job, FakeService())
            if cancel:
                each.cancelled.set()
            await each.run()

        try:
            asyncio.run(main())
            return
        except Killed:
            disk.ends_at = 0
            yield job
        ends_at += 1


@pytest.mark.parametrize("ending", ["completed", "cancelled", "expired"])
def test_each_line_has_one_result_after_a_kill_between_any_two_writes(tmp_path: Path, disk: Disk, ending: str) -> None:
    folder = new_store(tmp_path)
    seconds, cancel = (-1 if ending == "expired" else 3600), ending == "cancelled"
    num_kills = 0
    for job in killed_runs(folder, CONTENT, disk, seconds, cancel):
        folder.clear_temporary()

        async def main(job: Any = job) -> None:
            each = new_run(folder, job, FakeService())
            if cancel:
                each.cancelled.set()
            await each.run()

        asyncio.run(main())
        progress = folder.read_progress(job.id)
        assert progress is not None
        assert progress.status == ending
        require_each_line_once(folder, progress, LINES)
        num_kills += 1
    assert num_kills > 20


def test_a_failing_disk_makes_a_job_wait(tmp_path: Path, disk: Disk) -> None:
    folder = new_store(tmp_path)
    disk.error = lambda: OSError(errno.ENOSPC, "No space left on device")
    ends_at, num_changes = -1, 1
    while ends_at < num_changes:
        disk.ends_at = 0
        job = add_job(folder, CONTENT)
        disk.num_changes, disk.ends_at = 0, (ends_at := ends_at + 2)
        progress = run(folder, job)
        num_changes = disk.num_changes
        assert (progress.status, progress.errors) == ("completed", []), ends_at
        require_each_line_once(folder, progress, LINES)


# -- damage ----------------------------------------------------------------------------------------------------------


def interrupted(folder: Store, service: FakeService) -> Any:
    """Returns a job that has some lines, and was killed then."""
    job = add_job(folder, CONTENT)

    async def main() -> None:
        task = asyncio.create_task(new_run(folder, job, service).run())
        while True:
            await asyncio.sleep(0.001)
            progress = folder.read_progress(job.id)
            if progress is not None and progress.completed >= 1:
                service.gate.clear()
                break
            assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    service.gate.set()
    return job


def damage_progress(folder: Store, job: Any) -> None:
    Path(folder.job_path(job.id, "progress")).write_bytes(b'{"output_file_id":')


def remove_progress(folder: Store, job: Any) -> None:
    os.remove(folder.job_path(job.id, "progress"))


def damage_output(folder: Store, job: Any) -> None:
    progress = folder.read_progress(job.id)
    assert progress is not None
    path = Path(folder.content_path(progress.output_file_id))
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)


def cut_output(folder: Store, job: Any) -> None:
    progress = folder.read_progress(job.id)
    assert progress is not None
    os.truncate(folder.content_path(progress.output_file_id), 5)


@pytest.mark.parametrize("damage", [damage_progress, remove_progress, damage_output, cut_output])
def test_a_job_with_a_damaged_state_starts_over(
    tmp_path: Path, damage: Callable[[Store, Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    folder = new_store(tmp_path)
    job = interrupted(folder, FakeService())
    damage(folder, job)
    progress = run(folder, job)
    require_each_line_once(folder, progress, LINES)
    assert ("starts over" in caplog.text) == (damage is not remove_progress)


def test_a_job_starts_over_if_the_vectors_are_of_another_space(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = new_store(tmp_path)
    job = interrupted(folder, FakeService())
    service = FakeService("other")
    progress = run(folder, job, service)
    require_each_line_once(folder, progress, LINES)
    assert progress.vector_space == "other"
    assert "starts over: the server has vectors of the space other" in caplog.text


def test_a_job_goes_on_with_the_lines_that_it_has(tmp_path: Path) -> None:
    folder = new_store(tmp_path)
    job = interrupted(folder, FakeService())
    before = folder.read_progress(job.id)
    service = FakeService()
    progress = run(folder, job, service)
    assert before is not None
    assert before.output_file_id == progress.output_file_id
    assert service.num_calls < 8
    require_each_line_once(folder, progress, LINES)


def test_inputs_that_are_damaged_missing_or_empty_fail(tmp_path: Path) -> None:
    folder = new_store(tmp_path)
    job = add_job(folder, CONTENT)
    with open(folder.content_path(job.input_file_id), "ab") as file:
        file.write(b"x")
    blank, missing = add_job(folder, b"\n \n"), add_job(folder, CONTENT)
    folder.remove_file(missing.input_file_id)
    for each, code in ((job, "input_file_damaged"), (blank, "empty_file"), (missing, "input_file_missing")):
        progress = run(folder, each)
        batch = describe_job(folder, each.id)
        assert (progress.status, progress.errors[0].code) == ("failed", code)
        assert batch is not None
        assert batch.errors is not None
        assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)


class _Damaging(FakeService):
    """Calls a function at its fifth request."""

    def __init__(self, damage: Callable[[], object]) -> None:
        super().__init__()
        self._damage = damage

    async def encode_async(self, *args: Any) -> Any:
        if self.num_calls == 4:
            self._damage()
        return await super().encode_async(*args)


MANY = b"\n".join(request(f"row-{index}", "text") for index in range(60))


@pytest.mark.parametrize("change", [100, len(MANY) + 100])
def test_an_input_that_changes_while_its_job_runs_fails(tmp_path: Path, change: int) -> None:
    folder = new_store(tmp_path)
    job = add_job(folder, MANY)
    progress = run(folder, job, _Damaging(lambda: os.truncate(folder.content_path(job.input_file_id), change)))
    assert (progress.status, [each.code for each in progress.errors]) == ("failed", ["input_file_damaged"])


def test_an_output_that_is_cut_while_its_job_runs_fails(tmp_path: Path) -> None:
    """It had zeros in place of the lines, and the job was completed."""
    folder = new_store(tmp_path)
    job = add_job(folder, MANY)

    def cut() -> None:
        progress = folder.read_progress(job.id)
        assert progress is not None
        assert progress.output_bytes > 1
        os.truncate(folder.content_path(progress.output_file_id), 1)

    progress = run(folder, job, _Damaging(cut))
    assert (progress.status, [each.code for each in progress.errors]) == ("failed", ["output_damaged"])
    assert (progress.completed, progress.output_bytes, results(folder, progress)) == (0, 0, ([], []))
    assert folder.contents() == [job.input_file_id]


def test_a_job_with_a_damaged_record_is_shown_as_failed(tmp_path: Path) -> None:
    folder = new_store(tmp_path)
    job = add_job(folder, CONTENT)
    Path(folder.job_path(job.id)).write_bytes(b"\0\0")
    batch = describe_job(folder, job.id)
    assert batch is not None
    assert batch.errors is not None
    assert (batch.status, batch.errors.data[0].code) == ("failed", "damaged_record")
    assert abs(batch.created_at - job.created_at) <= 1


def test_the_limit_of_the_folder_makes_a_job_wait_until_files_are_deleted(tmp_path: Path) -> None:
    folder = new_store(tmp_path)
    job, other = add_job(folder, CONTENT), upload(folder, b"x" * 50_000)
    folder = new_store(tmp_path, limit=folder.scan())

    async def main() -> None:
        task = asyncio.create_task(new_run(folder, job, FakeService()).run())
        while True:
            await asyncio.sleep(0.005)
            batch = describe_job(folder, job.id)
            if batch is not None and batch.errors is not None:
                break
            assert not task.done()
        assert batch.status == "in_progress"
        assert "delete files" in batch.errors.data[0].message
        folder.remove_file(other.id)
        await task

    asyncio.run(main())
    progress = folder.read_progress(job.id)
    assert progress is not None
    assert (progress.status, progress.errors) == ("completed", [])
    require_each_line_once(folder, progress, LINES)


def test_a_cancelled_job_drops_its_requests_at_once(tmp_path: Path) -> None:
    folder, service = new_store(tmp_path), FakeService()
    job = add_job(folder, CONTENT)
    service.gate.clear()

    async def main() -> None:
        each = new_run(folder, job, service)
        task = asyncio.create_task(each.run())
        while not service.num_calls:
            await asyncio.sleep(0.005)
        each.cancelled.set()
        await asyncio.wait_for(task, 30)  # the service never replies

    asyncio.run(main())
    progress = folder.read_progress(job.id)
    assert progress is not None
    assert progress.status == "cancelled"
    require_each_line_once(folder, progress, LINES)
    _, errors = results(folder, progress)
    assert {each["error"]["code"] for each in errors} == {"batch_cancelled"}
    assert errors[0]["custom_id"] == "a"
