"""Tests the drift metrics and the validation of reference files."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bert_serving.server.errors import ConfigError
from bert_serving.server.monitoring.drift import (
    RELEVANT_OPTIONS,
    Reference,
    Sample,
    UnknownDrift,
    VectorDrift,
    stability_index,
)

OPTIONS: dict[str, Any] = dict.fromkeys(RELEVANT_OPTIONS, 1)
counts = arrays(np.int64, 6, elements=st.integers(0, 10_000)).map(lambda a: a.astype(float))


def make_reference(vectors: np.ndarray, lengths: np.ndarray, num_unknown: int = 0, chunk_size: int = 1000) -> Reference:
    sample = Sample()
    for start in range(0, len(vectors), chunk_size):
        sample.add(
            vectors[start : start + chunk_size], lengths[start : start + chunk_size], num_unknown if start == 0 else 0
        )
    return sample.reference(OPTIONS)


@pytest.fixture(scope="module")
def texts() -> tuple[np.ndarray, np.ndarray]:
    """Returns vectors ``[4000, 16]`` with a nonzero mean, and lengths ``[4000]``."""
    rng = np.random.default_rng(3)
    vectors = rng.normal(0.5, 1.0, (4000, 16)).astype(np.float32)
    return vectors, rng.integers(3, 60, 4000).astype(np.int32)


@given(counts, counts)
def test_the_stability_index_is_a_divergence(first: np.ndarray, second: np.ndarray) -> None:
    index = stability_index(first, second)
    assert index >= -1e-12
    assert math.isclose(index, stability_index(second, first), rel_tol=1e-9, abs_tol=1e-12)
    assert stability_index(first, first) == 0


def test_the_stability_index_of_a_known_pair() -> None:
    # Shares 1/2 and 1/2 against 1/4 and 3/4; the half counts are negligible.
    expected = -0.25 * math.log(0.5) + 0.25 * math.log(1.5)
    found = stability_index(np.array([5e8, 5e8]), np.array([2.5e8, 7.5e8]))
    assert math.isclose(found, expected, rel_tol=1e-6)


def test_reference_is_independent_of_chunk_size(texts: tuple[np.ndarray, np.ndarray]) -> None:
    whole, chunked = make_reference(*texts, 7, chunk_size=4000), make_reference(*texts, 7, chunk_size=333)
    np.testing.assert_allclose(whole.mean, texts[0].mean(axis=0), atol=1e-4)
    assert math.isclose(whole.spread, 4.0, rel_tol=0.02)  # the root of 16 variances of 1
    np.testing.assert_allclose(whole.mean, chunked.mean, rtol=1e-9)
    assert (whole.length_bounds, whole.length_counts) == (chunked.length_bounds, chunked.length_counts)
    assert sum(whole.length_counts) == whole.num_texts == 4000
    assert whole.unknown_share == 7 / texts[1].sum()


def test_reference_is_saved_and_loaded(texts: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    reference = make_reference(*texts)
    path = tmp_path / "reference.json"
    path.write_text(reference.to_json())
    assert Reference.load(str(path)) == reference


def test_drift_is_small_for_similar_texts_and_grows_with_the_shift(texts: tuple[np.ndarray, np.ndarray]) -> None:
    vectors, lengths = texts
    reference = make_reference(vectors[:2000], lengths[:2000])

    def drift(vectors: np.ndarray, lengths: np.ndarray) -> dict[str, float | None]:
        vector_drift = VectorDrift(reference, 10_000)
        for start in range(0, len(vectors), 250):
            vector_drift.add(vectors[start : start + 250], lengths[start : start + 250])
        return vector_drift.to_dict()

    similar = drift(vectors[2000:], lengths[2000:])
    assert similar["texts"] == 2000
    assert similar["cosine_distance"] < 0.01  # type: ignore[operator]
    assert similar["shift"] < 4 * math.sqrt(2 / 2000)  # type: ignore[operator]  # about that much by chance
    assert similar["length_psi"] < 0.05  # type: ignore[operator]
    shifted = drift(vectors[2000:] + np.float32(1), np.minimum(lengths[2000:], 20))
    assert math.isclose(shifted["shift"], 1.0, rel_tol=0.1)  # type: ignore[arg-type]  # a distance of 4, a spread of 4
    assert shifted["length_psi"] > 1  # type: ignore[operator]
    reversed_ = drift(-vectors[2000:], lengths[2000:])
    assert reversed_["cosine_distance"] > 1.9  # type: ignore[operator]


def test_texts_older_than_two_windows_are_dropped(texts: tuple[np.ndarray, np.ndarray]) -> None:
    vectors, lengths = texts
    vector_drift, unknown = (
        VectorDrift(make_reference(vectors, lengths), 500),
        UnknownDrift(make_reference(vectors, lengths), 500),
    )
    for _ in range(3):
        vector_drift.add(vectors[:400] + np.float32(9), lengths[:400])
        unknown.add(400, 800, 800)
    assert vector_drift.to_dict()["shift"] > 5  # type: ignore[operator]
    assert unknown.to_dict() == {"unknown_share_difference": 1}
    for start in range(0, 4000, 400):
        vector_drift.add(vectors[start : start + 400], lengths[start : start + 400])
        unknown.add(400, 800, 0)
        assert vector_drift.to_dict()["seen"] == 1200 + start + 400
        assert 400 <= vector_drift.to_dict()["texts"] < 2 * 500 + 400  # type: ignore[operator]
    assert vector_drift.to_dict()["shift"] < 0.2  # type: ignore[operator]
    assert unknown.to_dict() == {"unknown_share_difference": 0}


def test_zero_vectors_have_no_cosine_distance() -> None:
    zeros, lengths = np.zeros((10, 4), np.float16), np.full(10, 3, np.int32)
    vector_drift = VectorDrift(make_reference(zeros, lengths), 100)
    assert vector_drift.to_dict() == {"seen": 0, "texts": 0, "cosine_distance": None, "shift": None, "length_psi": None}
    vector_drift.add(zeros, lengths)
    assert vector_drift.to_dict() == {
        "seen": 10,
        "texts": 10,
        "cosine_distance": None,
        "shift": None,
        "length_psi": 0.0,
    }


def test_sample_with_one_text_is_rejected() -> None:
    with pytest.raises(ValueError, match="has 1 texts; the minimum is 2"):
        make_reference(np.ones((1, 4), np.float32), np.ones(1, np.int32))


GOOD = json.loads(make_reference(np.eye(4, dtype=np.float32), np.array([3, 4, 5, 6], np.int32)).to_json())


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1, 2]",
        "{}",
        json.dumps(GOOD | {"format": "another"}),
        json.dumps(GOOD | {"mean": "abc"}),
        json.dumps(GOOD | {"mean": [1, None]}),
        json.dumps(GOOD | {"mean": [1, float("nan")]}),
        json.dumps(GOOD | {"spread": -1}),
        json.dumps(GOOD | {"length_bounds": [5, 3]}),
        json.dumps(GOOD | {"length_counts": [1]}),
        json.dumps({name: value for name, value in GOOD.items() if name != "spread"}),
    ],
)
def test_invalid_file_is_rejected_by_name(content: str, tmp_path: Path) -> None:
    path = tmp_path / "reference.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"reference\.json is not a drift reference"):
        Reference.load(str(path))


def test_missing_file_is_rejected_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read: .*none\.json: No such file or directory; check the path"):
        Reference.load(str(tmp_path / "none.json"))


def test_a_file_without_an_end_is_no_reference(tmp_path: Path) -> None:
    pipe, huge, folder = tmp_path / "pipe", tmp_path / "huge", tmp_path / "folder"
    os.mkfifo(pipe)
    folder.mkdir()
    with huge.open("wb") as file:
        file.truncate(2**40)
    for path in ("/dev/zero", pipe, huge, folder):
        with pytest.raises(ConfigError, match=f"{path} is not a drift reference .no regular file"):
            Reference.load(str(path))
