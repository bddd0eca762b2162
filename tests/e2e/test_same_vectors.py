"""The same text has the same vector alone and in any company: within 1e-6, and to the bit with -deterministic."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_serving.client import BertClient
from bert_serving.server.engines.torch import engine as torch_engine
from servers import Server, serving

WORDS = ("hello", "world", "good", "morning", "42", "été", "你好", ",", "who", "unknownword")
#: Texts of every length from one word to more than fits, some with a common beginning.
TEXTS = [
    " ".join(WORDS[(start + step) % 10] for step in range(length)) for start in (0, 3) for length in range(1, 40, 2)
]
#: What three clients ask at the same time: the texts of one request of each, by their number.
COMPANIES = st.lists(
    st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=60), min_size=1, max_size=3
)  # fmt: skip


class Asker:
    """Three clients of a server, which ask at the same time."""

    def __init__(self, server: Server) -> None:
        ports = {"port": server.port, "port_out": server.port_out, "timeout": 60_000, "check_length": False}
        self._clients = [BertClient(**ports) for _ in range(3)]
        self._threads = ThreadPoolExecutor(3)

    def alone(self) -> np.ndarray:
        """Returns the vector of each text, asked alone: ``[n, d]``."""
        return np.concatenate([self._clients[0].encode([text]) for text in TEXTS])

    def together(self, requests: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Returns the vectors of requests that clients send at the same time."""

        def ask(client: BertClient, request: Sequence[int]) -> np.ndarray:
            vectors: np.ndarray = client.encode([TEXTS[number] for number in request])
            return vectors

        return list(self._threads.map(ask, self._clients, requests))

    def close(self) -> None:
        self._threads.shutdown()
        for client in self._clients:
            client.close()


@contextlib.contextmanager
def asking(server: Server) -> Iterator[Asker]:
    asker = Asker(server)
    try:
        yield asker
    finally:
        asker.close()


def check_company(asker: Asker, examples: int) -> None:
    """Compares vectors in random company with those of the texts alone, in proportion to the length of the vector."""
    alone = asker.alone()
    limits = 1e-6 * np.maximum(1, np.linalg.norm(alone, axis=1))

    @settings(max_examples=examples)
    @given(COMPANIES)
    def check(requests: list[list[int]]) -> None:
        for request, vectors in zip(requests, asker.together(requests), strict=True):
            assert (np.abs(vectors - alone[request]).max(axis=1) <= limits[request]).all()

    check()


def test_tensorflow(server: Server) -> None:
    with asking(server) as asker:
        check_company(asker, 20)


@pytest.mark.skipif(torch_engine.unavailable("cpu", "fp32") is not None, reason="PyTorch is not installed")
def test_torch() -> None:
    with serving("-engine", "torch") as server, asking(server) as asker:
        check_company(asker, 20)


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_onnx(dtype: str) -> None:
    with serving("-engine", "onnx", "-dtype", dtype, "-threads", "2") as server, asking(server) as asker:
        check_company(asker, 20)
