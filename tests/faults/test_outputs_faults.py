"""Requests for several outputs while a worker and the sink die: each reply is that of a quiet server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from output_models import TEXTS, write_m3

from bert_serving.client import BertClient, EncodedOutputs
from servers import serving

pytest.importorskip("sentence_transformers.base.modules")
pytestmark = [pytest.mark.minutes, pytest.mark.timeout(290)]

OUTPUTS = ["dense", "sparse", "multi"]


def test_outputs_survive_the_death_of_a_worker_and_of_the_sink(tmp_path: Path) -> None:
    write_m3(tmp_path)
    texts = [f"{text} {number}" for number in range(50) for text in TEXTS]
    with (
        serving("-num_worker", "2", model_dir=tmp_path) as server,
        BertClient(port=server.port, port_out=server.port_out, check_length=False, timeout=200_000) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        expected = client.encode(texts, outputs=OUTPUTS, batch_size=16)
        futures = [pool.submit(client.encode, texts, outputs=OUTPUTS, batch_size=16) for _ in range(24)]
        for name in ("worker-0", "sink", "worker-1"):
            next(future for future in futures if not future.done()).result(200)
            server.child(name).kill()
        for future in futures:
            assert_equal(future.result(200), expected)


def assert_equal(found: EncodedOutputs, expected: EncodedOutputs) -> None:
    np.testing.assert_allclose(found.dense, expected.dense, atol=1e-5)
    assert found.sparse is not None
    assert expected.sparse is not None
    assert found.multi is not None
    assert expected.multi is not None
    for mine, other in zip(found.sparse, expected.sparse, strict=True):
        np.testing.assert_array_equal(mine.ids, other.ids)
        np.testing.assert_allclose(mine.weights, other.weights, atol=1e-5)
    for vectors, others in zip(found.multi, expected.multi, strict=True):
        np.testing.assert_allclose(vectors, others, atol=1e-5)
