"""Measures how long clients wait beside many other connections.

    python tests/faults/neighbours.py leaving 1500      # idle clients that all disconnect at once
    python tests/faults/neighbours.py attack 20         # 45,000 subscriptions of one connection, for 20 seconds
    python tests/faults/neighbours.py tiny 2000000      # tiny subscriptions of one connection
    python tests/faults/neighbours.py idle 10000        # 100 busy clients, with and without idle ones

The idle clients are connections of separate processes, because each process has a limit of open files.
"""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from handshake import handshake, subscription  # noqa: E402

from fault_helpers import connect, texts  # noqa: E402
from servers import Server, serving  # noqa: E402

#: Clients of one process, which has two connections for each.
PER_PROCESS = 2500
NUM_BUSY, BUSY_PER_PROCESS, ROUNDS = 100, 25, 4
#: Seconds between two calls of a busy client.
PAUSE = 0.5


class Address(NamedTuple):
    port: int
    port_out: int


def hold(port: int, port_out: int, count: int) -> None:
    """Opens the connections of idle clients and holds them until a line arrives on stdin."""
    held = []
    for _ in range(count):
        sub = handshake(port_out, b"SUB")
        sub.sendall(subscription(secrets.token_hex(18).encode()))
        held += [handshake(port, b"PUSH"), sub]
    print("ready", flush=True)
    sys.stdin.readline()


@contextlib.contextmanager
def idle_clients(server: Server, count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Starts processes with idle clients."""
    processes = []
    for first in range(0, count, PER_PROCESS):
        size = min(PER_PROCESS, count - first)
        command = [sys.executable, __file__, "hold", str(server.port), str(server.port_out), str(size)]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


class Witness:
    """Encodes single sentences in sequence in a thread, and records how long each takes."""

    def __init__(self, server: Server) -> None:
        self._client = connect(server)
        self._client.encode(texts(1))
        self.seconds: list[float] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._is_over.wait(0.002):
            begun = time.perf_counter()
            self._client.encode(texts(1))
            self.seconds.append(time.perf_counter() - begun)

    def __enter__(self) -> Witness:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._client.close()

    def __str__(self) -> str:
        p50, p99 = 1000 * np.percentile(self.seconds, [50, 99])
        return (
            f"{len(self.seconds)} calls: p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {1000 * max(self.seconds):.0f} ms"
        )


def newcomers(server: Server, seconds: float) -> float:
    """Returns the longest time in which a new client connects and gets a vector."""
    longest, until = 0.0, time.monotonic() + seconds
    while time.monotonic() < until:
        begun = time.monotonic()
        with connect(server) as client:
            client.encode(texts(1))
        longest = max(longest, time.monotonic() - begun)
    return longest


def leaving(server: Server, count: int) -> None:
    """Measures a client while idle ones disconnect at once."""
    with idle_clients(server, count) as processes, Witness(server) as witness:
        time.sleep(2)
        before, witness.seconds = str(witness), []
        for process in processes:
            process.kill()
        time.sleep(10)
    print(f"{count} idle clients: {before}\nwhile they leave: {witness}")


def attack(server: Server, seconds: int) -> None:
    """Measures a client beside one connection with 45,000 subscriptions and ten bare connections a second."""
    with handshake(server.port_out, b"SUB") as sock, Witness(server) as witness:
        with contextlib.suppress(OSError):  # the server may close the connection
            for number in range(45_000):
                sock.sendall(subscription(b"%d " % number + secrets.token_hex(15).encode()))
        for _ in range(10 * int(seconds)):
            with contextlib.suppress(OSError), handshake(server.port_out, b"SUB"):
                time.sleep(0.1)
    print(f"45,000 subscriptions and ten connections a second: {witness}")


def tiny(server: Server, count: int) -> None:
    """Measures clients while one connection sends tiny subscriptions."""
    data = b"".join(subscription(number.to_bytes(3, "big")) for number in range(count))
    with handshake(server.port_out, b"SUB") as sock, Witness(server) as witness:
        sock.settimeout(60)

        def send() -> None:
            with contextlib.suppress(OSError):
                sock.sendall(data)

        sender = threading.Thread(target=send)
        sender.start()
        longest = newcomers(server, 15)
        sender.join()
    print(f"{count} subscriptions: {witness}\na new client waits at most {1000 * longest:.0f} ms")


def busy(port: int, port_out: int, count: int, seconds: float) -> None:
    """Prints the milliseconds of calls of clients that encode single sentences. They start together after a line on
    stdin."""
    taken: list[float] = []
    address = Address(port, port_out)
    clients = [connect(address) for _ in range(count)]  # type: ignore[arg-type]
    print("ready", flush=True)
    sys.stdin.readline()
    until = time.monotonic() + seconds

    def work(number: int) -> None:
        time.sleep(PAUSE * number / count)
        while time.monotonic() < until:
            begun = time.perf_counter()
            clients[number].encode(texts(1, number))
            taken.append(time.perf_counter() - begun)
            time.sleep(PAUSE)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(" ".join(f"{1000 * each:.3f}" for each in taken), flush=True)


def busy_clients(server: Server, seconds: float) -> list[float]:
    """Returns p50, p99 and the maximum, in ms, of the calls of busy clients in separate processes."""
    arguments = [str(server.port), str(server.port_out), str(BUSY_PER_PROCESS), str(seconds)]
    command = [sys.executable, __file__, "busy", *arguments]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(NUM_BUSY // BUSY_PER_PROCESS)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    taken = [float(each) for process in processes for each in process.communicate()[0].split()]
    return [*np.percentile(taken, [50, 99]), max(taken)]


def idle(server: Server, count: int) -> None:
    """Compares busy clients without and with idle ones. Rounds alternate."""
    rounds: dict[int, list[list[float]]] = {0: [], count: []}
    busy_clients(server, 5)  # warm-up
    for _ in range(ROUNDS):
        for number, figures in rounds.items():
            with idle_clients(server, number):
                time.sleep(2)
                figures.append(busy_clients(server, 12))
            time.sleep(3)
    for number, figures in rounds.items():
        p50, p99, longest = np.median(figures, axis=0)
        print(
            f"{NUM_BUSY} busy and {number} idle clients: p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {longest:.0f} ms"
        )


def main() -> None:
    name, number = sys.argv[1], int(sys.argv[2])
    if name == "hold":
        hold(number, *map(int, sys.argv[3:]))
    elif name == "busy":
        busy(number, int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
    else:
        with serving("-engine", "zeros") as server:
            {"leaving": leaving, "attack": attack, "tiny": tiny, "idle": idle}[name](server, number)


if __name__ == "__main__":
    main()
