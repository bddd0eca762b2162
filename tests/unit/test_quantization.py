"""Embedding types: their packing, the spaces of their vectors, and the files of ranges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.client.protocol import EMBEDDING_TYPES
from bert_serving.server.errors import ConfigError
from bert_serving.server.model.pipeline import Normalize
from bert_serving.server.model.quantization import Quantizer, quantize, row_bytes
from bert_serving.server.model.ranges import FORMAT, RangeSample, read_ranges, to_json
from bert_serving.server.model.vector_options import TYPE_BITS, VectorOptions
from bert_serving.server.model.vector_space import VectorSpaces

arrays = st.builds(
    lambda seed, count, width, scale: (np.random.default_rng(seed).normal(0, scale, (count, width))).astype(np.float32),
    st.integers(0, 2**32 - 1),
    st.integers(1, 9),
    st.integers(1, 40),
    st.sampled_from([0.01, 1.0, 100.0]),
)
types = st.sampled_from(EMBEDDING_TYPES)


def formula(rows: np.ndarray, embedding_type: str, ranges: np.ndarray) -> np.ndarray:
    """The formula of ``quantize_embeddings`` in sentence-transformers 6.2."""
    if embedding_type in ("int8", "uint8"):
        starts = ranges[0, :]
        steps = (ranges[1, :] - starts) / 255
        steps = np.where(steps == 0, 1, steps)
        places = np.clip(np.floor((rows - starts) / steps), 0, 255)
        return places.astype(np.uint8) if embedding_type == "uint8" else (places - 128).astype(np.int8)
    if embedding_type == "binary":
        return (np.packbits(rows > 0, axis=-1) - 128).astype(np.int8)
    if embedding_type == "ubinary":
        return np.packbits(rows > 0, axis=-1)
    return rows.astype({"float": np.float32, "float16": np.float16}[embedding_type])


@given(arrays, arrays, types)
def test_bytes_are_those_of_the_formula(rows: np.ndarray, sample: np.ndarray, embedding_type: str) -> None:
    width = min(rows.shape[1], sample.shape[1])
    rows, sample = rows[:, :width], sample[:, :width]
    ranges = np.stack([sample.min(0), sample.max(0)])  # other vectors than the rows, so some numbers are beyond
    found, wanted = quantize(rows, embedding_type, ranges), formula(rows, embedding_type, ranges)
    assert (found.dtype, found.shape, found.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes())
    assert found[0].nbytes == row_bytes(embedding_type, width)


def test_a_number_beyond_float16_is_an_error() -> None:
    with pytest.raises(OverflowError, match="65,504"):
        quantize(np.array([[1e6]], np.float32), "float16")


@given(
    st.builds(
        VectorOptions,
        st.none() | st.booleans(),
        st.none() | st.integers(1, 5000),
        st.just(False),
        types,
        st.none(),
        st.none(),
    )
)
def test_types_survive_their_code(wanted: VectorOptions) -> None:
    assert VectorOptions.from_code(wanted.code) == wanted
    assert wanted.code & TYPE_BITS
    assert wanted.code & ~TYPE_BITS == wanted._replace(embedding_type=None).code
    assert wanted.code < 2**31


def test_vectors_are_cut_before_they_become_integers() -> None:
    rows = np.array([[0.5, -0.5, 0.0, 0.0], [1.0, 0.25, 0.0, 0.0]], np.float32)
    space = VectorSpaces("d", (), 4).of(VectorOptions(None, 2))
    spaces = VectorSpaces("d", (), 4, {space: [[0.0, -1.0], [1.0, 1.0]]})
    quantizer = Quantizer(spaces, {space: [[0.0, -1.0], [1.0, 1.0]]})
    found = quantizer.apply(VectorOptions(None, 2, False, "uint8").code, rows)
    np.testing.assert_array_equal(found, [[127, 63], [254, 159]])
    assert quantizer.apply(VectorOptions(None, 2, False, "ubinary").code, rows).tolist() == [[0b10000000], [0b11000000]]


def test_each_kind_of_integers_has_a_space_of_its_own() -> None:
    tail = (Normalize(),)
    plain = VectorSpaces("d", tail, 2)
    ranges, other = [[0.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [1.0, 2.0]]
    spaces, changed = (VectorSpaces("d", tail, 2, {plain.default: each}) for each in (ranges, other))
    found = spaces.by_type()
    assert list(found) == list(EMBEDDING_TYPES)
    assert found["float"] == found["float16"] == spaces.default == plain.default
    assert len(set(found.values())) == 5
    assert list(plain.by_type()) == ["float", "float16", "binary", "ubinary"]
    differs = {name for name in found if found[name] != changed.by_type()[name]}
    assert differs == {"int8", "uint8"}, "vectors of other ranges are not comparable"
    cut = VectorOptions(dimensions=1, embedding_type="int8")
    assert spaces.has_ranges(cut._replace(dimensions=None))
    assert not spaces.has_ranges(cut)


def test_a_file_of_ranges_is_read_as_it_was_written(tmp_path: Path) -> None:
    sample = RangeSample()
    rows = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    sample.add(rows[:7])
    sample.add(rows[7:])
    path = tmp_path / "ranges.json"
    path.write_text(to_json({"ab": sample}, 20))
    ends = np.array(read_ranges(str(path))["ab"], np.float32)
    np.testing.assert_array_equal(ends, [rows.min(0), rows.max(0)])


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        json.dumps({"format": "other"}),
        json.dumps({"format": FORMAT}),
        json.dumps({"format": FORMAT, "spaces": {"ab": {}}}),
        json.dumps({"format": FORMAT, "spaces": {"ab": {"minimum": [1.0], "maximum": [0.0]}}}),
        json.dumps({"format": FORMAT, "spaces": {"ab": {"minimum": [], "maximum": []}}}),
        json.dumps({"format": FORMAT, "spaces": {"ab": {"minimum": [0.0], "maximum": [0.0, 1.0]}}}),
        json.dumps({"format": FORMAT, "spaces": {"ab": {"minimum": [float("nan")], "maximum": [1.0]}}}),
        json.dumps({"format": FORMAT, "spaces": {"ab": {"minimum": [0.0], "maximum": [1e99]}}}),
        "[" * 100_000,
    ],
)
def test_a_damaged_file_of_ranges_is_refused_with_its_path(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "ranges.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"ranges\.json .*bert-serving-calibrate"):
        read_ranges(str(path))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_ranges(str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match="no regular file"):
        read_ranges(str(tmp_path))
