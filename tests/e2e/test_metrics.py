"""Tests durations, batch sizes and padding of a running server: in its status, in /metrics and in replies."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bert_serving.client import AsyncBertClient
from bert_serving.client.errors import OptionError
from http_calls import HttpServer, serving_http
from raw_client import RawClient
from servers import ENGINE, wait_until

ENGINES = Path(__file__).resolve().parents[1] / "faults"
#: A word that makes the engine of these tests sleep once per batch, and the duration (s).
SLOW, SLOW_SECONDS = "better", 0.25
STAGES = ("tokenize", "queue", "compute", "total")


@pytest.fixture(scope="module")
def server() -> Iterator[HttpServer]:
    engine = ("-engine", "fault_engines.faulty", "-max_batch_size", "64")
    with serving_http(*engine, env={"PYTHONPATH": str(ENGINES)}) as server:
        yield server


def metrics(server: HttpServer) -> dict[str, float]:
    """Returns the metrics by name and label values."""
    values = {}
    for family in text_string_to_metric_families(server.call("/metrics").body.decode()):
        for sample in family.samples:
            values[" ".join([sample.name, *sample.labels.values()])] = sample.value
    return values


def duration(suffix: str, stage: str, *labels: str) -> str:
    """Returns the key of a sample in the result of `metrics`, without the prefix."""
    if stage == "total":
        return " ".join([f"request_duration_seconds_{suffix}", *labels])
    return " ".join([f"request_stage_duration_seconds_{suffix}", *labels, stage])


def num_completed(server: HttpServer) -> float:
    return metrics(server)["bert_serving_request_duration_seconds_count"]


def test_every_request_is_counted_in_every_histogram(server: HttpServer) -> None:
    before = metrics(server)
    with server.zmq_client() as client:
        # Each request has a text of its own: results at hand would be used again.
        for size, text in ((1, "hello world"), (3, "world hello"), (100, "hello hello")):
            client.encode([text] * size)
    wait_until(
        lambda: num_completed(server) == before["bert_serving_request_duration_seconds_count"] + 3, 60, "the counts"
    )
    after = metrics(server)

    def increase(name: str) -> float:
        return after[f"bert_serving_{name}"] - before[f"bert_serving_{name}"]

    seconds = {}
    for stage in STAGES:
        assert increase(duration("count", stage)) == 3
        assert increase(duration("bucket", stage, "+Inf")) == 3
        seconds[stage] = increase(duration("sum", stage))
        assert seconds[stage] > 0
    assert seconds["total"] == pytest.approx(seconds["tokenize"] + seconds["queue"] + seconds["compute"], abs=1e-4)
    # 100 texts exceed a batch and become two, of 64 and 36 texts.
    assert increase("batch_sequences_sum") == 104
    assert increase("batch_sequences_bucket 64.0") == increase("batch_sequences_count") == 4
    assert increase("padding_tokens_total") == 0


def test_engine_info_names_the_engine_and_its_library(server: HttpServer) -> None:
    assert metrics(server)["bert_serving_engine_info fp32 fault_engines.faulty  "] == 1, "a custom engine"
    with serving_http() as other:
        package = {"onnx": "onnxruntime", "tensorflow": "tensorflow", "torch": "torch"}[ENGINE]
        (key,) = [name for name in metrics(other) if name.startswith("bert_serving_engine_info")]
        assert key.startswith(f"bert_serving_engine_info fp32 {ENGINE} {package} ")
        assert key.split()[-1][0].isdigit(), "its version"


def test_padding_is_counted_to_the_longest_text_of_a_batch(server: HttpServer) -> None:
    before = metrics(server)
    with server.zmq_client() as client:
        client.encode(["hello", "hello world", "hello hello world"])  # 3, 4 and 5 tokens: 2 + 1 + 0
    name = "bert_serving_padding_tokens_total"
    wait_until(lambda: metrics(server)[name] == before[name] + 3, what="three tokens of padding")


def test_metrics_are_consistent_under_load(server: HttpServer) -> None:
    before = num_completed(server)

    def run(_: int) -> None:
        with server.zmq_client() as client:
            for _ in range(20):
                client.encode(["hello world"])

    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(run, number) for number in range(4)]
        seen = [metrics(server)]
        while not all(done.done() for done in runs):
            seen.append(metrics(server))
        for done in runs:
            done.result()
    wait_until(lambda: num_completed(server) == before + 80, what="all 80 requests")
    counters = [name for name in seen[0] if "_bucket" in name or "_total" in name or name.endswith("_sum")]
    for earlier, later in itertools.pairwise(seen):
        assert all(earlier[name] <= later[name] for name in counters)
    for one in seen:
        assert {one[f"bert_serving_{duration('count', stage)}"] for stage in STAGES} == {
            one["bert_serving_request_duration_seconds_bucket +Inf"]
        }


def test_reply_has_its_timing_on_request(server: HttpServer) -> None:
    timings: list[dict[str, float]] = []
    with server.zmq_client() as client:
        started = time.monotonic()
        client.encode([SLOW], timings=timings)
        waited = time.monotonic() - started
        (timing,) = timings
        assert tuple(timing) == STAGES
        assert SLOW_SECONDS <= timing["compute"] <= timing["total"] <= waited
        assert timing["total"] == pytest.approx(timing["tokenize"] + timing["queue"] + timing["compute"], abs=1e-5)
        client.encode(["hello"] * 50, timings=timings, batch_size=20)
        assert len(timings) == 1 + 3
        with pytest.raises(OptionError, match="blocking"):
            client.encode(["hello"], blocking=False, timings=timings)

    async def with_asyncio() -> None:
        ports = {"port": server.server.port, "port_out": server.server.port_out}
        async with AsyncBertClient(**ports, timeout=60_000) as client:
            await client.encode(["hello"], timings=timings)

    asyncio.run(with_asyncio())
    assert len(timings) == 5


def test_queued_time_is_counted_as_queue(server: HttpServer) -> None:
    """Three requests arrive while the worker is suspended."""
    timings: list[dict[str, float]] = []
    worker = server.server.child("worker-0")

    def all_wait() -> bool:
        queue = server.call("/status/server").json["queue"]
        return bool(queue["requests"] == 3 and queue["batches_in_flight"])

    with ThreadPoolExecutor(3) as pool, contextlib.ExitStack() as open_clients:
        clients = [open_clients.enter_context(server.zmq_client()) for _ in range(3)]
        worker.suspend()
        try:
            # Equal texts would be computed once.
            runs = [pool.submit(each.encode, [f"{SLOW} {n}"], timings=timings) for n, each in enumerate(clients)]
            wait_until(all_wait, what="all three requests to wait")
            time.sleep(0.1)
        finally:
            worker.resume()
        for done in runs:
            done.result()
    assert len(timings) == 3
    assert max(timing["queue"] for timing in timings) >= 0.1
    assert all(timing["compute"] >= SLOW_SECONDS for timing in timings)


@pytest.fixture
def raw(server: HttpServer) -> Iterator[RawClient]:
    with RawClient(server.server) as client:
        yield client


def test_reply_without_options_has_the_format_of_1_10(raw: RawClient) -> None:
    assert set(raw.info(["hello"])) == set(raw.info(["hello"], b"{}")) == {"dtype", "shape", "tokens"}
    assert set(raw.info(["hello"], b'{"timing": true}')) == {"dtype", "shape", "tokens", "timing", "vector_space"}


def test_reply_has_its_tokens_on_request(raw: RawClient) -> None:
    info = raw.info(["hello"], b'{"num_tokens": true}')
    assert set(info) == {"dtype", "shape", "tokens", "num_tokens", "vector_space"}
    assert info["num_tokens"] == len(["[CLS]", "hello", "[SEP]"])
    assert set(raw.info(["hello"], b'{"num_tokens":true,"timing":true}')) == {
        "dtype",
        "shape",
        "tokens",
        "num_tokens",
        "timing",
        "vector_space",
    }


@pytest.mark.parametrize(
    "options",
    [b"", b"timing", b"[]", b'{"timing": 1}', b'{"other": true}', b"\xff", b"[" * 10_000,
     b'{"requests": ["1"]}', b'{"requests": [' + b"1," * 1000 + b"1]}", b'{"requests": [' + b"1," * 50_000 + b"1]}"],
)  # fmt: skip
def test_invalid_options_are_rejected(raw: RawClient, options: bytes) -> None:
    error = raw.info(["hello"], options)["error"]
    assert error["type"] == "invalid_request"
    assert "options of a request" in error["message"]
    assert "error" not in raw.info(["hello"])


def test_server_timing_header(server: HttpServer) -> None:
    calls = [
        server.call("/encode", {"texts": [SLOW]}),
        server.call("/encode", {"texts": [SLOW]}, {"Accept": "application/octet-stream"}),
        server.call("/v1/embeddings", {"input": SLOW}),
        server.call("/encode", {"texts": [SLOW] + ["hello"] * 3000}),  # several requests: the one that took longest
    ]
    for reply in calls:
        assert reply.status == 200
        stages = dict(stage.split(";dur=") for stage in reply.headers["server-timing"].split(", "))
        assert tuple(stages) == STAGES
        assert float(stages["total"]) >= 1000 * SLOW_SECONDS
    assert "server-timing" not in server.call("/encode", {"texts": []}).headers
