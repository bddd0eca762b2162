"""Measures the latency of a client while another client does not read, or disconnects before its replies.

    python tests/faults/slow_clients.py 10

Each is compared with a client that sends the same requests at the same rate and reads its replies. Rounds alternate, so
that other load of the machine affects all alike. ``LOAD_ENGINE`` selects an engine; the default, ``zeros``, computes
nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from fault_helpers import Raw, connect, texts  # noqa: E402
from servers import Server, serving  # noqa: E402

ROUNDS = 5
#: Load of the other client: requests per second, and texts per request.
RATE, SIZE = 50, 100


class Address(NamedTuple):
    port: int
    port_out: int


def reader(server: Address, seconds: float) -> None:
    """Reads every reply."""
    with Raw(server, b"reader") as client:
        for _ in _ticks(seconds):
            client.send(texts(SIZE))
            while client.sub.poll(0):
                client.receive()


def sleeper(server: Address, seconds: float) -> None:
    """Stays connected and never reads."""
    with Raw(server, b"sleeper", receive_buffer=4096) as client:
        for _ in _ticks(seconds):
            client.send(texts(SIZE))


def visitor(server: Address, seconds: float) -> None:
    """Connects, reads the reply, and disconnects, for each request."""
    for number in _ticks(seconds):
        with Raw(server, b"visitor %d" % number) as client:
            client.send(texts(SIZE))
            client.receive()


def leaver(server: Address, seconds: float) -> None:
    """Connects and disconnects before the reply, for each request."""
    for number in _ticks(seconds):
        with Raw(server, b"leaver %d" % number) as client:
            client.send(texts(SIZE))
            client.push.close(linger=1000)


#: Each client that does not read, and the reading client with the same load.
PAIRS = {sleeper: reader, leaver: visitor}


def _ticks(seconds: float) -> Iterator[int]:
    started = time.monotonic()
    for number in range(int(RATE * seconds)):
        time.sleep(max(0.0, started + number / RATE - time.monotonic()))
        yield number


def latencies(server: Server, other: str, seconds: float) -> list[float]:
    """Returns the milliseconds of single sentences in sequence, while a separate process runs the other client."""
    command = [sys.executable, __file__, str(seconds + 0.5), other, str(server.port), str(server.port_out)]
    taken = []
    with connect(server) as client, subprocess.Popen(command) as process:
        time.sleep(0.5)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            begun = time.perf_counter()
            client.encode(texts(1))
            taken.append(1000 * (time.perf_counter() - begun))
        process.kill()
    return taken


def measure(seconds: float) -> None:
    engine = os.environ.get("LOAD_ENGINE", "zeros")
    names = [one.__name__ for pair in PAIRS.items() for one in pair]
    figures: dict[str, list[list[float]]] = {}
    with serving("-engine", engine, "-absent_ttl", "5", "-result_memory", str(32 * 2**20)) as server:
        for round_ in range(ROUNDS + 1):
            for name in names:
                taken = latencies(server, name, seconds)
                if round_:  # the first round is the warm-up
                    figures.setdefault(name, []).append(list(np.percentile(taken, [50, 99])))
    print(f"single sentences, engine {engine}, while another client sends {RATE} requests of {SIZE} texts a second;")
    print(f"median of {ROUNDS} rounds of {seconds:g} s each")
    for bad, good in PAIRS.items():
        base, seen = (np.median(figures[one.__name__], axis=0) for one in (good, bad))
        print(f"{good.__name__:>8}: p50 {base[0]:6.2f} ms, p99 {base[1]:6.2f} ms")
        print(
            f"{bad.__name__:>8}: p50 {seen[0]:6.2f} ms, p99 {seen[1]:6.2f} ms;"
            f" {seen[0] / base[0]:.2f} x, {seen[1] / base[1]:.2f} x"
        )


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    if len(sys.argv) > 2:
        globals()[sys.argv[2]](Address(*map(int, sys.argv[3:])), seconds)
    else:
        measure(seconds)


if __name__ == "__main__":
    main()
