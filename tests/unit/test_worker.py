"""Tests the calibration of the batch size by the speed of the engine."""

from __future__ import annotations

import numpy as np
import pytest

from bert_serving.server.engines.base import Device
from bert_serving.server.engines.batch import Batch
from bert_serving.server.worker.warm_up import warm_up

SLOW_START = 30.0


class FakeEngine:
    """Advances its own clock by the time of each batch; the first call is slower."""

    def __init__(self, tokens_per_second: float) -> None:
        self.now, self.rate = 1000.0, tokens_per_second
        self.batches: list[Batch] = []

    def encode(self, batch: Batch) -> np.ndarray:
        self.now += batch.num_tokens / self.rate + (0 if self.batches else SLOW_START)
        self.batches.append(batch)
        return np.zeros((batch.num_sequences, 2), np.float32)

    def close(self) -> None:
        pass


def calibrated(
    rate: float, max_seq_len: int | None = 25, kind: str = "cpu", positions: int = 512
) -> tuple[int, FakeEngine]:
    engine = FakeEngine(rate)
    return warm_up(engine, Device(kind, threads=2), positions, max_seq_len, lambda: engine.now), engine


@pytest.mark.parametrize(
    ("rate", "max_seq_len", "tokens"),
    [
        (10_000, 25, 2_500),  # CPU_BATCH_SECONDS; the slow first call is ignored
        (40_000, 25, 10_000),
        (100, 25, 512),  # minimum, also for a slow engine
        (1e9, 25, 65_536),
        (100, 2_000, 2_000),  # at least one sequence of full length
        (100, None, 3_000),  # maximum length of the model
    ],
)
def test_cpu_batch_takes_the_target_time(rate: float, max_seq_len: int | None, tokens: int) -> None:
    found, _ = calibrated(rate, max_seq_len, positions=3_000)
    assert found == pytest.approx(tokens, rel=1e-6, abs=1)


def test_gpu_gets_large_batches_and_a_warm_up() -> None:
    found, engine = calibrated(1.0, kind="gpu")
    assert found == 65_536
    assert [batch.num_sequences for batch in engine.batches] == [1, 64]


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
@pytest.mark.parametrize(("max_seq_len", "positions", "longest"), [(25, 512, 25), (None, 512, 64), (300, 40, 40)])
def test_calibration_batches_fit_the_model(kind: str, max_seq_len: int | None, positions: int, longest: int) -> None:
    _, engine = calibrated(1000, max_seq_len, kind, positions)
    for batch in engine.batches:
        assert set(batch.lengths) == {longest}
        assert batch.lengths.sum() == len(batch.input_ids) == len(batch.type_ids) == len(batch.mask)
        assert batch.mask.all()


@pytest.mark.parametrize(
    ("rate", "sequences"),
    [
        (1_000, [1, 4]),  # no rate that a larger batch may have exceeds the minimum
        (3_000, [1, 4]),  # a larger batch could raise the limit from 750 tokens to at most 1,125
        (3_500, [1, 4, 16]),  # takes long enough to be accurate
        (10_000, [1, 4, 16, 16]),
    ],
)
def test_a_slow_processor_measures_few_tokens(rate: float, sequences: list[int]) -> None:
    _, engine = calibrated(rate)
    assert [batch.num_sequences for batch in engine.batches] == sequences
