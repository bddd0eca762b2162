"""Tests the order of batches and results in a worker whose device computes by itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from bert_serving.server.engines.base import DeviceLost, EngineSpec, OutOfMemory
from bert_serving.server.engines.batch import Batch
from bert_serving.server.ipc.messages import BatchMessage
from bert_serving.server.model.pipeline import SentencePipeline
from bert_serving.server.worker.batch_encoder import BatchEncoder
from bert_serving.server.worker.sentence_head import SentenceHead
from bert_serving.server.worker.started_batches import StartedBatches
from oracle import MODEL


class Engine:
    """Records its calls; a batch whose first id is 9 fails when it is started, 8 when it is finished."""

    def __init__(self, error: Exception) -> None:
        self.calls: list[str] = []
        self.error = error

    def start(self, batch: Batch) -> Callable[[], np.ndarray]:
        name = int(batch.input_ids[0])
        self.calls.append(f"start {name}")
        if name == 9:
            raise self.error

        def finish() -> np.ndarray:
            self.calls.append(f"finish {name}")
            if name == 8:
                raise self.error
            return np.full((batch.num_sequences, 2), name, np.float32)

        return finish

    def encode(self, batch: Batch) -> np.ndarray:
        return self.start(batch)()

    def close(self) -> None:
        pass


class Waiting:
    """An engine that computes when it is called, as on a CPU."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def encode(self, batch: Batch) -> np.ndarray:
        self.calls.append(f"encode {batch.input_ids[0]}")
        return np.zeros((batch.num_sequences, 2), np.float32)

    def close(self) -> None:
        pass


class Front:
    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send_result(self, frames: list[Any]) -> None:
        self.sent.append("result")

    def send_failure(self, batch: int, kind: bytes, reason: str) -> None:
        self.sent.append((batch, kind, reason))


def made(engine: Engine | Waiting) -> tuple[StartedBatches, Front]:
    front = Front()
    process = SimpleNamespace(log=logging.getLogger("worker"))
    head = SentenceHead(SentencePipeline("", ()), 2, cast("Any", {}))
    encoder = BatchEncoder(engine, head, EngineSpec(MODEL, ""))
    return StartedBatches(cast("Any", process), cast("Any", front), encoder, False), front


def message(name: int) -> BatchMessage:
    ids = np.array([name, 1, 2], np.int32)
    return BatchMessage(name, Batch(ids, ids * 0, ids * 0 + 1, np.array([3], np.int32)), np.zeros((1, 2), np.int64))


def test_the_next_batch_is_started_before_the_result_of_the_first_is_taken() -> None:
    engine = Engine(OutOfMemory("no room"))
    started, front = made(engine)
    started.start(message(1))
    assert not started.is_full
    started.start(message(2))
    assert started.is_full
    started.finish_first()
    started.start(message(3))
    started.finish_first()
    started.finish_first()
    assert engine.calls == ["start 1", "start 2", "finish 1", "start 3", "finish 2", "finish 3"]
    assert front.sent == ["result"] * 3
    assert (len(started), started.last_read) == (0, 3)


@pytest.mark.parametrize("failing", [8, 9])
def test_a_failure_is_reported_in_its_turn(failing: int) -> None:
    """The ventilator takes the results of a worker to arrive in the order of its batches."""
    started, front = made(Engine(OutOfMemory("no room")))
    started.start(message(1))
    started.start(message(failing))
    started.finish_first()
    assert front.sent == ["result"]
    started.finish_first()
    assert front.sent == ["result", (failing, b"oom", "OutOfMemory: no room")]
    assert started.last_read == failing


@pytest.mark.parametrize("failing", [8, 9])
def test_a_lost_device_ends_the_worker(failing: int) -> None:
    started, _ = made(Engine(DeviceLost("gone")))
    with pytest.raises(DeviceLost):
        started.start(message(failing))
        started.finish_first()


def test_an_engine_without_start_holds_one_batch() -> None:
    engine = Waiting()
    started, front = made(engine)
    started.start(message(1))
    assert started.is_full
    assert not engine.calls
    started.finish_first()
    assert engine.calls == ["encode 1"]
    assert front.sent == ["result"]


def test_dropped_batches_have_no_result() -> None:
    started, front = made(Engine(OutOfMemory("no room")))
    started.start(message(1))
    started.drop()
    assert not started
    assert not front.sent
