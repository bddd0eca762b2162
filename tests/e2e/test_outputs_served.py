"""Serves models with several kinds of vectors, and compares these with those of the libraries that define them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from output_models import TEXTS, write_splade

from bert_serving.client import AsyncBertClient, BertClient, InvalidRequestError, OptionError, VectorSpaceError
from http_calls import HttpServer, serving_http

pytest.importorskip("sentence_transformers.sparse_encoder")


@pytest.fixture(scope="module")
def splade(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HttpServer, Any]]:
    """Serves a SPLADE folder; also yields the model of the library."""
    folder = tmp_path_factory.mktemp("splade")
    model = write_splade(folder)
    with serving_http(model_dir=folder) as server:
        yield server, model


def dense_of(vectors: Any, width: int) -> np.ndarray:
    """Returns sparse vectors as an array ``[n, width]``."""
    array = np.zeros((len(vectors), width), np.float32)
    for row, vector in enumerate(vectors):
        array[row, vector.ids] = vector.weights
    return array


def test_sparse_vectors_are_those_of_the_library(splade: tuple[HttpServer, Any]) -> None:
    server, model = splade
    expected = model.encode(TEXTS).to_dense().numpy()
    with server.zmq_client() as client:
        assert client.server_config["outputs"] == ["sparse"]
        for batch_size in (4096, 2):
            found = client.encode(TEXTS, outputs=["sparse"], batch_size=batch_size)
            assert (found.dense, found.multi, found.tokens) == (None, None, "")
            assert found.sparse is not None
            np.testing.assert_allclose(dense_of(found.sparse, expected.shape[1]), expected, atol=1e-5)
        for row, decoded in enumerate(model.decode(model.encode(TEXTS))):
            weights = found.sparse[row].to_dict()
            assert weights == pytest.approx(dict(decoded), abs=1e-5)

    async def encode() -> Any:
        async with AsyncBertClient(port=server.server.port, port_out=server.server.port_out) as client:
            return await client.encode(TEXTS[:1], outputs=["sparse"])

    np.testing.assert_allclose(dense_of(asyncio.run(encode()).sparse, expected.shape[1]), expected[:1], atol=1e-5)
    values = server.call("/embed_sparse", {"inputs": TEXTS[:2]}).json
    for row in range(2):
        assert {value["index"]: value["value"] for value in values[row]} == pytest.approx(
            {index: expected[row, index] for index in np.flatnonzero(expected[row]).tolist()}, abs=1e-5
        )


def test_requests_that_do_not_fit_are_refused(splade: tuple[HttpServer, Any]) -> None:
    server, _ = splade
    with server.zmq_client() as client:
        for options, message in (
            ({}, r"no dense vectors.*set outputs to \['sparse'\]"),
            ({"outputs": ["multi"]}, r"outputs has 'multi'.*it has sparse"),
            ({"outputs": ["sparse"], "normalize": True}, "normalize is for dense vectors"),
        ):
            with pytest.raises(InvalidRequestError, match=message):
                client.encode(["x"], **options)
        for options, message in (
            ({"outputs": "sparse"}, "must be a list"),
            ({"outputs": ["sparse", "sparse"]}, "each kind of vectors once"),
            ({"outputs": ["lexical"]}, "has 'lexical'"),
            ({"outputs": ["sparse"], "long": "chunks"}, "omit outputs, or omit long"),
            ({"outputs": ["sparse"], "blocking": False}, "blocking calls"),
        ):
            with pytest.raises(OptionError, match=message):
                client.encode(["x"], **options)
        space = client.vector_space
        assert client.server_config["output_spaces"] == {"sparse": space}
        assert client.encode(["x"], outputs=["sparse"], vector_space=space).sparse
        with pytest.raises(VectorSpaceError):
            client.encode(["x"], outputs=["sparse"], vector_space="0" * 16)
    assert server.call("/embed", {"inputs": "x"}).status == 424
    assert server.call("/v1/embeddings", {"input": "x"}).status == 424
    assert server.call("/embed_all", {"inputs": "x"}).status == 424
    reply = server.call("/encode", {"texts": ["x"]})
    assert (reply.status, "sparse" in reply.json["description"]) == (400, True)
    assert server.call("/info").json["model_type"] == {"embedding": {"pooling": "splade"}}
    assert server.call("/readyz").status == 200


def test_servers_of_dense_vectors_name_what_they_have(server: Any) -> None:
    with BertClient(port=server.port, port_out=server.port_out) as client:
        assert client.server_config["outputs"] == ["dense"]
        np.testing.assert_array_equal(client.encode(TEXTS[:1], outputs=["dense"]).dense, client.encode(TEXTS[:1]))
        with pytest.raises(InvalidRequestError, match="it has dense: set outputs"):
            client.encode(["x"], outputs=["dense", "sparse"])
