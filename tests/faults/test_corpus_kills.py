"""Clients and servers are killed while a corpus is encoded: each text has one row in the end, with its vector."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from bert_serving.client import BertClient
from bert_serving.client._cli.encode import main
from bert_serving.client._cli.inputs import digest_of
from corpus_helpers import at, command, front, num_records, require_vectors, write_inputs
from servers import Server, serving, wait_until

pytestmark = [pytest.mark.minutes, pytest.mark.cluster]

ROWS = 8000
FORMATS = ["parquet", "npy"]


def arguments(folder: Path, output_format: str, batch_size: int = 16) -> list[str]:
    """Returns the command line that encodes ``folder/in`` into ``folder/out``, in many small parts."""
    out = f"{folder / 'out'}/"
    return [
        *(str(folder / "in"), "-o", out, "-format", output_format, "-part_rows", "100"),
        *("-batch_size", str(batch_size), "-blank", "null"),
    ]


def recorded(out: Path) -> dict[int, tuple[int, str]]:
    """Returns size and digest of each part by the last record of it, without a record that a kill has cut."""
    found = {}
    path = out / "_parts.jsonl"
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            found[record["number"]] = (record["bytes"], record["digest"])
    return found


@contextlib.contextmanager
def repeatedly(action: Callable[[], object], chooser: random.Random) -> Iterator[list[object]]:
    """Runs an action at random moments, until the block ends; yields the list of its results."""
    over, results = threading.Event(), list[object]()

    def run() -> None:
        while not over.wait(chooser.uniform(0.2, 1.5)):
            results.append(action())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield results
    finally:
        over.set()
        thread.join(60)


@pytest.mark.parametrize("output_format", FORMATS)
def test_clients_killed_at_random(tmp_path: Path, output_format: str) -> None:
    """Whenever a client is killed, each recorded part has its digest, and later runs leave its file alone."""
    chooser = random.Random(output_format)
    texts = write_inputs(tmp_path / "in", ROWS)
    out, args = tmp_path / "out", arguments(tmp_path, output_format)
    times: dict[int, int] = {}
    with serving() as server:
        kills = 0
        for _ in range(12):
            due = num_records(out) + chooser.randrange(12)  # by parts: the rate of a machine decides nothing
            run = command(*args, *at(server), "-resume", stderr=subprocess.DEVNULL)
            wait_until(lambda: num_records(out) >= due or run.poll() is not None, what="parts")  # noqa: B023
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.wait(chooser.uniform(0.0, 0.05))
            if run.poll() is None:
                kills += 1
                run.kill()
                run.wait(60)
            for number, record in recorded(out).items():
                path = out / f"part-{number:06}.{output_format}"
                assert digest_of(str(path), lambda size: None) == record
                assert times.setdefault(number, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
        assert kills > 3
        assert main([*args, *at(server), "-resume"]) == 0
        assert len(recorded(out)) == 3 * ROWS // 100
        require_vectors(out, texts, server)


@pytest.mark.parametrize("victim", ["worker-0", "ventilator", "sink"])
@pytest.mark.parametrize("output_format", FORMATS)
def test_processes_of_the_server_killed_at_random(tmp_path: Path, output_format: str, victim: str) -> None:
    """A run goes on while a process of the server is killed and replaced, and needs no resume."""
    texts = write_inputs(tmp_path / "in", ROWS)
    out, due = tmp_path / "out", 1
    args = [*arguments(tmp_path, output_format), "-connect_timeout", "60000"]
    with serving() as server:

        def kill() -> bool:
            """Kills the process, if parts were written since it was killed before: a new one takes a moment."""
            nonlocal due
            with contextlib.suppress(AssertionError, psutil.Error):  # it is being replaced
                if num_records(out) >= due:
                    server.child(victim).kill()
                    due = num_records(out) + 10
                    return True
            return False

        with repeatedly(kill, random.Random(victim)) as killed:
            assert main([*args, *at(server)]) == 0
        assert any(killed)
        require_vectors(out, texts, server)


@pytest.mark.parametrize("output_format", FORMATS)
def test_whole_server_killed(tmp_path: Path, output_format: str) -> None:
    """A run waits for a server that is started again on the same ports."""
    texts = write_inputs(tmp_path / "in", ROWS)
    out = tmp_path / "out"
    run = None
    with serving() as server:
        args = [*arguments(tmp_path, output_format), *at(server), "-connect_timeout", "120000"]
        run = command(*args, stderr=subprocess.PIPE)
        wait_until(lambda: num_records(out) >= 10, what="parts")
        server.kill()
    for _ in range(2):
        done = num_records(out)
        with restarted(server) as again:
            wait_until(lambda: run.poll() is not None or num_records(out) >= done + 30, 120, what="more parts")  # noqa: B023
            again.kill()
    with restarted(server) as again:
        assert run.wait(120) == 0, run.communicate()[1]
        run.communicate()
        require_vectors(out, texts, again)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_front_that_ends_and_comes_back(tmp_path: Path, how: signal.Signals) -> None:
    """A server that ends leaves its parts to the other, and gets parts again when it is back."""
    texts = write_inputs(tmp_path / "in", ROWS)
    out, log = tmp_path / "out", tmp_path / "log"
    args = [*arguments(tmp_path, "parquet", batch_size=1), "-connect_timeout", "2000"]
    with serving() as stays:
        with serving() as lost, open(log, "wb") as file:
            run = command(*args, *front(stays), *front(lost), stderr=file)
            wait_until(lambda: num_records(out) >= 4, what="parts")
            lost.process.send_signal(how)
            wait_until(lambda: b"is lost, its parts go to the other servers" in log.read_bytes(), what="the loss")
            lost.kill()
        done = num_records(out)
        wait_until(lambda: num_records(out) > done, what="parts of the other server")
        with restarted(lost) as back:
            wait_until(lambda: b"is back" in log.read_bytes() or run.poll() is not None, what="its return")
            assert run.poll() is None, log.read_text()
            with BertClient(port=back.port, port_out=back.port_out, timeout=60_000) as client:
                wait_until(lambda: client.server_status["statistic"]["num_data_request"] > 20, what="its parts")
            run.send_signal(signal.SIGINT)
            assert run.wait(60) == 130, log.read_text()
            assert main([*arguments(tmp_path, "parquet", batch_size=500), *front(stays), *front(back), "-resume"]) == 0
        require_vectors(out, texts, stays)


@pytest.mark.parametrize("output_format", FORMATS)
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, output_format: str) -> None:
    """Twenty times the rows take little more memory."""
    peaks = []
    with serving("-engine", "zeros") as server:
        for rows in (15_000, 300_000):
            corpus = tmp_path / f"{rows}.txt"
            corpus.write_text("".join(f"{i} a sentence of some length, of which there are many\n" for i in range(rows)))
            args = [str(corpus), "-o", f"{tmp_path / str(rows)}/", "-format", output_format, *at(server)]
            run = command(*args, stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(run.pid, 0)
            run.returncode = os.waitstatus_to_exitcode(status)
            assert run.returncode == 0
            peaks.append(usage.ru_maxrss >> 10)
    assert peaks[1] < peaks[0] + 60, f"MiB: {peaks}"


@contextlib.contextmanager
def restarted(server: Server) -> Iterator[Server]:
    """Starts a server on the ports of one that has ended."""
    again = Server("-port", str(server.port), "-port_out", str(server.port_out))
    again.port, again.port_out = server.port, server.port_out
    try:
        yield again.wait_ready()
    finally:
        again.kill()
