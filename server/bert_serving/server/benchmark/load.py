"""Generates load: a closed loop (clients wait for responses) or an open loop (requests arrive at a given rate)."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.random import default_rng

from bert_serving.client import BertClient

from ..errors import ServingError

#: Maximum clients per process: more clients would wait for the interpreter lock instead of the server.
CLIENTS_PER_PROCESS = 32


class LoadError(ServingError, RuntimeError):
    """A request of the benchmark failed; the message contains the reason."""


@dataclass(frozen=True, slots=True)
class Request:
    """The sentences of one request, and the number of tokens that the server makes of them."""

    texts: list[str]
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Repeats:
    """Limits of a load: ``number`` requests per client after ``warm_up`` unmeasured ones; times in seconds."""

    number: int
    warm_up: int
    min_seconds: float
    max_seconds: float

    def should_continue(self, done: int, elapsed: float) -> bool:
        """Returns whether a client sends another request after ``done`` requests."""
        if done == 0:
            return True
        return elapsed < self.max_seconds and (done < self.number or elapsed < self.min_seconds)


@dataclass(slots=True)
class LoadResult:
    """Result of a load.

    Attributes:
        seconds: time from the first request to the last response.
        latencies: latency of each request in seconds.
    """

    seconds: float
    latencies: list[float]
    num_sentences: int
    num_tokens: int

    def metrics(self) -> dict[str, float]:
        """Returns rates per second, and percentiles of the latency in milliseconds."""
        p50, p95, p99 = np.percentile(self.latencies, [50, 95, 99]) * 1e3
        return {
            "sentences_per_second": self.num_sentences / self.seconds,
            "tokens_per_second": self.num_tokens / self.seconds,
            "p50_ms": float(p50),
            "p95_ms": float(p95),
            "p99_ms": float(p99),
            "num_requests": len(self.latencies),
            "num_sentences": self.num_sentences,
            "num_tokens": self.num_tokens,
            "seconds": self.seconds,
        }


def closed_loop(connect: dict[str, Any], requests: Sequence[Sequence[Request]], repeats: Repeats) -> LoadResult:
    """Runs one client for each entry of ``requests``; it sends them in a cycle and waits for each response.

    Args:
        connect: arguments of ``BertClient``.

    Raises:
        LoadError: a request failed.
    """
    shares = [requests[start : start + CLIENTS_PER_PROCESS] for start in range(0, len(requests), CLIENTS_PER_PROCESS)]
    processes: list[_ClientProcess] = []
    try:
        for share in shares:
            processes.append(_ClientProcess(connect, share, repeats, warm_up=not processes))
        for process in processes:
            process.read_message()
        for process in processes:
            process.start()
        done = [
            (start, end, share[client][which])
            for process, share in zip(processes, shares, strict=True)
            for start, end, client, which in process.read_message()["done"]
        ]
    finally:
        for process in processes:
            process.kill()
    seconds = max(end for _, end, _ in done) - min(start for start, _, _ in done)
    latencies = [end - start for start, end, _ in done]
    sentences = sum(len(request.texts) for *_, request in done)
    return LoadResult(seconds, latencies, sentences, sum(request.num_tokens for *_, request in done))


class _ClientProcess:
    """A running ``client_process.py``."""

    def __init__(
        self, connect: dict[str, Any], requests: Sequence[Sequence[Request]], repeats: Repeats, warm_up: bool
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.client_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        texts = [[request.texts for request in of_client] for of_client in requests]
        job = {"connect": connect, "requests": texts, "repeats": asdict(repeats), "warm_up": warm_up}
        self._write(json.dumps(job))

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # read_message() reports the reason
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def start(self) -> None:
        self._write("go")

    def read_message(self) -> Any:
        """Returns the next message of the process.

        Raises:
            LoadError: the process failed.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise LoadError(f"a client process ended with exit code {self._process.wait()}; see server.log")
        message = json.loads(line)
        if isinstance(message, dict) and "failure" in message:
            raise LoadError(message["failure"])
        return message

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def poisson_arrivals(rate: float, seconds: float, seed: int) -> np.ndarray:
    """Returns times of a Poisson process from 0 to ``seconds``, ascending, at least one."""
    random = default_rng(seed)
    gaps = random.exponential(1 / rate, max(1, int(rate * seconds * 1.5 + 10)))
    times: np.ndarray = np.cumsum(gaps)
    return times[: max(1, int(np.searchsorted(times, seconds)))]


def open_loop(connect: dict[str, Any], requests: Sequence[Request], times: np.ndarray) -> LoadResult:
    """Sends requests at ``times`` (seconds from the start), also if earlier requests are not done.

    Latency counts from the due time of a request, so a late sender does not hide a delay.

    Args:
        connect: arguments of ``BertClient``.

    Raises:
        BertServingError: a request failed.
    """
    client = BertClient(**connect)
    sent = threading.Semaphore(0)
    failures: list[BaseException] = []
    client.encode(requests[0].texts, batch_size=None)
    start = time.perf_counter()

    def send() -> None:
        try:
            for index, due in enumerate(times):
                if (wait := start + due - time.perf_counter()) > 0:
                    time.sleep(wait)
                client.encode(requests[index % len(requests)].texts, blocking=False)
                sent.release()
        except BaseException as error:  # the main thread raises it
            failures.append(error)
            sent.release()

    sender = threading.Thread(target=send, daemon=True)
    ends: dict[int, float] = {}
    try:
        sender.start()
        for _ in times:
            sent.acquire()
            if failures:
                raise failures[0]
            response = next(client.fetch())
            ends[response.id] = time.perf_counter() - start
    finally:
        client.close()
        sender.join()
    # Request ids ascend in the order of sending.
    latencies = [float(ends[number] - due) for number, due in zip(sorted(ends), times, strict=True)]
    used = [requests[index % len(requests)] for index in range(len(times))]
    return LoadResult(max(ends.values()), latencies, sum(len(r.texts) for r in used), sum(r.num_tokens for r in used))
