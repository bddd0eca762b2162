"""A client of one of several models names it in every request, and never to a server that does not know models."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from bert_serving.client import AsyncBertClient, BertClient, OptionError
from bert_serving.client.protocol import MODELS_VERSION, SHOW_CONFIG
from fake_server import CONFIG, FakeServer, until

SERVED = {**CONFIG, "vector_space": "space", "model": "b", "num_ready_worker": 1}
ORIGINAL = {name: value for name, value in CONFIG.items() if name != "protocol_version"}


class RecordingServer(FakeServer):
    """Records the options of each message, by its command; of requests by an empty command."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.options: list[tuple[bytes, Any]] = []
        super().__init__(config)

    def _take(self, frames: list[bytes]) -> None:
        is_command = frames[1].isupper()
        self.options.append((frames[1] if is_command else b"", json.loads(frames[4]) if len(frames) > 4 else None))
        super()._take(frames)


@pytest.fixture
def servers() -> Iterator[list[RecordingServer]]:
    both = [RecordingServer(SERVED), RecordingServer(SERVED)]
    yield both
    for server in both:
        server.close()


def models_of(server: RecordingServer, command: bytes) -> list[Any]:
    return [(options or {}).get("model") for name, options in server.options if name == command]


def test_every_request_names_the_model(servers: list[RecordingServer]) -> None:
    server = servers[0]
    with BertClient(**server.ports, model="b") as client:
        client.encode(["a"])
        client.encode(["a"], blocking=False)
        assert client.fetch_all() is not None
        list(client.encode_async([["a"]], max_num_batch=1))
        assert client.server_status["model"] == "b"
    assert models_of(server, b"") == ["b"] * 3
    assert models_of(server, SHOW_CONFIG) == [None, "b"], "the first question finds the version of the server"
    assert models_of(server, b"SHOW_STATUS") == ["b"]

    async def encode() -> None:
        async with AsyncBertClient(**servers[1].ports, model="b") as client:
            await client.encode(["a"])

    asyncio.run(encode())
    assert models_of(servers[1], b"") == ["b"]
    assert models_of(servers[1], SHOW_CONFIG) == [None, "b"]


def test_a_restarted_server_is_asked_about_the_model(servers: list[RecordingServer]) -> None:
    server = servers[0]
    with BertClient(**server.ports, model="b", connect_timeout=60_000) as client:
        server.stop()
        server.options.clear()
        server.config = {"error": {"type": "invalid_request", "message": "no such model"}}
        server.start()
        until(lambda: models_of(server, SHOW_CONFIG), "the question after the reconnect")
        assert models_of(server, SHOW_CONFIG) == ["b"]
        assert client.encode(["a"]).shape == (1, 4), "the limits of the earlier server stay"


def test_several_servers_get_the_name(servers: list[RecordingServer]) -> None:
    fronts = [f"localhost:{server.port}:{server.port_out}" for server in servers]
    with BertClient(fronts, model="b") as client:
        for _ in range(4):
            client.encode(["a"])
    for server in servers:
        assert set(models_of(server, SHOW_CONFIG)) <= {"b", None}
        assert "b" in models_of(server, SHOW_CONFIG)
        assert set(models_of(server, b"")) == {"b"}


@pytest.mark.parametrize("config", [ORIGINAL, {**CONFIG, "protocol_version": MODELS_VERSION - 1}])
@pytest.mark.parametrize("checks", [True, False])
def test_an_earlier_server_never_gets_the_name(config: dict[str, Any], checks: bool) -> None:
    server = RecordingServer(config)
    try:
        with pytest.raises(OptionError, match="model: such options need a server with protocol_version 8"):
            BertClient(**server.ports, model="b", ignore_all_checks=not checks).encode(["a"])
        assert all(options is None for _, options in server.options)
    finally:
        server.close()


@pytest.mark.parametrize("model", ["", "a" * 129, 7, b"b", ["b"]])
def test_a_name_that_no_model_can_have_is_refused(model: Any) -> None:
    with pytest.raises(OptionError, match="model must be a str of 1 to 128 characters"):
        BertClient(port=1, model=model)
