"""Tests the files of batch jobs without a server: uploads, owners, ages, and the lock of their folder."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_jobs_harness import (
    CONTENT,
    FakeService,
    add_job,
    new_store,
    request,
    run,
)
from bert_serving.server.http.app import make_app
from bert_serving.server.http.batch_jobs import retention, store
from bert_serving.server.http.batch_jobs.records import Progress
from bert_serving.server.http.batch_jobs.store import Store
from bert_serving.server.http.batch_jobs.upload import Uploads
from bert_serving.server.http.errors import HttpError
from bert_serving.server.http.http_access import HttpAccess
from bert_serving.server.http.metrics import Metrics
from bert_serving.server.http.request_record import RequestRecorder
from bert_serving.server.http.wsgi import STARTED_KEY

# -- ages ------------------------------------------------------------------------------------------------------------


def test_leftovers_of_removed_jobs_are_removed(tmp_path: Path) -> None:
    """A process was killed while it removed a job, or a client cancelled it at that moment."""
    folder = new_store(tmp_path)
    gone, kept = add_job(folder, CONTENT), add_job(folder, CONTENT)
    for job in (gone, kept):
        run(folder, job)
        folder.cancel(job.id)
    os.remove(folder.job_path(gone.id))
    retention.clean(folder, 1e6, (), ())
    assert sorted(os.listdir(tmp_path / "jobs")) == [f"{kept.id}.{suffix}" for suffix in ("cancel", "json", "progress")]


def test_what_is_too_old_is_removed_but_nothing_of_a_job_that_runs(tmp_path: Path) -> None:
    folder = new_store(tmp_path)
    ended, running = add_job(folder, CONTENT), add_job(folder, CONTENT)
    progress = run(folder, ended)
    partial = Progress("file-" + "0" * 24, "file-" + "1" * 24)
    folder.write(folder.job_path(running.id, "progress"), partial)
    for file_id in (partial.output_file_id, "file-" + "2" * 24):
        Path(folder.content_path(file_id)).write_bytes(b"x")
    hour = retention.ORPHAN_SECONDS
    for name in os.listdir(tmp_path / "files"):
        os.utime(tmp_path / "files" / name, (time.time() - hour - 1,) * 2)
    for age in (1e6, 0.0):
        retention.clean(folder, age, {running.input_file_id}, {partial.output_file_id, partial.error_file_id})
        assert (folder.read_job(ended.id) is not None) == (age > 0)
        assert folder.read_job(running.id) is not None
        assert not os.path.exists(folder.content_path("file-" + "2" * 24))
        assert os.path.exists(folder.content_path(partial.output_file_id))
        assert folder.read_file(progress.output_file_id) is not None, "until its own time is over"
    for name in os.listdir(tmp_path / "files"):
        path = tmp_path / "files" / name
        if name.endswith(".json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"expires_at": 1}))
    retention.clean(folder, 0.0, {running.input_file_id}, {partial.output_file_id, partial.error_file_id})
    assert folder.ids("file") == [running.input_file_id]
    assert folder.jobs() == {running.id: False}


# -- uploads ---------------------------------------------------------------------------------------------------------


def receive(folder: Store, form: bytes, size: int, owner: str = "") -> Any:
    """Uploads a form in pieces of ``size`` bytes."""
    pieces = [form[start : start + size] for start in range(0, len(form), size)] or [b""]

    async def read() -> tuple[bytes, bool]:
        piece = pieces.pop(0)
        return piece, bool(pieces)

    return asyncio.run(Uploads(folder, 1e6).receive("multipart/form-data; boundary=b", read, owner))


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    extra = "" if filename is None else f'; filename="{filename}"'
    return b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % (
        name.encode(),
        extra.encode(),
        content,
    )


PURPOSE, END = part("purpose", b"batch"), b"--b--\r\n"


def test_a_form_is_the_same_in_pieces_of_any_size_and_in_any_order(tmp_path: Path) -> None:
    folder = Store(str(tmp_path), "uploads", 10**9)
    content = b"--x\n\r\n--c\r\n\r--" + bytes(range(256))
    file = part("file", content, "in.jsonl")
    for form in (PURPOSE + file + END, file + PURPOSE + END):
        for size in (1, 2, 7, 1000):
            record = receive(folder, form, size)
            assert Path(folder.content_path(record.id)).read_bytes() == content
            assert (record.bytes, record.filename) == (len(content), "in.jsonl")


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (
            part("purpose", b"tune") + part("file", b"x", "a") + END,
            "'purpose' must be 'batch', received 'tune'",
        ),
        (part("file", b"x", "a") + END, "'purpose' must be 'batch', received ''"),
        (PURPOSE + END, "no part with the name 'file'"),
        (PURPOSE + part("file", b"x") + END, "no part with the name 'file' and a file name"),
        (PURPOSE + part("file", b"", "a") + END, "the file is empty"),
        (PURPOSE + part("file", b"x", "a") * 2 + END, "several parts with the name 'file'"),
        (PURPOSE + part("file", b"x", "a"), "the form is invalid"),
        (b"", "the form is invalid"),
        (PURPOSE + part("user", b"x" * 5000) + END, "'user' is larger than 4096 bytes"),
        (part("purpose", b"batch") * 20 + END, "more than 16 parts"),
        (PURPOSE + part("expires_after[seconds]", b"7") + part("file", b"x", "a") + END, "must be 3600 to 2592000"),
        (PURPOSE + part("file", b"x" * 200_000, "a") + END, "all files may have 100000 bytes"),
    ],
)
def test_forms_that_are_refused_leave_nothing(tmp_path: Path, form: bytes, message: str) -> None:
    folder = Store(str(tmp_path), "uploads", 100_000)
    with pytest.raises(HttpError, match=message.replace("(", r"\(")):
        receive(folder, form, 1000)
    assert not os.listdir(tmp_path / "uploads")
    assert not os.listdir(tmp_path / "files")


FRAGMENTS = [
    PURPOSE,
    END,
    part("file", b"x", "a"),
    b"--b",
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b'; name="',
    b"\xff",
    b"x" * 500,
]


@settings(max_examples=40)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12), st.integers(1, 300))
def test_any_form_is_a_file_or_an_error_with_a_reason(parts: list[bytes], size: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Store(name, "uploads", 10**6)
        with contextlib.suppress(HttpError):
            record = receive(folder, b"".join(parts), size)
            assert os.path.getsize(folder.content_path(record.id)) == record.bytes
        assert not os.listdir(Path(name) / "uploads")


def test_a_folder_is_locked_for_one_process(tmp_path: Path) -> None:
    lock = store.lock_folder(str(tmp_path))
    assert lock is not None
    assert store.lock_folder(str(tmp_path)) is None
    lock.close()
    again = store.lock_folder(str(tmp_path))
    assert again is not None
    again.close()


# -- names -----------------------------------------------------------------------------------------------------------


def new_client(folder: Store, keys: dict[str, Any] | None = None) -> FlaskClient:
    service: Any = FakeService()
    service.log, service.config.cors = logging.getLogger("test"), "*"
    metrics = Metrics(Mock(), Mock(running=0, queued=0))
    recorder = RequestRecorder(metrics, service.log)
    return make_app(service, metrics, recorder, HttpAccess(None, keys), folder).test_client()


def test_a_folder_that_cannot_be_read_is_an_error_of_the_disk(tmp_path: Path) -> None:
    client = new_client(Store(str(tmp_path), "uploads", 10**9))
    for name in ("files", "jobs"):
        (tmp_path / name).rmdir()
    for path in ("/v1/files", "/v1/batches"):
        reply = client.get(path, environ_overrides={STARTED_KEY: time.perf_counter()})
        assert (reply.status_code, "the folder of the batch jobs cannot be used" in reply.text) == (507, True)


def test_each_name_has_its_own_files_and_batches(tmp_path: Path) -> None:
    folder = Store(str(tmp_path), "uploads", 10**9)
    keys = {"keys": {"k1": "one", "k2": "two"}, "weights": {"one": 1, "two": 1}, "limited": [], "proof": "p"}
    client = new_client(folder, keys)

    def call(key: str, method: str, path: str, body: Any = None) -> Any:
        environ = {STARTED_KEY: time.perf_counter()}
        headers = {"Authorization": f"Bearer {key}"}
        return client.open(path, method=method, json=body, headers=headers, environ_overrides=environ, buffered=True)

    form = PURPOSE + part("file", request("a", "x"), "in.jsonl") + END
    file = receive(folder, form, 1000, owner="one")
    body = {"input_file_id": file.id, "endpoint": "/v1/embeddings", "completion_window": "24h"}
    assert call("k2", "POST", "/v1/batches", body).status_code == 400
    batch = call("k1", "POST", "/v1/batches", body).json
    assert batch["status"] == "validating"
    paths = [
        ("GET", f"/v1/files/{file.id}"),
        ("GET", f"/v1/files/{file.id}/content"),
        ("DELETE", f"/v1/files/{file.id}"),
        ("GET", f"/v1/batches/{batch['id']}"),
        ("POST", f"/v1/batches/{batch['id']}/cancel"),
    ]
    for method, path in paths:
        assert call("k2", method, path).status_code == 404
        assert call("k3", method, path).status_code == 401
    for path, name in (("/v1/files", file.id), ("/v1/batches", batch["id"])):
        assert call("k2", "GET", path).json["data"] == []
        assert [each["id"] for each in call("k1", "GET", path).json["data"]] == [name]
    assert call("k1", "GET", f"/v1/files/{file.id}/content").data == request("a", "x")
    assert call("k1", "POST", f"/v1/batches/{batch['id']}/cancel").json["status"] == "cancelling"
    job = folder.read_job(batch["id"])
    assert job is not None
    progress = run(folder, job)
    record = folder.read_file(progress.output_file_id)
    assert record is not None
    assert record.owner == "one"
