"""Half an hour of mixed load with faults, and the books balanced at the end: every answer right, memory and files flat.

    python tests/faults/soak.py 1800

``SOAK_ENGINE`` names another engine than the one of known vectors, such as ``onnx``; answers are then compared with
those that the same server gave at the start.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from fault_engines.faulty import DIE, RAISE  # noqa: E402

from bert_serving.client import BertClient  # noqa: E402
from fault_helpers import FlakyProxy, Raw, ThreadGroup, connect, faulty, memory, open_files, texts, truth  # noqa: E402
from servers import Server, serving, wait_until  # noqa: E402

NUM_TEXTS = 2000
#: Seconds between two faults.
PAUSE = 10.0
GROWTH = 1.05
SLACK = 8 * 2**20


class Soak:
    """The load, the faults and the measurements. Every client checks every vector that it gets."""

    def __init__(self, server: Server, seconds: float, engine: str) -> None:
        self.server, self.seconds, self.is_faulty = server, seconds, engine.startswith("fault_engines.")
        self.threads, self.counts, self.lock = ThreadGroup(), Counter[str](), threading.Lock()
        self.latencies: list[float] = []
        self.is_calm = False
        self.texts = texts(NUM_TEXTS)
        with connect(server) as client:
            self.truth = truth(self.texts) if self.is_faulty else client.encode(self.texts)

    def run(self) -> None:
        server = self.server
        with (
            self.threads,
            FlakyProxy(server.port, 200_000, 1) as requests,
            FlakyProxy(server.port_out, 2_000_000, 2) as results,
        ):
            for _ in range(3):
                self.threads.start(self.many, server.port, server.port_out, 300)
            for _ in range(3):
                self.threads.start(self.many, server.port, server.port_out, 2)
            self.threads.start(self.many, requests.port, results.port, 40)
            self.threads.start(self.pipelined)
            self.threads.start(self.passers_by)
            if self.is_faulty:
                self.threads.start(self.poison)
            self.disturb()
            self.threads.stopped.set()
            self.threads.join(120)

    # ---------------------------------------------------------------- the load

    def check(self, vectors: np.ndarray, first: int, kind: str) -> None:
        wanted = self.truth[first : first + len(vectors)]
        np.testing.assert_allclose(vectors, wanted, atol=1e-4)
        with self.lock:
            self.counts[f"texts, {kind}"] += len(vectors)

    def many(self, port: int, port_out: int, size: int) -> None:
        """Sends requests of ``size`` texts in sequence."""
        choice = random.Random(size)
        with BertClient(port=port, port_out=port_out, timeout=120_000, connect_timeout=60_000) as client:
            while not self.threads.stopped.is_set():
                first = choice.randrange(NUM_TEXTS - size)
                begun = time.monotonic()
                vectors = client.encode(self.texts[first : first + size])
                if size == 2:
                    self.latencies.append(time.monotonic() - begun)
                assert len(vectors) == size
                self.check(vectors, first, f"requests of {size}")

    def pipelined(self) -> None:
        """Sends many requests at once and reads the results late."""
        with connect(self.server, timeout=120_000, connect_timeout=60_000) as client:
            while not self.threads.stopped.is_set():
                for first in range(0, 1000, 10):
                    client.encode(self.texts[first : first + 10], blocking=False)
                self.threads.stopped.wait(1)
                answers = client.fetch_all()
                assert len(answers) == 100
                for index, vectors in enumerate(answers):
                    self.check(vectors, 10 * index, "read late")

    def passers_by(self) -> None:
        """Connects clients for one request; some disconnect before the reply."""
        while not self.threads.stopped.wait(0.2):
            with Raw(self.server, b"passer-by %d" % random.randrange(10**6)) as client:
                client.send(self.texts[:50])
                if random.random() < 0.5 and client.sub.poll(5000):
                    _, _, vectors = client.receive()
                    if vectors is not None:
                        self.check(vectors, 0, "passers-by")

    def poison(self) -> None:
        """Sends texts that make the engine fail, and a few that end the worker."""
        with connect(self.server, timeout=120_000, connect_timeout=60_000) as client:
            while not self.threads.stopped.wait(2):
                word = DIE if not self.is_calm and random.random() < 0.05 else RAISE
                try:
                    client.encode([*self.texts[:20], f"hello {word}"])
                except RuntimeError:
                    self.counts["bad requests refused"] += 1
                else:
                    raise AssertionError(f"{word} was encoded")

    # ---------------------------------------------------------------- faults and measurements

    def faults(self) -> list[tuple[str, Callable[[], None]]]:
        def find(name: str) -> psutil.Process:
            """Returns the process; waits if it is being restarted, since a text of `poison` may have ended it too."""
            while True:
                try:
                    return self.server.child(name)
                except AssertionError:
                    if self.server.process.poll() is not None:
                        raise
                    time.sleep(0.1)

        def kill(name: str) -> Callable[[], None]:
            return lambda: find(name).kill()

        return [
            ("worker killed", kill("worker-0")),
            ("other worker killed", kill("worker-1")),
            ("worker frozen", lambda: find("worker-0").suspend()),
            ("sink killed", kill("sink")),
            ("ventilator killed", kill("ventilator")),
            ("workers replaced", lambda: self.server.process.send_signal(1)),
        ]

    def disturb(self) -> None:
        """Injects a fault every ten seconds in the first two thirds, then measures the processes."""
        started = time.monotonic()
        faults, turn = self.faults(), 0
        while time.monotonic() - started < self.seconds * 2 / 3:
            name, inject = faults[turn % len(faults)]
            inject()
            self.counts[name] += 1
            turn += 1
            seen = sum(self.counts[k] for k in self.counts if k.startswith("texts"))
            if self.threads.stopped.wait(PAUSE):
                break
            now = sum(self.counts[k] for k in self.counts if k.startswith("texts"))
            assert now > seen, f"nothing was answered in {PAUSE} s after: {name}"
            print(f"{time.monotonic() - started:6.0f} s  {name:20}  {(now - seen) / PAUSE:7.0f} texts/s", flush=True)
        self.threads.is_busy()  # raises what a client met
        self.is_calm = True
        with connect(self.server, timeout=60_000) as client:
            wait_until(lambda: client.server_status["state"] == "ready", what="all processes to be ready")
        self.threads.stopped.wait(min(60.0, self.seconds / 12))  # new processes warm up
        sizes, files = [memory(self.server)], [open_files(self.server)]
        while time.monotonic() - started < self.seconds and not self.threads.stopped.wait(5):
            sizes.append(memory(self.server))
            files.append(open_files(self.server))
        self.report(sizes, files)

    def report(self, sizes: list[dict[str, int]], files: list[dict[int, int]]) -> None:
        third = max(1, len(sizes) // 3)
        for name in sizes[0]:
            first = float(np.median([size[name] for size in sizes[:third]]))
            last = float(np.median([size[name] for size in sizes[-third:]]))
            print(f"{name:>12}: {first / 2**20:7.1f} MiB, at the end {last / 2**20:7.1f} MiB")
            assert last < first * GROWTH + SLACK, f"{name} grew"
        most = {pid: max(count[pid] for count in files[:third]) for pid in files[0]}
        end = {pid: min(count[pid] for count in files[-third:]) for pid in files[0]}
        assert all(end[pid] <= most[pid] + 4 for pid in most), f"file descriptors: {most}, then {end}"
        print(f"file descriptors: {sum(most.values())}, at the end {sum(end.values())}")
        for name, count in sorted(self.counts.items()):
            print(f"{name:>24}: {count}")
        p50, p99, worst = np.percentile(self.latencies, [50, 99, 100]) * 1000
        print(f"requests of 2 texts: p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {worst:.0f} ms (faults included)")


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 1800.0
    engine = os.environ.get("SOAK_ENGINE", "fault_engines.steady")
    options = ["-num_worker", "2", "-heartbeat_timeout", "3", "-absent_ttl", "5", "-max_batch_size", "64"]
    own = engine.removeprefix("fault_engines.")
    with faulty(*options, engine=own) if own != engine else serving("-engine", engine, *options) as server:
        Soak(server, seconds, engine).run()
        children = server.children()
        assert server.stop() == 0, server.log[-2000:]
        assert not psutil.wait_procs(children, 10)[1]
    print("all right")


if __name__ == "__main__":
    main()
