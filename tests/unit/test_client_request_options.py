"""Options of a request: their validation, and which server gets them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from bert_serving.client import AsyncBertClient, BertClient
from bert_serving.client._request_options import options_frame, request_options, to_json
from bert_serving.client.errors import OptionError, ReplyError, VectorSpaceError
from bert_serving.client.protocol import OPTIONS_VERSION, PARTS_VERSION, TYPES_VERSION, WITH_DETAILS
from fake_server import CONFIG, FakeServer, run_fake_server

ALL: dict[str, Any] = {"normalize": False, "prompt": "é ", "dimensions": 3, "truncate": False}
ORIGINAL = {name: value for name, value in CONFIG.items() if name != "protocol_version"}
EARLIER = {**CONFIG, "protocol_version": OPTIONS_VERSION - 1}


def test_only_options_that_differ_from_the_server_are_sent() -> None:
    assert to_json(request_options(False)) == b""
    assert to_json(request_options(True, normalize=None, prompt=None, truncate=True)) == b""
    assert request_options(False, **ALL) == ALL
    assert request_options(False, normalize=np.bool_(True), dimensions=np.int64(3)) == {  # type: ignore[arg-type]
        "normalize": True,
        "dimensions": 3,
    }


def test_the_options_frame_has_the_options_of_its_request() -> None:
    for number in range(200):  # more than are kept
        for dimensions in (1, number + 1):
            options = {"dimensions": dimensions, "normalize": number % 2 == 0, "prompt": str(number)}
            assert json.loads(options_frame(b"", **options)) == options
            assert json.loads(options_frame(WITH_DETAILS, **options)) == {**json.loads(WITH_DETAILS), **options}
    assert options_frame(b"", value=1) != options_frame(b"", value=True)
    assert options_frame(b"") == b""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalize": "yes"}, "normalize must be True or False or None, but is str"),
        ({"truncate": "no"}, "truncate must be True or False or None, but is str"),
        ({"truncate": True, "long": "error"}, "truncate=True is long='cut', but long is 'error'"),
        ({"truncate": False, "long": "mean"}, "truncate=False is long='error', but long is 'mean'"),
        ({"long": "middle"}, "long must be one of 'cut', 'error', 'mean', 'chunks', 'late', or None, but is str"),
        ({"long": ["mean"]}, "long must be one of .* but is list"),
        ({"prompt": 3}, "prompt must be str, but is int"),
        ({"prompt": "a", "prompt_name": "b"}, "exclude each other"),
        ({"prompt": "a" * 5000}, "5000 characters; the limit is 4096"),
        ({"dimensions": 0}, "dimensions must be at least 1, but is 0"),
        ({"dimensions": 2.5}, "dimensions must be a whole number"),
    ],
)
def test_invalid_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        request_options(False, **options)


@pytest.mark.parametrize("options", [{"prompt": ""}, {"prompt_name": "query"}])
def test_a_prompt_is_not_for_token_lists(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="is_tokenized"):
        request_options(True, **options)


def test_values_of_long_that_older_servers_know() -> None:
    assert request_options(False, long="cut") == request_options(False, long="cut", truncate=True) == {}
    assert request_options(False, long="error") == {"truncate": False}
    assert request_options(False, long="mean") == {"long": "mean"}


def test_parts_are_asked_of_a_server_that_knows_them() -> None:
    with run_fake_server(config={**CONFIG, "protocol_version": PARTS_VERSION - 1}) as server:
        with BertClient(**server.ports, timeout=60_000) as client:
            with pytest.raises(OptionError, match=f"long: such options need .* {PARTS_VERSION}, but this server has"):
                client.encode(["a"], long="chunks", dimensions=3)
            client.encode(["a"], long="error")
        assert [json.loads(request.options) for request in server.received] == [{"truncate": False}]


def test_a_reply_without_parts_of_all_texts_is_an_error() -> None:
    replies: list[Any] = [None, [[0, 0, 1]], [[1, 0, 1], [0, 0, 1]], [[0, 0, 1], [1, 0]], [[0, 0, 1], [0, 0, 1]]]
    with run_fake_server(hold=True) as server, ThreadPoolExecutor(1) as pool, BertClient(**server.ports) as client:
        for parts in replies:
            call = pool.submit(client.encode, ["a", "b"], long="chunks", timings=[])
            server.reply(server.next(), **({} if parts is None else {"parts": parts}))
            with pytest.raises(ReplyError, match="parts"):
                call.result(60)


def test_the_frames_of_each_call() -> None:
    with run_fake_server() as server, BertClient(**server.ports, timeout=60_000) as client:
        client.encode(["a"], **ALL)
        client.encode(["a"], blocking=False, **ALL)
        client.fetch_all()
        list(client.encode_async([["a"]], **ALL))
        client.encode(["a"], timings=[], **ALL)
        client.encode(["a"])
        sent = [request.options for request in server.received]
    assert [json.loads(options) for options in sent[:3]] == [ALL, ALL, ALL]
    assert json.loads(sent[3]) == {**ALL, "timing": True}
    assert sent[4] == b""


@pytest.mark.parametrize("config", [ORIGINAL, EARLIER], ids=["original", "earlier"])
@pytest.mark.parametrize("checks", [True, False])
def test_an_older_server_gets_no_options(config: dict[str, Any], checks: bool) -> None:
    with run_fake_server(config=config) as server:
        with BertClient(**server.ports, timeout=60_000, ignore_all_checks=not checks) as client:
            with pytest.raises(OptionError, match="dimensions: such options need a server with protocol_version"):
                client.encode(["a"], dimensions=1)
            with pytest.raises(OptionError, match="truncate"):
                client.encode_async([["a"]], truncate=False)
            client.encode(["a"])

        async def with_asyncio() -> None:
            async with AsyncBertClient(**server.ports, timeout=60_000, ignore_all_checks=not checks) as client:
                with pytest.raises(OptionError, match="normalize"):
                    await client.encode(["a"], normalize=True)

        asyncio.run(with_asyncio())
        assert [request.options for request in server.received] == [b""]


def test_an_embedding_type_is_sent_to_servers_that_know_it_only() -> None:
    with run_fake_server(config={**CONFIG, "protocol_version": TYPES_VERSION - 1}) as server:
        with BertClient(**server.ports, timeout=60_000) as client:
            with pytest.raises(OptionError, match="embedding_type: such options need a server with protocol_version 7"):
                client.encode(["a"], embedding_type="int8", dimensions=1)
            client.encode(["a"], dimensions=1)
        assert [json.loads(request.options) for request in server.received] == [{"dimensions": 1}]


def test_a_client_without_checks_asks_once() -> None:
    with run_fake_server() as server, BertClient(**server.ports, timeout=60_000, ignore_all_checks=True) as client:
        client.encode(["a"], dimensions=1)
        client.encode(["a"], dimensions=1)
        assert server.commands == [b"SHOW_CONFIG"]


def encode_by_async_client(server: FakeServer, kind: str, options: dict[str, Any]) -> None:
    async def call() -> None:
        async with AsyncBertClient(**server.ports, timeout=60_000) as client:
            if kind == "encode":
                await client.encode(["a", "b"], batch_size=1, **options)
            else:
                [_ async for _ in client.encode_async(iter([["a"], ["b"]]), **options)]

    asyncio.run(call())


def encode_by_client(server: FakeServer, kind: str, options: dict[str, Any]) -> None:
    with BertClient(**server.ports, timeout=60_000) as client:
        if kind == "encode":
            client.encode(["a", "b"], batch_size=1, **options)
        elif kind == "encode_async":
            list(client.encode_async(iter([["a"], ["b"]]), **options))
        else:
            for text in ("a", "b"):
                client.encode([text], blocking=False, **options)
            try:
                client.fetch_all(concat=True, timeout=60_000)
            finally:
                assert len(client.fetch_all(timeout=60_000) or ()) == 2


@pytest.mark.parametrize("options", [{}, {"normalize": True}], ids=["", "normalize"])
@pytest.mark.parametrize(
    ("encode", "kind"),
    [
        (encode_by_client, "encode"),
        (encode_by_client, "encode_async"),
        (encode_by_client, "fetch_all"),
        (encode_by_async_client, "encode"),
        (encode_by_async_client, "encode_async"),
    ],
)
def test_vectors_of_two_spaces_are_never_in_one_result(
    encode: Callable[..., None], kind: str, options: dict[str, Any]
) -> None:
    """The server is restarted with another model within a call."""
    with run_fake_server(hold=True) as server, ThreadPoolExecutor(1) as pool:
        call = pool.submit(encode, server, kind, options)
        for space in ("first", "second"):
            request = server.next()
            assert request.options
            server.reply(request, vector_space=space)
        with pytest.raises(VectorSpaceError, match="from first to second"):
            call.result(60)


@pytest.mark.parametrize("config", [ORIGINAL, EARLIER], ids=["original", "earlier"])
def test_a_server_that_knows_no_options_gets_none_to_name_its_space(config: dict[str, Any]) -> None:
    with run_fake_server(config=config) as server, BertClient(**server.ports, timeout=60_000) as client:
        client.encode(["a", "b"], batch_size=1)
        assert len(list(client.encode_async(iter([["a"], ["b"]])))) == 2
        assert [request.options for request in server.received] == [b""] * 4


@pytest.mark.parametrize("space", ["", 3])
def test_an_expected_space_must_be_a_name(space: Any) -> None:
    with pytest.raises(OptionError, match="vector_space must be a str"):
        BertClient(vector_space=space)
    with pytest.raises(OptionError, match="vector_space must be a str"):
        request_options(False, vector_space=space)
