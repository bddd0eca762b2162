"""Counting what JSON holds without reading it, against reading it; and what is refused before it is read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bert_serving.server import json_scan as bulk
from bert_serving.server.errors import InvalidRequest, RequestError, TooLarge
from bert_serving.server.ventilator.requests import RequestLimits, read_texts

LIMITS = RequestLimits(max_request_size=4, max_text_length=100, max_tokens=6)
TEXT = st.text(st.sampled_from('\\"[]{},: a1é\n'), max_size=8)
VALUES = st.recursive(TEXT | st.none() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner))


def expected(value: Any) -> bulk.JsonCounts:
    contents = bulk.JsonCounts()
    if isinstance(value, str):
        contents.strings = 1
    elif isinstance(value, list | dict):
        contents.lists, contents.objects = int(isinstance(value, list)), int(isinstance(value, dict))
        contents.commas = max(0, len(value) - 1)
        for inner in value if isinstance(value, list) else [*value, *value.values()]:
            of_inner = expected(inner)
            contents.strings += of_inner.strings
            contents.lists += of_inner.lists
            contents.objects += of_inner.objects
            contents.commas += of_inner.commas
    return contents


def is_of_lists(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(map(is_of_lists, value)))


@given(VALUES, st.booleans(), st.integers(1, 9))
@example(['\\"', "\\\\", '\\\\"['], False, 1)
def test_counts_what_is_there(value: Any, ascii_only: bool, piece: int) -> None:
    message = json.dumps(value, ensure_ascii=ascii_only).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "_PIECE", piece)
        found = bulk.count(message)
    assert (found.stranger is None) == is_of_lists(value)
    if found.stranger is not None:
        assert message[found.stranger] not in b'", []'
    found.stranger = None
    assert found == expected(value)


@given(st.lists(TEXT, max_size=6) | st.lists(st.lists(TEXT, max_size=3), max_size=6) | VALUES, st.booleans())
@example([["a"] * 7], True)
@example(["[CLS],[SEP]"] * 4, True)
def test_what_is_refused_unread_is_refused_when_read(value: Any, ascii_only: bool) -> None:
    """The limits, taken by counting, change no answer: except for the tokens of all lists, which have a limit there."""
    message = json.dumps(value, ensure_ascii=ascii_only).encode()

    def outcome() -> object:
        try:
            return read_texts(message, LIMITS)
        except RequestError as error:
            return type(error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "SMALL_BYTES", 0)
        counted = outcome()
    read = outcome()
    if isinstance(read, list) and isinstance(read[0], list) and sum(map(len, read)) > LIMITS.max_tokens:
        assert counted is TooLarge
    elif read is InvalidRequest:
        assert counted in (InvalidRequest, TooLarge)
    else:
        assert counted == read


def test_lone_surrogates_are_read_in_large_messages_too() -> None:
    limits = RequestLimits(10_000, 1_000_000)
    texts = ["\ud800" * 50_000] * 5
    assert read_texts(json.dumps(texts).encode(), limits) == texts


def test_strangers_are_named() -> None:
    message = b'["' + b"x" * bulk.SMALL_BYTES + b'", 17]'
    with pytest.raises(InvalidRequest, match=f"byte {len(message) - 3} of the message begins '17]'"):
        read_texts(message, RequestLimits(10, 2 * bulk.SMALL_BYTES))
