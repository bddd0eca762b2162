"""Serves models with several kinds of vectors, and compares these with those of the libraries that define them."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from output_models import TEXTS, write_colbert, write_m3, write_splade

from bert_serving.client import (
    AsyncBertClient,
    BertClient,
    ConcurrentBertClient,
    EncodedOutputs,
    InvalidRequestError,
    OptionError,
    TaskError,
    TooLargeError,
    VectorSpaceError,
)
from bert_serving.client._cli.encode import main
from bert_serving.server.http.memory_limit import STREAM_ABOVE
from doc_examples import examples_of
from http_calls import HttpServer
from servers import Server, free_ports

pytest.importorskip("sentence_transformers.sparse_encoder")


#: Value of ``-http_max_body``.
MAX_BODY = 4_000_000
#: Keys of a name without limits, and of one with a limit that is never reached.
KEY, LIMITED_KEY = "key-of-all-requests", "key-of-limited-ones"


class Served(NamedTuple):
    """Servers of several models, and the models of the libraries."""

    splade: HttpServer
    m3: HttpServer
    splade_model: Any
    m3_model: Any
    m3_heads: Any
    colbert_model: Any


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serves a SPLADE folder, and one in the layout of BGE-M3 with a late interaction model beside it."""
    splade, m3, colbert = (tmp_path_factory.mktemp(name) for name in ("splade", "m3", "colbert"))
    expansion = {"strategy": "fixed", "attend": False, "length": 12}
    models = write_splade(splade), *write_m3(m3), write_colbert(colbert, document_length=20, query_expansion=expansion)
    keys = tmp_path_factory.mktemp("keys") / "keys.toml"
    keys.write_text(f'[all]\nkeys = ["{KEY}"]\n[limited]\nkeys = ["{LIMITED_KEY}"]\ntokens_per_minute = 1_000_000\n')
    more = ("-model", f"colbert={colbert}", "-http_max_body", str(MAX_BODY), "-http_keys", str(keys))
    started = []  # at once
    for folder, args, key in ((splade, (), ""), (m3, more, KEY)):
        (port,) = free_ports(1)
        started.append(HttpServer(Server("-http_port", str(port), *args, model_dir=folder), port, key))
    try:
        for each in started:
            each.server.wait_ready()
        yield Served(*started, *models)
        for each in started:
            each.server.stop()
    finally:
        for each in started:
            each.server.kill()


def dense_of(vectors: Any, width: int) -> np.ndarray:
    """Returns sparse vectors as an array ``[n, width]``."""
    array = np.zeros((len(vectors), width), np.float32)
    for row, vector in enumerate(vectors):
        array[row, vector.ids] = vector.weights
    return array


def weights_of(vector: Any) -> dict[int, float]:
    """Returns token id → weight."""
    return dict(zip(vector.ids.tolist(), vector.weights.tolist(), strict=True))


def test_sparse_vectors_are_those_of_the_library(served: Served) -> None:
    server, model = served.splade, served.splade_model
    assert "]:pooling: weights of the tokens of the vocabulary, SPLADE of layer -1" in server.server.log
    assert "REDUCE_MEAN" not in server.server.log
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
        ports = server.server.port, server.server.port_out
        async with AsyncBertClient("localhost", *ports, check_length=False) as client:
            found = await client.encode(TEXTS[:1], outputs=["sparse"])
            return found, await client.rerank(TEXTS[3], TEXTS, by="sparse")

    found, ranked = asyncio.run(encode())
    np.testing.assert_allclose(dense_of(found.sparse, expected.shape[1]), expected[:1], atol=1e-5)
    scores = expected @ expected[3]
    assert {each.index: each.score for each in ranked} == pytest.approx(dict(enumerate(scores.tolist())), rel=1e-4)
    assert [each.score for each in ranked] == sorted((each.score for each in ranked), reverse=True)
    values = server.call("/embed_sparse", {"inputs": TEXTS[:2]}).json
    for row in range(2):
        assert {value["index"]: value["value"] for value in values[row]} == pytest.approx(
            {index: expected[row, index] for index in np.flatnonzero(expected[row]).tolist()}, abs=1e-5
        )


def test_requests_that_do_not_fit_are_refused(served: Served) -> None:
    server = served.splade
    with server.zmq_client() as client:
        for options, message in (
            ({}, r"no dense vectors.*set outputs to \['sparse'\]"),
            ({"outputs": ["multi"]}, r"outputs has 'multi'.*it has sparse"),
            ({"outputs": ["sparse"], "normalize": True}, "normalize is for dense vectors"),
            ({"outputs": ["sparse"], "pooling": "CLS_TOKEN"}, "this server returns sparse vectors: omit pooling"),
        ):
            with pytest.raises(InvalidRequestError, match=message):
                client.encode(["x"], **options)
        for options, message in (
            ({"outputs": "sparse"}, "must be a list"),
            ({"outputs": ["sparse", "sparse"]}, "each kind of vectors once"),
            ({"outputs": ["lexical"]}, "has 'lexical'"),
            ({"outputs": ["sparse"], "long": "chunks"}, "omit outputs, or omit long"),
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
    assert (reply.status, "use /embed_sparse" in reply.json["description"]) == (424, True)
    assert server.call("/info").json["model_type"] == {"embedding": {"pooling": "splade"}}
    assert server.call("/readyz").status == 200


def test_all_outputs_come_from_one_request(served: Served) -> None:
    dense, wanted = served.m3_model.encode(TEXTS), [served.m3_heads.encode(text) for text in TEXTS]
    with served.m3.zmq_client() as client:
        assert client.server_config["outputs"] == ["dense", "sparse", "multi"]
        spaces = client.server_config["output_spaces"]
        assert len({client.vector_space, *spaces.values()}) == 3
        before = client.server_status["statistic"]["num_data_request"]
        found = client.encode(TEXTS, outputs=["multi", "dense", "sparse"], vector_space=spaces["sparse"])
        assert client.server_status["statistic"]["num_data_request"] == before + 1
        np.testing.assert_allclose(found.dense, dense, atol=1e-5)
        np.testing.assert_allclose(client.encode(TEXTS), dense, atol=1e-5)
        assert found.sparse is not None
        assert found.multi is not None
        for sparse, multi, (weights, vectors) in zip(found.sparse, found.multi, wanted, strict=True):
            assert dict(zip(sparse.ids.tolist(), sparse.weights.tolist(), strict=True)) == pytest.approx(
                weights, abs=1e-5
            )
            assert sparse.tokens == served.m3_model.tokenizer.convert_ids_to_tokens(sparse.ids.tolist())
            np.testing.assert_allclose(multi, vectors, atol=1e-5)
        small = client.encode(
            TEXTS, outputs=["dense", "multi"], dimensions=8, normalize=False, embedding_type="float16"
        )
        assert (small.dense.shape, small.dense.dtype) == ((len(TEXTS), 8), np.float16)
    rows = served.m3.call("/embed_all", {"inputs": TEXTS[:2]}).json
    for row, (_, vectors) in zip(rows, wanted, strict=False):
        np.testing.assert_allclose(row, vectors, atol=1e-5)
    assert served.m3.call("/embed", {"inputs": "x"}).status == 200


def decoded(text: str, dtype: str, shape: list[int]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.dtype(dtype).newbyteorder("<")).reshape(shape)


def test_encode_over_http_has_the_outputs_of_the_client(served: Served) -> None:
    texts = TEXTS * 30  # large enough for a thread, and for several requests to the service
    with served.m3.zmq_client() as client:
        wanted = client.encode(texts, outputs=["dense", "sparse", "multi"])
    assert wanted.sparse is not None
    assert wanted.multi is not None
    for number in (1, len(texts)):
        body = {"texts": texts[:number], "outputs": ["multi", "dense", "sparse"], "id": 7}
        found = served.m3.call("/encode", body).json
        assert (found["id"], found["status"], found["result"]) == (7, 200, found["results"])
        np.testing.assert_allclose(found["results"], wanted.dense[:number], atol=1e-5)
        coded = served.m3.call("/encode", {**body, "encoding_format": "base64", "embedding_type": "float16"}).json
        assert (coded["dtype"], coded["shape"], coded["multi_dtype"]) == ("float16", [number, 32], "float32")
        for row, sparse in enumerate(wanted.sparse[:number]):
            other = found["sparse"][row]
            assert (other["indices"], other["tokens"]) == (sparse.ids.tolist(), sparse.tokens)
            np.testing.assert_allclose(other["values"], sparse.weights, atol=1e-5)
            np.testing.assert_allclose(found["multi"][row], wanted.multi[row], atol=1e-5)
            again = decoded(coded["multi"][row], coded["multi_dtype"], coded["multi_shapes"][row])
            np.testing.assert_allclose(again, wanted.multi[row], atol=1e-5)
    alone = served.splade.call("/encode", {"texts": TEXTS[:2], "outputs": ["sparse"]}).json
    assert {"result", "results", "multi", "dtype"}.isdisjoint(alone)
    assert [len(each["indices"]) for each in alone["sparse"]]
    dense = served.m3.call("/encode", {"texts": ["x"], "outputs": ["dense"]}, {"Accept": "application/octet-stream"})
    assert dense.headers["x-shape"] == "1,32"


def test_encode_over_http_refuses_what_does_not_fit(served: Served) -> None:
    for server, fields, status, words in (
        (served.splade, {}, 424, "it has sparse: use /embed_sparse, or 'outputs' of /encode"),
        (served.splade, {"outputs": ["dense"]}, 424, "'outputs' has dense, but this server has sparse vectors"),
        (served.m3, {"outputs": "sparse"}, 400, "must be a list"),
        (served.m3, {"outputs": []}, 400, "must be a list"),
        (served.m3, {"outputs": ["lexical"]}, 400, "must name some of dense, sparse, multi"),
        (served.m3, {"outputs": [["sparse"]]}, 400, "must name some of dense, sparse, multi"),
        (served.m3, {"outputs": ["multi", "multi"]}, 400, "each once"),
        (served.m3, {"outputs": ["multi"], "long": "chunks"}, 400, "'long' is 'chunks'"),
        (served.m3, {"outputs": ["multi"], "dimensions": 8}, 400, "dimensions is for dense vectors"),
    ):
        reply = server.call("/encode", {"texts": ["x"], **fields})
        assert (reply.status, words in reply.json.get("description", "")) == (status, True), (fields, reply.body)
    raw = served.m3.call("/encode", {"texts": ["x"], "outputs": ["multi"]}, {"Accept": "application/octet-stream"})
    assert (raw.status, "dense vectors alone" in raw.json["description"]) == (400, True)
    assert served.m3.call("/embed", {"inputs": "x", "outputs": ["sparse"]}).status == 422


def test_large_outputs_are_streamed_and_too_large_ones_refused(served: Served) -> None:
    with served.m3.zmq_client() as client:
        (wanted,) = client.encode(TEXTS[5:], outputs=["multi"]).multi
    number = STREAM_ABOVE // wanted.nbytes + 1
    for path, name, body in (
        ("/encode", "multi", {"texts": [TEXTS[5]] * number, "outputs": ["multi"]}),
        ("/embed_all", None, {"inputs": [TEXTS[5]] * number}),
    ):
        reply = served.m3.call(path, body)
        found = np.array(reply.json if name is None else reply.json[name], np.float32)
        assert int(reply.headers["content-length"]) == len(reply.body)
        np.testing.assert_allclose(found, np.broadcast_to(wanted, found.shape), atol=1e-5)
        assert len(found) == number
    texts = [TEXTS[5]] * (MAX_BODY // wanted.nbytes + 1)
    for path, body in (
        ("/encode", {"texts": texts, "outputs": ["multi"]}),
        ("/rerank", {"query": "x", "texts": texts, "by": "multi"}),
    ):
        reply = served.m3.call(path, body)
        assert (reply.status, b"have more than" in reply.body) == (413, True), reply.body


def test_outputs_of_names_with_limits_are_refused_before_they_are_computed(served: Served) -> None:
    limited = {"Authorization": f"Bearer {LIMITED_KEY}"}
    text_bytes = 64 * 32 * 4  # of the longest text
    for path, body in (
        ("/encode", {"texts": [TEXTS[5]], "outputs": ["multi", "dense"]}),
        ("/embed_all", {"inputs": [TEXTS[5]]}),
        ("/rerank", {"query": "x", "texts": [TEXTS[5]], "by": "multi"}),
    ):
        plain, found = served.m3.call(path, body), served.m3.call(path, body, limited)
        assert (plain.status, plain.json) == (200, found.json)
        many = {
            name: value * (MAX_BODY // text_bytes + 1) if value == [TEXTS[5]] else value for name, value in body.items()
        }
        reply = served.m3.call(path, many, limited)
        assert (reply.status, b"of a name with limits is not divided" in reply.body) == (413, True), reply.body


def test_the_sink_keeps_no_vectors_of_tokens(served: Served) -> None:
    sink, texts = served.m3.server.child("sink"), [f"{TEXTS[5]} {number}" for number in range(240)]
    with served.m3.zmq_client() as client:
        num_bytes = sum(each.nbytes for each in client.encode(texts, outputs=["multi"]).multi)
        client.encode(texts, outputs=["multi"])
        before = sink.memory_info().rss
        for _ in range(12):
            client.encode(texts, outputs=["multi"])
    assert num_bytes > 1_500_000
    assert sink.memory_info().rss < before + 6 * num_bytes


def test_requests_with_and_without_outputs_share_a_server(served: Served) -> None:
    """Requests of several kinds, some with equal texts, run at once; each gets its own outputs."""
    dense, wanted = served.m3_model.encode(TEXTS), [served.m3_heads.encode(text) for text in TEXTS]
    kinds = [None, ["sparse"], ["multi", "dense"], None, ["dense", "sparse", "multi"]]

    async def encode_all() -> list[Any]:
        ports = served.m3.server.port, served.m3.server.port_out
        async with AsyncBertClient("localhost", *ports, check_length=False) as client:
            calls = [client.encode(TEXTS, outputs=kinds[number % 5]) for number in range(40)]
            return await asyncio.gather(*calls)

    for number, found in enumerate(asyncio.run(encode_all())):
        names = kinds[number % 5]
        np.testing.assert_allclose(
            found if names is None else dense if "dense" not in names else found.dense, dense, atol=1e-5
        )
        if names and "sparse" in names:
            for sparse, (weights, _) in zip(found.sparse, wanted, strict=True):
                assert dict(zip(sparse.ids.tolist(), sparse.weights.tolist(), strict=True)) == pytest.approx(
                    weights, abs=1e-5
                )
        if names and "multi" in names:
            for multi, (_, vectors) in zip(found.multi, wanted, strict=True):
                np.testing.assert_allclose(multi, vectors, atol=1e-5)


def test_calls_that_do_not_wait_have_outputs(served: Served) -> None:
    kinds = [["dense"], ["sparse"], ["multi", "dense"], ["dense", "sparse", "multi"]]
    ports = {"port": served.m3.server.port, "port_out": served.m3.server.port_out}

    def check(found: Any, names: list[str], rows: slice) -> None:
        assert isinstance(found, EncodedOutputs)
        assert set(found.names) == set(names)
        for name in names:
            mine, others = getattr(found, name), getattr(wanted, name)[rows]
            assert len(mine) == len(others)
            for one, other in zip(mine, others, strict=True):
                if name == "sparse":
                    assert one.to_dict() == pytest.approx(other.to_dict(), abs=1e-5)
                else:
                    np.testing.assert_allclose(one, other, atol=1e-5)

    everything = slice(0, len(TEXTS))
    with BertClient(**ports, check_length=False) as client:
        wanted = client.encode(TEXTS, outputs=["dense", "sparse", "multi"])
        for names in (*kinds, None):
            client.encode(TEXTS, blocking=False, outputs=names)
        *found, plain = client.fetch_all() or ()
        for names, each in zip(kinds, found, strict=True):
            check(each, names, everything)
        np.testing.assert_allclose(plain, wanted.dense, atol=1e-5)
        for names in kinds:
            for start in (0, 2):
                client.encode(TEXTS[start : start + 2], blocking=False, outputs=names)
            check(client.fetch_all(concat=True), names, slice(0, 4))
            for response in client.encode_async(iter([TEXTS, TEXTS[:1]]), outputs=names):
                rows = slice(0, len(response.embedding))
                check(response.outputs, names, rows)
                assert np.shape(response.embedding) == (rows.stop, 32 if "dense" in names else 0)
        client.encode(TEXTS, blocking=False, outputs=["sparse"])
        client.encode(TEXTS, blocking=False, outputs=["multi"])
        with pytest.raises(OptionError, match="have other outputs"):
            client.fetch_all(concat=True)
        assert [each.names for each in client.fetch_all() or ()] == [("sparse",), ("multi",)]

    async def encode_batches() -> None:
        async with AsyncBertClient("localhost", *ports.values(), output_fmt="list", check_length=False) as client:
            for names in kinds:
                async for response in client.encode_async([TEXTS], outputs=names):
                    check(response.outputs, names, everything)
                    assert isinstance(response.embedding, list)

    asyncio.run(encode_batches())
    with ConcurrentBertClient(2, **ports, check_length=False) as client:
        check(client.encode(TEXTS, outputs=kinds[3]), kinds[3], everything)


def test_corpora_have_outputs(served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON lines and Parquet have a field for each output, and none for a row without a text."""
    pq = pytest.importorskip("pyarrow.parquet")
    at = ["-port", str(served.m3.server.port), "-port_out", str(served.m3.server.port_out), "-quiet"]
    names = ["dense", "sparse", "multi"]
    source, lines = tmp_path / "a.txt", [*TEXTS, ""]
    source.write_text("".join(f"{text}\n" for text in lines))
    with served.m3.zmq_client() as client:
        wanted = client.encode(TEXTS, outputs=names)
    assert wanted.sparse is not None
    assert wanted.multi is not None

    def check(row: int, dense: Any, sparse: Any, multi: Any) -> None:
        np.testing.assert_allclose(dense, wanted.dense[row], atol=1e-5)
        assert (sparse["indices"], sparse["tokens"]) == (wanted.sparse[row].ids.tolist(), wanted.sparse[row].tokens)
        np.testing.assert_allclose(sparse["values"], wanted.sparse[row].weights, atol=1e-5)
        np.testing.assert_allclose(multi, wanted.multi[row], atol=1e-5)

    jsonl = tmp_path / "a.jsonl"
    assert (
        main([str(source), "-o", str(jsonl), "-blank", "zeros", "-batch_size", "4", "-outputs", *reversed(names), *at])
        == 0
    )
    *rows, blank = [json.loads(line) for line in jsonl.read_text().splitlines()]
    with served.m3.zmq_client() as client:
        assert {row["vector_space"] for row in rows} == {client.vector_space}  # that of "vector"
    for number, row in enumerate(rows):
        check(number, row["vector"], row["sparse"], row["multi"])
    assert (blank["sparse"], blank["multi"], any(blank["vector"])) == (None, None, False)
    for value, has in (("null", False), ("zeros", True)):
        out = tmp_path / value
        options = ["-blank", value, "-part_rows", "4", "-outputs", *names]
        assert main([str(source), "-o", f"{out}/", *options, *at]) == 0
        *rows, blank = pq.read_table(out).to_pylist()
        for number, row in enumerate(rows):
            check(number, row["vector"], row["vector_sparse"], row["vector_multi"])
        empty = {"indices": [], "values": [], "tokens": []}
        assert (blank["vector_sparse"], blank["vector_multi"]) == ((empty, []) if has else (None, None))
        assert (blank["vector"] is None) != has
    out = tmp_path / "sparse"
    assert main([str(source), "-o", f"{out}/", "-blank", "null", "-outputs", "sparse", *at]) == 0
    assert main([str(source), "-o", f"{out}/", "-blank", "null", "-outputs", "sparse", "-resume", *at]) == 0
    assert main([str(source), "-o", f"{out}/", "-blank", "null", "-outputs", "multi", "-resume", *at]) == 1
    assert "-outputs was ['sparse'] and is now ['multi']" in capsys.readouterr().err
    assert pq.read_table(out).column_names == ["text", "vector_sparse"]
    for options, words in (
        (["-outputs", "sparse", "-format", "npy"], "not npy"),
        (["-outputs", "sparse", "-long", "mean"], "for dense vectors alone"),
        (["-outputs", "sparse", "sparse"], "a kind twice"),
    ):
        with pytest.raises(SystemExit):
            main([str(source), "-o", f"{tmp_path}/other/", *options, *at])
        assert words in capsys.readouterr().err
    front = ["-port", str(served.splade.server.port), "-port_out", str(served.splade.server.port_out)]
    assert main([str(source), "-o", str(tmp_path / "b.jsonl"), *front]) == 1
    assert "set outputs to ['sparse']" in capsys.readouterr().err


def test_late_interaction_has_queries_and_documents(served: Served) -> None:
    model, server = served.colbert_model, served.m3.server
    queries, documents = (each(TEXTS, convert_to_numpy=True) for each in (model.encode_query, model.encode_document))
    with BertClient(port=server.port, port_out=server.port_out, model="colbert", check_length=False) as client:
        assert client.server_config["outputs"] == ["multi"]
        for name, wanted in (("query", queries), ("document", documents)):
            found = client.encode(TEXTS, outputs=["multi"], prompt_name=name).multi
            for mine, theirs in zip(found, wanted, strict=True):
                np.testing.assert_allclose(mine, np.asarray(theirs), atol=1e-5)
        call = client._encode_in_detail(TEXTS, False, 9, [], outputs=["multi"], prompt_name="query")
        # Each query has 12 tokens; that which is cut is reported.
        assert (call.num_tokens, call.truncated) == (12 * len(TEXTS), [row for row in (1, 5) if row in call.truncated])
        assert 5 in call.truncated
        with pytest.raises(InvalidRequestError, match=r"no dense vectors.*it has multi"):
            client.encode(["x"])
        with pytest.raises(
            InvalidRequestError, match=r"set outputs to \['multi'\], or model to .*m3.*, which has sparse"
        ):
            client.encode(["x"], outputs=["sparse"])
        ranked = client.rerank(TEXTS[0], TEXTS, by="multi")
        scores = [float((np.asarray(queries[0]) @ np.asarray(each).T).max(1).sum()) for each in documents]
        assert [each.score for each in ranked] == pytest.approx(sorted(scores, reverse=True), abs=1e-4)
        assert {each.index: each.score for each in ranked} == pytest.approx(dict(enumerate(scores)), abs=1e-4)
        assert len(client.rerank(TEXTS[0], TEXTS, top_n=2, by="multi")) == 2
        with pytest.raises(InvalidRequestError, match="outputs has 'sparse'"):
            client.rerank(TEXTS[0], TEXTS, by="sparse")
        with pytest.raises(TooLargeError, match=r"the query has \d+ tokens"):
            client.rerank(TEXTS[5], TEXTS[:1], by="multi", truncate=False)
        with pytest.raises(TooLargeError, match=r"document 4 has \d+ tokens"):
            client.rerank(TEXTS[0], [*["x"] * 4, TEXTS[5]], by="multi", truncate=False, batch_size=2)
        with pytest.raises(TaskError, match="pass by='multi'"):
            client.rerank(TEXTS[0], TEXTS)
    for query, text, name in (("x", TEXTS[5], "document 1"), (TEXTS[5], "x", "the query")):
        body = {"query": query, "documents": ["x", text], "model": "colbert", "truncate": False}
        reply = served.m3.call("/v1/rerank", body)
        assert (reply.status, f"{name} has" in reply.json["error"]["message"]) == (413, True), reply.body
    for source, name in (("x", "sentence 1"), (TEXTS[5], "source_sentence")):
        inputs = {"source_sentence": source, "sentences": ["x", TEXTS[5] if source == "x" else "x"]}
        reply = served.m3.call("/similarity", {"inputs": inputs, "parameters": {"truncate": False}})
        assert (reply.status, f"{name} has" in reply.json["error"]) == (413, True), reply.body
    reply = served.m3.call("/encode", {"texts": ["x"], "model": "colbert"})
    assert (reply.status, "use /embed_all" in reply.json["description"]) == (424, True)
    body = {"inputs": TEXTS[:2], "model": "colbert", "prompt_name": "query"}
    for row, theirs in zip(served.m3.call("/embed_all", body).json, queries, strict=False):
        np.testing.assert_allclose(row, np.asarray(theirs), atol=1e-5)


DOCUMENTS = [*TEXTS, "hello world ||| a cat", "nothing of it"]


def ranks_of(server: HttpServer, path: str, body: dict[str, Any]) -> dict[int, float]:
    """Returns index → score in the order of the reply."""
    is_tei = path in ("/rerank", "/", "/invocations")
    reply = server.call(path, {"query": TEXTS[0], "texts" if is_tei else "documents": DOCUMENTS, **body})
    assert reply.status == 200, reply.body
    if is_tei:
        return {each["index"]: each["score"] for each in reply.json}
    assert reply.json["usage"]["total_tokens"] > len(DOCUMENTS)
    return {each["index"]: each["relevance_score"] for each in reply.json["results"]}


def test_rankings_over_http_are_those_of_the_client(served: Served) -> None:
    """Also of the only output of a model without the field, which programs of other APIs do not send."""
    for server, model, by in (
        (served.splade, None, "sparse"),
        (served.m3, None, "sparse"),
        (served.m3, None, "multi"),
        (served.m3, "colbert", "multi"),
    ):
        ports = {"port": server.server.port, "port_out": server.server.port_out}
        with BertClient(**ports, model=model, check_length=False) as client:
            expected = [(each.index, each.score) for each in client.rerank(TEXTS[0], DOCUMENTS, by=by)]
        named = {} if model is None else {"model": model}
        implied = [] if server is served.m3 and model is None else [named]
        for path in ("/rerank", "/v1/rerank", "/v2/rerank", "/", "/invocations"):
            for fields in ({**named, "by": by}, *implied):
                found = ranks_of(server, path, fields)
                assert list(found) == [index for index, _ in expected]
                assert found == pytest.approx(dict(expected), rel=1e-6, abs=1e-6)
    large = {
        "query": TEXTS[0],
        "documents": ["who is it? it is me"] * 400,
        "by": "multi",
    }  # in a thread, several requests
    (score,) = {each["relevance_score"] for each in served.m3.call("/v1/rerank", large).json["results"]}
    assert score == pytest.approx(ranks_of(served.m3, "/rerank", {"by": "multi"})[3], rel=1e-6)
    reply = served.m3.call("/rerank", {**large, "raw_scores": True, "top_n": 1, "return_documents": True}).json
    assert [each["document"] for each in reply["results"]] == large["documents"][:1]


def test_processes_without_an_engine_multiply_with_one_thread(served: Served) -> None:
    """Small products of many threads wait for each other, and take the cores of workers."""
    for name in ("http", "sink", "ventilator"):
        found = served.m3.server.child(name).environ()
        assert (found["OMP_NUM_THREADS"], found["OPENBLAS_NUM_THREADS"], found["MKL_NUM_THREADS"]) == ("1", "1", "1")
    worker = served.m3.server.child("worker-0").environ()
    assert worker["OPENBLAS_NUM_THREADS"] == worker["OMP_NUM_THREADS"]


def test_rankings_that_do_not_fit_are_refused(served: Served) -> None:
    for server, fields, status, words in (
        (served.m3, {}, 424, "dense, sparse, multi vectors and no cross-encoder: set 'by' to sparse or multi"),
        (served.m3, {"by": "dense"}, 422, "'by' must be one of sparse, multi"),
        (served.m3, {"by": ["multi"]}, 422, "'by' must be one of sparse, multi"),
        (served.splade, {"by": "multi"}, 424, "'by' is multi, but this server has sparse vectors"),
        (served.m3, {"by": "sparse", "model": "colbert"}, 424, "'by' is sparse, but this server has multi vectors"),
        (served.m3, {"by": "multi", "texts": ["x", " "]}, 422, "texts[1] is ' '"),
    ):
        reply = server.call("/rerank", {"query": "x", "texts": ["x"], **fields})
        assert (reply.status, words in reply.json["error"]) == (status, True), reply.body


def test_a_route_of_other_vectors_names_the_routes_of_the_model(served: Served) -> None:
    for server, path, fields, words in (
        (
            served.m3,
            "/embed_sparse",
            {"model": "colbert"},
            "no sparse vectors, because the model folder describes none: use /embed_all, or",
        ),
        (
            served.splade,
            "/embed_all",
            {},
            "sparse vectors, and /embed_all returns one per token: use /embed_sparse, or a server with",
        ),
    ):
        reply = server.call(path, {"inputs": "x", **fields})
        assert (reply.status, words in reply.json["error"]) == (424, True), reply.body


def test_servers_of_dense_vectors_name_what_they_have(server: Any) -> None:
    with BertClient(port=server.port, port_out=server.port_out) as client:
        assert client.server_config["outputs"] == ["dense"]
        np.testing.assert_array_equal(client.encode(TEXTS[:1], outputs=["dense"]).dense, client.encode(TEXTS[:1]))
        with pytest.raises(InvalidRequestError, match="it has dense: set outputs"):
            client.encode(["x"], outputs=["dense", "sparse"])


def test_the_examples_of_outputs(served: Served) -> None:
    sparse, all_outputs, late, ranking = examples_of("test_the_examples_of_outputs")
    ports = {"port": served.m3.server.port, "port_out": served.m3.server.port_out, "check_length": False}
    with served.splade.zmq_client() as bc:
        names: dict[str, Any] = {"bc": bc}
        exec(sparse, names)
        assert len(names["documents"]) == 2
    with served.m3.zmq_client() as bc:
        exec(all_outputs, {"bc": bc})
    with BertClient(**ports, model="colbert") as bc:
        names = {"bc": bc}
        exec(late, names)
        assert len(names["documents"]) == 2
        exec(ranking, names)
