"""A server in a container of little memory finishes more work than fits into it at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest
from container import Container, container

from bert_serving.client import BertClient
from fault_helpers import HERE, Raw, ThreadGroup, connect
from servers import serving, wait_until

pytestmark = [pytest.mark.minutes, pytest.mark.timeout(290)]

LIMIT = 1500 * 2**20
#: Vectors of 384 numbers for so many texts take 61 MB.
NUM_TEXTS = 40_000
#: Texts differ by a number below this one.
NUM_DISTINCT = 997


@pytest.fixture
def group() -> Iterator[Container]:
    with contextlib.ExitStack() as stack:
        try:
            group = stack.enter_context(container(LIMIT))
        except OSError as error:
            pytest.skip(f"a container needs root and memory cgroups: {error}")
        yield group


def numbers(request: int) -> np.ndarray:
    """Returns the numbers of the texts of a request, ``[NUM_TEXTS]``."""
    return (7 * np.arange(NUM_TEXTS) + request) % NUM_DISTINCT


def answer_all(group: Container, num_requests: int, *options: str) -> int:
    """Sends requests at once, and checks the vectors of each. Returns the number of restarts.

    Half of the requests come from clients that do not repeat them, as those of 1.10.
    """
    distinct = [f"number {number}" for number in range(NUM_DISTINCT)]
    engine = ("-engine", "fault_engines.wide")
    with (
        serving(*engine, *options, model_dir=None, env={"PYTHONPATH": str(HERE)}, prefix=group.prefix) as server,
        connect(server) as client,
        ThreadGroup() as threads,
    ):
        vectors = client.encode(distinct)
        assert vectors.shape == (NUM_DISTINCT, 384)
        answered: list[int] = []

        def check(request: int, result: np.ndarray | None) -> None:
            assert result is not None
            for rows in np.split(np.arange(NUM_TEXTS), 20):  # little memory beside that of the results
                assert np.allclose(result[rows], vectors[numbers(request)[rows]], atol=1e-5)
            answered.append(request)

        def ask(request: int) -> None:
            with BertClient(port=server.port, port_out=server.port_out, timeout=-1) as each:
                check(request, each.encode([distinct[n] for n in numbers(request)], batch_size=None))

        def ask_once(request: int) -> None:
            with Raw(server, b"old %d" % request) as each:
                each.send([distinct[n] for n in numbers(request)])
                check(request, each.receive(260)[2])

        for request in range(num_requests):
            threads.start(ask if request % 2 else ask_once, request)
        threads.join(260)
        assert sorted(answered) == list(range(num_requests))
        wait_until(lambda: client.server_status["queue"]["requests"] == 0, what="an empty queue")
        num_restarts: int = client.server_status["num_restarts"]
        return num_restarts


def test_forty_results_of_61_mb_need_no_more_memory_than_the_container_has(group: Container) -> None:
    assert answer_all(group, 40) == 0
    assert group.num_killed == 0
    assert group.peak < LIMIT


def test_a_sink_that_is_killed_again_and_again_gets_fewer_results_at_a_time(group: Container) -> None:
    """A limit of results above that of the container is a mistake of the user; the requests end all the same."""
    assert answer_all(group, 24, "-result_memory", str(2 * 2**30)) > 0
    assert group.num_killed > 0
