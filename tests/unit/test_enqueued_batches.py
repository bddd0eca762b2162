"""Tests batches that threads of an engine compute one behind the other, in the engine and in its worker."""

from __future__ import annotations

import logging
import queue
import select
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
pytest.importorskip("onnx", reason="the extra `onnx` is not installed")

from bert_serving.server.engines.base import Device, EngineError, EngineSpec
from bert_serving.server.engines.batch import Batch
from bert_serving.server.engines.onnx import engine as onnx_engine
from bert_serving.server.ipc.messages import BatchMessage, Result
from bert_serving.server.model.pipeline import SentencePipeline
from bert_serving.server.worker.batch_encoder import BatchEncoder
from bert_serving.server.worker.sentence_head import SentenceHead
from bert_serving.server.worker.started_batches import StartedBatches
from bert_serving.server.worker.wake_up import WakeUp
from oracle import MODEL, pack, sequences

LIMIT = 30.0


class Front:
    """Receives what the worker sends."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.failures: list[int] = []

    def send_result(self, frames: list[Any]) -> None:
        views = [SimpleNamespace(buffer=memoryview(frame).cast("B")) for frame in frames]
        self.results.append(Result.from_frames(views, 0.0))

    def send_failure(self, batch: int, kind: bytes, reason: str) -> None:
        self.failures.append(batch)


class Held:
    """Passes batches to an engine, and holds a share until the test releases it."""

    def __init__(self, engine: onnx_engine.OnnxEngine) -> None:
        self.engine = engine
        self.began: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.permits = threading.Semaphore(0)
        real = engine._encode

        def encode(*args: Any) -> np.ndarray:
            self.began.put(int(args[-1].num_tokens))
            assert self.permits.acquire(timeout=LIMIT)
            return real(*args)

        engine._encode = encode  # type: ignore[method-assign]

    def encode(self, batch: Batch) -> np.ndarray:
        return self.engine.encode(batch)

    def enqueue(self, batch: Batch, when_done: Callable[[], None]) -> Callable[[], np.ndarray] | None:
        if batch.lengths[0] == 5:
            raise EngineError("refused")
        return self.engine.enqueue(batch, when_done)

    def close(self) -> None:
        self.engine.close()


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> EngineSpec:
    return EngineSpec(MODEL, str(tmp_path_factory.mktemp("cache")))


def make_engine(spec: EngineSpec) -> onnx_engine.OnnxEngine:
    onnx_engine.prepare(spec, lambda _: None)
    return onnx_engine.create(spec, Device(threads=2))


@pytest.fixture
def wake_up() -> Iterator[WakeUp]:
    made = WakeUp()
    yield made
    made.close()


def worker(engine: Any, spec: EngineSpec, wake_up: WakeUp, max_tokens: int = 0) -> tuple[StartedBatches, Front]:
    front, process = Front(), SimpleNamespace(log=logging.getLogger("worker"))
    encoder = BatchEncoder(engine, SentenceHead(SentencePipeline("", ()), MODEL.hidden_size, cast("Any", {})), spec)
    return StartedBatches(cast("Any", process), cast("Any", front), encoder, False, max_tokens, wake_up.send), front


def message(number: int, batch: Batch) -> BatchMessage:
    rows = np.zeros((batch.num_sequences, 2), np.int64)
    return BatchMessage(number, batch, memoryview(rows.tobytes()))


def large(seed: int, length: int = 20) -> Batch:
    """A batch of which each of two threads gets a share."""
    return pack(sequences([length] * 20, seed))


@pytest.mark.parametrize("strategy", ["REDUCE_MEAN", "NONE"])
def test_enqueued_batches_have_the_vectors_of_encode(tmp_path: Path, strategy: str) -> None:
    engine = make_engine(EngineSpec(MODEL, str(tmp_path), strategy))
    batches = [pack(sequences([*range(2, 30), 3, 9], seed)) for seed in range(4)]
    done: queue.SimpleQueue[int] = queue.SimpleQueue()
    waiting = []
    for number, batch in enumerate(batches):
        wait = engine.enqueue(batch, lambda number=number: done.put(number))  # type: ignore[misc]
        assert wait is not None
        waiting.append(wait)
    vectors = [wait() for wait in waiting]
    assert {done.get(timeout=LIMIT) for _ in batches} == set(range(4))
    for batch, found in zip(batches, vectors, strict=True):
        np.testing.assert_allclose(found, engine.encode(batch), atol=1e-6)
    assert engine.enqueue(pack(sequences([4, 3])), lambda: None) is None  # too small for shares
    engine.close()


def test_a_thread_goes_on_with_the_next_batch_while_another_computes_the_first(
    spec: EngineSpec, wake_up: WakeUp
) -> None:
    plain = make_engine(spec)
    vectors = {number: plain.encode(large(number)) for number in (1, 2)}
    engine = Held(plain)
    started, front = worker(engine, spec, wake_up)
    started.start(message(1, large(1)))
    assert started.is_computing
    assert not started.is_full
    started.start(message(2, large(2)))
    assert started.is_full
    for _ in range(2):
        engine.began.get(timeout=LIMIT)
    assert engine.began.empty()
    engine.permits.release()
    engine.began.get(timeout=LIMIT)  # a share of the second batch
    assert started.is_computing
    assert not select.select([wake_up.readable], [], [], 0)[0]
    engine.permits.release(3)
    started.finish_first()
    started.finish_first()
    assert select.select([wake_up.readable], [], [], LIMIT)[0]
    assert [result.batch_id for result in front.results] == [1, 2]
    for result in front.results:
        np.testing.assert_allclose(result.array, vectors[result.batch_id], atol=1e-6)
    wake_up.clear()
    wake_up.clear()
    engine.close()


def test_the_worker_is_woken_when_a_batch_is_done(spec: EngineSpec, wake_up: WakeUp) -> None:
    engine = make_engine(spec)
    started, front = worker(engine, spec, wake_up)
    for number in range(3):
        started.start(message(number, large(number)))
        while started.is_computing:
            assert select.select([wake_up.readable], [], [], LIMIT)[0]
            wake_up.clear()
        started.finish_first()
        assert front.results[-1].batch_id == number
        assert not started
    engine.close()


def test_a_small_batch_is_computed_by_the_worker(spec: EngineSpec, wake_up: WakeUp) -> None:
    """No batch waits behind it, and waking the worker takes time."""
    engine = make_engine(spec)
    tokens = large(1).num_tokens
    for most, is_computing in ((2 * tokens + 2, False), (2 * tokens, True)):
        started, front = worker(engine, spec, wake_up, most)
        started.start(message(1, large(1)))
        assert started.is_full is not is_computing
        started.finish_first()
        assert len(front.results) == 1
    engine.close()


def test_a_batch_that_is_refused_fails_in_its_turn(spec: EngineSpec, wake_up: WakeUp) -> None:
    engine = Held(make_engine(spec))
    engine.permits.release(2)
    started, front = worker(engine, spec, wake_up)
    started.start(message(1, large(1)))
    started.start(message(2, large(2, length=5)))
    assert not front.failures
    started.finish_first()
    assert [result.batch_id for result in front.results] == [1]
    started.finish_first()
    assert front.failures == [2]
    engine.close()
