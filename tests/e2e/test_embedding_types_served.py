"""Embedding types of single requests: their bytes, their vector spaces, and the ranges that some of them need."""

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
from bert_serving.client.errors import InvalidRequestError, OptionError, TooLargeError, VectorSpaceError
from bert_serving.client.protocol import EMBEDDING_TYPES
from bert_serving.server.cli.calibrate import main as calibrate
from bert_serving.server.model.quantization import quantize
from bert_serving.server.model.ranges import read_ranges
from http_calls import HttpServer, serving_http
from servers import Server, serving

TEXTS = ["hello world", "a b c", "good morning", "hello"]
SAMPLE = ["hello", "a b c d", "good day", "the world of hello", "b", "morning world a", "d good a"]
CUT = 13
DTYPES = {
    "float": "float32",
    "float16": "float16",
    "int8": "int8",
    "uint8": "uint8",
    "binary": "int8",
    "ubinary": "uint8",
}


def address(server: Server) -> list[str]:
    return ["-front", f"127.0.0.1:{server.port}:{server.port_out}"]


def connect(server: Server) -> BertClient:
    return BertClient(port=server.port, port_out=server.port_out, timeout=60_000, check_length=False)


@pytest.fixture(scope="module")
def ranges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ranges of the tiny model, which a server without them refuses to invent."""
    folder = tmp_path_factory.mktemp("ranges")
    sample, path = folder / "sample.txt", folder / "quantization_ranges.json"
    sample.write_text("\n\n".join(SAMPLE) + "\n")
    with serving() as server:
        with connect(server) as client:
            assert list(client.server_config["embedding_types"]) == ["float", "float16", "binary", "ubinary"]
            for name in ("int8", "uint8"):
                with pytest.raises(
                    InvalidRequestError, match=r"needs the ranges.*bert-serving-calibrate -dimensions 32"
                ):
                    client.encode(TEXTS, embedding_type=name)
            assert client.encode(TEXTS, embedding_type="binary").shape == (4, 4)
        arguments = [str(sample), "-o", str(path), *address(server)]
        assert calibrate([*arguments, "-dimensions", str(CUT), "-dimensions", "32"]) == 0
    return path


@pytest.fixture(scope="module")
def http_server(ranges: Path) -> Iterator[HttpServer]:
    with serving_http("-quantization_ranges", ranges) as server:
        yield server


@pytest.fixture(scope="module")
def client(http_server: HttpServer) -> Iterator[BertClient]:
    with http_server.zmq_client() as client:
        yield client


@pytest.fixture(scope="module")
def wanted(ranges: Path, client: BertClient) -> Callable[..., np.ndarray]:
    """Returns the vectors as an embedding type, from the float vectors with the same options."""

    def convert(texts: list[str], embedding_type: str, **options: Any) -> np.ndarray:
        rows = client.encode(texts, **options)
        ends = next(each for each in read_ranges(str(ranges)).values() if len(each[0]) == rows.shape[1])
        return quantize(rows, embedding_type, ends)

    return convert


def with_client(server: HttpServer, texts: list[str], **options: Any) -> np.ndarray:
    with server.zmq_client() as client:
        return client.encode(texts, **options)


def fetched(server: HttpServer, texts: list[str], **options: Any) -> np.ndarray:
    with server.zmq_client() as client:
        client.encode(texts, blocking=False, **options)
        (result,) = client.fetch_all() or ()
        return result


def with_encode_async(server: HttpServer, texts: list[str], **options: Any) -> np.ndarray:
    with server.zmq_client() as client:
        return np.concatenate([each.embedding for each in client.encode_async(iter([texts]), **options)])


def with_asyncio(server: HttpServer, texts: list[str], **options: Any) -> np.ndarray:
    async def call() -> np.ndarray:
        ports = {"port": server.server.port, "port_out": server.server.port_out}
        async with AsyncBertClient(**ports, timeout=60_000, check_length=False) as client:
            whole: np.ndarray = await client.encode(texts, **options)
            async for each in client.encode_async([texts], **options):
                np.testing.assert_array_equal(each.embedding, whole)
            return whole

    return asyncio.run(call())


@pytest.mark.parametrize("way", [with_client, fetched, with_encode_async, with_asyncio])
@pytest.mark.parametrize("name", EMBEDDING_TYPES)
def test_each_way_to_encode_has_the_types(
    http_server: HttpServer, wanted: Callable[..., np.ndarray], way: Callable[..., np.ndarray], name: str
) -> None:
    cases: list[dict[str, Any]] = [{}, {"dimensions": CUT}]
    for options in cases:
        found = way(http_server, TEXTS, embedding_type=name, **options)
        assert found.dtype.name == DTYPES[name]
        np.testing.assert_array_equal(found, wanted(TEXTS, name, **options))


def test_types_of_requests_that_share_batches(client: BertClient, wanted: Callable[..., np.ndarray]) -> None:
    variants: list[dict[str, Any]] = [
        {},
        {"embedding_type": "int8"},
        {"embedding_type": "ubinary", "dimensions": 5},
        {"embedding_type": "uint8", "dimensions": CUT},
        {"embedding_type": "binary", "normalize": True},
        {"dimensions": 3},
    ]
    expected = []
    for each in variants:
        options = {key: value for key, value in each.items() if key != "embedding_type"}
        rows = client.encode(TEXTS, **options)
        expected.append(
            wanted(TEXTS, each["embedding_type"], **options)
            if each.get("embedding_type") in ("int8", "uint8")
            else quantize(rows, each.get("embedding_type", "float"))
        )

    def call(number: int) -> None:
        found = client.encode(TEXTS * 3, **variants[number % len(variants)])
        np.testing.assert_array_equal(found, np.concatenate([expected[number % len(variants)]] * 3))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(48)))


def test_a_large_request_has_the_type_in_each_chunk(client: BertClient, wanted: Callable[..., np.ndarray]) -> None:
    for name in ("int8", "binary"):
        found = client.encode(TEXTS * 1500, batch_size=None, embedding_type=name)
        np.testing.assert_array_equal(found, np.tile(wanted(TEXTS, name), (1500, 1)))
        np.testing.assert_array_equal(client.encode(TEXTS * 3, batch_size=5, embedding_type=name), found[:12])


def test_means_of_parts_are_computed_from_floats(client: BertClient, wanted: Callable[..., np.ndarray]) -> None:
    texts = ["hello world " * 40, "good"]
    for name in ("uint8", "binary", "float16"):
        for normalize in (None, True):
            options: dict[str, Any] = {"long": "mean", "normalize": normalize}
            if normalize and name == "uint8":
                continue  # the ranges are those of vectors without normalization
            rows = client.encode(texts, **options)
            expected = wanted(texts, name, **options) if name == "uint8" else quantize(rows, name)
            np.testing.assert_array_equal(client.encode(texts, embedding_type=name, **options), expected)
    floats = client.encode(texts, long="chunks")
    parts = client.encode(texts, long="chunks", embedding_type="binary")
    assert parts.parts == floats.parts
    np.testing.assert_array_equal(parts.embedding, quantize(floats.embedding, "binary"))


def test_integers_have_a_vector_space_of_their_own(client: BertClient) -> None:
    spaces = client.server_config["embedding_types"]
    assert spaces["float"] == spaces["float16"] == client.vector_space
    assert len(set(spaces.values())) == 5
    for name, space in spaces.items():
        assert client._encode_in_detail(TEXTS, False, 4, [], embedding_type=name).vector_space == space
        for expected in (space, spaces["float"]):  # a client may require the space of the model for all its calls
            client.encode(TEXTS, embedding_type=name, vector_space=expected)
    with pytest.raises(VectorSpaceError):
        client.encode(TEXTS, embedding_type="int8", vector_space=spaces["uint8"])
    with pytest.raises(VectorSpaceError):
        client.encode(TEXTS, vector_space=spaces["int8"])


def test_other_formats_of_the_client(http_server: HttpServer, wanted: Callable[..., np.ndarray]) -> None:
    ports = {"port": http_server.server.port, "port_out": http_server.server.port_out}
    with BertClient(**ports, timeout=60_000, output_fmt="list") as client:
        assert client.encode(TEXTS, embedding_type="int8") == wanted(TEXTS, "int8").tolist()


def test_what_has_no_type_is_refused(client: BertClient, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"embedding_type must be one of float, .*, but is 'int4'"):
        client.encode(TEXTS, embedding_type="int4")
    with pytest.raises(InvalidRequestError, match=r"none for 5 dimensions .*-dimensions 5 "):
        client.encode(TEXTS, embedding_type="int8", dimensions=5)
    with pytest.raises(InvalidRequestError, match="needs the ranges"):
        client.encode(TEXTS, embedding_type="int8", normalize=True)
    with serving("-pooling_strategy", "NONE", "-engine", "zeros", "-result_memory", "200000") as server:
        with connect(server) as tokens:
            assert tokens.server_config["embedding_types"] == {}
            with pytest.raises(InvalidRequestError, match="embedding_type needs one vector per text"):
                tokens.encode(["a"], embedding_type="binary")
        sample = tmp_path / "sample"
        sample.write_text("a\nb\n")
        assert calibrate([str(sample), "-o", str(tmp_path / "out"), *address(server)]) == 1
        assert not (tmp_path / "out").exists()


def test_the_limit_of_results_counts_the_bytes_of_the_type(tmp_path: Path) -> None:
    folder_ranges = tmp_path / "quantization_ranges.json"
    folder_ranges.write_text(json.dumps({"format": "bert-serving quantization ranges 1", "spaces": {}}))
    flags = ("-engine", "zeros", "-result_memory", "100000", "-quantization_ranges", folder_ranges)
    with serving(*flags) as server, connect(server) as client:
        assert "int8 and uint8 are refused" in server.log
        with pytest.raises(TooLargeError, match="would take 128000 bytes"):
            client.encode(["a"] * 1000, batch_size=None)
        assert client.encode(["a"] * 1000, batch_size=None, embedding_type="float16").nbytes == 64_000
        assert client.encode(["a"] * 20_000, batch_size=None, embedding_type="ubinary").nbytes == 80_000
