"""The client with a real server: the tiny model, which shows its tokens."""

from __future__ import annotations

import asyncio
import itertools
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from bert_serving.client import AsyncBertClient, BertClient, ConcurrentBertClient, InputValueError

TEXTS = ["First do it", "then do it right", "then do it better", "你好么?", "a ||| b"]
TOLERANCE = 1e-5


@pytest.fixture
def ports(server: Any) -> dict[str, int]:
    return {"port": server.port, "port_out": server.port_out}


@pytest.fixture
def bc(ports: dict[str, int]) -> Iterator[BertClient]:
    with BertClient(**ports, timeout=60_000) as bc:
        yield bc


def test_encode(bc: BertClient) -> None:
    vectors = bc.encode(TEXTS)
    assert vectors.shape[0] == len(TEXTS)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    assert vectors.flags.writeable
    for text, vector in zip(TEXTS, vectors, strict=True):
        np.testing.assert_allclose(bc.encode([text])[0], vector, atol=TOLERANCE)


def test_order_is_kept_for_any_batch_size(bc: BertClient) -> None:
    texts = [f"{'go ' * (number % 9)}number {number % 10}" for number in range(300)]
    whole = bc.encode(texts, batch_size=None)
    np.testing.assert_allclose(bc.encode(texts, batch_size=17), whole, atol=TOLERANCE)
    np.testing.assert_allclose(bc.encode(texts[::-1], batch_size=64), whole[::-1], atol=TOLERANCE)


def test_tokens(bc: BertClient) -> None:
    vectors, tokens = bc.encode(["hello world", "hello"], show_tokens=True)
    assert len(vectors) == len(tokens) == 2
    assert all(row[0] == "[CLS]" and row[-1] == "[SEP]" for row in tokens)
    again, _ = bc.encode([row[1:-1] for row in tokens], is_tokenized=True, show_tokens=True)
    np.testing.assert_allclose(again, vectors, atol=TOLERANCE)


def test_truncation_warning(bc: BertClient) -> None:
    assert bc.length_limit
    with pytest.warns(UserWarning, match=f"1 of 2 texts are longer than the server's max_seq_len={bc.length_limit}"):
        bc.encode(["hello " * (bc.length_limit + 10), "hello"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bc.encode(["hello"])


def test_config_and_status(bc: BertClient, ports: dict[str, int]) -> None:
    config = bc.server_config
    assert config["server_version"] == "1.10.0"
    assert (config["port"], config["port_out"]) == (ports["port"], ports["port_out"])
    before = bc.server_status["statistic"]["num_data_request"]
    bc.encode(["hello"])
    assert bc.server_status["statistic"]["num_data_request"] > before


def test_fetch(bc: BertClient) -> None:
    for size in range(1, 11):
        bc.encode(["hello"] * size, blocking=False)
    assert bc.encode(["hello"]).shape[0] == 1
    assert [len(vectors) for vectors in bc.fetch_all()] == list(range(1, 11))
    for _ in range(10):
        bc.encode(["hello"], blocking=False)
    assert sum(len(response.embedding) for response in bc.fetch()) == 10


def test_async_encoding(bc: BertClient) -> None:
    responses = list(bc.encode_async(itertools.repeat(TEXTS), max_num_batch=50))
    assert len(responses) == 50
    expected = bc.encode(TEXTS)
    for response in responses:
        assert response.shape == expected.shape
        np.testing.assert_allclose(response.embedding, expected, atol=TOLERANCE)


def test_multicast(ports: dict[str, int]) -> None:
    limit = {"timeout": 60_000}
    with BertClient(**ports, **limit) as bc, BertClient(**ports, **limit, identity=bc.identity) as clone:
        heard: Any = clone.listen()
        sent = [bc.encode(["hello"] * size) for size in (1, 2, 3)]
        for vectors, response in zip(sent, heard, strict=False):
            np.testing.assert_array_equal(response.embedding, vectors)


@pytest.mark.parametrize("kind", [BertClient, ConcurrentBertClient])
def test_many_threads(ports: dict[str, int], kind: type[BertClient]) -> None:
    with ThreadPoolExecutor(12) as pool, kind(**ports, timeout=60_000) as bc:
        expected = bc.encode(TEXTS)
        barrier = threading.Barrier(12)

        def work(row: int) -> bool:
            barrier.wait(60)
            return all(
                np.allclose(bc.encode([TEXTS[row % 5]])[0], expected[row % 5], atol=TOLERANCE) for _ in range(10)
            )

        assert all(pool.map(work, range(12)))


def test_asyncio(ports: dict[str, int]) -> None:
    async def main() -> None:
        async with AsyncBertClient(**ports, timeout=60_000) as bc:
            whole = await bc.encode(TEXTS)
            rows = await asyncio.gather(*(bc.encode([text]) for text in TEXTS))
            np.testing.assert_allclose(np.concatenate(rows), whole, atol=TOLERANCE)
            sizes = [len(response.embedding) async for response in bc.encode_async([["a"], ["b", "c"]])]
            assert sorted(sizes) == [1, 2]
            assert "statistic" in await bc.server_status()

    asyncio.run(asyncio.wait_for(main(), 120))


def test_lists(bc: BertClient, ports: dict[str, int]) -> None:
    with BertClient(**ports, timeout=60_000, output_fmt="list") as lists:
        np.testing.assert_allclose(lists.encode(TEXTS), bc.encode(TEXTS), atol=TOLERANCE)


def test_invalid_input_is_not_sent(bc: BertClient) -> None:
    with pytest.raises(InputValueError, match="non-empty"):
        bc.encode(["hello", " "])
    assert len(bc.encode(["hello"])) == 1


def test_the_status_has_values_to_read_beside_those_of_1_10(bc: BertClient) -> None:
    config = bc.server_config
    assert (config["pooling_strategy"], config["pooling_strategy_name"]) == (2, "REDUCE_MEAN")
    assert config["server_version"] == "1.10.0"
    assert config["versions"]["bert-serving-server"] == config["bert_serving_version"] != "1.10.0"
    assert {"python", "numpy", "pyzmq"} <= config["versions"].keys()


def test_similarities_of_a_real_server(bc: BertClient) -> None:
    texts = ["hello world", "good day", "hello you"]
    vectors = bc.encode(texts)
    found = bc.similarity(texts, texts[:2])
    norms = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(found, (vectors @ vectors[:2].T) / np.outer(norms, norms[:2]), atol=1e-5)
