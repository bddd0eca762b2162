"""``similarity()``, ``output_fmt="torch"`` and values that print well."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from bert_serving.client import AsyncBertClient, BertClient, InputTypeError, InputValueError, OptionError, TaskError
from bert_serving.client._encoding import Response
from bert_serving.client._similarity import as_vectors, cosine
from fake_server import CONFIG, FakeServer, run_fake_server, vectors

A, B = ["a", "bcd"], ["four", "seven..", "x"]


def column(rows: np.ndarray) -> np.ndarray:
    """Returns rows as an array of arrays, as a column of a table has them."""
    found = np.empty(len(rows), object)
    found[:] = list(rows)
    return found


def expected(a: Any, b: Any) -> np.ndarray:
    one, other = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return (one @ other.T) / np.outer(np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1))


def test_texts_and_vectors_are_compared() -> None:
    with run_fake_server() as server, BertClient(**server.ports) as bc:
        wanted = expected(vectors(A), vectors(B))
        before = bc.request_id
        for a, b in ((A, B), (tuple(A), iter(B))):
            found = bc.similarity(a, b)
            assert (found.shape, found.dtype) == ((2, 3), np.float32)
            np.testing.assert_allclose(found, wanted, rtol=1e-6)
        assert bc.request_id == before + 2, "one request encodes both"
        for b in (vectors(B), vectors(B).tolist(), vectors(B).astype(np.float16), list(vectors(B)), column(vectors(B))):
            np.testing.assert_allclose(bc.similarity(A, b), wanted, rtol=1e-3)
        np.testing.assert_allclose(bc.similarity(vectors(A)[0], B), wanted[:1], rtol=1e-6)
        assert bc.similarity([1, 0], [[0, 2], [3, 0], [0, 0]]).tolist() == [[0, 1, 0]]


def test_the_asyncio_client_compares_too() -> None:
    async def use(server: FakeServer) -> np.ndarray:
        async with AsyncBertClient(**server.ports) as bc:
            assert (await bc.similarity([1.0, 0.0], [2.0, 0.0])).tolist() == [[1.0]]
            return await bc.similarity(A, vectors(B))

    with run_fake_server() as server:
        np.testing.assert_allclose(asyncio.run(use(server)), expected(vectors(A), vectors(B)), rtol=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "kind", "reason"),
    [
        ("one text", B, InputTypeError, r"a must be a list of texts, .*pass a list: encode\(\[text\]\)"),
        (A, "one text", InputTypeError, "b must be a list of texts"),
        (A, [], InputValueError, "b must hold at least one item"),
        (A, ["x", float("nan")], InputTypeError, r"b: all texts must be str, but texts\[1\] .*dropna"),
        ([float("nan"), "x"], B, InputTypeError, r"a: all texts must be str, but texts\[0\] .*dropna"),
        (A, [[1.0, 2.0], [3.0]], InputTypeError, "b must be texts or vectors"),
        (np.zeros((2, 3, 4)), B, InputValueError, "a vector for each token; similarity.. needs one for each text"),
        (np.zeros((0, 4)), B, InputValueError, r"a must be vectors \[n, d\], but has the shape \(0, 4\)"),
        ([[1.0, np.inf]], [[1.0, 1.0]], InputValueError, "a has a number that is not finite"),
        (A, [[1.0, 1.0]], InputValueError, "a has vectors of 4 dimensions and b of 2"),
        (A, None, InputTypeError, "b must be a list"),
        (A, 7, InputTypeError, "b must be a list"),
        (A, [None], InputTypeError, "dropna"),
        (A, [["a", "token"]], InputTypeError, r"b must be texts or vectors, but its first item is list .*token"),
        (np.array([[True]]), B, InputTypeError, "a must be texts or vectors, but its first item is ndarray"),
        (np.array([[1j]]), B, InputTypeError, "a must be texts or vectors, but its first item is ndarray"),
        (memoryview(np.ones((2, 2))), B, InputTypeError, "a must be a list of texts, but received memoryview"),
        (A, [("one", "pair")], InputTypeError, "only b has pairs; pass texts as a and b, or pairs as both"),
        (np.ma.array([[1.0, 2.0]], mask=[[True, False]]), B, InputValueError, "a has masked numbers"),
        (np.array([[1, None]]), B, InputTypeError, "a must be texts or vectors"),
    ],
)
def test_arguments_that_cannot_be_compared(a: Any, b: Any, kind: type[Exception], reason: str) -> None:
    with run_fake_server() as server, BertClient(**server.ports) as bc, pytest.raises(kind, match=reason):
        bc.similarity(a, b)


def test_scores_are_not_compared() -> None:
    config = {**CONFIG, "task": "classify", "labels": ["x", "y"]}
    with run_fake_server(config=config) as server, BertClient(**server.ports) as bc:
        with pytest.raises(TaskError, match="this server has -task classify"):
            bc.similarity(A, B)
        assert bc.similarity([1, 0], [1, 0]) == 1, "vectors need no server"


FLOATS = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=2), elements=FLOATS))
def test_similarities_are_in_range_and_symmetric(rows: np.ndarray) -> None:
    found = cosine(as_vectors(rows, "a"), as_vectors(rows, "b"))
    assert found.shape == (len(rows), len(rows))
    assert np.abs(found).max() <= 1
    np.testing.assert_allclose(found, found.T, atol=1e-6)
    nonzero = rows.any(axis=1)
    np.testing.assert_allclose(np.diag(found), nonzero.astype(np.float32), atol=1e-5)


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    with run_fake_server() as server, BertClient(**server.ports, output_fmt="torch") as bc:
        found = bc.encode(A)
        assert isinstance(found, torch.Tensor)
        assert (tuple(found.shape), found.dtype) == ((2, 4), torch.float32)
        found[0, 0] = 7  # writable
        bc.encode(A, blocking=False)
        bc.encode(B, blocking=False)
        together = bc.fetch_all(concat=True)
        assert isinstance(together, torch.Tensor)
        assert together.tolist() == vectors([*A, *B]).tolist()
        similarities = bc.similarity(bc.encode(A), B)
        assert isinstance(similarities, torch.Tensor)
        np.testing.assert_allclose(similarities.numpy(), expected(vectors(A), vectors(B)), rtol=1e-6)
        bc.encode(A, blocking=False)
        (response,) = bc.fetch()
        assert isinstance(response.embedding, torch.Tensor)
        assert repr(response) == f"Response(id={response.id}, shape=(2, 4))"


def test_missing_pytorch_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(OptionError, match=r'output_fmt="torch" needs the package torch .*: pip install torch'):
        BertClient(output_fmt="torch")


def test_values_print_well() -> None:
    assert repr(Response(7, np.zeros((2, 384), np.float32), "")) == "Response(id=7, shape=(2, 384))"
    assert str([Response(8, [[1.0]], "")]) == "[Response(id=8, shape=(1, 1))]"
    with run_fake_server() as server, BertClient(**server.ports, identity=b"user\xff") as bc:
        assert bc.status["identity"] == b"user\xff"
        assert bc.status["identity_text"] == "user\\xff"
