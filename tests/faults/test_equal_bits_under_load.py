"""With -deterministic, texts of a real model have equal bits alone and among ten thousand, while workers are killed."""

from __future__ import annotations

import numpy as np
import pytest

from bert_serving.server.model.default import default_model_dir
from fault_helpers import ThreadGroup, connect
from servers import serving, wait_until

WORDS = ("the", "a", "river", "tests", "bright", "seven", "Zürich", "engine,", "quantum?", "42", "unbelievably", "你好")
COUNT, CLIENTS = 10_000, 4

pytestmark = [
    pytest.mark.minutes,
    pytest.mark.timeout(290),
    pytest.mark.skipif(default_model_dir() is None, reason="the default model is not installed"),
]


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_ten_thousand_texts_while_workers_are_killed(dtype: str) -> None:
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS, random.integers(1, 16))) for _ in range(COUNT)]
    sample = random.choice(COUNT, 100, replace=False)
    flags = ("-engine", "onnx", "-dtype", dtype, "-deterministic", "-num_worker", "2", "-threads", "1")
    with (
        serving(*flags, model_dir=None) as server,
        connect(server, timeout=240_000) as client,
        ThreadGroup() as threads,
    ):
        alone = {index: client.encode([texts[index]]).tobytes() for index in sample.tolist()}
        checked = [0] * CLIENTS

        def ask(number: int) -> None:
            mine = [index for index in range(COUNT) if index % CLIENTS == number]
            with connect(server, timeout=240_000) as other:
                vectors = other.encode([texts[index] for index in mine])
            for index, found in zip(mine, vectors, strict=True):
                if index in alone:
                    assert found.tobytes() == alone[index]
                    checked[number] += 1

        for number in range(CLIENTS):
            threads.start(ask, number)
        for number in range(2):
            server.child(f"worker-{number}").kill()
            wait_until(lambda number=number: client.server_status["num_restarts"] > number, 120, "a restart")  # type: ignore[misc]
        threads.join(240)
        assert sum(checked) == len(sample)
