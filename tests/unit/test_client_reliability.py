"""Lost connections, late, duplicate and lost replies, and unreachable servers."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bert_serving.client import (
    BertClient,
    ClientClosedError,
    OptionError,
    ReplyError,
    RequestTimeoutError,
    ServerUnreachableError,
    protocol,
)
from bert_serving.client._transport import retry_policy
from fake_server import CONFIG, DEADLINE, FakeServer, run_fake_server, until, vectors
from servers import free_ports

#: The fake server holds requests, see ``conftest.py``.
HOLD = True


def free_port() -> int:
    return free_ports(1)[0]


def io_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "bert-client-io"}


# ---- replies --------------------------------------------------------------------------------------------------------


def test_late_reply_is_dropped(fake_server: FakeServer) -> None:
    with BertClient(**fake_server.ports) as bc:
        bc.timeout = 50
        with pytest.raises(RequestTimeoutError, match='"timeout"=50 ms; it is connected'):
            bc.encode(["late"])
        assert bc.pending_request == set()
        fake_server.reply(fake_server.next())
        bc.timeout = -1
        bc.encode(["next"], blocking=False)
        fake_server.reply(fake_server.next())
        assert [response.shape for response in bc.fetch()] == [(1, 4)]
        assert bc.pending_response == {}


def test_duplicate_reply_is_dropped(fake_server: FakeServer) -> None:
    with BertClient(**fake_server.ports) as bc:
        bc.encode(["a"], blocking=False)
        bc.encode(["bb"], blocking=False)
        one, two = fake_server.next(), fake_server.next()
        for request in (one, one, two, two):
            fake_server.reply(request)
        assert [response.embedding[0, 0] for response in bc.fetch()] == [1, 2]
        assert bc.fetch_all() is None


def test_replies_in_any_order_reach_their_calls(fake_server: FakeServer, pool: ThreadPoolExecutor) -> None:
    with BertClient(**fake_server.ports) as bc:
        texts = ["x" * length for length in range(1, 9)]
        results = [pool.submit(bc.encode, [text]) for text in texts]
        for request in reversed([fake_server.next() for _ in texts]):
            fake_server.reply(request)
        for text, result in zip(texts, results, strict=True):
            assert result.result(DEADLINE)[0, 0] == len(text)


@pytest.mark.parametrize(
    "frames",
    [
        [b"{", b""],
        [b"[]", b""],
        [b"\xff", b""],
        [b'{"dtype": "float32", "shape": [5]}', b""],
        [b"[" * 100_000, b""],
    ],
)
def test_malformed_reply_raises_reply_error(
    fake_server: FakeServer, pool: ThreadPoolExecutor, frames: list[bytes]
) -> None:
    with BertClient(**fake_server.ports) as bc:
        result = pool.submit(bc.encode, ["a"])
        request = fake_server.next()
        fake_server.send([request.identity, *frames, b"%d" % request.wire_id])
        with pytest.raises(ReplyError):
            result.result(DEADLINE)


def test_unexpected_messages_are_dropped(fake_server: FakeServer, pool: ThreadPoolExecutor) -> None:
    with BertClient(**fake_server.ports) as bc:
        for frames in ([], [b"x"], [b"{}", b"not a number"], [b"{}", b"1"], [b"{}", b"", b"1"], [b"{}", b"9" * 5000]):
            fake_server.send([bc.identity, *frames])
        result = pool.submit(bc.encode, ["a"])
        fake_server.reply(fake_server.next())
        assert result.result(DEADLINE).shape == (1, 4)


# ---- connections ----------------------------------------------------------------------------------------------------


def test_requests_are_sent_again_after_a_restart(fake_server: FakeServer, pool: ThreadPoolExecutor) -> None:
    with BertClient(**fake_server.ports) as bc:
        waiting = pool.submit(bc.encode, ["blocking"])
        first = fake_server.next()
        bc.encode(["not blocking"], blocking=False)
        second = fake_server.next()
        fake_server.stop()
        fake_server.start()
        again = [fake_server.next(), fake_server.next()]
        assert [request.wire_id for request in again] == [first.wire_id, second.wire_id]
        for request in again:
            fake_server.reply(request)
        assert waiting.result(DEADLINE).shape == (1, 4)
        assert len(bc.fetch_all()) == 1


def test_requests_are_sent_again_after_loss_of_port_out(fake_server: FakeServer, pool: ThreadPoolExecutor) -> None:
    with BertClient(**fake_server.ports) as bc:
        waiting = pool.submit(bc.encode, ["abc"])
        first = fake_server.next()
        fake_server.drop_port_out()
        again = fake_server.next()
        assert again == first
        fake_server.reply(again)
        assert waiting.result(DEADLINE)[0, 0] == 3


def test_server_that_starts_late(pool: ThreadPoolExecutor) -> None:
    with run_fake_server() as fake_server:
        fake_server.stop()
        before = io_threads()
        client = pool.submit(BertClient, **fake_server.ports, connect_timeout=60_000)
        until(lambda: io_threads() - before)
        fake_server.start()
        with client.result(DEADLINE) as bc:
            assert bc.encode(["abc"])[0, 0] == 3


def test_requests_wait_for_the_reconnect(fake_server: FakeServer) -> None:
    with BertClient(**fake_server.ports) as bc:
        fake_server.stop()
        until(lambda: not bc.status["connected"])
        bc.encode(["abc"], blocking=False)
        fake_server.start()
        fake_server.reply(fake_server.next())
        assert [response.embedding[0, 0] for response in bc.fetch()] == [3]


def test_dropped_request_is_not_sent_again(fake_server: FakeServer) -> None:
    with BertClient(**fake_server.ports, timeout=60_000) as bc:
        bc.timeout = 50
        with pytest.raises(TimeoutError):
            bc.encode(["given up"])
        fake_server.next()
        fake_server.stop()
        fake_server.start()
        bc.encode(["new"], blocking=False)
        assert fake_server.next().texts == ["new"]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries the server about requests after 50 ms."""
    monkeypatch.setattr(retry_policy, "STALE_AFTER", 0.05)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("unchecked", [False, True])
def test_request_unknown_to_the_server_is_sent_again(
    fake_server: FakeServer, pool: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture, unchecked: bool
) -> None:
    with BertClient(**fake_server.ports, ignore_all_checks=unchecked) as bc:
        waiting = pool.submit(bc.encode, ["lost"])
        first = fake_server.next()
        fake_server.reports_unknown = True
        again = fake_server.next()
        fake_server.reports_unknown = False
        assert (again.wire_id, again.texts) == (first.wire_id, ["lost"])
        fake_server.reply(again)
        assert waiting.result(DEADLINE)[0, 0] == 4
        assert bc.pending_request == set()
    assert "does not know 1 pending requests" in caplog.text


@pytest.mark.usefixtures("soon")
def test_request_known_to_the_server_is_not_sent_again(fake_server: FakeServer, pool: ThreadPoolExecutor) -> None:
    with BertClient(**fake_server.ports) as bc:
        waiting = pool.submit(bc.encode, ["slow"])
        request = fake_server.next()
        until(lambda: fake_server.commands.count(protocol.SHOW_PENDING) > 3, "queries")
        fake_server.reply(request)
        assert waiting.result(DEADLINE)[0, 0] == 4
        bc.encode(["next"], blocking=False)
        assert fake_server.next().texts == ["next"]
    assert [request.texts for request in fake_server.received] == [["slow"], ["next"]]


@pytest.mark.usefixtures("soon")
def test_command_without_reply_is_sent_again(pool: ThreadPoolExecutor) -> None:
    with run_fake_server(config=None) as fake_server:
        making = pool.submit(BertClient, **fake_server.ports, timeout=60_000)
        until(lambda: fake_server.commands.count(protocol.SHOW_CONFIG) > 1, "a second command")
        fake_server.config = CONFIG
        with making.result(DEADLINE) as bc:
            assert bc.encode(["four"])[0, 0] == 4


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("reply", [{"unknown": [[1], {}]}, {"unknown": 7}, {"unknown": None}, {"else": 1}])
def test_malformed_reply_to_a_query_is_ignored(
    fake_server: FakeServer, pool: ThreadPoolExecutor, reply: dict[str, object]
) -> None:
    with BertClient(**fake_server.ports) as bc:
        waiting = pool.submit(bc.encode, ["slow"])
        request = fake_server.next()
        fake_server.send([request.identity, json.dumps(reply).encode(), b"%d" % (request.wire_id >> 32 << 32)])
        fake_server.reply(request)
        assert waiting.result(DEADLINE)[0, 0] == 4


@pytest.mark.usefixtures("soon")
def test_an_original_server_is_not_asked(pool: ThreadPoolExecutor) -> None:
    original = {key: value for key, value in CONFIG.items() if key != "protocol_version"}
    with run_fake_server(config=original, hold=True) as fake_server, BertClient(**fake_server.ports) as bc:
        waiting = pool.submit(bc.encode, ["slow"])
        request = fake_server.next()
        time.sleep(0.3)
        fake_server.reply(request)
        assert waiting.result(DEADLINE)[0, 0] == 4
        assert set(fake_server.commands) == {protocol.SHOW_CONFIG}


def test_many_requests_in_flight(fake_server: FakeServer) -> None:
    fake_server.hold = False
    with BertClient(**fake_server.ports) as bc:
        for number in range(3000):
            bc.encode(["x" * (number % 7 + 1)], blocking=False)
        results = bc.fetch_all(concat=True)
        np.testing.assert_array_equal(results[:, 0], [number % 7 + 1 for number in range(3000)])


# ---- no server ------------------------------------------------------------------------------------------------------


def test_unreachable_error_describes_both_ports() -> None:
    port, port_out = free_port(), free_port()
    with pytest.raises(ServerUnreachableError) as caught:
        BertClient(port=port, port_out=port_out, connect_timeout=200)
    message = str(caught.value)
    assert f"port {port}: connection refused" in message
    assert f"port_out {port_out}: connection refused" in message
    assert "localhost" in message
    assert "connect_timeout" in message


def test_unreachable_error_names_the_wrong_port(fake_server: FakeServer) -> None:
    wrong = free_port()
    with pytest.raises(ConnectionError) as caught:
        BertClient(port=fake_server.port, port_out=wrong, connect_timeout=3000)
    assert f"port {fake_server.port}: connected" in str(caught.value)
    assert f"port_out {wrong}: connection refused" in str(caught.value)
    assert fake_server.commands == []


def test_swapped_ports(fake_server: FakeServer) -> None:
    with pytest.raises(ConnectionError, match="port and port_out swapped"):
        BertClient(port=fake_server.port_out, port_out=fake_server.port, connect_timeout=3000)


def test_timeout_without_a_server_is_a_timeout() -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="not connected"):
        BertClient(port=free_port(), port_out=free_port(), timeout=100)
    assert time.monotonic() - started < 60


def test_constructor_times_out_without_a_reply() -> None:
    with run_fake_server(config=None) as fake_server, pytest.raises(TimeoutError, match="it is connected"):
        BertClient(**fake_server.ports, timeout=3000)


def test_blocked_calls_end_when_the_server_stops(fake_server: FakeServer, pool: ThreadPoolExecutor) -> None:
    with BertClient(**fake_server.ports) as bc:
        bc.connect_timeout = 200  # set after the connection, which may take longer
        waiting = pool.submit(bc.encode, ["a"])
        fake_server.next()
        bc.encode(["b"], blocking=False)
        fake_server.next()
        fake_server.stop()
        with pytest.raises(ServerUnreachableError):
            waiting.result(DEADLINE)
        with pytest.raises(ServerUnreachableError):
            bc.fetch_all()
        with pytest.raises(ServerUnreachableError):
            bc.encode(["c"])
        fake_server.start()  # a request that was not dropped is still sent
        assert fake_server.next().texts == ["b"]


def test_failed_constructor_releases_threads_and_descriptors() -> None:
    gc.collect()
    ports = free_ports(10)  # they hold descriptors
    before = io_threads()
    descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for port, port_out in zip(ports[::2], ports[1::2], strict=True):
            with pytest.raises(TimeoutError):
                BertClient(port=port, port_out=port_out, timeout=1)
            with pytest.raises(OptionError):
                BertClient(ip="not a host name")
        gc.collect()
    until(lambda: not io_threads() - before, "the threads end")
    if descriptors:
        until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors, "descriptors are closed")


# ---- close ----------------------------------------------------------------------------------------------------------


def test_close_ends_blocked_calls(fake_server: FakeServer, pool: ThreadPoolExecutor) -> None:
    with BertClient(**fake_server.ports) as bc:
        subscription = bc.listen()
        waiting = [pool.submit(bc.encode, ["a"]), pool.submit(list, subscription)]
        fake_server.next()
        bc.close()
        bc.close()
        with pytest.raises(ClientClosedError):
            waiting[0].result(DEADLINE)
        assert waiting[1].result(DEADLINE) == []
        for use in (
            lambda: bc.encode(["a"]),
            lambda: bc.server_status,
            lambda: bc.encode(["a"], blocking=False),
            bc.listen,
        ):
            with pytest.raises(ClientClosedError, match="closed"):
                use()


def test_garbage_collected_client_is_closed(fake_server: FakeServer) -> None:
    before = io_threads()
    bc = BertClient(**fake_server.ports)
    (thread,) = io_threads() - before
    del bc
    gc.collect()
    until(lambda: not thread.is_alive())


def run_script(script: str, fake_server: FakeServer) -> None:
    """Runs a script in a new interpreter; it must exit with status 0 and without output."""
    head = f"from bert_serving.client import *\nports = {fake_server.ports!r}\n"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYTHONWARNINGS": "error::ResourceWarning,ignore::DeprecationWarning",
    }
    done = subprocess.run(
        [sys.executable, "-c", head + script], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


def test_interpreter_exits_with_pending_requests(fake_server: FakeServer) -> None:
    run_script(
        """
import itertools, threading
bc = BertClient(**ports)
bc.encode(["never answered"], blocking=False)
results = bc.encode_async(itertools.repeat(["endless"]))
""",
        fake_server,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_forked_child_needs_its_own_client(fake_server: FakeServer) -> None:
    fake_server.hold = False
    run_script(
        """
import os
bc = BertClient(**ports, timeout=60_000)
child = os.fork()
if child == 0:
    try:
        bc.encode(["a"])
    except ClientForkedError as error:
        bc.close()
        with BertClient(**ports, timeout=60_000) as own:
            own.encode(["a"])
        os._exit(7 if "Make a client in each process" in str(error) else 1)
    os._exit(2)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert bc.encode(["ab"])[0, 0] == 2
""",
        fake_server,
    )


# ---- clones ---------------------------------------------------------------------------------------------------------


def test_clones_receive_their_own_replies(fake_server: FakeServer, pool: ThreadPoolExecutor) -> None:
    with (
        BertClient(**fake_server.ports, identity="shared") as one,
        BertClient(**fake_server.ports, identity=one.identity) as two,
    ):
        results = [pool.submit(one.encode, ["a"]), pool.submit(two.encode, ["bb"])]
        requests = [fake_server.next(), fake_server.next()]
        assert requests[0].wire_id != requests[1].wire_id
        assert {request.identity for request in requests} == {b"shared"}
        assert all(request.wire_id < 2**63 for request in requests)
        for request in requests:
            fake_server.reply(request)
        assert [result.result(DEADLINE)[0, 0] for result in results] == [1, 2]


def test_listen_returns_results_of_clones_and_own_results(fake_server: FakeServer) -> None:
    fake_server.hold = False
    with (
        BertClient(**fake_server.ports, identity=b"shared") as one,
        BertClient(**fake_server.ports, identity="shared") as two,
    ):
        results = one.listen()
        two.encode(["abc"])
        foreign = next(results)
        assert foreign.id == fake_server.received[-1].wire_id
        np.testing.assert_array_equal(foreign.embedding, vectors(["abc"]))
        assert foreign.shape == (1, 4)
        one.encode(["ab"])
        assert next(results).id == one.request_id
        results.close()
        assert list(results) == []


def test_listen_timeout(fake_server: FakeServer) -> None:
    with BertClient(**fake_server.ports) as bc:
        assert list(bc.listen(timeout=20)) == []


def test_listen_drops_the_oldest_result_with_a_warning(fake_server: FakeServer) -> None:
    fake_server.hold = False
    with BertClient(**fake_server.ports) as bc:
        results = bc.listen(timeout=0, max_queued=2)
        for text in ("a", "bb", "ccc"):
            bc.encode([text])
        with pytest.warns(UserWarning, match="1 results were dropped"):
            assert next(results).embedding[0, 0] == 2
        assert [response.embedding[0, 0] for response in results] == [3]


def test_listen_skips_errors_of_clones(fake_server: FakeServer, pool: ThreadPoolExecutor) -> None:
    with BertClient(**fake_server.ports, identity="i") as one, BertClient(**fake_server.ports, identity="i") as two:
        results = one.listen()
        failing = pool.submit(two.encode, ["a"])
        fake_server.reply_error(fake_server.next(), "internal", "no luck")
        with pytest.raises(Exception, match="no luck"):
            failing.result(DEADLINE)
        working = pool.submit(two.encode, ["bb"])
        fake_server.reply(fake_server.next())
        working.result(DEADLINE)
        assert next(results).embedding[0, 0] == 2


def test_request_ids_of_an_original_clone_do_not_collide(fake_server: FakeServer, pool: ThreadPoolExecutor) -> None:
    with BertClient(**fake_server.ports, identity="old") as bc:
        waiting = pool.submit(bc.encode, ["mine"])
        mine = fake_server.next()
        for number in range(1, 5):
            fake_server.send(
                [b"old", b'{"dtype": "float32", "shape": [1, 1], "tokens": ""}', b"\0\0\0\0", b"%d" % number]
            )
        fake_server.reply(mine)
        assert waiting.result(DEADLINE)[0, 0] == 4
