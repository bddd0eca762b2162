"""Attacks a server for ten minutes while processes are killed and a witness checks and times each of its replies.

    python tests/faults/siege.py 600

A first period without attacks gives the witness's own latency. Then two attacks of ``siege_attacks.py`` run at any
time, and a process of the server is killed, suspended or deprived of a file each half minute. A second server has keys;
an endless file appears among them, and new clients connect to it all the time. The run fails when

- a reply is wrong, or a call of the witness fails;
- the witness's p99 is above twice its own without attacks, and above 100 ms;
- a call waits for longer than 2 s, or 4 s beside messages of a million frames, or 15 s after a fault;
- a process takes more memory than ``MEMORY`` says;
- the server is not ready, or holds requests, a minute after the last attack.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from siege_attacks import ATTACKS, MIB  # noqa: E402

from bert_serving.server.cli.keygen import keygen  # noqa: E402
from fault_helpers import ThreadGroup, connect, faulty, memory, texts, truth  # noqa: E402
from servers import TINY, Server, free_ports, serving, wait_until  # noqa: E402

QUEUE_MEMORY = 256 * MIB
RESULT_MEMORY = 256 * MIB
HTTP_BODY = 16 * MIB
#: Bound of the private memory of each process in bytes. A process needs up to 128 MiB without any load. A message
#: being received takes up to 512 MiB (``-max_message_bytes``) beside the queue.
MEMORY = {
    "supervisor": 128 * MIB,
    "ventilator": 128 * MIB + QUEUE_MEMORY + 2 * 512 * MIB,
    "sink": 128 * MIB + 2 * RESULT_MEMORY,
    "http": 1024 * MIB,
    "worker-0": 192 * MIB,
    "worker-1": 192 * MIB,
}
#: Seconds: of one attack, between two faults, and after a fault, in which calls may wait for the new process.
ATTACK, FAULT, RECOVERY = 20.0, 30.0, 15.0
#: Seconds that a call may wait, by what goes on.
LIMITS = {"": 2.0, "frames": 4.0, "fault": RECOVERY}


class Call(NamedTuple):
    begun: float
    seconds: float


class Siege:
    """The witness, the attacks, the faults, and the measurements."""

    def __init__(
        self, server: Server, guarded: Server, http_port: int, folder: Path, seconds: float, seed: int
    ) -> None:
        self.server, self.guarded, self.http_port, self.folder, self.seconds = (
            server,
            guarded,
            http_port,
            folder,
            seconds,
        )
        self.random = random.Random(seed)
        self.threads = ThreadGroup()
        self.calls: list[Call] = []
        self.health: list[Call] = []
        self.guarded_calls: list[Call] = []
        self.attacks: list[tuple[str, float, float]] = []
        self.faults: list[tuple[str, float]] = []
        self.peaks: Counter[str] = Counter()
        self.is_over = threading.Event()

    def run(self) -> None:
        with self.threads:
            self.threads.start(self.witness)
            self.threads.start(self.probe)
            self.threads.start(self.connect_with_key)
            self.threads.start(self.measure)
            self.threads.stopped.wait(max(10.0, self.seconds / 10))
            begun = time.monotonic()
            for _ in range(2):
                self.threads.start(self.attack, begun + self.seconds)
            self.threads.start(self.disturb, begun + self.seconds)
            while time.monotonic() < begun + self.seconds + ATTACK and not self.threads.stopped.wait(10):
                print(f"{time.monotonic() - begun:6.0f} s  {len(self.calls):8} calls  {self._sizes()}", flush=True)
            if not self.threads.stopped.is_set():
                self.settle()
            self.threads.stopped.set()
            self.threads.join(120)
        self.report(begun)

    # ---------------------------------------------------------------- witnesses

    def witness(self) -> None:
        """Encodes one or two texts at a time; checks each vector."""
        known = texts(1000)
        right = truth(known)
        with connect(self.server, timeout=60_000, identity="witness") as client:
            while not self.threads.stopped.is_set():
                first, size = self.random.randrange(998), self.random.randint(1, 2)
                begun = time.monotonic()
                vectors = client.encode(known[first : first + size])
                self.calls.append(Call(begun, time.monotonic() - begun))
                np.testing.assert_allclose(vectors, right[first : first + size], atol=1e-4)
                time.sleep(0.002)

    def probe(self) -> None:
        """Asks for the health over HTTP, as a load balancer does."""
        while not self.threads.stopped.wait(0.5):
            begun = time.monotonic()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/healthz", timeout=30) as response:
                    response.read()
            except OSError:
                if not self._after_fault(begun):
                    raise
            self.health.append(Call(begun, time.monotonic() - begun))

    def connect_with_key(self) -> None:
        """Connects new clients to the server with keys, one after the other."""
        keys = self.folder / "keys"
        while not self.threads.stopped.wait(1):
            begun = time.monotonic()
            secrets = {"server_key": str(keys / "server.key"), "secret_key": str(keys / "alice.key_secret")}
            with connect(self.guarded, **secrets) as client:
                assert client.encode(["hello world"]).shape == (1, 32)
            self.guarded_calls.append(Call(begun, time.monotonic() - begun))

    def measure(self) -> None:
        while not self.threads.stopped.wait(0.5):
            for name, size in memory(self.server).items():
                self.peaks[name] = max(self.peaks[name], size)

    def _sizes(self) -> str:
        return ", ".join(f"{name} {size / MIB:.0f}" for name, size in sorted(memory(self.server).items())) + " MiB"

    # ---------------------------------------------------------------- attacks and faults

    def attack(self, end: float) -> None:
        """Runs attacks in random order, one after the other."""
        names: list[str] = []
        ports = [str(port) for port in (self.server.port, self.server.port_out, self.http_port)]
        while time.monotonic() < end and not self.threads.stopped.is_set():
            names = names or self.random.sample(sorted(ATTACKS), len(ATTACKS))
            name = names.pop()
            begun = time.monotonic()
            command = [sys.executable, str(HERE / "siege_attacks.py"), name, *ports, str(ATTACK)]
            with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
                while process.poll() is None and time.monotonic() < begun + 2 * ATTACK:
                    self.threads.stopped.wait(0.1)
                process.kill()
                errors = process.stderr.read().decode() if process.stderr else ""
            if "Error" in errors:
                print(f"{name}: {errors.strip().splitlines()[-1]}", flush=True)
            self.attacks.append((name, begun, time.monotonic()))

    def disturb(self, end: float) -> None:
        choices = self._faults()
        self.random.shuffle(choices)
        turn = 0
        while not self.threads.stopped.wait(FAULT) and time.monotonic() < end:
            name, inject = choices[turn % len(choices)]
            turn += 1
            self.faults.append((name, time.monotonic()))
            inject()

    def _faults(self) -> list[tuple[str, Callable[[], None]]]:
        def find(name: str) -> psutil.Process:
            wait_until(lambda: any(name in child.name() or _is(child, name) for child in self.server.children()))
            return self.server.child(name)

        def kill(name: str) -> Callable[[], None]:
            return lambda: find(name).kill()

        def replace_model() -> None:
            for path in (self.folder / "model").iterdir():
                path.write_bytes(b"another model")
            find("worker-0").kill()

        def remove_sockets() -> None:
            shutil.rmtree(next((self.folder / "sockets").iterdir()))
            find("worker-1").kill()

        def add_endless_key() -> None:
            path = self.folder / "keys" / "clients" / "X.key"
            path.unlink(missing_ok=True)
            path.symlink_to("/dev/zero" if self.random.random() < 0.5 else path)

        return [
            ("worker killed", kill("worker-0")),
            ("sink killed", kill("sink")),
            ("ventilator killed", kill("ventilator")),
            ("HTTP killed", kill("http")),
            ("worker suspended", lambda: find("worker-1").suspend()),
            ("model folder overwritten, worker killed", replace_model),
            ("socket folder removed, worker killed", remove_sockets),
            ("an endless key", add_endless_key),
            ("workers replaced", lambda: self.server.process.send_signal(1)),
        ]

    def settle(self) -> None:
        """Waits until the server has dealt with everything that was sent."""
        with connect(self.server, timeout=60_000) as client:
            wait_until(lambda: client.server_status["state"] == "ready", what="all processes to be ready")
            wait_until(lambda: client.server_status["queue"]["requests"] <= 1, what="the queue to be empty")

    # ---------------------------------------------------------------- verdict

    def _after_fault(self, begun: float) -> bool:
        return any(at - 0.5 <= begun <= at + RECOVERY for _, at in self.faults)

    def _limit(self, call: Call) -> float:
        if self._after_fault(call.begun) or self._after_fault(call.begun + call.seconds):
            return LIMITS["fault"]
        running = {
            name for name, begun, end in self.attacks if begun <= call.begun + call.seconds and call.begun <= end
        }
        return LIMITS["frames" if "frames" in running else ""]

    def report(self, begun: float) -> None:
        own = np.percentile([call.seconds for call in self.calls if call.begun < begun], [50, 99, 100]) * 1000
        under = [call for call in self.calls if call.begun >= begun]
        seen = np.percentile([call.seconds for call in under], [50, 99, 100]) * 1000
        health = np.percentile([call.seconds for call in self.health if call.begun >= begun], [50, 99, 100]) * 1000
        print("witness, without attacks: p50 {:.1f} ms, p99 {:.1f} ms, longest {:.0f} ms".format(*own))
        print("witness, under attack:    p50 {:.1f} ms, p99 {:.1f} ms, longest {:.0f} ms".format(*seen))
        print("/healthz, under attack:   p50 {:.1f} ms, p99 {:.1f} ms, longest {:.0f} ms".format(*health))
        print(
            f"{len(under)} calls under attack, all right; attacks: {dict(Counter(name for name, *_ in self.attacks))}"
        )
        print(f"faults: {dict(Counter(name for name, _ in self.faults))}")
        slowest = max(call.seconds for call in self.guarded_calls)
        print(f"{len(self.guarded_calls)} new clients with keys: longest {1000 * slowest:.0f} ms")
        for name, peak in sorted(self.peaks.items()):
            print(f"{name:>12}: at most {peak / MIB:7.1f} MiB, bound {MEMORY[name] / MIB:.0f}")
        under += [call for call in self.guarded_calls if call.begun >= begun]
        late = [call for call in under if call.seconds > self._limit(call)]
        for call in late:
            names = [
                name for name, start, end in self.attacks if start <= call.begun + call.seconds and call.begun <= end
            ]
            print(f"{call.begun - begun:6.0f} s: waited {call.seconds:.1f} s beside {', '.join(names)}")
        assert "Traceback" not in self.server.log, self.server.log[self.server.log.index("Traceback") :][:3000]
        assert not late, f"{len(late)} calls waited too long"
        assert seen[1] <= max(100.0, 2 * own[1]), "the p99 of the witness"
        over = [name for name, peak in self.peaks.items() if peak > MEMORY[name]]
        assert not over, f"memory of {', '.join(over)}"


def _is(process: psutil.Process, name: str) -> bool:
    try:
        return f"bert-serving-{name}" in process.cmdline()
    except psutil.Error:
        return False


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(10**6)
    print(f"{seconds:.0f} s, seed {seed}")
    (http_port,) = free_ports(1)
    folder = Path(tempfile.mkdtemp(prefix="bert-serving-siege-"))
    model_dir = folder / "model"
    shutil.copytree(TINY, model_dir)
    limits = ["-queue_memory", QUEUE_MEMORY, "-result_memory", RESULT_MEMORY, "-http_max_body", HTTP_BODY]
    options = ["-num_worker", 2, "-http_port", http_port, "-heartbeat_timeout", 5, "-absent_ttl", 5, "-result_ttl", 20]
    try:
        assert keygen([str(folder / "keys"), "alice"]) == 0
        (folder / "sockets").mkdir()
        with (
            serving("-engine", "zeros", "-auth_keys", str(folder / "keys"), "-num_worker", "1") as guarded,
            faulty(
                *map(str, [*limits, *options, "-model_dir", model_dir]),
                engine="sound",
                env={"ZEROMQ_SOCK_TMP_DIR": str(folder / "sockets")},
            ) as server,
        ):
            Siege(server, guarded, http_port, folder, seconds, seed).run()
            children = server.children()
            assert server.stop() == 0, server.log[-2000:]
            assert not psutil.wait_procs(children, 10)[1]
    finally:
        shutil.rmtree(folder)
    print("all right")


if __name__ == "__main__":
    main()
