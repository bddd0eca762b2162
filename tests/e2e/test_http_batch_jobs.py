"""Tests batch jobs with the unmodified ``openai`` package: files, batches, and their results."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from doc_examples import examples_of
from http_calls import HttpServer, serving_http
from servers import wait_until
from version_1 import assert_serves_version_1

TOKEN = {"Authorization": "Bearer sesame"}
LIMIT = 40 * 2**20


@pytest.fixture(scope="module")
def http_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "token").write_text("sesame\n")
    jobs = ("-http_jobs", folder / "jobs", "-http_jobs_bytes", str(LIMIT))
    with serving_http("-http_token_file", folder / "token", *jobs) as server:
        yield server


@pytest.fixture
def client(http_server: HttpServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{http_server.url}/v1", api_key="sesame", max_retries=0, timeout=60) as client:
        yield client


def upload(client: openai.OpenAI, bodies: list[Any]) -> Any:
    lines = [
        {"custom_id": f"row-{index}", "method": "POST", "url": "/v1/embeddings", "body": body}
        for index, body in enumerate(bodies)
    ]
    return client.files.create(file=("in.jsonl", "\n".join(map(json.dumps, lines)).encode()), purpose="batch")


def create(client: openai.OpenAI, bodies: list[Any], **options: Any) -> Any:
    file = upload(client, bodies)
    return client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h", **options)


def wait_ended(client: openai.OpenAI, name: str) -> Any:
    ended = ("completed", "failed", "expired", "cancelled")
    wait_until(lambda: client.batches.retrieve(name).status in ended, 120, "the end of the batch")
    return client.batches.retrieve(name)


def lines_of(client: openai.OpenAI, file_id: str | None) -> list[Any]:
    if file_id is None:
        return []
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def test_a_batch_gives_the_responses_of_single_requests(client: openai.OpenAI) -> None:
    bodies: list[Any] = [
        {"model": "m", "input": "hello world"},
        {"model": "m", "input": ["a ||| b", "the quick brown fox " * 20], "encoding_format": "base64"},
        {"input": "short", "dimensions": 3, "normalize": True},
        {"input": ["long " * 100, "other"], "long": "chunks"},
        {"input": ""},
        {"input": "x", "unknown": 1},
    ]
    batch = create(client, bodies, metadata={"name": "first"})
    assert batch.status == "validating"
    batch = wait_ended(client, batch.id)
    assert (batch.status, batch.metadata, batch.errors) == ("completed", {"name": "first"}, None)
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (6, 4, 2)
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at < batch.expires_at
    found = {each["custom_id"]: each for each in lines_of(client, batch.output_file_id)}
    found |= {each["custom_id"]: each for each in lines_of(client, batch.error_file_id)}
    assert len(found) == len(bodies)
    for index, body in enumerate(bodies):
        response = found[f"row-{index}"]["response"]
        try:
            single = client.post("/embeddings", body=body, cast_to=object)
            assert response["status_code"] == 200
            assert without_vectors(response["body"]) == without_vectors(single)
        except openai.APIStatusError as error:
            assert response["status_code"] == error.status_code
            assert response["body"]["error"] == error.body
    vector = found["row-0"]["response"]["body"]["data"][0]["embedding"]
    single = client.embeddings.create(model="m", input="hello world", encoding_format="float").data[0].embedding
    assert vector == pytest.approx(single, abs=1e-5)


def without_vectors(body: Any) -> Any:
    return body | {"data": [each | {"embedding": len(each["embedding"])} for each in body["data"]]}


def test_files_are_listed_described_and_deleted(client: openai.OpenAI) -> None:
    before = {file.id for file in client.files.list()}
    files = [upload(client, [{"input": "a"}]) for _ in range(5)]
    ids = [file.id for file in files]
    assert files[0].purpose == "batch"
    assert files[0].filename == "in.jsonl"
    assert client.files.retrieve(ids[0]) == files[0]
    assert [file.id for file in client.files.list(limit=2) if file.id not in before] == ids[::-1]
    assert [file.id for file in client.files.list(limit=2, order="asc", after=ids[1])] == ids[2:]
    assert not client.files.list(purpose="batch_output", after=ids[0], order="asc").data
    assert client.files.content(ids[0]).content.endswith(b'"body": {"input": "a"}}')
    for name in ids:
        assert client.files.delete(name).deleted
    for call in (client.files.retrieve, client.files.content, client.files.delete, client.batches.retrieve):
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            call(ids[0])


def test_a_file_that_was_cut_on_the_disk_is_an_error(client: openai.OpenAI, http_server: HttpServer) -> None:
    file = upload(client, [{"input": "a"}])
    command = [str(word) for word in http_server.server.process.args]  # type: ignore[union-attr]
    os.truncate(f"{command[command.index('-http_jobs') + 1]}/files/{file.id}.jsonl", 1)
    with pytest.raises(openai.InternalServerError, match="is damaged on the disk of the server"):
        client.files.content(file.id)
    assert client.files.delete(file.id).deleted


def test_batches_are_listed(client: openai.OpenAI) -> None:
    names = [create(client, [{"input": "a"}]).id for _ in range(3)]
    assert [batch.id for batch in client.batches.list(limit=2)][:3] == names[::-1]
    assert client.batches.list(limit=2, after=names[1]).data[0].id == names[0]
    for name in names:
        assert wait_ended(client, name).status == "completed"
    with pytest.raises(openai.BadRequestError, match=r"has ended, with the status completed"):
        client.batches.cancel(names[0])


def test_a_cancelled_batch_ends_while_no_worker_computes(client: openai.OpenAI, http_server: HttpServer) -> None:
    worker = http_server.server.child("worker-0")
    worker.suspend()
    try:
        batch = create(client, [{"input": f"text {index}"} for index in range(3000)])
        with pytest.raises(openai.BadRequestError, match="has not ended: cancel it first"):
            client.files.delete(batch.input_file_id)
        wait_until(lambda: client.batches.retrieve(batch.id).status == "in_progress", what="the begin")
        assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
        batch = wait_ended(client, batch.id)
    finally:
        worker.resume()
    assert (batch.status, batch.output_file_id, batch.request_counts.failed) == ("cancelled", None, 3000)
    assert batch.cancelling_at <= batch.cancelled_at
    errors = lines_of(client, batch.error_file_id)
    assert {each["error"]["code"] for each in errors} == {"batch_cancelled"}
    assert [each["custom_id"] for each in errors] == [f"row-{index}" for index in range(3000)]
    with http_server.zmq_client() as bert:
        waiting = bert.server_status["queue"]
    assert (waiting["requests"], waiting["sequences"]) == (0, 0)


def test_a_killed_process_goes_on_where_it_was(client: openai.OpenAI, http_server: HttpServer) -> None:
    num_lines = 5000
    batch = create(client, [{"input": f"text {index}"} for index in range(num_lines)])
    wait_until(lambda: client.batches.retrieve(batch.id).request_counts.completed, what="the first vectors")
    http_server.server.child("jobs").kill()
    batch = wait_ended(client, batch.id)
    assert (batch.status, batch.error_file_id, batch.errors) == ("completed", None, None)
    names = [each["custom_id"] for each in lines_of(client, batch.output_file_id)]
    assert sorted(names) == sorted(f"row-{index}" for index in range(num_lines))
    assert "starts over" not in http_server.server.log
    for name in (batch.input_file_id, batch.output_file_id):
        client.files.delete(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"endpoint": "/v1/chat/completions"}, "'endpoint' must be '/v1/embeddings'"),
        ({"completion_window": "1d"}, "'completion_window' must be '24h'"),
        ({"completion_window": "721h"}, "up to '720h'"),
        ({"input_file_id": "file-" + "0" * 24}, "is not a file with the purpose batch"),
        ({"input_file_id": "../../etc/passwd"}, "is not a file"),
        ({"metadata": {"a": "x" * 600}}, "'metadata' must be an object of up to 16 strings"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, "3600 to 2592000"),
        ({"extra_body": {"priority": 1}}, "the field 'priority' is unknown"),
    ],
)
def test_batches_that_are_refused(client: openai.OpenAI, changes: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {"endpoint": "/v1/embeddings", "completion_window": "24h"}
    if "input_file_id" not in changes:
        values["input_file_id"] = upload(client, [{"input": "a"}]).id
    with pytest.raises(openai.BadRequestError, match=message):
        client.batches.create(**values | changes)


def test_uploads_that_are_refused_hold_nothing(client: openai.OpenAI, http_server: HttpServer) -> None:
    before = {file.id for file in client.files.list()}
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n--b--\r\n'
    assert http_server.call("/v1/files", body, form).status == 401
    assert http_server.call("/v1/files", body, TOKEN | {"Content-Type": "application/json"}).status == 415
    refused = http_server.call("//v1/files/", body, TOKEN | form)
    assert (refused.status, refused.json["error"]["param"]) == (400, "purpose")
    with pytest.raises(openai.APIStatusError, match=r"-http_jobs_bytes.*delete|Delete files") as caught:
        client.files.create(file=("large", b"x" * (LIMIT + 1)), purpose="batch")
    assert caught.value.status_code == 413
    assert {file.id for file in client.files.list()} == before


def test_the_description_has_the_routes(http_server: HttpServer) -> None:
    paths = http_server.call("/openapi.json").json["paths"]
    assert paths["/v1/files/{name}"].keys() == {"parameters", "get", "delete"}
    metrics = http_server.call("/metrics", headers=TOKEN).body.decode()
    for path in ("/v1/files", "/v1/files/{name}/content", "/v1/batches", "/v1/batches/{name}/cancel"):
        assert path in paths
        assert f'"{path.replace("{name}", "<name>")}"' in metrics


def test_the_example_of_the_docs_runs(http_server: HttpServer) -> None:
    (code,) = examples_of("test_the_example_of_the_docs_runs")
    names: dict[str, Any] = {}
    exec(code.replace("http://localhost:8125", http_server.url).replace("anything", "sesame"), names)
    assert names["vectors"].keys() == {"row-1", "row-2"}
    names["client"].close()


def test_a_client_of_1_10_beside_batch_jobs(http_server: HttpServer) -> None:
    assert_serves_version_1(http_server.server)
