"""Repeated texts: the cache of vectors, requests that share one computation, and what faults make of both."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from fault_engines.faulty import RAISE

from bert_serving.client.errors import EncodingFailedError
from bert_serving.server.sink.vector_cache import ENTRY_BYTES
from fault_helpers import Raw, ThreadGroup, assert_true, connect, faulty, suspended, text, texts, truth
from servers import Server, wait_until

#: Identities are used once: a reply could go to an earlier connection with the same one, which ends.
IDENTITIES = (b"client %d" % number for number in itertools.count())
#: Bytes of an entry whose vector has 32 numbers.
BYTES = ENTRY_BYTES + 33 + 4 * 32


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with faulty("-cache_mb", "1") as server:
        yield server


@pytest.fixture(scope="module")
def plain() -> Iterator[Server]:
    with faulty() as server:
        yield server


def state(server: Server) -> dict[str, Any]:
    """Returns the figures of the cache, with the number of texts that workers computed.

    ``saved`` are all others. A text that is repeated at once may be a hit. It may also be coalesced with the batch of
    the first one, whose end the ventilator does not know yet.
    """
    with Raw(server, next(IDENTITIES)) as client:
        status: dict[str, Any] = client.status()
    computed = sum(worker["sequences"] for worker in status["workers"])
    cache = status["cache"]
    saved = cache["hits"] + cache["coalesced"]
    return {**cache, "saved": saved, "computed": computed, **{f"queue_{key}": n for key, n in status["queue"].items()}}


def grown(server: Server, before: dict[str, Any], **numbers: int) -> None:
    """Waits until some figures have grown by these numbers: the ventilator counts a reply after it has left."""
    found: dict[str, int] = {}

    def has_grown() -> bool:
        now = state(server)
        found.update({name: now[name] - before[name] for name in numbers})
        return found == numbers

    with contextlib.suppress(AssertionError):
        wait_until(has_grown)
    assert found == numbers


def send_together(server: Server, client: Raw, sentences: Sequence[str]) -> None:
    """Sends one request for each text, while the suspended worker has the first one."""
    client.send([sentences[0]])
    wait_until(lambda: state(server)["queue_batches_in_flight"] == 1, what="the first batch")
    for each in sentences[1:]:
        client.send([each])
    wait_until(lambda: state(server)["queue_requests"] == len(sentences), what="all requests")


def receive(client: Raw, count: int) -> dict[bytes, Any]:
    """Returns the vectors, or the error, of each request."""
    replies = (client.receive() for _ in range(count))
    return {request_id: info["error"] if vectors is None else vectors for request_id, info, vectors in replies}


def test_a_repeated_text_needs_no_worker(server: Server) -> None:
    before, sentences = state(server), texts(40)
    with connect(server) as client:
        for _ in range(3):
            assert_true(client.encode(sentences), sentences)
        grown(server, before, computed=40, saved=80, misses=40)
        mixed = [*texts(10, 500), *sentences[::-1], *texts(10, 500), *sentences[:1]]
        assert_true(client.encode(mixed), mixed)
        grown(server, before, computed=50, saved=131, misses=50)


def test_requests_with_other_options_share_no_vector(server: Server) -> None:
    before, sentences = state(server), texts(5, 3000)
    unit = truth(sentences) / np.linalg.norm(truth(sentences), axis=1, keepdims=True)
    with connect(server) as client:
        for _ in range(2):
            assert_true(client.encode(sentences), sentences)
            np.testing.assert_allclose(client.encode(sentences, normalize=True), unit, atol=1e-5)
            np.testing.assert_allclose(client.encode(sentences, dimensions=7), truth(sentences)[:, :7], atol=1e-4)
            # The option is that of the server, so the vectors are the same.
            assert_true(client.encode(sentences, normalize=False), sentences)
            # The sink converts the same vectors to other types.
            np.testing.assert_array_equal(
                client.encode(sentences, embedding_type="float16"), client.encode(sentences).astype(np.float16)
            )
            bits = np.packbits(truth(sentences) > 0, axis=1)
            np.testing.assert_array_equal(client.encode(sentences, embedding_type="ubinary"), bits)
    grown(server, before, computed=15, saved=55)


def test_the_cache_holds_what_it_may_and_drops_the_oldest(server: Server) -> None:
    sentences = texts(3 * 2**20 // BYTES, 10_000)
    with connect(server) as client:
        assert_true(client.encode(sentences), sentences)
        wait_until(lambda: state(server)["queue_requests"] == 0, what="the last count")
        now = state(server)
        assert now["entries"] == 2**20 // BYTES
        assert now["bytes"] == now["entries"] * BYTES <= now["max_bytes"] == 2**20
        assert now["evictions"] >= 2 * 2**20 // BYTES - 1
        few = sentences[:500]  # dropped: they are computed again, in several passes each time
        for _ in range(2):
            assert_true(client.encode(few), few)
        grown(server, now, computed=500, saved=500)
        client.encode(texts(now["entries"] - 500, 50_000))
        assert_true(client.encode(few), few)  # used later than the others
        grown(server, now, computed=now["entries"], saved=1000)


@pytest.mark.parametrize("name", ["server", "plain"])
def test_callers_of_one_text_compute_it_once(name: str, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(name)
    before, wanted = state(server), text(777_777)
    with Raw(server, next(IDENTITIES)) as client:
        with suspended(server.child("worker-0")):
            send_together(server, client, 20 * [wanted])
            assert state(server)["queue_sequences"] == 0
        for vectors in receive(client, 20).values():
            assert_true(vectors, [wanted])
    grown(server, before, computed=1, coalesced=19, hits=0)


@pytest.mark.parametrize("name", ["server", "plain"])
def test_a_text_that_fails_fails_for_all_its_callers_at_once(name: str, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(name)
    bad, good = f"hello {RAISE} world", text(888_888)
    with Raw(server, next(IDENTITIES)) as client:
        with suspended(server.child("worker-0")):
            send_together(server, client, [bad, *5 * [bad], good])
        errors = [reply for reply in receive(client, 7).values() if isinstance(reply, dict)]
    assert len(errors) == 6
    assert {error["type"] for error in errors} == {"encoding_failed"}
    assert server.log.count("failed on 1 sequences") == 1
    with connect(server) as client, pytest.raises(EncodingFailedError):  # no failure is kept
        client.encode([bad])
    assert server.log.count("failed on 1 sequences") == 2


def test_a_caller_that_leaves_takes_no_vector_from_the_others(server: Server) -> None:
    before, wanted = state(server), text(999_999)
    with Raw(server, next(IDENTITIES)) as second:
        with suspended(server.child("worker-0")):
            with connect(server) as first:
                first.encode([wanted], blocking=False)
                wait_until(lambda: state(server)["queue_batches_in_flight"] == 1, what="the batch")
                second.send([wanted])
                wait_until(lambda: state(server)["queue_requests"] == 2, what="both requests")
            # The client is closed, so its request is cancelled.
            wait_until(lambda: state(server)["queue_requests"] == 1, what="the end of the first request")
        vectors = second.receive()[2]
    assert vectors is not None
    assert_true(vectors, [wanted])
    grown(server, before, computed=1, coalesced=1)


@pytest.mark.parametrize("role", ["worker-0", "sink", "ventilator"])
def test_a_killed_process_leaves_no_wrong_vector(server: Server, role: str) -> None:
    known, wanted = texts(30), text(100_000 + sum(role.encode()))
    with connect(server) as client:
        client.encode(known)
        with suspended(server.child("worker-0")):
            for _ in range(3):
                client.encode([wanted], blocking=False)
            wait_until(lambda: state(server)["queue_requests"] == 3, what="the requests")
            server.child(role).kill()
        replies = client.fetch_all()
        assert len(replies) == 3
        for each in replies:
            assert_true(each, [wanted])
        for _ in range(2):
            assert_true(client.encode(known), known)
    now = state(server)
    assert now["bytes"] == now["entries"] * BYTES


@pytest.mark.minutes
def test_repeated_texts_under_load_while_processes_are_killed() -> None:
    """Six clients draw texts from a pool that is larger than the cache, in requests of all sizes."""
    with faulty("-cache_mb", "1", "-num_worker", "2", engine="steady") as server, ThreadGroup() as threads:
        counts = [0] * 6

        def load(index: int) -> None:
            chosen = random.Random(index)
            with connect(server) as client:
                while not threads.stopped.is_set():
                    mine = [text(int(4000 * chosen.random() ** 3)) for _ in range(chosen.choice((1, 1, 5, 40, 300)))]
                    normalize = chosen.choice((None, True))
                    expected = truth(mine)
                    if normalize:
                        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
                    np.testing.assert_allclose(client.encode(mine, normalize=normalize), expected, atol=1e-4)
                    counts[index] += 1

        for index in range(len(counts)):
            threads.start(load, index)
        for kill in range(9):
            goal = sum(counts) + 60
            wait_until(lambda goal=goal: sum(counts) >= goal or not threads.is_busy(), 120, "replies")  # type: ignore[misc]
            server.child(("worker-0", "sink", "ventilator")[kill % 3]).kill()
        threads.stopped.set()
        threads.join(120)
        now = state(server)
        assert now["bytes"] == now["entries"] * BYTES <= 2**20
        assert now["saved"] > 0
