"""Several models behind one port: each request gets the vectors of its model, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from bert_serving.client import AsyncBertClient, BertClient, InvalidRequestError, TaskError
from bert_serving.client._cli.encode import main as encode_command
from bert_serving.server.cli.drift import main as drift_command
from bert_serving.server.monitoring.drift import Reference
from doc_examples import examples_of, with_ports
from http_calls import HttpServer, serving_http
from model_folders import write_classifier
from servers import DATA, TINY, Server, wait_until
from version_1 import assert_serves_version_1

#: Name of each embedder, and the golden file with its vectors; the first one has no name of its own.
GOLDEN = {"tiny": "mean_default", "last": "mean_layer-1"}
#: Drift reference of the model ``last``.
REFERENCE = Reference({}, 1000, [1.0] * 32, 1.0, [5], [500, 500], 0.0)
QUERY, DOCUMENTS = "hello world", ["the quick brown fox", "hello", "world hello world"]


def golden(name: str) -> tuple[list[str], np.ndarray]:
    """Returns texts, and the vectors of the original for a model."""
    path = DATA / "golden" / "tiny" / GOLDEN[name]
    texts: list[str] = json.loads(path.with_suffix(".json").read_text())["parts"]["plain"]["texts"]
    with np.load(path.with_suffix(".npz")) as file:
        return texts, file["plain"]


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    folder, jobs = write_classifier(tmp_path_factory.mktemp("models") / "reranker"), tmp_path_factory.mktemp("jobs")
    (reference := folder.parent / "reference.json").write_text(REFERENCE.to_json())
    last = f"last={TINY},pooling_layer=-1,drift_reference={reference}"
    models = ["-model", last, "-model", f"rerank={folder},task=rerank,max_seq_len=40"]
    with serving_http(*models, "-cache_mb", "3", "-max_queue_tokens", "20000", "-http_jobs", jobs) as server:
        yield server


@pytest.fixture(scope="module")
def server(http: HttpServer) -> Server:
    return http.server


def connect(server: Server, model: str | None = None, **options: Any) -> BertClient:
    ports = {"port": server.port, "port_out": server.port_out}
    return BertClient(**ports, model=model, timeout=60_000, check_length=False, **options)


def test_each_client_gets_the_vectors_of_its_model(server: Server) -> None:
    spaces = set()
    for model in (None, "tiny", "last"):
        texts, vectors = golden(model or "tiny")
        with connect(server, model) as client:
            np.testing.assert_allclose(client.encode(texts), vectors, atol=1e-5)
            np.testing.assert_allclose(client.encode(texts), vectors, atol=1e-5)  # from the cache
            assert client.server_config["model"] == (model or "tiny")
            assert client.server_config["models"] == ["tiny", "last", "rerank"]
            spaces.add(client.vector_space)
    assert len(spaces) == 2
    with connect(server, "rerank") as client:
        assert [each.index for each in client.rerank(QUERY, DOCUMENTS)]
        assert client.server_config["max_seq_len"] == 40
        with pytest.raises(TaskError):
            client.classify(["a"])
    with connect(server) as client, pytest.raises(TaskError):
        client.rerank(QUERY, DOCUMENTS)


def test_asyncio_and_requests_without_waiting(server: Server) -> None:
    texts, vectors = golden("last")

    async def encode() -> np.ndarray:
        ports = {"port": server.port, "port_out": server.port_out}
        async with AsyncBertClient(**ports, model="last", check_length=False) as client:
            found: np.ndarray = await client.encode(texts)
            return found

    np.testing.assert_allclose(asyncio.run(encode()), vectors, atol=1e-5)
    with connect(server, "last") as client:
        client.encode(texts, blocking=False)
        np.testing.assert_allclose(client.fetch_all(concat=True), vectors, atol=1e-5)
        (found,) = client.encode_async([texts], max_num_batch=1)
        np.testing.assert_allclose(found.embedding, vectors, atol=1e-5)
    with connect(server, "last", ignore_all_checks=True) as client:
        np.testing.assert_allclose(client.encode(texts), vectors, atol=1e-5)


def test_an_unknown_model_is_an_error_with_the_names(server: Server) -> None:
    for checks in (True, False):
        with pytest.raises(InvalidRequestError, match=r"'other' is unknown; the models .* tiny, last, rerank"):
            connect(server, "other", ignore_all_checks=not checks).encode(["a"])


def test_the_status_counts_all_models(server: Server) -> None:
    with connect(server, "last") as client:
        client.encode(["one", "two"])
        status = client.server_status
    assert list(status["by_model"]) == ["tiny", "last", "rerank"]
    assert [worker["model"] for worker in status["workers"]] == ["tiny", "last", "rerank"]
    assert sum(each["tokens"] for each in status["by_model"].values()) == status["batches"]["tokens"]
    assert status["cache"]["max_bytes"] == 3 * 2**20
    assert status["max_seq_len"] == 25


@pytest.mark.parametrize(
    ("path", "field", "key"),
    [("/encode", "texts", "results"), ("/v1/embeddings", "input", "data"), ("/embed", "inputs", "")],
)
@pytest.mark.parametrize("model", ["", "tiny", "last"])
def test_http_requests_name_their_model(http: HttpServer, path: str, field: str, key: str, model: str) -> None:
    texts, vectors = golden(model or "tiny")
    named = {"model": model} if model else {}
    for repeat in (1, 200):  # small requests in the event loop, large ones in a thread
        reply = http.call(path, {field: texts * repeat, "normalize": False, **named})
        assert reply.status == 200, reply.body
        rows = reply.json[key] if key else reply.json
        found = [row["embedding"] for row in rows] if key == "data" else rows
        np.testing.assert_allclose(np.array(found), np.tile(vectors, (repeat, 1)), atol=1e-5)
    if key == "data":
        assert reply.json["model"] == (model or "tiny")


def test_http_routes_without_a_model_get_the_first_one_for_their_task(http: HttpServer, server: Server) -> None:
    with connect(server, "rerank") as client:
        order = [each.index for each in client.rerank(QUERY, DOCUMENTS)]
    for path in ("/rerank", "/"):
        assert [each["index"] for each in http.call(path, {"query": QUERY, "texts": DOCUMENTS}).json] == order
    for model in ("", "rerank"):
        reply = http.call("/v1/rerank", {"query": QUERY, "documents": DOCUMENTS, "model": model})
        assert [each["index"] for each in reply.json["results"]] == order
        assert reply.json["model"] == "rerank"
    wrong = http.call("/rerank", {"query": QUERY, "texts": DOCUMENTS, "model": "last"})
    assert wrong.status == 424
    assert "model 'last': this server has -task embed" in wrong.json["error"]
    assert "one of tiny (dense), last (dense), rerank (-task rerank)" in wrong.json["error"]
    by_vectors = http.call("/rerank", {"query": QUERY, "texts": DOCUMENTS, "by": "multi"})
    assert by_vectors.status == 422
    assert "-task rerank, a cross-encoder: omit it" in by_vectors.json["error"]
    no_classifier = http.call("/predict", {"inputs": "a"})
    assert no_classifier.status == 424


@pytest.mark.parametrize("name", ["text-embedding-3-small", "Last", "last ", "other"])
def test_an_unknown_model_over_http_is_404_with_the_names(http: HttpServer, name: str) -> None:
    for path, body in (
        ("/v1/embeddings", {"input": "a"}),
        ("/encode", {"texts": ["a"]}),
        ("/embed", {"inputs": "a"}),
        ("/v2/embed", {"texts": ["a"]}),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
        ("/tokenize", {"inputs": "a"}),
        ("/decode", {"ids": [1]}),
        ("/invocations", {"input": "a"}),
    ):
        reply = http.call(path, {**body, "model": name})
        assert reply.status == 404, (path, reply.body)
        assert b"this server has tiny, last, rerank" in reply.body


def test_models_are_listed_and_described(http: HttpServer, server: Server) -> None:
    assert re.search(r"^ +model = 'last=.*', 'rerank=.*,task=rerank,max_seq_len=40'$", server.log, re.M)
    assert server.log.count(" on Python ") == 1
    assert server.log.count("; scores of other spaces are not comparable") == 1
    assert "drift of model tiny: not observed (-drift_reference)" in server.log
    assert re.search(
        r":drift of model last: texts are compared with .*reference\.json \(-drift_reference\)$", server.log, re.M
    )
    listed = {each["id"]: each["vector_space"] for each in http.call("/v1/models").json["data"]}
    assert list(listed) == ["tiny", "last", "rerank"]
    with connect(server, "last") as client:
        assert client.vector_space == listed["last"] == http.call("/v1/models/last").json["vector_space"]
    assert http.call("/v1/models/other").status == 404
    described = [
        [each[key] for key in ("task", "outputs", "dimensions", "labels", "max_input_length")]
        for each in http.call("/v1/models").json["data"]
    ]
    assert described[:2] == [["embed", ["dense"], 32, [], 25]] * 2
    assert described[2] == ["rerank", [], None, ["label0"], 40]
    with (
        connect(server, "rerank") as client,
        pytest.raises(InvalidRequestError, match="or model to tiny or last, which has dense"),
    ):
        client.encode(["a"], outputs=["dense"])
    assert http.call("/info").json["model_id"] == "tiny"
    described = http.call("/info?model=rerank").json
    assert (described["model_id"], described["max_input_length"]) == ("rerank", 40)
    assert "reranker" in described["model_type"]
    assert http.call("/info?model=other").status == 404
    reply = http.call("/encode", {"texts": ["a"], "model": "last"})
    assert reply.headers["x-vector-space"] == listed["last"]
    for wrong in (7, 0, False, ["tiny"], {}):
        assert http.call("/encode", {"texts": ["a"], "model": wrong}).status == 400
    assert http.call("/readyz").status == 200


def test_the_metrics_have_each_model(http: HttpServer) -> None:
    assert http.call("/encode", {"texts": ["a", "b"], "model": "last"}).status == 200
    lines = http.call("/metrics").body.decode().splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if line.startswith("bert_serving_model_"))
    for name in ("workers", "queue_tokens", "queue_sequences", "batches_in_flight", "tokens_total", "sequences_total"):
        assert {f'bert_serving_model_{name}{{model="{model}"}}' for model in ("tiny", "last", "rerank")} <= set(found)
    assert float(found['bert_serving_model_tokens_total{model="last"}']) > 0
    assert found['bert_serving_model_workers{model="rerank"}'] == "1.0"


def test_a_full_queue_of_one_model_does_not_stop_the_others(server: Server) -> None:
    suspended = server.child("worker-last-0")
    many = [f"hello world {number}" for number in range(8192)]
    texts, vectors = golden("tiny")
    with connect(server, "last") as bulk, connect(server) as client:
        suspended.suspend()
        try:
            for start in range(0, len(many), 2048):
                bulk.encode(many[start : start + 2048], blocking=False)
            wait_until(
                lambda: client.server_status["by_model"]["last"]["queue"]["tokens"] >= 20_000 * 3 / 4,
                what="a full queue",
            )
            np.testing.assert_allclose(client.encode(texts), vectors, atol=1e-5)
            np.testing.assert_allclose(client.encode(texts * 100), np.tile(vectors, (100, 1)), atol=1e-5)
            assert client.server_status["by_model"]["last"]["queue"]["tokens"] > 0
        finally:
            suspended.resume()
        assert bulk.fetch_all(concat=True).shape == (len(many), 32)


@pytest.mark.parametrize("victim", ["worker-last-0", "sink", "ventilator"])
def test_requests_survive_the_death_of_a_process(server: Server, victim: str) -> None:
    def encode(model: str) -> int:
        texts, vectors = golden(model)
        with connect(server, model) as client:
            for number in range(20):
                np.testing.assert_allclose(client.encode(texts), vectors, atol=1e-5)
                if number == 5 and model == "tiny":
                    server.child(victim).kill()
        return 1

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(encode, ["tiny", "last", "last", "tiny"][:3])) == 3
    wait_until(lambda: connect(server).server_status["state"] == "ready", what="all processes are back")


def test_each_model_has_its_drift(http: HttpServer, server: Server, tmp_path: Path) -> None:
    texts, _ = golden("last")
    with connect(server, "last") as client, connect(server) as first:
        first.encode(texts)
        client.encode(texts)

        def drift() -> dict[str, float]:
            found: dict[str, float] = client.server_status["by_model"]["last"]["drift"]
            return found

        seen = drift()["seen"]
        client.encode(texts)
        wait_until(lambda: drift()["seen"] > seen and drift()["shift"] > 0.1, what="the report of the sink")
        status = first.server_status
        assert "drift" not in status
        assert [name for name, each in status["by_model"].items() if "drift" in each] == ["last"]
        lines = http.call("/metrics").body.decode().splitlines()
        found = dict(line.rsplit(" ", 1) for line in lines if "_drift_" in line and line[0] != "#")
        assert float(found['bert_serving_model_drift_texts{model="last"}']) >= drift()["seen"]
        assert all("last" in name for name in found)
        (tmp_path / "sample.txt").write_text("\n".join(texts))
        args = ["-front", f"127.0.0.1:{server.port}:{server.port_out}", "-o", str(tmp_path / "reference.json")]
        assert drift_command([str(tmp_path / "sample.txt"), *args, "-model", "last"]) == 0
        made = Reference.load(str(tmp_path / "reference.json"))
        assert made.options["vector_space"] == client.vector_space != first.vector_space


@pytest.mark.parametrize("output", ["v.npy", "v/"])
def test_encode_command_with_a_model(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    """The command encodes with the model that it names, and resumes with no other one."""
    monkeypatch.setenv("BERT_SERVING_MODEL", f"rerank={TINY}")  # the server's, in a container of both
    texts, vectors = golden("last")
    (tmp_path / "corpus.txt").write_text("".join(f"{text}\n" for text in [*texts, ""]))
    ports = ["-port", str(server.port), "-port_out", str(server.port_out), "-batch_size", "2", "-format", "npy"]
    args = [str(tmp_path / "corpus.txt"), "-o", f"{tmp_path}/{output}", *ports]
    assert encode_command([*args, "-model", "other"]) == 1
    assert "model 'other' is unknown; the models of this server are tiny, last, rerank" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        encode_command([*args, "-model", ""])
    assert "-model: model must be a str of 1 to" in capfd.readouterr().err
    blank = "error" if output == "v.npy" else "zeros"
    assert encode_command([*args, "-model", "last", "-blank", blank, "-overwrite"]) == (blank == "error")
    for other in ([], ["-model", "tiny"]):
        assert encode_command([*args, *other, "-blank", blank, "-resume"]) == 1
        now = other[1] if other else None
        assert f"cannot resume: -model was last and is now {now}" in capfd.readouterr().err
    if blank == "error":
        (tmp_path / "corpus.txt").write_text("".join(f"{text}\n" for text in texts))
    assert encode_command([*args, "-model", "last", "-blank", blank, "-resume"]) == 0
    found = np.load(tmp_path / ("v.npy" if output == "v.npy" else "v/part-000000.npy"))
    np.testing.assert_allclose(found[: len(texts)], vectors, atol=1e-5)


def test_each_line_of_a_batch_job_names_its_model(http: HttpServer) -> None:
    names = ("tiny", "tiny", "last")
    texts = [golden(name)[0] for name in names]
    bodies: list[dict[str, Any]] = [
        {"input": texts[0]},
        {"input": texts[1], "model": "tiny"},
        {"input": texts[2], "model": "last"},
        {"input": "a", "model": "other"},
    ]
    lines = [
        json.dumps({"custom_id": str(number), "method": "POST", "url": "/v1/embeddings", "body": body})
        for number, body in enumerate(bodies)
    ]
    with openai.OpenAI(base_url=f"{http.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        file = client.files.create(file=("in.jsonl", "\n".join(lines).encode()), purpose="batch")
        job = client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
        wait_until(lambda: client.batches.retrieve(job.id).status == "completed", what="the end of the batch")
        job = client.batches.retrieve(job.id)
        assert job.output_file_id is not None
        assert job.error_file_id is not None
        rows = [json.loads(line) for line in client.files.content(job.output_file_id).text.splitlines()]
        (failed,) = client.files.content(job.error_file_id).text.splitlines()
    for row in rows:
        name, body = names[int(row["custom_id"])], row["response"]["body"]
        assert body["model"] == name
        np.testing.assert_allclose([each["embedding"] for each in body["data"]], golden(name)[1], atol=1e-5)
    assert sorted(row["custom_id"] for row in rows) == ["0", "1", "2"]
    assert "this server has tiny, last, rerank" in failed


def test_a_client_of_1_10_gets_the_first_model(server: Server) -> None:
    assert_serves_version_1(server)


def test_the_example_of_several_models(server: Server) -> None:
    (code,) = examples_of("test_the_example_of_several_models")
    names: dict[str, Any] = {}
    exec(with_ports(code, server), names)
    assert names["vectors"].shape == (1, 32)
    assert sorted(each.index for each in names["ranking"]) == [0, 1]
