"""Poolings of requests against servers that were started with them, and beside deaths, machines and other engines."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from joining import front

from bert_serving.client import BertClient
from bert_serving.client.errors import InvalidRequestError
from bert_serving.server import engines
from fault_helpers import ThreadGroup, assert_true, connect, faulty, texts
from poolings import REQUEST_POOLINGS
from servers import Server, serving, wait_until

SENTENCES = ["hello world", "a b c d", "good morning, is it you?", "the cat sat on a mat"]
LAYERS = ("-1", "-3", "-2")


def test_an_engine_without_vectors_of_tokens_is_named() -> None:
    """Requests for the pooling of the server go on."""
    with faulty(engine="sound") as server, connect(server) as client:
        with pytest.raises(InvalidRequestError, match=r"engine fault_engines\.sound .* no vectors of tokens"):
            client.encode(texts(2), pooling="CLS_TOKEN")
        assert_true(client.encode(texts(2), pooling="REDUCE_MEAN", pooling_layer=-2), texts(2))


#: What a server that keeps the last layer and its pooler has.
ONE_LAYER = [("REDUCE_MEAN_MAX", (-1,)), ("CLS_TOKEN", (-1,))]


def every_choice() -> list[tuple[str, tuple[int, ...]]]:
    numbers = [int(layer) for layer in LAYERS]
    choices = [each for size in (1, 2, 3) for each in itertools.permutations(numbers, size)]
    return list(itertools.product(REQUEST_POOLINGS, choices))


@pytest.mark.minutes
@pytest.mark.timeout(280)
@pytest.mark.parametrize("engine", ["onnx", "tensorflow", "torch"])
@pytest.mark.parametrize("own", ["REDUCE_MEAN", "CLS_TOKEN", "CLS_POOLED"])
def test_vectors_and_space_are_those_of_a_server_with_this_pooling(engine: str, own: str) -> None:
    if reason := engines.load(engine).unavailable("cpu", "fp32"):
        pytest.skip(reason)
    layers = ("-1",) if own == "CLS_POOLED" else LAYERS
    flags = ("-engine", engine, "-normalize", "on")
    with serving(*flags, "-pooling_strategy", own, "-pooling_layer", *layers) as server, connect(server) as client:
        for strategy, chosen in every_choice()[::13] if own != "CLS_POOLED" else ONE_LAYER:
            compare(client, engine, strategy, chosen)
        if own == "CLS_POOLED":
            with pytest.raises(InvalidRequestError, match="set layers of -1"):
                client.encode(SENTENCES, pooling_layer=-2)


def compare(client: BertClient, engine: str, strategy: str, layers: tuple[int, ...]) -> None:
    """Compares vectors and space of a request with those of a server that is started with this pooling."""
    pooling = ("-pooling_strategy", strategy, "-pooling_layer", *map(str, layers))
    if (strategy, layers) not in WANTED:
        with serving("-engine", engine, "-normalize", "on", *pooling) as other, connect(other) as its_client:
            WANTED[strategy, layers] = its_client.encode(SENTENCES), its_client.vector_space
    vectors, space = WANTED[strategy, layers]
    found = client.encode(SENTENCES, pooling=strategy, pooling_layer=layers, vector_space=space)
    np.testing.assert_allclose(found, vectors, atol=1e-6, err_msg=f"{strategy} of {layers}")


#: Vectors and space of servers that were started for an earlier engine: equal within the limit for all of them.
WANTED: dict[tuple[str, tuple[int, ...]], tuple[np.ndarray, str | None]] = {}


def options_of(number: int) -> dict[str, Any]:
    """Returns the options of one of several clients."""
    return [
        {},
        {"pooling": "CLS_TOKEN"},
        {"pooling": "REDUCE_MEAN_MAX", "normalize": True},
        {"pooling_layer": -2, "embedding_type": "float16"},
    ][number % 4]


def check_under_load(server: Server, kill: list[str]) -> None:
    """Clients with several poolings get their own vectors while processes are killed."""
    few = texts(7)
    with connect(server) as client, ThreadGroup() as threads:
        wanted = [client.encode(few, **options_of(number)) for number in range(4)]
        done: list[int] = []

        def ask(number: int) -> None:
            while len(done) < 100 * (1 + len(kill)):
                found = client.encode(few, **options_of(number))
                np.testing.assert_allclose(found, wanted[number % 4], atol=2e-3 if found.dtype == np.float16 else 1e-5)
                done.append(number)

        for number in range(8):
            threads.start(ask, number)
        for kills, role in enumerate(kill, 1):
            wait_until(lambda kills=kills: len(done) > 100 * kills - 50 or not threads.is_busy(), 120, "answers")  # type: ignore[misc]
            server.child(role).kill()
            wait_until(lambda kills=kills: client.server_status["num_restarts"] >= kills, 120, "a restart")  # type: ignore[misc]
        threads.join(200)
        assert len(done) >= 100 * (1 + len(kill))
        assert client.server_status["queue"]["requests"] == 0


@pytest.mark.minutes
@pytest.mark.parametrize("cache", ["0", "1"])
def test_poolings_survive_the_death_of_each_process(cache: str) -> None:
    with serving("-pooling_layer", "-1", "-2", "-num_worker", "2", "-cache_mb", cache) as server:
        check_under_load(server, ["worker-0", "sink", "ventilator"])


@pytest.mark.minutes
def test_joined_machines_compute_each_pooling() -> None:
    with front("-pooling_layer", "-1", "-2") as server:
        server.machine().wait_ready()
        check_under_load(server, [])
