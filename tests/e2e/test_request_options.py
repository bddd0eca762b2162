"""Options of single requests: normalization, dimensions, prompts and truncation, over each protocol."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_serving.client import AsyncBertClient, BertClient, ConcurrentBertClient
from bert_serving.client._cli.encode import main as encode_command
from bert_serving.client.errors import InvalidRequestError, TooLargeError
from bert_serving.server.cli.calibrate import main as calibrate
from bert_serving.server.model.default import default_model_dir
from bert_serving.server.model.quantization import quantize
from http_calls import HttpServer, serving_http
from raw_client import RawClient
from servers import TINY, Server, serving

TEXTS = ["hello world", "a b c", "good morning", "hello"]
Encode = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def http_server() -> Iterator[HttpServer]:
    with serving_http("-http_token_ids", "any") as server:
        yield server


@pytest.fixture(scope="module")
def plain(client: BertClient) -> np.ndarray:
    """Vectors of ``TEXTS`` without options: the tiny model does not normalize."""
    return client.encode(TEXTS)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def with_client(server: HttpServer) -> Encode:
    def encode(texts: list[str], **options: Any) -> np.ndarray:
        with server.zmq_client() as client:
            return client.encode(texts, **options)

    return encode


def fetched(server: HttpServer) -> Encode:
    def encode(texts: list[str], **options: Any) -> np.ndarray:
        with server.zmq_client() as client:
            client.encode(texts, blocking=False, **options)
            (result,) = client.fetch_all() or ()
            return result

    return encode


def with_encode_async(server: HttpServer) -> Encode:
    def encode(texts: list[str], **options: Any) -> np.ndarray:
        with server.zmq_client() as client:
            return np.concatenate([each.embedding for each in client.encode_async(iter([texts]), **options)])

    return encode


def concurrently(server: HttpServer) -> Encode:
    def encode(texts: list[str], **options: Any) -> np.ndarray:
        ports = {"port": server.server.port, "port_out": server.server.port_out}
        with ConcurrentBertClient(**ports, timeout=60_000, check_length=False) as client:  # type: ignore[misc]
            return client.encode(texts, **options)

    return encode


def with_asyncio(server: HttpServer) -> Encode:
    async def call(texts: list[str], **options: Any) -> np.ndarray:
        ports = {"port": server.server.port, "port_out": server.server.port_out}
        async with AsyncBertClient(**ports, timeout=60_000, check_length=False) as client:
            whole = await client.encode(texts, **options)
            async for each in client.encode_async([texts], **options):
                np.testing.assert_allclose(each.embedding, whole, atol=1e-6)
            return whole

    return lambda texts, **options: asyncio.run(call(texts, **options))


def over_http(server: HttpServer) -> Encode:
    def encode(texts: list[str], **options: Any) -> np.ndarray:
        reply = server.call("/encode", {"texts": texts, **options})
        assert reply.status == 200, reply.json
        return np.array(reply.json["results"])

    return encode


def over_openai(server: HttpServer) -> Encode:
    def encode(texts: list[str], **options: Any) -> np.ndarray:
        reply = server.call("/v1/embeddings", {"input": texts, **options})
        assert reply.status == 200, reply.json
        return np.array([item["embedding"] for item in reply.json["data"]])

    return encode


WAYS = [with_client, fetched, with_encode_async, concurrently, with_asyncio, over_http, over_openai]


@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_encode_has_the_options(
    http_server: HttpServer, client: BertClient, plain: np.ndarray, way: Callable[[HttpServer], Encode]
) -> None:
    encode = way(http_server)
    np.testing.assert_allclose(encode(TEXTS, normalize=True), unit(plain), atol=1e-6)
    np.testing.assert_allclose(encode(TEXTS, normalize=False), plain, atol=1e-6)
    np.testing.assert_allclose(encode(TEXTS, dimensions=5), plain[:, :5], atol=1e-6)
    np.testing.assert_allclose(encode(TEXTS, dimensions=5, normalize=True), unit(plain[:, :5]), atol=1e-6)
    wanted = client.encode([f"good {text}" for text in TEXTS])
    np.testing.assert_allclose(encode(TEXTS, prompt="good "), wanted, atol=1e-6)
    np.testing.assert_allclose(encode(TEXTS, prompt="go\ud800od "), wanted, atol=1e-6)
    np.testing.assert_allclose(encode(TEXTS, truncate=False), plain, atol=1e-6)
    # A prompt is plain text.
    single = {"texts": [f"a ||| b: {text}" for text in TEXTS], "pairs": False}
    wanted = np.array(http_server.call("/encode", single).json["results"])
    np.testing.assert_allclose(encode(TEXTS, prompt="a ||| b: "), wanted, atol=1e-6)


def test_requests_with_different_options_share_batches(http_server: HttpServer, plain: np.ndarray) -> None:
    """Each request of many at once gets its own vectors, also of texts that repeat within a batch."""
    variants: list[dict[str, Any]] = [
        {},
        {"normalize": True},
        {"dimensions": 3},
        {"dimensions": 7, "normalize": True},
        {"normalize": False},
    ]
    client = http_server.zmq_client()

    def call(number: int) -> None:
        options = variants[number % len(variants)]
        wanted = plain[:, : options.get("dimensions")]
        wanted = unit(wanted) if options.get("normalize") else wanted
        found = client.encode(TEXTS * 3, **options)
        np.testing.assert_allclose(found, np.concatenate([wanted] * 3), atol=1e-6)

    with client, ThreadPoolExecutor(10) as pool:
        list(pool.map(call, range(100)))


def test_a_large_request_has_the_options_in_each_chunk(client: BertClient, plain: np.ndarray) -> None:
    found = client.encode(TEXTS * 1500, batch_size=None, dimensions=4, normalize=True)
    np.testing.assert_allclose(found, np.tile(unit(plain[:, :4]), (1500, 1)), atol=1e-6)


def test_a_text_that_is_too_long_is_refused_with_its_index_and_both_lengths(
    http_server: HttpServer, client: BertClient
) -> None:
    long = "hello " * 40
    with pytest.raises(TooLargeError, match=r"text 2 has 42 tokens.* 25 "):
        client.encode(["a", "b", long], truncate=False)
    with pytest.raises(TooLargeError, match="text 2999 has 42 tokens"):
        client.encode(["a"] * 2999 + [long], truncate=False, batch_size=None)
    with pytest.raises(TooLargeError, match=r"text 1 has 42 tokens.*text 0 of this request is text 4 of the call"):
        client.encode(["a"] * 5 + [long], truncate=False, batch_size=2)
    with pytest.raises(TooLargeError, match="text 0 has 40003 tokens"):
        client.encode([("hello " * 20_000 + "||| " + "hello " * 20_000).strip()], truncate=False)
    with pytest.raises(TooLargeError, match="text 1 has 32 tokens"):
        client.encode([["a"], ["a"] * 30], truncate=False, is_tokenized=True)
    with pytest.raises(TooLargeError, match="text 0 has 27 tokens"):
        client.encode(["a " * 20], truncate=False, prompt="b b b b b ")
    assert client.encode(["a " * 23], truncate=False).shape[0] == 1
    for path, name in (("/encode", "texts"), ("/v1/embeddings", "input")):
        reply = http_server.call(path, {name: ["a", long], "truncate": False})
        assert reply.status == 413
        assert b"text 1 has 42 tokens" in reply.body


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimensions": 33}, "dimensions is 33; the vectors of this server have 32 dimensions"),
        ({"prompt_name": "query"}, "prompt_name 'query' is unknown; the prompts of this model: none"),
    ],
)
def test_what_the_server_cannot_compute_is_refused(
    http_server: HttpServer, client: BertClient, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        client.encode(TEXTS, **options)
    reply = http_server.call("/encode", {"texts": TEXTS, **options})
    assert reply.status == 400
    assert str(next(iter(options.values()))) in reply.json["description"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"normalize": "maybe"}, "'maybe'"),
        ({"prompt": 3}, "'prompt' must be a string"),
        ({"prompt": "a", "prompt_name": "b"}, "exclude each other"),
        ({"prompt": "a" * 4097}, "4096"),
        ({"dimensions": 0}, "at least 1"),
        ({"prompt": "a", "texts": [["a"]], "is_tokenized": True}, "token lists"),
    ],
)
def test_invalid_fields_are_refused_over_http(http_server: HttpServer, fields: dict[str, Any], message: str) -> None:
    reply = http_server.call("/encode", {"texts": TEXTS, **fields})
    assert reply.status == 400
    assert message in reply.json["description"]


def test_the_server_refuses_options_that_clients_never_send(http_server: HttpServer) -> None:
    """A client of another language sends the frames itself."""
    with RawClient(http_server.server) as raw:
        assert "token lists" in raw.error([["a"]], b'{"prompt": "a"}')
        assert "token lists" in raw.error([["a"]], b'{"prompt": ""}')
        assert "exclude each other" in raw.error(["a"], b'{"prompt": "a", "prompt_name": "b"}')
        assert "dimensions is 0" in raw.error(["a"], b'{"dimensions": 0}')
        assert "known options: timing" in raw.error(["a"], b'{"instruction": "a"}')
        assert "normalize" in raw.error(["a"], b'{"normalize": "yes"}')
        assert "4096" in raw.error(["a"], b'{"prompt": "%b"}' % (b"a" * 5000))
        # The same texts under the same id with other options are another request.
        for dimensions in range(1, 30):
            raw.send(b'["a"]', b'{"dimensions": %d}' % dimensions, number=7)
        shapes = [json.loads(raw.receive()[1])["shape"] for _ in range(1, 30)]
        assert sorted(shapes) == [[1, dimensions] for dimensions in range(1, 30)]
        # A prompt before many texts is tokenized in the thread.
        assert raw.error(["a"] * 2000, b'{"prompt": "%b"}' % (b"b" * 4096)) == ""


def test_fields_that_would_change_the_vectors_are_refused(http_server: HttpServer) -> None:
    for name in ("task", "input_type", "late_chunking", "embedding_types", "instruction"):
        for path, field in (("/encode", "texts"), ("/v1/embeddings", "input"), ("/invocations", "texts")):
            reply = http_server.call(path, {field: TEXTS, name: ["float"]})
            assert reply.status == 400
            assert f"the field '{name}'" in reply.body.decode()
            assert "known fields" in reply.body.decode()
            assert http_server.call(path, {field: TEXTS, name: None}).status == 200
    # 1.10 ignored unknown fields of /encode.
    assert http_server.call("/encode", {"texts": TEXTS, "id": 1, "anything": 1}).status == 200
    assert http_server.call("/v1/embeddings", {"input": TEXTS, "id": 1, "user": "a"}).status == 200
    assert http_server.call("/v1/embeddings", {"input": TEXTS, "anything": 1}).status == 400


def test_token_ids_without_special_tokens_are_accepted_with_any(http_server: HttpServer, client: BertClient) -> None:
    ids = {token: index for index, token in enumerate((TINY / "vocab.txt").read_text().split("\n"))}
    reply = http_server.call("/v1/embeddings", {"input": [[ids["hello"], ids["world"]]]})
    np.testing.assert_allclose(reply.json["data"][0]["embedding"], client.encode(["hello world"])[0], atol=1e-6)


def test_token_vectors_have_no_length_no_dimensions_and_no_type(tmp_path: Path) -> None:
    sample, output = tmp_path / "sample", tmp_path / "ranges"
    sample.write_text("a\nb\n")
    with (
        serving("-pooling_strategy", "NONE", "-engine", "zeros") as server,
        BertClient(port=server.port, port_out=server.port_out, timeout=60_000) as client,
    ):
        for options in (
            {"normalize": True},
            {"dimensions": 3},
            {"long": "mean"},
            {"long": "chunks"},
            {"embedding_type": "binary"},
        ):
            with pytest.raises(InvalidRequestError, match="-pooling_strategy NONE"):
                client.encode(["a"], **options)
        assert client.encode(["a"], prompt="b ").shape == (1, 25, 32)
        assert client.server_config["embedding_types"] == {}
        assert calibrate([str(sample), "-o", str(output), "-front", f"127.0.0.1:{server.port}:{server.port_out}"]) == 1
        assert not output.exists()


def test_bert_serving_encode_has_the_options(server: Server, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("\n".join(TEXTS) + "\n")
    output = tmp_path / "vectors.npy"
    with BertClient(port=server.port, port_out=server.port_out, timeout=60_000, check_length=False) as client:
        wanted = unit(client.encode([f"good {text}" for text in TEXTS])[:, :6])
    common = [str(tmp_path / "texts"), "-o", str(output), "-port", str(server.port), "-port_out", str(server.port_out)]
    options = ["-normalize", "on", "-prompt", "good ", "-dimensions", "6", "-no_truncate", "-quiet"]
    assert encode_command([*common, *options]) == 0
    np.testing.assert_allclose(np.load(output), wanted, atol=1e-6)


# ---- the numbers of sentence-transformers -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of that library with unit vectors, a length and prompts."""
    library = pytest.importorskip("sentence_transformers")
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    base = pytest.importorskip("sentence_transformers.base.modules")
    if default_model_dir() is None:
        pytest.skip("the default model is not installed")
    path = tmp_path_factory.mktemp("folder")
    transformer = modules.Transformer(default_model_dir(), max_seq_length=64)
    prompts = {"query": "query: ", "passage": "Represent this passage: "}
    library.SentenceTransformer(
        modules=[transformer, modules.Pooling(384, "mean"), base.Normalize()],
        device="cpu",
        prompts=prompts,
        default_prompt_name="query",
    ).save(str(path))
    return path


def test_the_bytes_of_embedding_types_are_those_of_sentence_transformers() -> None:
    library = pytest.importorskip("sentence_transformers.util.quantization")
    random = np.random.default_rng(5)
    sample, rows = random.normal(size=(50, 37)).astype(np.float32), random.normal(size=(20, 37)).astype(np.float32)
    ranges = np.stack([sample.min(0), sample.max(0)])
    ranges[:, 3] = 0.5  # a dimension with one value
    rows[0, :5] = 0.0
    for embedding_type in ("int8", "uint8", "binary", "ubinary"):
        wanted = library.quantize_embeddings(rows, embedding_type, ranges=ranges)
        found = quantize(rows, embedding_type, ranges)
        assert (found.dtype, found.tobytes()) == (wanted.dtype, wanted.tobytes())


@pytest.mark.parametrize(
    "flags", [(), ("-normalize", "off", "-prompt_name", "passage", "-fp16")], ids=["plain", "fp16"]
)
def test_vectors_equal_those_of_sentence_transformers(folder: Path, flags: tuple[str, ...]) -> None:
    library = pytest.importorskip("sentence_transformers")
    model = library.SentenceTransformer(str(folder), device="cpu")
    raw = library.SentenceTransformer(modules=list(model)[:-1], device="cpu", prompts=model.prompts)
    texts = ["A man is playing a guitar.", "The stock market fell sharply. " * 30, "Ein schöner Tag im CAFÉ.", "x"]
    is_unit, default = ("-normalize" not in flags), ("query" if not flags else "passage")
    cases: list[dict[str, Any]] = [
        {},
        {"normalize": True},
        {"normalize": False},
        {"prompt_name": "passage"},
        {"prompt": "What is this? "},
        {"prompt": ""},
        {"dimensions": 100},
        {"dimensions": 100, "normalize": False},
        {"dimensions": 100, "normalize": True, "prompt_name": "passage"},
        {"dimensions": 384},
    ]
    with (
        serving(*flags, model_dir=folder) as server,
        BertClient(port=server.port, port_out=server.port_out, timeout=60_000, check_length=False) as client,
    ):
        for case in cases:
            options = (
                {"prompt_name": case.get("prompt_name", default)}
                if "prompt" not in case
                else {"prompt": case["prompt"]}
            )
            wanted = raw.encode(
                texts,
                truncate_dim=case.get("dimensions"),
                normalize_embeddings=case.get("normalize", is_unit),
                **options,
            )
            found = client.encode(texts, **case).astype(np.float32)
            assert found.shape == wanted.shape
            assert (unit(found) * unit(wanted)).sum(1).min() > 0.99999, case
            np.testing.assert_allclose(
                np.linalg.norm(found, axis=1), np.linalg.norm(wanted, axis=1), rtol=2e-3 if flags else 1e-4
            )
        with pytest.raises(InvalidRequestError, match=r"the prompts of this model: .*query"):
            client.encode(texts, prompt_name="title")
        with pytest.raises(TooLargeError, match=r"text 1 has .* tokens.* 64 "):
            client.encode(texts, truncate=False)
