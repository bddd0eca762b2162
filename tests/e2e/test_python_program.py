"""A server inside a Python program: it serves on after the program's last line, and signals end it with the program."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bert_serving.client import BertClient
from bert_serving.server import BertServer
from bert_serving.server.config.command_line import get_args_parser
from bert_serving.server.errors import StartError
from servers import CACHE, ENGINE, TINY, free_ports, is_free, wait_until

HEAD = """
import pathlib, sys, time
sys.path.append(pathlib.Path("/nowhere"))  # Python ignores what is no string
from bert_serving.server import BertServer
from bert_serving.server.helper import get_args_parser
server = BertServer(get_args_parser().parse_args(sys.argv[1:]))
"""


class Program:
    """A Python program that runs a server."""

    def __init__(self, body: str, engine: str) -> None:
        self.port, self.port_out = free_ports()
        arguments = ["-model_dir", str(TINY), "-engine", engine, "-cpu", "-host", "127.0.0.1"]
        arguments += ["-port", str(self.port), "-port_out", str(self.port_out)]
        self.log_path = Path(tempfile.mkstemp(prefix="bert-serving-log-", dir=CACHE)[1])
        with open(self.log_path, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", HEAD + body, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "BERT_SERVING_CACHE": CACHE},
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def encode(self) -> None:
        with BertClient(port=self.port, port_out=self.port_out, timeout=60_000, connect_timeout=60_000) as client:
            assert client.encode(["hello world"]).shape == (1, 32)

    def wait_for(self, line: str) -> None:
        wait_until(lambda: line in self.log, what=f"{line!r} in {self.log}")


@contextlib.contextmanager
def program(body: str, engine: str = "zeros") -> Iterator[Program]:
    """Yields a running program. Its server must end when it ends."""
    running = Program(body, engine)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait(60)
    wait_until(lambda: is_free(running.port) and is_free(running.port_out), what="the ports to be free")


@pytest.mark.parametrize(("number", "engine"), [(signal.SIGINT, "zeros"), (signal.SIGTERM, ENGINE)])
def test_a_server_serves_on_after_the_last_line_until_a_signal(number: int, engine: str) -> None:
    """The server imports its engine after the last line."""
    with program("server.start()\nprint('last line', flush=True)\n", engine) as running:
        running.wait_for("last line")
        running.encode()
        children = psutil.Process(running.process.pid).children()
        next(child for child in children if "bert-serving-worker-0" in child.cmdline()).kill()
        running.encode()  # the server also replaces processes after the last line
        running.process.send_signal(number)
        assert running.process.wait(60) == 0, running.log
        assert "terminated!" in running.log
        assert "Traceback" not in running.log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_program_that_only_waits_for_its_server(number: int) -> None:
    with program("with server: server.join()\nprint('after the server')\n") as running:
        running.encode()
        running.process.send_signal(number)
        assert running.process.wait(60) == 0, running.log
        assert "terminated!" in running.log
        assert "after the server" in running.log
        assert "Traceback" not in running.log


@pytest.mark.parametrize(("number", "exit_codes"), [(signal.SIGINT, (-signal.SIGINT, 1)), (signal.SIGTERM, (143,))])
@pytest.mark.parametrize("start", ["server.start()", "server.__enter__()"])
def test_a_signal_interrupts_the_code_of_the_program_and_then_ends_its_server(
    start: str, number: int, exit_codes: tuple[int, ...]
) -> None:
    body = (
        f"{start}\nserver.is_ready.wait()\n"
        "try:\n    print('it runs', flush=True)\n    time.sleep(120)\nfinally:\n    print('cleaned up', flush=True)\n"
    )
    with program(body) as running:
        running.encode()
        running.wait_for("it runs")
        running.process.send_signal(number)
        assert running.process.wait(60) in exit_codes, running.log
        assert "cleaned up" in running.log
        assert "terminated!" in running.log


def test_forked_processes_do_not_keep_a_killed_server_alive() -> None:
    body = (
        "import os\n"
        "with server:\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        time.sleep(120)\n"
        "        os._exit(0)\n"
        "    print(f'forked {child} end', flush=True)\n"
        "    time.sleep(120)\n"
    )
    with program(body) as running:
        wait_until(lambda: "end" in running.log.partition("forked ")[2], what="the forked process")
        forked = psutil.Process(int(running.log.partition("forked ")[2].split()[0]))
        servers = [child for child in psutil.Process(running.process.pid).children() if child != forked]
        assert len(servers) == 3
        running.encode()
        running.process.kill()
        running.process.wait(60)
        _, alive = psutil.wait_procs(servers, timeout=60)
        assert not alive
        assert forked.is_running()
        assert is_free(running.port)
        forked.kill()


def test_handlers_of_the_program_stay_in_place() -> None:
    body = (
        "import signal\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('handled', flush=True))\n"
        "server.start()\n"
        "server.join()\n"
    )
    with program(body) as running:
        running.encode()
        running.process.send_signal(signal.SIGTERM)
        running.wait_for("handled")
        running.encode()
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(60) == 0


def test_signals_have_their_default_effect_after_the_end_of_a_server() -> None:
    body = "with server: pass\nprint('ended', flush=True)\ntime.sleep(120)\n"
    with program(body) as running:
        running.wait_for("ended")
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(60) == -signal.SIGTERM


@pytest.mark.parametrize("error", [RuntimeError("unforeseen"), SystemExit("unforeseen"), RecursionError("unforeseen")])
@pytest.mark.parametrize(
    "place", ["preflight.plan_workers", "supervisor.make_access", "supervisor.describe_state", "preflight.read_model"]
)
def test_an_unforeseen_error_ends_the_start_with_its_reason(
    place: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(f"bert_serving.server.supervisor.{place}", fail)
    port, port_out = free_ports()
    server = BertServer(
        get_args_parser().parse_args(
            ["-model_dir", str(TINY), "-engine", "zeros", "-cpu", "-port", str(port), "-port_out", str(port_out)]
        )
    )
    with pytest.raises(StartError, match="unforeseen"), server:
        pass
    assert server.exit_code == 3
    assert server.is_ready.is_set()
