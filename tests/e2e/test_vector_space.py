"""The name of a server's vector space, and requests that accept no other."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_serving.client import AsyncBertClient, BertClient
from bert_serving.client._cli.encode import main as encode_command
from bert_serving.client.errors import VectorSpaceError
from http_calls import HttpServer, serving_http
from servers import Server, free_ports, serving

TEXTS = ["hello world", "good morning"]
HEADER = "X-Vector-Space"


@pytest.fixture(scope="module")
def http_server() -> Iterator[HttpServer]:
    with serving_http("-http_token_ids", "off") as server:
        yield server


@pytest.fixture(scope="module")
def space(client: BertClient) -> str:
    space = client.vector_space
    assert space is not None
    assert re.fullmatch("[0-9a-f]{16}", space)
    return space


def ports_of(server: HttpServer) -> dict[str, Any]:
    return {
        "port": server.server.port,
        "port_out": server.server.port_out,
        "timeout": 60_000,
        "check_length": False,
    }


def test_each_place_names_the_same_space(http_server: HttpServer, client: BertClient, space: str) -> None:
    assert client.server_status["vector_space"] == space
    assert http_server.call("/v1/models").json["data"][0]["vector_space"] == space
    assert f'bert_serving_vector_space_info{{vector_space="{space}"}} 1.0' in http_server.call("/metrics").body.decode()
    for path, body in (("/encode", {"texts": TEXTS}), ("/v1/embeddings", {"input": TEXTS})):
        assert http_server.call(path, body).headers[HEADER.lower()] == space
    raw = http_server.call("/encode", {"texts": TEXTS}, {"Accept": "application/octet-stream"})
    assert raw.headers[HEADER.lower()] == space

    async def ask() -> str | None:
        async with AsyncBertClient(**ports_of(http_server)) as client:
            return await client.vector_space()

    assert asyncio.run(ask()) == space


def test_a_request_with_options_has_a_space_of_its_own(http_server: HttpServer, space: str) -> None:
    def space_of(**options: Any) -> str:
        reply = http_server.call("/encode", {"texts": TEXTS, **options})
        assert reply.status == 200
        return reply.headers[HEADER.lower()]

    assert space_of(normalize=False) == space_of(dimensions=32) == space_of(prompt="good ") == space
    spaces = [space, space_of(normalize=True), space_of(dimensions=8), space_of(dimensions=8, normalize=True)]
    assert len(set(spaces)) == 4
    reply = http_server.call("/encode", {"texts": TEXTS, "normalize": True}, {HEADER: spaces[1]})
    assert reply.status == 200
    with BertClient(**ports_of(http_server), vector_space=space) as strict:
        with pytest.raises(VectorSpaceError, match=spaces[2]):
            strict.encode(TEXTS, dimensions=8)
        assert strict.encode(TEXTS, dimensions=8, vector_space=spaces[2]).shape == (2, 8)


def test_another_space_than_expected_is_refused_by_each_protocol(http_server: HttpServer, space: str) -> None:
    both = rf"the request expects vectors of the space 'other'.* of '{space}'"
    with BertClient(**ports_of(http_server), vector_space="other") as client:
        with pytest.raises(VectorSpaceError, match=both):
            client.encode(TEXTS)
        client.encode(TEXTS, blocking=False)
        with pytest.raises(VectorSpaceError, match=both):
            client.fetch_all()
        with pytest.raises(VectorSpaceError, match=both):
            list(client.encode_async([TEXTS]))
        assert client.encode(TEXTS, vector_space=space).shape == (2, 32)

    async def ask() -> None:
        async with AsyncBertClient(**ports_of(http_server), vector_space="other") as client:
            with pytest.raises(VectorSpaceError, match=both):
                await client.encode(TEXTS)
            with pytest.raises(VectorSpaceError, match=both):
                [each async for each in client.encode_async([TEXTS])]

    asyncio.run(ask())
    for path, body in (("/encode", {"texts": TEXTS}), ("/v1/embeddings", {"input": TEXTS})):
        assert http_server.call(path, body, {HEADER: space}).status == 200
        reply = http_server.call(path, body, {HEADER: "other"})
        assert reply.status == 409
        assert re.search(both, reply.body.decode())


def test_token_ids_are_refused_with_off(http_server: HttpServer) -> None:
    reply = http_server.call("/v1/embeddings", {"input": [[2, 7, 3]]})
    assert reply.status == 400
    assert "-http_token_ids off" in reply.body.decode()


def test_bert_serving_encode_names_the_space_and_accepts_no_other(
    http_server: HttpServer, space: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts").write_text("\n".join(TEXTS) + "\n")
    output = tmp_path / "vectors.jsonl"
    ports = ["-port", str(http_server.server.port), "-port_out", str(http_server.server.port_out)]
    command = [str(tmp_path / "texts"), "-o", str(output), *ports]
    assert encode_command([*command, "-vector_space", space]) == 0
    assert f"vector space {space}" in capfd.readouterr().err
    assert [json.loads(line)["vector_space"] for line in output.read_text().splitlines()] == [space] * 2
    assert encode_command([*command, "-overwrite", "-vector_space", "other"]) == 1
    assert "'other'" in capfd.readouterr().err
    # An interrupted run of another space is not continued.
    progress = {
        "input": {"lines": 1, "bytes": 0, "digest": ""},
        "rows": 0,
        "output_bytes": 0,
        "options": {"the vector space": "other"},
        "probe": [],
    }
    (tmp_path / "vectors.jsonl.progress").write_text(json.dumps(progress))
    assert encode_command([*command, "-resume"]) == 1
    assert "other" in capfd.readouterr().err


def test_a_server_with_flags_has_the_space_of_a_request_with_options(
    http_server: HttpServer, client: BertClient
) -> None:
    reply = http_server.call("/encode", {"texts": TEXTS, "normalize": True, "dimensions": 8})
    with (
        serving("-normalize", "on", "-dimensions", "8", "-max_seq_len", "40") as server,
        BertClient(port=server.port, port_out=server.port_out, timeout=60_000) as other,
    ):
        assert other.vector_space == reply.headers[HEADER.lower()]
        np.testing.assert_allclose(other.encode(TEXTS), np.array(reply.json["results"]), atol=1e-6)


def test_a_call_that_spans_a_restart_with_another_model_raises() -> None:
    server = Server("-engine", "zeros").wait_ready()
    ports = ["-port", str(server.port), "-port_out", str(server.port_out)]
    (http_port,) = free_ports(1)

    def batches() -> Iterator[list[str]]:
        nonlocal server
        yield TEXTS
        is_received.wait(60)
        assert server.stop() == 0
        other = ("-pooling_layer", "-1", "-max_seq_len", "4", "-http_port", str(http_port))
        server = Server("-engine", "zeros", *other, *ports).wait_ready()
        yield TEXTS

    is_received = threading.Event()
    try:
        with BertClient(port=int(ports[1]), port_out=int(ports[3]), timeout=60_000, connect_timeout=60_000) as client:
            results = client.encode_async(batches())
            assert len(next(results).embedding) == 2
            is_received.set()
            with pytest.raises(VectorSpaceError, match="the vector space changed within one call"):
                next(results)
            assert len(client.encode(["hello"])) == 1  # the next call may use the other model
            with pytest.warns(UserWarning, match="1 of 2 texts are longer than the server's max_seq_len=4"):
                client.encode(["hello", "hello hello hello"])
        assert HttpServer(server, http_port).call("/readyz").status == 200
        assert "are longer than" not in server.log, "the text of the health check may be truncated without a warning"
    finally:
        server.kill()
