"""Starts machines that join test servers."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import servers
from servers import CACHE, ENGINE, TINY, Server, free_ports, wait_until

#: Options of a front on which the machines do all the work. A lost machine is noticed soon.
FRONT = ("-num_worker", "0", "-join_timeout", "3")


class JoinedMachine(Server):
    """A ``bert-serving-join`` process.

    Args:
        port: ``-join_port`` of the front.
        host: address of the front, or of a proxy.
    """

    def __init__(
        self,
        port: int,
        *args: str | Path,
        model_dir: Path | None = TINY,
        env: dict[str, str] | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.log_path = Path(tempfile.mkstemp(prefix="bert-serving-log-", dir=CACHE)[1])
        engine = () if "-engine" in args else ("-engine", ENGINE)
        command = [sys.executable, "-m", "bert_serving.server.cli.join", f"{host}:{port}", "-cpu"]
        folder = () if model_dir is None else ("-model_dir", str(model_dir))
        command += [*folder, *engine, *map(str, args)]
        with open(self.log_path, "w") as log:
            self.process = subprocess.Popen(
                command,
                stderr=log,
                stdout=log,
                stdin=subprocess.DEVNULL,
                env=servers._environment(env or {}),
                start_new_session=True,
            )
        self.outlives_module = False
        servers.STARTED.append(self)

    def wait_ready(self, seconds: float = 120.0) -> JoinedMachine:
        def is_ready() -> bool:
            assert self.process.poll() is None, f"the machine ended with {self.process.returncode}:\n{self.log}"
            return "workers are ready" in self.log

        wait_until(is_ready, seconds, "the machine")
        return self

    def wait_end(self, seconds: float = 60.0) -> int:
        return self.process.wait(seconds)


class Front(Server):
    """A server that machines can join on ``join_port``.

    Args:
        join_ports: ``-join_port`` and ``-join_port_out``; free ones by default.
    """

    def __init__(self, *args: str | Path, join_ports: tuple[int, int] | None = None, **kwargs: object) -> None:
        self.join_port, self.join_port_out = join_ports or free_ports()
        ports = ("-join_port", str(self.join_port), "-join_port_out", str(self.join_port_out))
        super().__init__(*ports, *args, **kwargs)  # type: ignore[arg-type]

    def wait_open(self) -> Front:
        """Waits until machines can join."""

        def is_open() -> bool:
            assert self.process.poll() is None, f"the front ended with {self.process.returncode}:\n{self.log}"
            return "machines can join" in self.log

        wait_until(is_open, 120, "the front")
        return self

    def machine(self, *args: str | Path, **kwargs: object) -> JoinedMachine:
        return JoinedMachine(self.join_port, *args, **kwargs)  # type: ignore[arg-type]


@contextlib.contextmanager
def front(*args: str | Path, **kwargs: object) -> Iterator[Front]:
    """Yields a front without workers that machines can join, and ends it afterwards."""
    server = Front(*FRONT, *args, **kwargs)
    try:
        yield server.wait_open()
    finally:
        server.kill()
