"""Long texts beside deaths, cancellations and other clients: no request is lost, and no memory stays held."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import numpy as np
import pytest

from bert_serving.client import AsyncBertClient, BertClient
from fault_helpers import ThreadGroup, connect
from servers import Server, serving, wait_until

SENTENCE = "Hello world, it is a good morning. The cat sat on its mat."
FLAGS = ("-max_seq_len", "24", "-max_batch_tokens", "4096")


def long_texts(count: int, first: int) -> list[str]:
    return [f"{number} {SENTENCE * (number % 9)}" for number in range(first, first + count)]


def queue(client: BertClient) -> dict[str, Any]:
    found: dict[str, Any] = client.server_status["queue"]
    return found


def test_cancelled_requests_leave_no_memory() -> None:
    """Requests are cancelled while their texts are split, while their parts wait, and while a worker has some."""
    with serving("-engine", "zeros", *FLAGS) as server, connect(server) as observer:
        assert observer.encode([SENTENCE], long="mean").shape == (1, 32)

        async def call(seconds: float) -> None:
            ports = {"port": server.port, "port_out": server.port_out}
            async with AsyncBertClient(**ports, check_length=False) as client:
                for long in ("mean", "chunks"):
                    with contextlib.suppress(asyncio.TimeoutError):
                        encoding = client.encode([SENTENCE * 2000] * 12, long=long, batch_size=None)  # type: ignore[call-overload]
                        await asyncio.wait_for(encoding, seconds)

        for seconds in (0.05, 0.3, 1.0):
            asyncio.run(call(seconds))
        for held in ("requests", "bytes", "tokens"):
            wait_until(lambda held=held: queue(observer)[held] == 0, what=f"no {held}")  # type: ignore[misc]
        wait_until(lambda: observer.server_status["results"]["assembling"] == 0, what="no results")
        assert observer.server_status["results"]["reserved"] == 0


def wait_restarted(observer: BertClient, server: Server, kills: int) -> None:
    def is_up() -> bool:
        status = observer.server_status
        return status["state"] == "ready" and status["num_restarts"] == kills

    wait_until(is_up, 90, f"all processes to be up\n{server.log[-2000:]}")


@pytest.mark.minutes
@pytest.mark.parametrize("tokenizers", ["0", "2"])
def test_means_and_parts_survive_the_death_of_each_process(tokenizers: str) -> None:
    roles = ["worker-0", "sink", "ventilator", *(["tokenizer-0"] if tokenizers != "0" else [])]
    with (
        serving(*FLAGS, "-num_worker", "2", "-num_tokenizer", tokenizers) as server,
        connect(server, check_length=False) as client,
        connect(server) as observer,
        ThreadGroup() as threads,
    ):
        few, many = long_texts(5, 3), long_texts(300, 40)
        wanted = {
            (long, size): client.encode(texts, long=long)  # type: ignore[call-overload]
            for long in ("mean", "chunks", "late")
            for size, texts in ((5, few), (300, many))
        }
        done: list[int] = []
        ends = time.monotonic() + 240

        def load(long: str) -> None:
            while len(done) < 60 * len(roles) and time.monotonic() < ends:
                for size, texts in ((5, few), (300, many)):
                    found, expected = client.encode(texts, long=long, batch_size=None), wanted[long, size]  # type: ignore[call-overload]
                    if long != "mean":
                        assert found.parts == expected.parts
                        found, expected = found.embedding, expected.embedding
                    np.testing.assert_allclose(found, expected, atol=1e-5)
                    done.append(size)

        threads.start(load, "mean")
        threads.start(load, "chunks")
        threads.start(load, "late")
        for kills, role in enumerate(roles, 1):
            wait_until(lambda kills=kills: len(done) > 30 * kills or not threads.is_busy(), 120, "answers")  # type: ignore[misc]
            server.child(role).kill()
            wait_restarted(observer, server, kills)
        threads.join(180)
        assert queue(observer)["requests"] == 0
