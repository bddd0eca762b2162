"""Long texts by the caller's choice, through the client, HTTP and the wire, with real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from bert_serving.client import AsyncBertClient, BertClient, EncodedParts, TextPart
from bert_serving.client.errors import InvalidRequestError, OptionError, TooLargeError
from bert_serving.server.engines.base import Device, EngineSpec
from bert_serving.server.engines.batch import Batch
from bert_serving.server.engines.onnx import engine as onnx_engine
from bert_serving.server.model.config import load_model_config
from bert_serving.server.tokenization.factory import load_tokenizer
from http_calls import HttpServer, serving_http
from raw_client import RawClient
from servers import CACHE, TINY

SENTENCES = [
    "the cat sat on a mat.",
    "hello world!",
    "good morning, is it you?",
    "猫が座った。",
    "É\u0301té \U0001f468\u200d\U0001f469\u200d\U0001f467 x.",
]
LONG = " ".join(SENTENCES * 6)
SHORT = "hello world"
TEXTS = [LONG, SHORT, "  ", LONG[::-1], LONG]


@pytest.fixture(scope="module")
def server() -> Iterator[HttpServer]:
    with serving_http(
        "-max_seq_len", "24", "-show_tokens_to_client", "-num_worker", "2", "-max_request_size", "6000"
    ) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: HttpServer) -> Iterator[BertClient]:
    with server.zmq_client() as client:
        yield client


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def vectors_of(client: BertClient, texts: list[str], parts: list[TextPart], **options: Any) -> np.ndarray:
    """Returns the vectors of the parts, each encoded as a text of its own; a blank one as the server does it."""
    chosen = [texts[part.text][part.start : part.stop] for part in parts]
    return client.encode([text if text.strip() else "\ufeff" for text in chosen], **options)


def usable(texts: list[str]) -> list[str]:
    return [text for text in texts if text.strip()]


@pytest.mark.parametrize("options", [{}, {"normalize": True, "dimensions": 7}, {"prompt": "good: "}], ids=str)
def test_each_part_has_the_vector_of_its_characters(client: BertClient, options: dict[str, Any]) -> None:
    texts = usable(TEXTS)
    result = client.encode(texts, long="chunks", **options)
    assert isinstance(result, EncodedParts)
    assert [part.text for part in result.parts] == sorted(part.text for part in result.parts)
    assert {part.text for part in result.parts} == set(range(len(texts)))
    assert TextPart(1, 0, len(SHORT)) in result.parts
    wanted = vectors_of(client, texts, result.parts, truncate=False, **options)
    np.testing.assert_allclose(result.embedding, wanted, atol=1e-6)


def test_the_mean_is_that_of_the_parts_by_tokens(client: BertClient) -> None:
    """Sentences that fit in no pair have no overlap, so the parts and the tokens of both ways are the same."""
    texts = [" ".join(["Hello world " + "hello world " * 6 + "good."] * 3), SHORT]
    result = client.encode(texts, long="chunks", show_tokens=True)
    tokens = [len(row) - 2 for row in result.tokens]
    assert [part.text for part in result.parts] == [0, 0, 0, 1]
    wanted = np.average(result.embedding[:3], axis=0, weights=tokens[:3])
    found = client.encode(texts, long="mean")
    np.testing.assert_allclose(found, [wanted, result.embedding[3]], atol=1e-6)
    np.testing.assert_allclose(client.encode([SHORT]), found[1:], atol=1e-6)
    found = client.encode(texts, long="mean", normalize=True, dimensions=9)
    np.testing.assert_allclose(found, unit(np.array([wanted, result.embedding[3]])[:, :9]), atol=1e-6)


def test_vectors_of_other_requests_stay_the_same(server: HttpServer, client: BertClient) -> None:
    """Requests of every kind at once share batches; each gets its own rows."""
    texts = usable(TEXTS)
    plain, mean = client.encode(texts), client.encode(texts, long="mean")
    chunks = client.encode(texts, long="chunks")

    def call(number: int) -> None:
        kind = ("cut", "mean", "chunks")[number % 3]
        if kind == "chunks":
            found = client.encode(texts * 2, long="chunks", batch_size=3 + number % 5)
            assert [part._replace(text=part.text % len(texts)) for part in found.parts] == chunks.parts * 2
            np.testing.assert_allclose(found.embedding, np.tile(chunks.embedding, (2, 1)), atol=1e-6)
            return
        wanted = mean if kind == "mean" else plain
        np.testing.assert_allclose(client.encode(texts * 2, long=kind), np.tile(wanted, (2, 1)), atol=1e-6)  # type: ignore[arg-type]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(24)))


def test_a_request_of_many_pieces_has_the_parts_of_all_texts(client: BertClient) -> None:
    texts = [f"{number} {LONG}" for number in range(150)]
    small = client.encode(texts[-9:], long="chunks")
    large = client.encode(texts, long="chunks", batch_size=None)
    last = [part._replace(text=part.text - 141) for part in large.parts if part.text >= 141]
    assert last == small.parts
    np.testing.assert_allclose(large.embedding[-len(last) :], small.embedding, atol=1e-6)
    mean = client.encode(texts, long="mean", batch_size=None)
    np.testing.assert_allclose(mean[-9:], client.encode(texts[-9:], long="mean"), atol=1e-6)


def test_error_is_truncate_false_and_cut_is_the_default(client: BertClient) -> None:
    for options in ({"long": "error"}, {"truncate": False}, {"long": "error", "truncate": False}):
        with pytest.raises(TooLargeError, match=r"text 0 has \d+ tokens.* 24 ") as caught:
            client.encode([LONG], **options)
        assert not caught.value.is_divisible
    np.testing.assert_array_equal(client.encode([LONG], long="cut", truncate=True), client.encode([LONG]))
    for options in ({"long": "error", "truncate": True}, {"long": "mean", "truncate": False}):
        with pytest.raises(OptionError, match=r"truncate=\w+ is long="):
            client.encode([LONG], **options)


def test_what_has_no_parts_is_refused_by_name(client: BertClient) -> None:
    for long in ("mean", "chunks", "late"):
        with pytest.raises(InvalidRequestError, match="token lists have no parts"):
            client.encode([["a"]], is_tokenized=True, long=long)
        with pytest.raises(InvalidRequestError, match="a pair has no parts"):
            client.encode([("a", "b")], long=long)
        with pytest.raises(InvalidRequestError, match="text 1 is a pair"):
            client.encode(["a", "b ||| c"], long=long)
        with pytest.raises(InvalidRequestError, match=r"text 0 has half of a surrogate pair .* at character 1"):
            client.encode(["a\ud800"], long=long)
        with pytest.raises(InvalidRequestError, match="more than half of the 22"):
            client.encode([LONG], long=long, prompt="a " * 12)


def test_every_client_has_parts(server: HttpServer, client: BertClient) -> None:
    texts = usable(TEXTS)
    wanted = client.encode(texts, long="chunks")
    with BertClient(
        port=server.server.port, port_out=server.server.port_out, identity="parts", check_length=False
    ) as sender:
        subscription = sender.listen(timeout=60_000)
        sender.encode(texts, blocking=False, long="chunks")
        (response,) = sender.fetch()
        (streamed,) = sender.encode_async(iter([texts]), long="chunks")
        for found in (response, streamed, next(subscription)):
            assert found.parts == wanted.parts
            np.testing.assert_allclose(found.embedding, wanted.embedding, atol=1e-6)
        sender.encode(texts, blocking=False)
        assert next(sender.fetch()).parts is None

    async def call() -> None:
        ports = {"port": server.server.port, "port_out": server.server.port_out}
        async with AsyncBertClient(**ports, timeout=60_000) as other:
            found = await other.encode(texts, long="chunks", show_tokens=True)
            assert (found.parts, len(found.tokens)) == (wanted.parts, len(wanted.parts))
            async for each in other.encode_async([texts], long="chunks"):
                assert each.parts == wanted.parts

    asyncio.run(call())


def late_reference(texts: list[str], parts: list[TextPart]) -> np.ndarray:
    """Returns the mean of the token vectors of each part; each text of several parts fits in one window."""
    spec = EngineSpec(load_model_config(TINY), CACHE, pooling_strategy="NONE")
    engine = onnx_engine.create(spec, Device(threads=1))
    tokenizer = load_tokenizer(TINY / "vocab.txt", lower_case=True, max_seq_len=64, max_tokens=64)
    found = []
    for index, text in enumerate(texts):
        own = [text[part.start : part.stop] for part in parts if part.text == index]
        ids = [tokenizer.segment(part, "") for part in own]
        frame = tokenizer.frame
        row = np.array([frame.start, *(each for part in ids for each in part), frame.end], np.int32)
        vectors = engine.encode(Batch(row, row * 0, row * 0 + 1, np.array([len(row)], np.int32)))
        ends = np.cumsum([1, *map(len, ids)])
        several = [vectors[start:stop].mean(0) for start, stop in pairwise(ends)]
        found += several if len(ids) > 1 else [vectors.mean(0)]
    return np.array(found)


def test_late_parts_are_means_of_tokens_in_their_window(server: HttpServer, client: BertClient) -> None:
    texts = ["Hello world. " * 18, SHORT, "Hello world, hello. " * 9]
    result = client.encode(texts, long="late")
    assert result.parts == client.encode(texts, long="chunks").parts
    assert len(result.parts) > 5
    np.testing.assert_allclose(result.embedding, late_reference(texts, result.parts), atol=1e-5)
    np.testing.assert_allclose(
        client.encode([SHORT]), result.embedding[[part.text == 1 for part in result.parts]], atol=1e-6
    )
    assert abs(result.embedding - client.encode(texts, long="chunks").embedding).max() > 1e-3
    found = client.encode(texts, long="late", normalize=True, dimensions=6)
    np.testing.assert_allclose(found.embedding, unit(result.embedding[:, :6]), atol=1e-5)
    reply = server.call("/encode", {"texts": texts, "long": "late", "show_tokens": True}).json
    assert reply["parts"] == [list(part) for part in result.parts]
    assert reply["tokens"] == client.encode(texts, long="late", show_tokens=True).tokens
    assert all(len(row) <= 24 for row in reply["tokens"])
    np.testing.assert_allclose(reply["results"], result.embedding, atol=1e-6)


def test_late_parts_share_batches_with_other_requests(client: BertClient) -> None:
    """Texts of many windows, in pieces, beside requests of every other kind."""
    texts = usable(TEXTS)
    wanted = {long: client.encode(texts, long=long) for long in ("chunks", "late")}  # type: ignore[call-overload]
    mean = client.encode(texts, long="mean", normalize=True)

    def call(number: int) -> None:
        if number % 3 == 0:
            np.testing.assert_allclose(client.encode(texts, long="mean", normalize=True), mean, atol=1e-6)
            return
        long = "late" if number % 3 == 1 else "chunks"
        found = client.encode(texts * 6, long=long, batch_size=None if number % 2 else 7)  # type: ignore[call-overload]
        assert [part._replace(text=part.text % len(texts)) for part in found.parts] == wanted[long].parts * 6
        np.testing.assert_allclose(found.embedding, np.tile(wanted[long].embedding, (6, 1)), atol=1e-5)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(call, range(18)))


def test_http_has_parts(server: HttpServer, client: BertClient) -> None:
    texts = usable(TEXTS)
    wanted, mean = client.encode(texts, long="chunks"), client.encode(texts, long="mean")
    reply = server.call("/encode", {"texts": texts, "long": "chunks", "show_tokens": True}).json
    assert reply["status"] == 200, reply
    assert reply["parts"] == [list(part) for part in wanted.parts]
    assert len(reply["tokens"]) == len(wanted.parts)
    np.testing.assert_allclose(reply["results"], wanted.embedding, atol=1e-6)
    reply = server.call("/v1/embeddings", {"input": texts, "long": "chunks"}).json
    assert [item["part"] for item in reply["data"]] == [list(part) for part in wanted.parts]
    np.testing.assert_allclose([item["embedding"] for item in reply["data"]], wanted.embedding, atol=1e-6)
    for path, body, rows in (
        ("/encode", {"texts": texts, "show_tokens": True}, lambda reply: reply["results"]),
        ("/v1/embeddings", {"input": texts}, lambda reply: [item["embedding"] for item in reply["data"]]),
        ("/embed", {"inputs": texts, "normalize": False}, lambda reply: reply),
    ):
        reply = server.call(path, {**body, "long": "mean"})
        np.testing.assert_allclose(rows(reply.json), mean, atol=1e-6)
        assert server.call(path, {**body, "long": "error"}).status in (413, 422)
        refused = server.call(path, {**body, "long": "mean", "truncate": True})
        assert refused.status in (400, 422)
        assert b"send only one of them" in refused.body
        assert b"must be one of cut, error, mean, chunks, late" in server.call(path, {**body, "long": "later"}).body
    sentences = {"source_sentence": texts[0], "sentences": texts[1:]}
    (first, *_) = server.call("/similarity", {"inputs": sentences, "parameters": {"long": "mean"}}).json
    assert abs(first - unit(mean)[1] @ unit(mean)[0]) < 1e-5
    for path, body in (("/embed", {"inputs": texts, "long": "chunks"}),
                       ("/similarity", {"inputs": sentences, "parameters": {"long": "chunks"}})):  # fmt: skip
        refused = server.call(path, body)
        assert refused.status in (400, 422)
        assert b"without offsets: use POST /encode" in refused.body
    octets = server.call("/encode", {"texts": texts, "long": "chunks"}, {"Accept": "application/octet-stream"})
    assert octets.status == 400
    assert b"has no offsets of the parts" in octets.body


def test_the_reply_on_the_wire(server: HttpServer) -> None:
    with RawClient(server.server) as raw:
        info = raw.info(["", "hello world. " * 10], b'{"long": "chunks"}')
        assert info["parts"][0] == [0, 0, 0]
        assert info["shape"] == [len(info["parts"]), 32]
        assert len(info["tokens"]) == len(info["parts"])
        info = raw.info(["", "hello world. " * 10], b'{"long": "mean", "num_tokens": true}')
        assert (info["shape"], len(info["tokens"]), "parts" in info) == ([2, 32], 2, False)
        assert info["num_tokens"] == sum(map(len, info["tokens"]))
        assert "long 'cut', but long is 'error'" in raw.error(["a"], b'{"long": "error", "truncate": true}')
        assert "set one of cut, error, mean, chunks, late" in raw.error(["a"], b'{"long": "middle"}')


def test_limits_count_parts(client: BertClient) -> None:
    """A text of 150,000 tokens has more parts than a request may have texts."""
    with pytest.raises(TooLargeError, match=r"have \d+ parts or more; the limit is 6000 \(-max_request_size\)"):
        client.encode(["a " * 150_000], long="chunks")
    assert client.encode([SHORT], long="mean").shape == (1, 32)
