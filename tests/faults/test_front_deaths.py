"""One of two fronts of a client is killed, stopped or frozen under load: each row is there, once, and right."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from bert_serving.client import BertClient, OptionError
from bert_serving.client._cli.encode import main as encode
from fault_helpers import HERE, ThreadGroup, assert_true, connect, texts
from servers import TINY_TUNED, Server, wait_until

pytestmark = pytest.mark.cluster

#: Twenty texts take about 10 ms, so requests are in flight at all times.
ARGS = ("-engine", "fault_engines.steady", "-max_batch_tokens", "512")
ENV = {"PYTHONPATH": str(HERE)}
ROUNDS = 10
THREADS = 3


def address(server: Server) -> str:
    return f"127.0.0.1:{server.port}:{server.port_out}"


def start(*args: str) -> Server:
    return Server(*ARGS, *args, env=ENV)


def started_again(lost: Server) -> Server:
    """Returns a server on the ports of one that has ended."""
    server = start("-port", str(lost.port), "-port_out", str(lost.port_out))
    server.port, server.port_out = lost.port, lost.port_out
    return server.wait_ready()


def state_of(client: BertClient, server: Server) -> str:
    [state] = [each["state"] for each in client.status["fronts"] if each["front"] == address(server)]
    return str(state)


def num_requests(server: Server) -> int:
    with connect(server) as client:
        return int(client.server_status["statistic"]["num_data_request"])


class Load:
    """Threads that encode with one client, and check the rows of each call and the results of each stream."""

    def __init__(self, client: BertClient, group: ThreadGroup) -> None:
        self.num_calls = [0] * THREADS
        for number in range(THREADS):
            group.start(self._run, client, group, number)

    def _run(self, client: BertClient, group: ThreadGroup, number: int) -> None:
        while not group.stopped.is_set():
            sentences = texts(200, 1000 * number + self.num_calls[number] % 7)
            if number == 0:
                batches = [sentences[row : row + 5] for row in range(0, 200, 5)]
                found = sorted(client.encode_async(iter(batches)), key=lambda response: response.id)
                assert len({response.id for response in found}) == len(found) == len(batches)
                for response, batch in zip(found, batches, strict=True):
                    assert_true(response.embedding, batch)
            else:
                assert_true(client.encode(sentences, batch_size=5), sentences)
            self.num_calls[number] += 1

    def advance(self, group: ThreadGroup, calls: int = 2) -> None:
        """Waits until each thread has finished some more calls."""
        before = list(self.num_calls)

        def is_done() -> bool:
            assert group.is_busy()
            return all(now >= then + calls for now, then in zip(self.num_calls, before, strict=True))

        wait_until(is_done, 90, f"{calls} calls of each thread")


@contextmanager
def loaded(client: BertClient) -> Iterator[tuple[Load, ThreadGroup]]:
    with ThreadGroup() as group:
        load = Load(client, group)
        load.advance(group, 1)
        yield load, group
        group.stopped.set()
        group.join(60)
    assert client.pending_request == set()


def test_a_front_killed_under_load_costs_no_row_and_another_model_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stays, lost, other = start(), start(), start("-tuned_model_dir", str(TINY_TUNED), "-ckpt_name", "model.ckpt-343")
    for server in (stays, lost, other):
        server.wait_ready()
    with pytest.raises(OptionError, match=f"the vector space of .*{address(other)}"):
        BertClient(ip=[address(stays), address(other)])
    (tmp_path / "corpus.txt").write_text("\n".join(texts(300)) + "\n")
    fronts = ["-front", address(stays), "-front", address(lost)]
    assert encode([str(tmp_path / "corpus.txt"), "-o", str(tmp_path / "rows.npy"), "-batch_size", "7", *fronts]) == 0
    assert_true(np.load(tmp_path / "rows.npy"), texts(300))
    assert all(num_requests(server) > 10 for server in (stays, lost))
    with BertClient(ip=[address(stays), address(lost)], timeout=60_000) as client, loaded(client) as (load, group):
        lost.kill()
        load.advance(group)
        assert state_of(client, lost) == "not connected"
    assert f"{address(lost)} is lost; its " in caplog.text
    with connect(stays) as client:
        wait_until(lambda: client.server_status["queue"]["requests"] == 0)


@pytest.mark.minutes
@pytest.mark.timeout(900)
def test_fronts_that_end_freeze_and_return_cost_no_row(caplog: pytest.LogCaptureFixture) -> None:
    chooser = random.Random(7)
    fronts = [start(), start()]
    for server in fronts:
        server.wait_ready()
    names = [address(server) for server in fronts]
    with BertClient(ip=names, timeout=5000, connect_timeout=60_000) as client, loaded(client) as (load, group):
        for number in range(ROUNDS):
            place = chooser.randrange(2)
            victim = fronts[place]
            how = ("kill", "stop", "freeze")[number % 3]
            if how == "freeze":
                frozen = victim.children()
                for process in (*frozen, victim.process):
                    process.send_signal(signal.SIGSTOP)
                load.advance(group)
                for process in (*frozen, victim.process):
                    process.send_signal(signal.SIGCONT)
            else:
                if how == "kill":
                    victim.kill()
                else:
                    victim.process.send_signal(signal.SIGTERM)
                load.advance(group)
                victim.process.wait(90)
                fronts[place] = victim = started_again(victim)
            before = num_requests(victim)
            wait_until(lambda before=before, victim=victim: num_requests(victim) > before + 10, what="its share")  # type: ignore[misc]
            assert state_of(client, victim) == "connected"
    assert caplog.text.count("is lost") >= ROUNDS // 2
    assert "did not reply within 5 s" in caplog.text
    for server in fronts:
        with connect(server) as client:
            wait_until(lambda client=client: client.server_status["queue"]["requests"] == 0)  # type: ignore[misc]
