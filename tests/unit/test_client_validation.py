"""Validation of texts, and its error messages."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.client._validation import too_long, validate_texts
from bert_serving.client.errors import InputTypeError, InputValueError

filled = st.text(min_size=1).filter(lambda text: bool(text.strip()))


@given(st.lists(filled, min_size=1))
def test_any_ordered_iterable_is_valid(texts: list[str]) -> None:
    for form in (texts, tuple(texts), iter(texts), (text for text in texts), np.array(texts, dtype=object)):
        assert validate_texts(form) == texts


@given(st.lists(st.lists(filled, min_size=1), min_size=1))
def test_token_lists(lists: list[list[str]]) -> None:
    assert validate_texts(lists, is_tokenized=True) == lists
    assert validate_texts(tuple(map(tuple, lists)), is_tokenized=True) == lists


def test_numpy_strings() -> None:
    assert validate_texts(np.array(["one", "two words"])) == ["one", "two words"]


def test_argument_is_not_modified() -> None:
    texts = [("a", "b")]
    assert validate_texts(texts, is_tokenized=True) == [["a", "b"]]
    assert texts == [("a", "b")]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("hello", "received one str ('hello'); pass a list"),
        (b"hello", "received one bytes"),
        (3, "received int"),
        (None, "received NoneType"),
        ({"a": 1}, "received dict"),
        ({"a", "b"}, "received set"),
        (np.array("a"), "iteration over a 0-d array"),
        (["a", 2], "texts[1] is int (2)"),
        (["a", None], "texts[1] is NoneType"),
        (["a", b"b"], "texts[1] is bytes"),
        ([["a"]], "use is_tokenized=True"),
    ],
)
def test_wrong_types(texts: object, message: str) -> None:
    with pytest.raises(InputTypeError) as caught:
        validate_texts(texts)
    assert message in str(caught.value)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    ("texts", "tokenized", "message"),
    [
        ([], False, "the list is empty"),
        (["a", ""], False, "texts[1] is ''"),
        (["a", " \t\n"], False, "texts[1]"),
        (["a", "\u3000"], False, "texts[1]"),
        ([[]], True, "texts[0] must hold at least one item"),
        ([["a"], ["b", " "]], True, "texts[1][1] is ' '"),
    ],
)
def test_wrong_values(texts: object, tokenized: bool, message: str) -> None:
    with pytest.raises(InputValueError) as caught:
        validate_texts(texts, tokenized)
    assert message in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_a_str_among_token_lists() -> None:
    with pytest.raises(InputTypeError, match=r"texts\[0\] must be a list of tokens, but received one str"):
        validate_texts(["hello world"], is_tokenized=True)


@given(st.text(min_size=1000, max_size=1000))
def test_messages_are_short(text: str) -> None:
    with pytest.raises(InputTypeError) as caught:
        validate_texts(text)
    assert len(str(caught.value)) < 200


def test_too_long_counts_words_or_tokens() -> None:
    assert too_long(["a b c", "a b", "a"], 2) == 1
    assert too_long([["a", "b", "c"], ["a"]], 2) == 1
