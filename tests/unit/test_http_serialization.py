"""Tests that vectors are restored exactly from JSON, base64 and bytes."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from bert_serving.server.http import serialization as vectors

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=3, max_side=5), elements=FLOATS))
def test_json_restores_float32(array: np.ndarray) -> None:
    text = vectors.to_json(array)
    np.testing.assert_array_equal(np.array(json.loads(text), np.float64).astype(np.float32), array)


@given(arrays(np.float16, (3, 4), elements=st.floats(width=16, allow_nan=False, allow_infinity=False)))
def test_json_restores_float16(array: np.ndarray) -> None:
    np.testing.assert_array_equal(np.array(json.loads(vectors.to_json(array)), np.float64).astype(np.float16), array)


@given(FLOATS)
def test_json_has_the_fewest_digits(value: float) -> None:
    (text,) = json.loads(vectors.to_json(np.array([value], np.float32)), parse_float=str)
    digits = text.lstrip("-").split("e")[0].replace(".", "").strip("0")
    shortest = np.format_float_scientific(np.float32(value), trim="-").lstrip("-").split("e")[0].replace(".", "")
    assert len(digits) <= len(shortest)


def test_non_contiguous_view_is_serialized_in_c_order() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert json.loads(vectors.to_json(array.T)) == array.T.tolist()
    assert vectors.to_bytes(array.T) == array.T.tobytes()


def test_base64_matches_the_standard_library() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    for view in (array, array[:, ::2], array.T):
        assert vectors.to_base64(view) == [base64.b64encode(row.tobytes()) for row in view]


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", ">f2"])
def test_bytes_are_little_endian_everywhere(dtype: str) -> None:
    array = np.array([[1.5, -2.25], [0.0, 3.0]], dtype)
    raw = vectors.to_bytes(array)
    np.testing.assert_array_equal(np.frombuffer(raw, "<" + dtype[1:]).reshape(2, 2), array)
    assert b"".join(map(base64.b64decode, vectors.to_base64(array))) == raw
