"""The same text has the same vector alone and in any company: within 1e-6, and to the bit with -deterministic."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joining import Front

from bert_serving.client import BertClient
from bert_serving.server.engines.torch import engine as torch_engine
from model_folders import write_classifier
from servers import Server, serving, wait_until

ROOT = Path(__file__).resolve().parents[2]
WORDS = ("hello", "world", "good", "morning", "42", "été", "你好", ",", "who", "unknownword")
#: Texts of every length from one word to more than fits.
TEXTS = [
    " ".join(WORDS[(start + step) % 10] for step in range(length)) for start in (0, 3) for length in range(1, 40, 2)
]
#: What three clients ask at the same time: the texts of one request of each, by their number.
COMPANIES = st.lists(st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=60), min_size=1, max_size=3)
EXAMPLES = settings(max_examples=20)
#: The options of all servers with onnx here: room for longer texts.
LONG = ("-engine", "onnx", "-max_seq_len", "NONE")


class Asker:
    """Three clients of a server, which ask at the same time."""

    def __init__(self, server: Server) -> None:
        ports: dict[str, Any] = {"port": server.port, "port_out": server.port_out}
        self._clients = [BertClient(**ports, timeout=60_000, check_length=False) for _ in range(3)]
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

    def status(self) -> dict[str, Any]:
        """Returns the status of the server."""
        return self._clients[0].server_status

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


def check_limit(asker: Asker) -> None:
    """Compares vectors in random company with those of the texts alone, in proportion to the length of the vector."""
    alone = asker.alone()
    limits = 1e-6 * np.maximum(1, np.linalg.norm(alone, axis=1))

    @EXAMPLES
    @given(COMPANIES)
    def check(requests: list[list[int]]) -> None:
        for request, vectors in zip(requests, asker.together(requests), strict=False):
            assert (np.abs(vectors - alone[request]).max(axis=1) <= limits[request]).all()

    check()


def check_bits(asker: Asker, alone: np.ndarray) -> None:
    """Compares the bits of vectors in random company with those of the texts alone, ``[n, d]``."""

    @EXAMPLES
    @given(COMPANIES)
    def check(requests: list[list[int]]) -> None:
        for request, vectors in zip(requests, asker.together(requests), strict=False):
            assert vectors.tobytes() == alone[request].tobytes()

    check()


def test_tensorflow(server: Server) -> None:
    with asking(server) as asker:
        check_limit(asker)


@pytest.mark.skipif(torch_engine.unavailable("cpu", "fp32") is not None, reason="PyTorch is not installed")
def test_torch() -> None:
    with serving("-engine", "torch", "-max_seq_len", "NONE") as server, asking(server) as asker:
        check_limit(asker)


def test_bits_are_equal_in_any_company_after_a_restart_and_on_a_joined_machine() -> None:
    with serving(*LONG, "-deterministic", "-threads", "1") as server, asking(server) as asker:
        alone = asker.alone()
        check_bits(asker, alone)
    front = Front(*LONG, "-deterministic", "-threads", "2")
    try:
        machine = front.wait_open().machine("-threads", "3")
        front.wait_ready()
        machine.wait_ready()
        with asking(front) as asker:
            wait_until(lambda: len(asker.status()["workers"]) == 2)
            assert asker.alone().tobytes() == alone.tobytes()
            check_bits(asker, alone)
    finally:
        front.kill()


def test_bits_of_scores_are_equal_in_int8_and_on_several_workers(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path, 3)
    flags = (*LONG, "-task", "classify", "-dtype", "int8", "-num_worker", "2", "-threads", "2", "-deterministic")
    with serving(*flags, model_dir=folder) as server, asking(server) as asker:
        check_bits(asker, asker.alone())


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        ("sound", "may depend on the batch, which -deterministic rules out"),
        ("wavering", "tokens has another vector among"),
    ],
)
def test_engines_whose_bits_depend_on_the_batch_are_refused(engine: str, reason: str) -> None:
    server = Server(
        "-engine", f"fault_engines.{engine}", "-deterministic", env={"PYTHONPATH": str(ROOT / "tests" / "faults")}
    )
    assert server.process.wait(60) == 3
    assert reason in server.log
    assert "remove -deterministic" in server.log
