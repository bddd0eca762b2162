"""Validation of texts, and its error messages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.client._validation import too_long, validate_texts
from bert_serving.client.errors import InputTypeError, InputValueError


async def asynchronous() -> AsyncIterator[str]:
    yield "a"


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
        ({"a": 1}, "received dict, whose iteration gives its keys; pass the values"),
        ({"a": "b"}.keys(), "received dict_keys"),
        (iter({"a": "b"}), "received dict_keyiterator, which gives the keys of a dict; pass a list"),
        ({"a", "b"}, "received set, which has no order; pass a list: sorted(texts)"),
        (frozenset("ab"), "received frozenset"),
        (iter({"a", "b"}), "received set_iterator, which has no order"),
        (iter("ab"), "which gives the characters of one text"),
        (iter("\u00e9"), "received str_iterator"),
        (iter(b"ab"), "received bytes_iterator"),
        (asynchronous(), "received async_generator; collect it first"),
        (MappingProxyType({"a": 1}), "received mappingproxy"),
        (np.array("a"), "iteration over a 0-d array"),
        (["a", 2], "texts[1] is int (2); convert it"),
        (["a", None], "texts[1] is NoneType (None), a missing value; omit it"),
        (
            ["a", float("nan")],
            """texts[1] is float (nan), a missing value; omit it, for example by df["text"].dropna""",
        ),
        (np.array(["a", np.float32("nan")], dtype=object), "a missing value"),
        (np.array([["a"]]), "use is_tokenized=True"),
        (["a", b"b"], "texts[1] is bytes (b'b'); decode it: item.decode()"),
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


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            ["a b"],
            "texts[0] must be a list of tokens, but received one str ('a b'); split it, for example by texts[0].",
        ),
        ("a b", "received one str ('a b'); pass a list of token lists: encode([text.split()], is_tokenized=True)"),
        ([b"a b"], "received one bytes (b'a b'); decode it"),
        ([{"a": 1}], "texts[0] must be a list (or another ordered iterable) of tokens, but received dict"),
        ([["a"], [float("nan")]], "texts[1][0] is float (nan), a missing value"),
    ],
)
def test_wrong_token_lists(texts: object, message: str) -> None:
    with pytest.raises(InputTypeError) as caught:
        validate_texts(texts, is_tokenized=True)
    assert message in str(caught.value)


def test_tables() -> None:
    """Iteration over a table gives names or columns, never its texts."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": ["one", None, "two"], "label": ["a", "b", "c"]})
    for table in (frame, frame[["text"]]):
        for is_tokenized in (False, True):
            with pytest.raises(InputTypeError, match=r"""received DataFrame, a table; pass one column: df\["text"\]"""):
                validate_texts(table, is_tokenized)
    with pytest.raises(InputTypeError, match=r'a missing value; omit it, for example by df\["text"\]\.dropna\(\)'):
        validate_texts(frame["text"])
    with pytest.raises(InputTypeError, match="a missing value"):
        validate_texts(frame["text"].astype("string"))
    assert validate_texts(frame["text"].dropna()) == ["one", "two"]
    assert validate_texts(pandas.Series(["one", "two"], index=["columns", "rows"])) == ["one", "two"]
