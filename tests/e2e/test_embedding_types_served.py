"""Embedding types of single requests: their bytes, their vector spaces, and the ranges that some of them need."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from bert_serving.client import AsyncBertClient, BertClient
from bert_serving.client._cli.encode import main as encode_command
from bert_serving.client.errors import InvalidRequestError, OptionError, TooLargeError, VectorSpaceError
from bert_serving.client.protocol import EMBEDDING_TYPES
from bert_serving.server.cli.calibrate import main as calibrate
from bert_serving.server.model.quantization import quantize
from bert_serving.server.model.ranges import FORMAT, read_ranges
from http_calls import HttpServer, serving_http
from servers import TINY, Server, serving
from version_1 import assert_serves_version_1

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
    modes: tuple[Literal["chunks", "late"], ...] = ("chunks", "late")
    for long in modes:
        floats = client.encode(texts, long=long)
        parts = client.encode(texts, long=long, embedding_type="float16")
        assert parts.parts == floats.parts
        np.testing.assert_allclose(parts.embedding, floats.embedding, rtol=1e-3, atol=1e-3)


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


def test_what_has_no_type_is_refused(client: BertClient) -> None:
    with pytest.raises(OptionError, match=r"embedding_type must be one of float, .*, but is 'int4'"):
        client.encode(TEXTS, embedding_type="int4")
    with pytest.raises(InvalidRequestError, match=r"none for 5 dimensions .*-dimensions 5 "):
        client.encode(TEXTS, embedding_type="int8", dimensions=5)
    with pytest.raises(InvalidRequestError, match="needs the ranges"):
        client.encode(TEXTS, embedding_type="int8", normalize=True)


# ---- HTTP ----------------------------------------------------------------------------------------------------------


def test_encode_over_http_has_the_types(http_server: HttpServer, wanted: Callable[..., np.ndarray]) -> None:
    spaces = http_server.call("/status/server").json["embedding_types"]
    for name in EMBEDDING_TYPES:
        rows = wanted(TEXTS, name, dimensions=CUT)
        body = {"texts": TEXTS, "embedding_type": name, "dimensions": CUT}
        reply = http_server.call("/encode", body)
        np.testing.assert_array_equal(np.array(reply.json["results"], rows.dtype), rows)
        plain = http_server.call("/encode", {"texts": TEXTS, "embedding_type": name})
        assert plain.headers["x-vector-space"] == spaces[name]
        packed = http_server.call("/encode", {**body, "encoding_format": "base64"}).json
        assert (packed["dtype"], packed["shape"]) == (rows.dtype.name, list(rows.shape))
        assert [base64.b64decode(row) for row in packed["results"]] == [row.tobytes() for row in rows]
        raw = http_server.call("/encode", body, {"Accept": "application/octet-stream"})
        assert (raw.headers["x-dtype"], raw.body) == (rows.dtype.name, rows.tobytes())
    reply = http_server.call("/encode", {"texts": TEXTS, "embedding_type": "int4"})
    assert reply.status == 400
    assert "'embedding_type' must be one of float, " in reply.json["description"]
    reply = http_server.call("/encode", {"texts": TEXTS, "embedding_type": "int8", "dimensions": 5})
    assert reply.status == 400
    assert "bert-serving-calibrate" in reply.json["description"]


def test_embeddings_of_openai_are_unchanged_without_a_type(
    http_server: HttpServer, wanted: Callable[..., np.ndarray]
) -> None:
    for name in ("int8", "ubinary"):
        rows = wanted(TEXTS, name)
        body = {"input": TEXTS, "embedding_type": name}
        found = [item["embedding"] for item in http_server.call("/v1/embeddings", body).json["data"]]
        assert found == rows.tolist()
        packed = http_server.call("/v1/embeddings", {**body, "encoding_format": "base64"}).json["data"]
        assert [base64.b64decode(item["embedding"]) for item in packed] == [row.tobytes() for row in rows]
    plain = http_server.call("/v1/embeddings", {"input": TEXTS, "encoding_format": "base64"}).json["data"]
    assert base64.b64decode(plain[0]["embedding"]) == wanted(TEXTS, "float")[0].tobytes()


def test_a_large_response_has_all_types(http_server: HttpServer, wanted: Callable[..., np.ndarray]) -> None:
    texts = TEXTS * 6000  # streamed, because the floats have more than 2 MiB
    body = {"texts": texts, "embedding_types": ["ubinary", "float", "int8", "base64"]}
    found = http_server.call("/v2/embed", body).json["embeddings"]
    assert list(found) == ["float", "int8", "ubinary", "base64"]
    for name in ("float", "int8", "ubinary"):
        rows = wanted(TEXTS, name)
        np.testing.assert_array_equal(np.array(found[name], rows.dtype), np.tile(rows, (6000, 1)))
    assert base64.b64decode(found["base64"][-1]) == wanted(TEXTS, "float")[-1].tobytes()


@pytest.mark.parametrize("path", ["/v1/embed", "/v2/embed"])
def test_embed_with_the_fields_of_cohere(http_server: HttpServer, wanted: Callable[..., np.ndarray], path: str) -> None:
    types = ["float", "float16", "int8", "uint8", "binary", "ubinary"]
    for chosen in (*([name] for name in types), types):
        body = {"model": "any", "texts": TEXTS, "input_type": "search_query", "embedding_types": chosen}
        reply = http_server.call(path, {**body, "output_dimension": CUT, "truncate": "END", "priority": 3})
        assert reply.status == 200, reply.body
        assert reply.json["response_type"] == "embeddings_by_type"
        assert reply.json["texts"] == TEXTS
        assert reply.json["meta"]["billed_units"]["input_tokens"] > 0
        found = reply.json["embeddings"]
        assert sorted(found) == sorted(chosen)
        for name in chosen:
            rows = wanted(TEXTS, name, dimensions=CUT)
            np.testing.assert_array_equal(np.array(found[name], rows.dtype), rows)
    plain = http_server.call(path, {"texts": TEXTS}).json
    floats = plain["embeddings"] if path == "/v1/embed" else plain["embeddings"]["float"]
    np.testing.assert_array_equal(np.array(floats, np.float32), wanted(TEXTS, "float"))
    warned = http_server.call(path, {"texts": ["a", "hello " * 40]}).json["meta"]["warnings"]
    assert "1 texts are longer than 25 tokens and were truncated: 1" in warned[0]


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"texts": None}, 400, "'texts'"),
        ({"texts": []}, 400, "received an empty list"),
        ({"texts": "a"}, 400, "'texts' must be a list of texts"),
        ({"texts": ["a", 3]}, 400, "item 1 of 'texts'"),
        ({"images": ["data:"]}, 400, "'images' is not supported"),
        ({"inputs": [{"content": []}]}, 400, "inputs"),
        ({"embedding_types": []}, 400, "'embedding_types' is an empty list"),
        ({"embedding_types": "int8"}, 400, "'embedding_types' must be a list"),
        ({"embedding_types": ["int4"]}, 400, "'int4'"),
        ({"embedding_types": [["int8"]]}, 400, "the types are float, "),
        ({"embedding_types": ["int8", "float"], "output_dimension": 5}, 400, "bert-serving-calibrate -dimensions 5"),
        ({"embedding_types": ["int8"], "output_dimension": 5}, 400, "bert-serving-calibrate -dimensions 5"),
        ({"output_dimension": 33}, 400, "'output_dimension' is 33"),
        ({"output_dimension": 0}, 400, "'output_dimension'"),
        ({"truncate": "START"}, 400, "'truncate' is START"),
        ({"truncate": True}, 400, "'truncate' must be one of END"),
        ({"truncate": "NONE", "texts": ["hello " * 40]}, 413, "42 tokens"),
        ({"input_type": "image"}, 400, "'input_type' must be one of search_query"),
        ({"max_tokens": 7}, 400, "'max_tokens'"),
        ({"normalize": True}, 400, "'normalize'"),
        ({"model": 3}, 400, "'model'"),
    ],
)
def test_invalid_fields_of_cohere(http_server: HttpServer, fields: dict[str, Any], status: int, message: str) -> None:
    for path in ("/v1/embed", "/v2/embed"):
        reply = http_server.call(path, {"texts": ["a"], **fields})
        assert (reply.status, list(reply.json)) == (status, ["message"])
        assert message in reply.json["message"]
    missing = http_server.call("/v2/embed", {"model": "a"})
    assert (missing.status, missing.json) == (400, {"message": "the field 'texts' is missing: a list of texts"})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pydantic, about the package
def test_the_client_of_cohere(http_server: HttpServer, wanted: Callable[..., np.ndarray]) -> None:
    package, httpx = pytest.importorskip("cohere"), pytest.importorskip("httpx")
    types = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    with httpx.Client(timeout=60) as connections:
        settings = {"api_key": "anything", "base_url": http_server.url, "httpx_client": connections}
        second, first = package.ClientV2(**settings), package.Client(**settings)
        common = {"model": "any", "input_type": "search_document"}
        content = [{"content": [{"type": "text", "text": text}]} for text in TEXTS]
        for answer in (
            second.embed(texts=TEXTS, embedding_types=types, **common),
            second.embed(inputs=content, embedding_types=types, **common),
            first.embed(texts=TEXTS, embedding_types=types, **common),
        ):
            for name in types[:-1]:
                rows = wanted(TEXTS, name)
                found = getattr(answer.embeddings, "float_" if name == "float" else name)
                np.testing.assert_array_equal(np.array(found, rows.dtype), rows)
            assert base64.b64decode(answer.embeddings.base64[1]) == wanted(TEXTS, "float")[1].tobytes()
        rows = wanted(TEXTS, "int8", dimensions=CUT)
        cut = second.embed(texts=TEXTS, embedding_types=["int8"], output_dimension=CUT, **common)
        assert cut.embeddings.int8 == rows.tolist()
        floats = first.embed(texts=TEXTS * 30, **common).embeddings  # two requests, which the package joins
        np.testing.assert_array_equal(np.array(floats, np.float32), np.tile(wanted(TEXTS, "float"), (30, 1)))
        with pytest.raises(package.errors.BadRequestError, match="bert-serving-calibrate"):
            second.embed(texts=TEXTS, embedding_types=["int8"], output_dimension=5, **common)


# ---- bert-serving-encode -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EMBEDDING_TYPES)
def test_a_folder_of_vectors_has_the_type(
    http_server: HttpServer,
    wanted: Callable[..., np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in (*TEXTS, None)))
    common = [str(source), *address(http_server.server), "-quiet"]
    folder, rows = tmp_path / "vectors", wanted(TEXTS, name)
    assert encode_command([*common, "-o", f"{folder}/", "-embedding_type", name]) == 0
    column = parquet.read_table(folder / "part-000000.parquet")["vector"]
    assert column.type.list_size == rows.shape[1]
    assert column.type.value_type.to_pandas_dtype() == rows.dtype
    np.testing.assert_array_equal(np.array(column.to_pylist()[:4], rows.dtype), rows)
    assert column.to_pylist()[4] is None
    manifest = json.loads((folder / "_manifest.json").read_text())["options"]
    assert (manifest["-embedding_type"], manifest["the dtype"]) == (name, rows.dtype.name)
    assert manifest["the vector space"] == http_server.call("/status/server").json["embedding_types"][name]
    (folder / "part-000000.parquet").unlink()
    other = "uint8" if name == "int8" else "int8"
    assert encode_command([*common, "-o", f"{folder}/", "-resume", "-embedding_type", other]) == 1
    assert f"-embedding_type was {name} and is now {other}" in capsys.readouterr().err
    assert encode_command([*common, "-o", f"{folder}/", "-resume", "-embedding_type", name]) == 0
    found = parquet.read_table(folder / "part-000000.parquet")["vector"].to_pylist()
    np.testing.assert_array_equal(np.array(found[:4], rows.dtype), rows)
    # An array of integers has no NaN for a null text.
    code = encode_command([*common, "-o", f"{tmp_path}/npy/", "-format", "npy", "-embedding_type", name])
    if name.startswith("float"):
        array = np.load(tmp_path / "npy" / "part-000000.npy")
        assert array.dtype == rows.dtype
        assert np.isnan(array[4]).all()
    else:
        assert code == 1
        assert f"row 4 has a null text, and .npy of {rows.dtype} has no null" in capsys.readouterr().err


def test_one_file_of_vectors_has_the_type(
    http_server: HttpServer, wanted: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    source = tmp_path / "texts"
    source.write_text("\n".join(TEXTS) + "\n")
    for name in ("int8", "ubinary"):
        for ending in ("npy", "jsonl"):
            output = tmp_path / f"{name}.{ending}"
            arguments = [str(source), "-o", str(output), *address(http_server.server), "-quiet"]
            assert encode_command([*arguments, "-embedding_type", name]) == 0
            if ending == "npy":
                found = np.load(output)
                assert found.dtype == wanted(TEXTS, name).dtype
            else:
                found = np.array([json.loads(line)["vector"] for line in output.read_text().splitlines()])
            np.testing.assert_array_equal(found, wanted(TEXTS, name))


# ---- limits --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    """A server with little memory for results, a folder with prompts, and ranges of another model in it."""
    folder = tmp_path_factory.mktemp("folder") / "model"
    shutil.copytree(TINY, folder)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    prompts = {"query": "good ", "passage": "a b "}
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    ranges = {"0123456789abcdef": {"minimum": [0.0] * 32, "maximum": [1.0] * 32}}
    (folder / "quantization_ranges.json").write_text(json.dumps({"format": FORMAT, "spaces": ranges}))
    flags = ("-engine", "zeros", "-result_memory", "100000", "-max_seq_len", "25")
    with serving_http(*flags, model_dir=folder) as server:
        yield server


def test_input_type_selects_the_prompt_of_the_folder(small_server: HttpServer) -> None:
    with small_server.zmq_client() as client:
        for input_type, prompt in (
            ("search_query", "good "),
            ("search_document", "a b "),
            ("classification", ""),
            ("clustering", ""),
            (None, ""),
        ):
            reply = small_server.call("/v2/embed", {"texts": TEXTS, "input_type": input_type})
            num_tokens = client._encode_in_detail(TEXTS, False, 9, [], prompt=prompt).num_tokens
            assert reply.json["meta"]["billed_units"]["input_tokens"] == num_tokens


def test_ranges_of_another_model_are_not_used(small_server: HttpServer) -> None:
    assert "are those of the vector spaces 0123456789abcdef" in small_server.server.log
    assert small_server.call("/encode", {"texts": ["a"], "embedding_type": "uint8"}).status == 400


def test_the_limit_of_results_counts_the_bytes_of_the_type(small_server: HttpServer) -> None:
    with small_server.zmq_client() as client:
        with pytest.raises(TooLargeError, match="would take 128000 bytes") as caught:
            client.encode(["a"] * 1000, batch_size=None)
        assert caught.value.is_divisible
        assert client.encode(["a"] * 1000, batch_size=None, embedding_type="float16").nbytes == 64_000
        assert client.encode(["a"] * 20_000, batch_size=None, embedding_type="ubinary").nbytes == 80_000
        long = ["hello world " * 40] * 100
        with pytest.raises(TooLargeError, match="parts of texts would take"):
            client.encode(long * 2, long="mean", embedding_type="ubinary", batch_size=None)
        assert client.encode(long, long="mean", embedding_type="ubinary", batch_size=None).shape == (100, 4)


def test_a_client_of_1_10_gets_float32(http_server: HttpServer) -> None:
    assert_serves_version_1(http_server.server)
