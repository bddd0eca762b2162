"""Pooling of single requests through each client and over HTTP, with real servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_serving.client import AsyncBertClient, BertClient
from bert_serving.client._cli.encode import main as encode_command
from bert_serving.client.errors import InvalidRequestError, VectorSpaceError
from bert_serving.server.engines.base import Device, EngineSpec
from bert_serving.server.engines.batch import Batch
from bert_serving.server.engines.onnx import engine as onnx_engine
from bert_serving.server.model.config import load_model_config
from bert_serving.server.model.quantization import quantize
from bert_serving.server.tokenization.factory import load_tokenizer
from http_calls import HttpServer, serving_http
from poolings import REQUEST_POOLINGS
from servers import CACHE, TINY

LAYERS, NUM_LAYERS = [-1, -3, -2], 4
TEXTS = ["hello world", "a b c d", "good morning, is it you?", "hello", "hello world"]


@pytest.fixture(scope="module")
def server() -> Iterator[HttpServer]:
    with serving_http("-pooling_layer", *map(str, LAYERS), "-cache_mb", "4", "-num_worker", "2") as server:
        yield server


@pytest.fixture(scope="module")
def client(server: HttpServer) -> Iterator[BertClient]:
    with server.zmq_client() as client:
        yield client


@pytest.fixture(scope="module")
def tokens() -> Callable[[str], np.ndarray]:
    """Returns the vectors of the tokens of a text, all layers side by side, as an engine without pooling gives them."""
    model = load_model_config(TINY)
    layers = tuple(LAYERS)
    spec = EngineSpec(model=model, cache_dir=CACHE, pooling_strategy="NONE", pooling_layers=layers)
    onnx_engine.prepare(spec, lambda _: None)
    engine = onnx_engine.create(spec, Device(threads=1))
    tokenizer = load_tokenizer(TINY / "vocab.txt", lower_case=True, max_seq_len=25, max_tokens=64)

    def encode(text: str) -> np.ndarray:
        ids = tokenizer.encode([text]).input_ids
        return engine.encode(Batch(ids, ids * 0, ids * 0 + 1, np.array([len(ids)], np.int32)))

    return encode


def space_of(client: BertClient, **options: Any) -> str | None:
    """Returns the space of vectors with some options."""
    return client._encode_in_detail(["a"], False, 1, [], **options).vector_space


def pooled(tokens: np.ndarray, strategy: str) -> np.ndarray:
    """Returns the vector of a text by the definition of a strategy."""
    rows = tokens.astype(np.float64)
    places = np.arange(1, len(rows) + 1)
    return {
        "REDUCE_MEAN": lambda: rows.mean(0),
        "REDUCE_MAX": lambda: rows.max(0),
        "REDUCE_MEAN_MAX": lambda: np.concatenate([rows.mean(0), rows.max(0)]),
        "CLS_TOKEN": lambda: rows[0],
        "SEP_TOKEN": lambda: rows[-1],
        "WEIGHTED_MEAN": lambda: places @ rows / places.sum(),
        "MEAN_SQRT_LEN": lambda: rows.sum(0) / np.sqrt(len(rows)),
    }[strategy]()


def test_every_strategy_and_layer_list(client: BertClient, tokens: Callable[[str], np.ndarray]) -> None:
    assert client.server_config["request_pooling"] == {"strategies": list(REQUEST_POOLINGS), "layers": LAYERS}
    spaces = set()
    for strategy in REQUEST_POOLINGS:
        for layers in (None, -3, [-2, -1], (-2, -3, -1), [1]):
            chosen = LAYERS if layers is None else [layers] if isinstance(layers, int) else layers
            places = [LAYERS.index(layer if layer < 0 else layer - NUM_LAYERS) for layer in chosen]
            options: dict[str, Any] = {"pooling": strategy, "pooling_layer": layers}
            for normalize, dimensions in ((None, None), (True, 21)):
                wanted = []
                for text in TEXTS:
                    by_layer = np.split(tokens(text), len(LAYERS), axis=1)
                    wanted.append(pooled(np.concatenate([by_layer[place] for place in places], 1), strategy))
                rows = np.array(wanted)[:, :dimensions]
                rows = rows / np.linalg.norm(rows, axis=1, keepdims=True) if normalize else rows
                found = client.encode(TEXTS, normalize=normalize, dimensions=dimensions, **options)
                np.testing.assert_allclose(found, rows, atol=1e-6)
                spaces.add(space_of(client, normalize=normalize, dimensions=dimensions, **options))
    assert len(spaces) == len(REQUEST_POOLINGS) * 4 * 2  # 1 is layer -3


def variants() -> list[dict[str, Any]]:
    return [
        {},
        *({"pooling": strategy} for strategy in REQUEST_POOLINGS),
        {"pooling_layer": -2},
        {"pooling": "REDUCE_MEAN_MAX", "pooling_layer": [-2, -1], "normalize": True, "dimensions": 70},
        {"pooling": "CLS_TOKEN", "embedding_type": "ubinary"},
        {"pooling_layer": -1, "embedding_type": "float16", "normalize": True},
        {"normalize": True},
        {"dimensions": 5},
    ]


def test_requests_of_all_poolings_share_batches_and_the_cache(server: HttpServer, client: BertClient) -> None:
    """Each gets its own vectors, alone and beside others, computed and from the cache."""
    cases = variants()
    texts = [f"{text} {number}" for number in range(4) for text in TEXTS]
    alone = [client.encode(texts[:9], **options) for options in cases]

    def call(number: int) -> None:
        options, wanted = cases[number % len(cases)], alone[number % len(cases)]
        chosen = [(number + row) % 9 for row in range(5)]
        fresh = [f"fresh {number} {row}" for row in range(number % 3)]  # not in the cache
        found = client.encode([texts[row] for row in chosen] + fresh, **options)
        np.testing.assert_allclose(found[:5], wanted[chosen], atol=1e-6)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(6 * len(cases))))
    assert client.server_status["cache"]["hits"] > len(cases)


def test_long_texts_with_a_pooling(client: BertClient) -> None:
    long = " ".join(TEXTS * 20)
    chunks = client.encode([long, "hello"], long="chunks", pooling="CLS_TOKEN", pooling_layer=-3, normalize=True)
    assert len(chunks.parts) > 2
    parts = [(long, "hello")[part.text][part.start : part.stop] for part in chunks.parts]
    wanted = client.encode(parts, pooling="CLS_TOKEN", pooling_layer=-3, normalize=True)
    np.testing.assert_allclose(chunks.embedding, wanted, atol=1e-6)
    mean = client.encode([long, "hello"], long="mean", pooling="REDUCE_MAX", pooling_layer=-3, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(mean, axis=1), 1, atol=1e-5)
    whole = client.encode([long, "hello"], long="mean", pooling="REDUCE_MAX")[:, 32:64]
    np.testing.assert_allclose(mean, whole / np.linalg.norm(whole, axis=1, keepdims=True), atol=1e-6)
    late = client.encode([long, "hello"], long="late", pooling_layer=-3)
    all_layers = client.encode([long, "hello"], long="late").embedding
    np.testing.assert_allclose(late.embedding, all_layers[:, 32:64], atol=1e-6)
    with pytest.raises(InvalidRequestError, match="pooling CLS_TOKEN does not pool the mean of the tokens"):
        client.encode([long], long="late", pooling="CLS_TOKEN")


def test_each_way_to_ask(server: HttpServer, client: BertClient, tmp_path: Path) -> None:
    options: dict[str, Any] = {"pooling": "SEP_TOKEN", "pooling_layer": [-2]}
    wanted = client.encode(TEXTS, **options)
    space = space_of(client, **options)
    client.encode(TEXTS, blocking=False, **options)
    (fetched,) = client.fetch_all() or ()
    (streamed,) = [each.embedding for each in client.encode_async(iter([TEXTS]), **options)]
    ports = {"port": server.server.port, "port_out": server.server.port_out}

    async def call() -> np.ndarray:
        async with AsyncBertClient(**ports, timeout=60_000, check_length=False) as own:
            found: np.ndarray = await own.encode(TEXTS, **options)
            return found

    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    out = tmp_path / "vectors.npy"
    front = ["-front", f"127.0.0.1:{ports['port']}:{ports['port_out']}", "-quiet"]
    arguments = [str(tmp_path / "texts.txt"), "-o", str(out), *front, "-pooling", "SEP_TOKEN", "-pooling_layer", "-2"]
    assert encode_command(arguments) == 0
    for found in (fetched, streamed, asyncio.run(call()), np.load(out)):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    for path, body in (
        ("/encode", {"texts": TEXTS, "pooling": "SEP_TOKEN", "pooling_layer": -2}),
        ("/v1/embeddings", {"input": TEXTS, "pooling": "sep_token", "pooling_layer": [-2]}),
    ):
        reply = server.call(path, body)
        assert (reply.status, reply.headers["x-vector-space"]) == (200, space), reply.body
        rows = reply.json["results"] if path == "/encode" else [each["embedding"] for each in reply.json["data"]]
        np.testing.assert_allclose(rows, wanted, atol=1e-5)
    wide = server.call("/encode", {"texts": ["a"], "pooling": "REDUCE_MEAN_MAX", "dimensions": 150})
    assert len(wide.json["results"][0]) == 150  # more than a vector of the server has


def test_embedding_types(client: BertClient) -> None:
    rows = client.encode(TEXTS, pooling="REDUCE_MAX", pooling_layer=-2)
    for name in ("float", "float16", "binary", "ubinary"):
        found = client.encode(TEXTS, pooling="REDUCE_MAX", pooling_layer=-2, embedding_type=name)
        np.testing.assert_array_equal(found, quantize(rows, name))
    with pytest.raises(InvalidRequestError, match="needs the ranges"):
        client.encode(TEXTS, pooling="REDUCE_MAX", embedding_type="int8")


def test_vectors_of_two_poolings_do_not_mix(client: BertClient) -> None:
    space = space_of(client, pooling="CLS_TOKEN")
    assert client.encode(["a"], pooling="CLS_TOKEN", vector_space=space).shape == (1, 96)
    for options in ({}, {"pooling": "SEP_TOKEN"}, {"pooling": "CLS_TOKEN", "pooling_layer": -1}):
        with pytest.raises(VectorSpaceError):
            client.encode(["a"], vector_space=space, **options)
    client.encode(["a"], blocking=False, pooling="CLS_TOKEN")
    client.encode(["a"], blocking=False)
    with pytest.raises(VectorSpaceError):
        client.fetch_all(concat=True)


@pytest.mark.parametrize(
    ("body", "parameter", "message"),
    [
        ({"pooling": "cls"}, "pooling", "set one of REDUCE_MEAN, REDUCE_MAX"),
        ({"pooling": 4}, "pooling", "must be a string"),
        ({"pooling_layer": -4}, "pooling_layer", "set layers of -1, -3, -2"),
        ({"pooling_layer": [True]}, "pooling_layer", "must be an integer or a list"),
        ({"pooling_layer": []}, "pooling_layer", "must be an integer or a list"),
        ({"pooling": "CLS_TOKEN", "dimensions": 97}, None, "vectors of this pooling have 96 dimensions"),
    ],
)
def test_http_names_the_field(server: HttpServer, body: dict[str, Any], parameter: str | None, message: str) -> None:
    reply = server.call("/v1/embeddings", {"input": ["a"], **body})
    assert (reply.status, reply.json["error"]["param"]) == (400, parameter), reply.body
    assert message in reply.json["error"]["message"]
    assert message in json.dumps(server.call("/encode", {"texts": ["a"], **body}).json)
