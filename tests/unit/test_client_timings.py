"""Requests for timings."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bert_serving.client import AsyncBertClient, BertClient
from bert_serving.client.errors import OptionError
from bert_serving.client.protocol import WITH_TIMING, request_frames
from fake_server import CONFIG, run_fake_server

ORIGINAL: dict[str, Any] = {name: value for name, value in CONFIG.items() if name != "protocol_version"}


def test_fifth_frame_only_with_timings() -> None:
    assert len(request_frames(b"me", b'["a"]', 1, 1)) == 4
    assert request_frames(b"me", b'["a"]', 1, 1, WITH_TIMING)[4:] == [b'{"timing":true}']


def test_an_original_server_is_not_asked() -> None:
    """An original server ignores a message of five frames."""
    with run_fake_server(config=ORIGINAL) as fake_server:
        with BertClient(**fake_server.ports, timeout=60_000) as client:
            with pytest.raises(OptionError, match="original"):
                client.encode(["a"], timings=[])
            assert client.encode(["a"]).shape == (1, 4)

        async def with_asyncio() -> None:
            async with AsyncBertClient(**fake_server.ports, timeout=60_000) as client:
                with pytest.raises(OptionError, match="original"):
                    await client.encode(["a"], timings=[])

        asyncio.run(with_asyncio())


def test_no_timings_from_a_server_without_them() -> None:
    timings: list[dict[str, float]] = []
    with run_fake_server() as fake_server, BertClient(**fake_server.ports, timeout=60_000) as client:
        assert client.encode(["a"], timings=timings).shape == (1, 4)
    assert timings == []
