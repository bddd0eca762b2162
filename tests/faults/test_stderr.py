"""A stderr that is not read, full or closed: no process of the server stops, and dropped lines are counted."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import IO

import psutil
import pytest
import zmq

from bert_serving.client import BertClient
from servers import CACHE, TINY, free_ports, is_free, wait_until


class Service:
    """A server whose stdout and stderr are given."""

    def __init__(self, stderr: int | IO[str], shell_suffix: str = "") -> None:
        self.port, self.port_out = free_ports()
        command = [sys.executable, "-m", "bert_serving.server", "-model_dir", str(TINY), "-engine", "zeros", "-cpu"]
        command += ["-host", "127.0.0.1", "-port", str(self.port), "-port_out", str(self.port_out)]
        if shell_suffix:
            command = ["sh", "-c", f'exec "$@" {shell_suffix}', "sh", *command]
        environment = {**os.environ, "BERT_SERVING_CACHE": CACHE}
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, env=environment, start_new_session=True
        )

    def encode(self) -> None:
        with BertClient(port=self.port, port_out=self.port_out, timeout=60_000, connect_timeout=60_000) as client:
            assert client.encode(["hello world"]).shape == (1, 32)

    def is_ready(self) -> bool:
        with BertClient(port=self.port, port_out=self.port_out, timeout=60_000, connect_timeout=60_000) as client:
            return client.server_status["state"] == "ready"

    def kill_each_process(self) -> None:
        """Kills each process once, which makes the supervisor log; each must be replaced."""
        wait_until(self.is_ready, what="the server to be ready")
        for name in ("worker-0", "sink", "ventilator"):
            children = psutil.Process(self.process.pid).children()
            next(child for child in children if f"bert-serving-{name}" in child.cmdline()).kill()
            self.encode()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextlib.contextmanager
def service(stderr: int | IO[str], shell_suffix: str = "") -> Iterator[Service]:
    running = Service(stderr, shell_suffix)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait(60)
        wait_until(lambda: is_free(running.port), what="the port to be free")


def send_invalid_messages(port: int, count: int) -> None:
    """Sends messages that the server refuses, each with a line in its log."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.setsockopt(zmq.LINGER, 10_000)
        push.connect(f"tcp://127.0.0.1:{port}")
        for _ in range(count):
            push.send_multipart([b"x"])


def fill(writer: int) -> None:
    """Fills a pipe, so that the next write blocks."""
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x")
    os.set_blocking(writer, True)


def test_a_pipe_that_nobody_reads() -> None:
    reader, writer = os.pipe()
    fill(writer)
    try:
        with service(writer) as running:
            send_invalid_messages(running.port, 50)
            running.kill_each_process()
            assert running.stop() == 0
    finally:
        os.close(reader)
        os.close(writer)


def test_a_pipe_whose_reader_has_ended() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        with service(writer) as running:
            send_invalid_messages(running.port, 50)
            running.kill_each_process()
            assert running.stop() == 0
    finally:
        os.close(writer)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk() -> None:
    with open("/dev/full", "w") as full, service(full) as running:
        send_invalid_messages(running.port, 50)
        running.kill_each_process()
        assert running.stop() == 0


@pytest.mark.parametrize("streams", ["2>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams(streams: str) -> None:
    with service(subprocess.DEVNULL, streams) as running:
        send_invalid_messages(running.port, 50)
        running.kill_each_process()
        assert running.stop() == 0


def test_dropped_lines_are_counted() -> None:
    """The queue of the writer takes 100 bytes here; the rest of 1,000 lines of 10 bytes is reported."""
    from bert_serving.server.log_writer import LogWriter

    reader, writer = os.pipe()
    fill(writer)
    log = LogWriter(writer, lambda count: f"{count} dropped\n", limit=100)
    os.close(writer)
    for _ in range(1000):
        log.write("123456789\n")
    found = SimpleNamespace(text="")

    def read_all() -> bool:
        found.text += os.read(reader, 65536).decode()
        return found.text.count("123456789\n") == 10

    wait_until(read_all, what="the queued lines")
    assert "990 dropped\n" in found.text
    os.close(reader)
