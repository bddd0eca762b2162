"""The JSON of sparse vectors and of vectors of tokens, in pieces, and the bounds of their memory."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_serving.client import SparseVector
from bert_serving.client._encoding import EncodeCall
from bert_serving.client.protocol import OutputArray, Reply
from bert_serving.server.http import output_values, streaming
from bert_serving.server.http.memory_limit import STREAM_ABOVE, MemoryLimiter
from bert_serving.server.http.output_sizes import OutputSizes
from bert_serving.server.model.pipeline import SentencePipeline
from bert_serving.server.model.token_heads import LexicalHead, MultiHead, TextFrame


def parsed(pieces: streaming.Pieces) -> Any:
    """Returns the value of a list; the second call gives the same."""
    first, second = list(pieces()), list(pieces())
    assert first == second
    return json.loads(b"[%b]" % b"".join(first))


@pytest.fixture(autouse=True, scope="module")
def small_pieces() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "_PIECE_NUMBERS", 16)
        patch.setattr(output_values, "_PIECE_NUMBERS", 16)
        patch.setattr(output_values, "_PIECE_BYTES", 12)
        yield


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=5))
def test_pieces_of_sparse_vectors_are_one_list(sizes: list[int]) -> None:
    vectors = [
        SparseVector(np.arange(size, dtype=np.int32), np.linspace(0.1, 7, size, dtype=np.float32), ['"é'] * size)
        for size in sizes
    ]
    assert parsed(output_values.weights(vectors)) == [
        [{"index": index, "value": pytest.approx(value)} for index, value in zip(each.ids, each.weights, strict=True)]
        for each in vectors
    ]
    for found, vector in zip(parsed(output_values.columns(vectors)), vectors, strict=True):
        assert (found["indices"], found["tokens"]) == (vector.ids.tolist(), vector.tokens)
        np.testing.assert_array_equal(np.array(found["values"], np.float32), vector.weights)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=4), st.sampled_from([1, 3, 10, 40]))
def test_pieces_of_matrices_are_one_list(rows: list[int], width: int) -> None:
    random = np.random.default_rng(1)
    arrays = [random.normal(size=(count, width)).astype(np.float32) for count in rows]
    for found, coded, array in zip(
        parsed(output_values.matrices(arrays)), parsed(output_values.matrices(arrays, True)), arrays, strict=True
    ):
        np.testing.assert_array_equal(np.array(found, np.float32).reshape(array.shape), array)
        assert base64.b64decode(coded, validate=True) == array.tobytes()


def test_pieces_are_small() -> None:
    arrays = [np.ones((1000, 3), np.float32)]
    for is_base64 in (False, True):
        assert max(map(len, output_values.matrices(arrays, is_base64)())) < 100


def test_streamed_and_whole_responses_are_equal() -> None:
    places = [streaming.placeholder() for _ in range(2)]
    encoded = b'{"a": %b, "b": %b}' % tuple(map(bytes, places))
    lists = {
        bytes(places[0]): output_values.matrices([np.eye(2, dtype=np.float32)]),
        bytes(places[1]): output_values.matrices([]),
    }
    whole, streamed = (output_values.response(encoded, lists, size) for size in (1, STREAM_ABOVE + 1))
    assert streamed.is_streamed
    assert whole.get_data() == b"".join(streamed.iter_encoded())
    assert json.loads(whole.get_data()) == {"a": [[[1, 0], [0, 1]]], "b": []}


def sizes(prompts: dict[str, str] | None = None, expansion: int = 0) -> OutputSizes:
    heads = {
        "sparse": LexicalHead({}, ()),
        "multi": MultiHead({}, (), 10, frames={"query": TextFrame(None, 9, 0, expansion)}),
    }
    return OutputSizes(SentencePipeline("", (), prompts=prompts or {}, **heads), 100)


def test_requests_of_outputs_are_small_if_their_vectors_may_be_large() -> None:
    multi, both = {"outputs": ["multi"]}, {"outputs": ["multi", "dense", "sparse"]}
    bound = sizes()
    assert bound.batch_size(["a"], multi, 10**9) == 256
    assert bound.batch_size(["a" * 500], multi, 100 * 40 * 20) == 17  # of 100 tokens, and objects
    assert bound.batch_size(["a" * 500], both, 100 * 40 * 20) < 17
    assert bound.batch_size(["a"], {**multi, "prompt": "b" * 500}, 100 * 40 * 20) == 17
    assert bound.batch_size(["\ufdfa" * 10], multi, 100 * 40 * 20) == 17  # one character becomes 18
    assert bound.batch_size([["a"] * 500], multi, 1) == 1
    assert bound.batch_size([("a", "b" * 500)], multi, 100 * 40 * 20) == 17  # a pair
    assert (
        bound.of_texts(["a" * 500, ("b" * 500, "c")], multi) > 2 * 100 * 10 * 4 > bound.of_texts(["a"] * 40, multi) / 40
    )
    assert bound.batch_size(["a"], multi, 100_000) > sizes({"query": "b" * 50}).batch_size(["a"], multi, 100_000)
    assert bound.batch_size(["a"], multi, 100_000) > sizes(expansion=50).batch_size(["a"], multi, 100_000)


def test_memory_for_outputs_is_reserved_if_a_body_may_ask_for_them() -> None:
    limiter = MemoryLimiter(2**40, 2**39, row_bytes=8, outputs=[sizes()])
    body, asks, hides = b'{"texts": ["a"]}', b'{"texts": ["a"], "outputs": ["multi"]}', b'{"\\u006futputs": "multi"}'
    least = 100 * 10 * 4  # of a text of the most tokens
    assert limiter.needed(body, "/encode") < least
    assert limiter.needed(asks, "/encode") > limiter.needed(body, "/encode") + 1000
    assert limiter.needed(hides, "/encode") > least
    for path in ("/embed_sparse", "/embed_all"):
        assert limiter.needed(body, path) > limiter.needed(body, "/embed") + 1000
    ranks, embeds = (b'{"texts": ["a"], "%b": ["a"]}' % name for name in (b"query", b"xuery"))
    for path in ("/rerank", "/v2/rerank", "/", "/invocations"):
        assert limiter.needed(ranks, path) > limiter.needed(embeds, path) + 1000
    long = b'{"inputs": ["%b"]}' % (b"a" * 3000)
    assert limiter.needed(long, "/embed_all") > 100 * 10 * 4
    assert OutputSizes(None, 100).of_body(5, 100, True) == 0


def test_a_call_ends_when_its_outputs_are_too_large() -> None:
    class TooLarge(Exception):
        pass

    def check(size: int) -> None:
        if size > 1000:
            raise TooLarge

    call = EncodeCall(["a"] * 1000, 2, details=True, options={"outputs": ("multi",)}, check_size=check)
    vectors = np.ones((20, 4), np.float32)
    counts = np.array([10, 10], np.int32)
    described = [OutputArray("multi", "counts", "int32", (2,)), OutputArray("multi", "vectors", "float32", (20, 4))]
    info = {
        "outputs": [
            {"output": each.output, "name": each.name, "dtype": each.dtype, "shape": each.shape} for each in described
        ]
    }
    number = 0
    with pytest.raises(TooLarge):
        while True:
            while (chunk := call.next_chunk()) is not None:
                number += 1
                call.sent(number, chunk)
            assert len(call.in_flight) == 2
            first = call.in_flight[0]
            call.add_reply(first, Reply(first, info, memoryview(counts.tobytes() + vectors.tobytes())))
    assert number == 5
