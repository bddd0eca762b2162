"""Tests the functions of scores, and how pairs of texts are read and divided."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.server.http.encoding_service import CHUNK_SIZE, PAIR_CHARACTERS, _chunk_size
from bert_serving.server.http.errors import BadRequest
from bert_serving.server.http.routes.classify import read_items
from bert_serving.server.http.scores import best_first, sigmoid, softmax

LOGITS = st.lists(st.floats(-3e4, 3e4, width=32), min_size=1, max_size=20).map(lambda row: np.array(row, np.float32))


@given(LOGITS)
def test_functions_of_scores_do_not_overflow(logits: np.ndarray) -> None:
    with np.errstate(all="raise", under="ignore"):
        scores, shares = sigmoid(logits), softmax(logits)
    assert ((scores >= 0) & (scores <= 1)).all()
    np.testing.assert_allclose(scores + sigmoid(-logits), 1, atol=1e-6)
    np.testing.assert_allclose(shares.sum(), 1, atol=1e-5)
    assert shares[logits.argmax()] == shares.max()


@given(st.lists(st.integers(-3, 3), min_size=1))
def test_the_best_come_first_and_equal_scores_keep_their_order(scores: list[int]) -> None:
    found = best_first(np.array(scores, np.float32)).tolist()
    assert found == sorted(range(len(scores)), key=lambda index: (-scores[index], index))


@pytest.mark.parametrize(
    ("inputs", "items", "is_single"),
    [
        ("a", ["a"], True),
        (["a"], ["a"], True),
        (["a", "b"], [("a", "b")], True),
        ([["a"]], ["a"], False),
        ([["a"], ["b"]], ["a", "b"], False),
        ([["a", "b"]], [("a", "b")], False),
        ([["a", "b"], ["c"]], [("a", "b"), "c"], False),
    ],
)
def test_inputs_of_predict(inputs: Any, items: list[Any], is_single: bool) -> None:
    assert read_items(inputs) == (items, is_single)


JSON = st.recursive(st.none() | st.integers() | st.text(max_size=2), lambda inner: st.lists(inner, max_size=3))


@given(JSON)
def test_other_inputs_of_predict_are_refused(inputs: Any) -> None:
    try:
        items, _ = read_items(inputs)
    except BadRequest as error:
        assert error.param == "inputs"
    else:
        assert items
        assert all(isinstance(item, str) or [type(text) for text in item] == [str, str] for item in items)


@pytest.mark.parametrize("length", [0, 1, 100, 10_000, PAIR_CHARACTERS, 10 * PAIR_CHARACTERS])
def test_a_request_of_pairs_has_a_limited_size(length: int) -> None:
    pairs = [("q" * length, "document")]
    size = _chunk_size(pairs, {"pairs": True})
    assert 1 <= size <= CHUNK_SIZE
    assert size == 1 or size * length <= PAIR_CHARACTERS
    assert _chunk_size(["q" * length], {"pairs": False}) == _chunk_size(["q" * length], {}) == CHUNK_SIZE
