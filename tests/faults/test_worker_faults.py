"""Workers that die, hang, raise, run out of memory or return invalid values: only the faulty request fails."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
from fault_engines.faulty import DIE, HANG, LOSE, NOT_FINITE, RAISE

from bert_serving.client.errors import EncodingFailedError
from bert_serving.server.supervisor.child import CRASH_LOOP_THRESHOLD, MAX_FAILED_STARTS
from fault_helpers import Raw, ThreadGroup, assert_true, connect, faulty, suspended, text, texts
from servers import Server, wait_until


@pytest.fixture(scope="module", params=["faulty", "overlapping"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with faulty("-num_worker", "2", engine=request.param) as server:
        yield server


def send_around(client: Raw, bad: str, where: int) -> dict[bytes, list[str]]:
    """Sends 100 requests of 1 to 7 texts that share batches; the faulty text is alone in its request."""
    sent = {}
    for number in range(100):
        sentences = [bad] if number == where else texts(1 + number % 7, 1000 * number)
        sent[client.send(sentences)] = sentences
    return sent


def check_answers(client: Raw, sent: dict[bytes, list[str]], bad: str, *words: str) -> None:
    """Checks that each request is answered once: the faulty one with this error, the others with correct vectors."""
    for _ in range(len(sent)):
        request_id, info, vectors = client.receive()
        sentences = sent.pop(request_id)
        if bad in sentences:
            assert vectors is None
            assert info["error"]["type"] == "encoding_failed"  # type: ignore[index]
            for word in words:
                assert word in info["error"]["message"]  # type: ignore[index]
        else:
            assert vectors is not None, info
            assert_true(vectors, sentences)
    assert not sent
    assert not client.sub.poll(100)


@pytest.mark.parametrize(("word", "reason"), [(RAISE, "cannot stand"), (NOT_FINITE, "finite number")])
@pytest.mark.parametrize("where", [0, 63, 99])
def test_a_bad_sequence_costs_its_own_request_only(server: Server, word: str, reason: str, where: int) -> None:
    # An identity of its own: a reply to one that another connection had could go to that connection, which ends.
    with Raw(server, f"mixed company {where} {word}".encode()) as client:
        restarts = client.status()["num_restarts"]
        bad = f"hello {word}"
        check_answers(client, send_around(client, bad, where), bad, "text 0", reason)
        assert client.status()["num_restarts"] == restarts


def test_the_bad_text_of_a_request_is_named(server: Server) -> None:
    with connect(server) as client:
        with pytest.raises(EncodingFailedError, match="text 777 "):
            client.encode([*texts(777), f"hello {RAISE}", *texts(300)])
        assert_true(client.encode(texts(5)), texts(5))


def test_a_sequence_that_kills_workers_fails_and_the_service_continues() -> None:
    with faulty("-num_worker", "1", "-max_batch_size", "256") as server, Raw(server, b"mixed company") as client:
        bad = f"hello {DIE}"
        client.send([f"{bad} {i}" for i in range(2)])  # while one is looked for, the next is there already
        check_first = client.receive()
        assert check_first[1]["error"]["type"] == "encoding_failed"  # type: ignore[index]
        sent = send_around(client, bad, 50)
        check_answers(client, sent, bad, "2 workers died")
        wait_until(lambda: client.status()["state"] == "ready", what="the worker to be back")
        # A batch of 400 sequences in eighths, and the last one twice; and before that, two of them.
        assert client.status()["num_restarts"] <= 12


@pytest.mark.minutes
def test_a_sequence_that_kills_workers_that_overlap_batches_fails_alone() -> None:
    """Batches that were under way beside it are not blamed."""
    with (
        faulty("-num_worker", "1", "-max_batch_size", "16", engine="overlapping") as server,
        Raw(server, b"mixed company") as client,
    ):
        bad = f"hello {DIE}"
        check_answers(client, send_around(client, bad, 50), bad, "2 workers died")


def test_many_deaths_in_a_row_do_not_end_the_service() -> None:
    with faulty("-num_worker", "1") as server, connect(server) as client:
        for number in range(5):  # more deaths than failed starts are allowed, and than come before the first pause
            with pytest.raises(EncodingFailedError, match="2 workers died"):
                client.encode([f"hello {DIE} {number}"])
        assert server.process.poll() is None
        assert_true(client.encode(texts(50)), texts(50))
        assert client.server_status["num_restarts"] == 10 > max(MAX_FAILED_STARTS, CRASH_LOOP_THRESHOLD)


def test_a_worker_that_lost_its_device_is_replaced() -> None:
    with faulty("-num_worker", "1") as server, connect(server) as client:
        with pytest.raises(EncodingFailedError, match="2 workers died"):
            client.encode([f"hello {LOSE}"])
        assert "the device is gone" in server.log
        assert_true(client.encode(texts(50)), texts(50))
        assert client.server_status["num_restarts"] == 2


def test_a_hanging_batch_is_killed_and_fails() -> None:
    with faulty("-num_worker", "2", "-worker_timeout", "1") as server, connect(server) as client:
        with pytest.raises(EncodingFailedError, match="2 workers died"):
            client.encode([f"hello {HANG}"])
        assert "one batch took more than 1 s" in server.log
        assert_true(client.encode(texts(300)), texts(300))


def test_out_of_memory_halves_the_budget_and_it_recovers() -> None:
    with faulty("-max_batch_tokens", "1000", engine="forgetful") as server, connect(server) as client:

        def budget() -> int:
            return client.server_status["workers"][0]["max_batch_tokens"]  # type: ignore[no-any-return]

        assert budget() == 1000
        assert_true(client.encode(texts(400)), texts(400))
        assert "out of memory" in server.log
        smallest = budget()
        assert smallest < 1000
        for number in itertools.count():  # batches of one sequence are never too large
            assert_true(client.encode([text(number)]), [text(number)])
            if budget() == 1000:
                break
            assert number < 100, f"the budget is {budget()} after {number} batches"
        assert client.server_status["num_restarts"] == 0


def test_one_sequence_that_never_fits_is_an_error() -> None:
    with faulty("-max_seq_len", "64", engine="cramped") as server, connect(server) as client:
        with pytest.raises(EncodingFailedError, match=r"text 3 .* do not fit"):
            client.encode([*texts(3), "hello " * 40])
        assert_true(client.encode(texts(10)), texts(10))


def test_a_suspended_worker_is_replaced_and_its_batches_are_requeued() -> None:
    with (
        faulty("-num_worker", "2", "-heartbeat_timeout", "4", "-max_batch_size", "8") as server,
        ThreadGroup() as threads,
    ):
        done = threading.Semaphore(0)

        def load(first: int) -> None:
            with connect(server) as client:
                for round_ in range(40):
                    mine = texts(20, first + 20 * round_)
                    assert_true(client.encode(mine), mine)
                    done.release()

        for index in range(4):
            threads.start(load, 10_000 * index)
        assert done.acquire(timeout=60)
        worker = server.child("worker-0")
        with suspended(worker):
            threads.join(90)
            assert psutil.wait_procs([worker], timeout=60)[0]
        assert "no heartbeat for" in server.log


def test_a_worker_killed_every_second_under_load() -> None:
    """16 clients encode 20,000 sentences while one of two workers is killed each second.

    A worker that is killed before it is ready counts as a failed start, and the server exits after several of these. So
    if a start takes longer than a second, the next kill waits for it. The load continues until the kills are complete.
    """
    with (
        faulty("-num_worker", "2", "-max_batch_size", "32", engine="steady") as server,
        connect(server) as observer,
        ThreadGroup() as threads,
    ):
        answers: list[int] = []
        kills = 0

        def load(index: int) -> None:
            with connect(server) as client:
                for round_ in itertools.count():
                    if threads.stopped.is_set() or (round_ >= 25 and kills >= 3):
                        break
                    mine = texts(50, 100_000 * index + 50 * round_)
                    assert_true(client.encode(mine), mine)
                    answers.append(len(mine))

        def is_time_to_kill() -> bool:
            facts = observer.server_status
            return not threads.is_busy() or (facts["state"] == "ready" and facts["num_restarts"] >= kills)

        started = time.monotonic()
        for index in range(16):
            threads.start(load, index)
        while threads.is_busy():
            wait_until(is_time_to_kill, what="both workers")
            if threads.is_busy():
                server.child(f"worker-{kills % 2}").kill()
                kills += 1
                threads.stopped.wait(1)
        threads.join(60)
        print(f"{sum(answers)} sentences, {kills} kills, {time.monotonic() - started:.1f} s")
        assert sum(answers) >= 20_000
        assert kills >= 3
        assert server.process.poll() is None


def test_a_missing_engine_is_reported() -> None:
    broken = Server("-engine", "no_such_package.engine")
    try:
        assert broken.process.wait(60) == 3
        assert "no_such_package.engine cannot be imported" in broken.log
    finally:
        broken.kill()
