"""Compares the JSON scan with decoding, and tests the requests that the scan rejects."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bert_serving.server import json_scan
from bert_serving.server.errors import InvalidRequest, RequestError, TooLarge
from bert_serving.server.tokenization.request_texts import RequestLimits, read_pieces, read_texts

LIMITS = RequestLimits(max_request_size=4, max_text_length=100, max_tokens=6)
TEXT = st.text(st.sampled_from('\\"[]{},: a1é\n'), max_size=8)
VALUES = st.recursive(TEXT | st.none() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner))


def expected(value: Any) -> json_scan.JsonCounts:
    counts = json_scan.JsonCounts()
    if isinstance(value, str):
        counts.strings = 1
    elif isinstance(value, list | dict):
        counts.lists, counts.objects = int(isinstance(value, list)), int(isinstance(value, dict))
        counts.commas = max(0, len(value) - 1)
        for inner in value if isinstance(value, list) else [*value, *value.values()]:
            inner_counts = expected(inner)
            counts.strings += inner_counts.strings
            counts.lists += inner_counts.lists
            counts.objects += inner_counts.objects
            counts.commas += inner_counts.commas
    return counts


def has_only_strings_and_lists(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(map(has_only_strings_and_lists, value)))


@given(VALUES, st.booleans(), st.integers(1, 9))
@example(['\\"', "\\\\", '\\\\"['], False, 1)
def test_counts_equal_those_of_the_decoded_value(value: Any, ascii_only: bool, block: int) -> None:
    message = json.dumps(value, ensure_ascii=ascii_only).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_scan, "_BLOCK", block)
        found = json_scan.scan(message)
    assert (found.first_invalid_offset is None) == has_only_strings_and_lists(value)
    if found.first_invalid_offset is not None:
        assert message[found.first_invalid_offset] not in b'", []'
    found.first_invalid_offset = None
    assert found == expected(value)


def read_in_pieces(message: bytes, limits: RequestLimits) -> list[Any]:
    """Returns all texts, and checks that the pieces follow each other."""
    texts: list[Any] = []
    pieces = [piece for piece in read_pieces(message, limits) if piece is not None]
    for piece in pieces:
        assert piece.first_row == len(texts)
        texts += piece.texts
    assert [piece.is_last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert {piece.size for piece in pieces} == {len(texts)}
    return texts


def outcome(read: Callable[[bytes, RequestLimits], list[Any]], message: bytes) -> object:
    try:
        return read(message, LIMITS)
    except RequestError as error:
        return TooLarge if isinstance(error, TooLarge) else type(error)


def check_pieces(message: bytes, sizes: tuple[int, int, int]) -> None:
    """Compares reading in small pieces with reading as a whole."""
    with pytest.MonkeyPatch.context() as patch:
        for name, size in zip(("_BLOCK", "PIECE_VALUES", "PIECE_BYTES"), sizes, strict=True):
            patch.setattr(json_scan, name, size)
        in_pieces = outcome(read_in_pieces, message)
    read = outcome(read_texts, message)
    if isinstance(read, list) and isinstance(read[0], list) and sum(map(len, read)) > LIMITS.max_tokens:
        assert in_pieces is TooLarge
    elif isinstance(read, list):
        assert in_pieces == read
    else:
        assert in_pieces in (InvalidRequest, TooLarge)


SIZES = st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 30))


@given(st.lists(TEXT, max_size=6) | st.lists(st.lists(TEXT, max_size=3), max_size=6) | VALUES, st.booleans(), SIZES)
@example(["a"] * 7, True, (1, 1, 1))
@example(["[CLS],[SEP]"] * 4, True, (3, 2, 10))
@example(["a", "b" * 99, "c"], True, (4, 4, 12))
def test_pieces_have_the_texts_of_the_whole(value: Any, ascii_only: bool, sizes: tuple[int, int, int]) -> None:
    """The pieces change no result, except that they limit the tokens of all lists together."""
    check_pieces(json.dumps(value, ensure_ascii=ascii_only).encode(), sizes)


@given(st.text(st.sampled_from('"a,[]{}\\: 1'), max_size=20), SIZES)
@example('["a",,"b"]', (9, 1, 1))
@example('["a",]', (9, 1, 1))
@example('["a","b"],["c","d"]', (9, 1, 1))
@example('["a","b"]]', (9, 1, 1))
@example('[["a"],"b"]', (9, 1, 1))
@example('["a"]["b","c"]', (9, 1, 1))
@example(']["a","b"]', (9, 1, 1))
def test_pieces_accept_no_message_that_is_invalid_as_a_whole(message: str, sizes: tuple[int, int, int]) -> None:
    check_pieces(message.encode(), sizes)


def test_pieces_are_bounded_in_values_and_bytes() -> None:
    limits = RequestLimits(10_000_000, 10_000_000)
    short = [piece.texts for piece in read_pieces(json.dumps(["a"] * 5000).encode(), limits) if piece]
    assert [len(texts) for texts in short] == [2048, 2048, 904]
    half = "x" * (json_scan.PIECE_BYTES // 2 - 100)
    texts = ["a", half, half, half, half * 4, "b"]
    long = [piece.texts for piece in read_pieces(json.dumps(texts).encode(), limits) if piece]
    assert long == [["a", half, half], [half], [half * 4], ["b"]]


def test_large_messages_may_contain_lone_surrogates() -> None:
    texts = ["\ud800" * 50_000] * 50
    assert read_in_pieces(json.dumps(texts).encode(), RequestLimits(10_000, 1_000_000)) == texts


@pytest.mark.parametrize(
    ("message", "error", "complaint"),
    [
        (b'["' + b"x" * 2**20 + b'", 17]', InvalidRequest, "byte 1048581 of the message begins '17]'"),
        (b"[" + (b'"' + b"x" * 10**6 + b'",') * 2 + b'"b" "c"]', InvalidRequest, "at byte 2000011"),
        (b'["' + b"x" * 2**20 + b'","' + b"x" * 20 + b'"]', TooLarge, "text 0 has 1048576 characters"),
        (b'["a",["' + b"x" * 10**6 + b'"]]', InvalidRequest, "item 1 must be a string"),
        (b'["a","' + b"x" * 2**27 + b'"]', TooLarge, "text 1 has 134217731 bytes; the limit is 1000000"),
        (b'[["a"],["' + b'","' * 2**20 + b'"]]', TooLarge, "text 1 has 1048577 tokens"),
        (b'"' + b"x" * 2**21 + b'"', InvalidRequest, "the message has no list"),
        (b"[" + b" " * 2**21 + b"]", InvalidRequest, "the list of texts is empty"),
    ],
)
def test_errors_in_large_messages_name_the_place(message: bytes, error: type[RequestError], complaint: str) -> None:
    with pytest.raises(error, match=re.escape(complaint)):
        read_in_pieces(message, RequestLimits(10, 1_000_000))
