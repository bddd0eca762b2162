"""Compares the JSON scan with decoding, and tests the requests that the scan rejects."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bert_serving.server import json_scan
from bert_serving.server.errors import InvalidRequest, RequestError, TooLarge
from bert_serving.server.ventilator.requests import RequestLimits, read_texts

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


@given(st.lists(TEXT, max_size=6) | st.lists(st.lists(TEXT, max_size=3), max_size=6) | VALUES, st.booleans())
@example([["a"] * 7], True)
@example(["[CLS],[SEP]"] * 4, True)
def test_the_scan_rejects_only_what_decoding_rejects(value: Any, ascii_only: bool) -> None:
    """The scan changes no result, except that it limits the tokens of all lists together."""
    message = json.dumps(value, ensure_ascii=ascii_only).encode()

    def outcome() -> object:
        try:
            return read_texts(message, LIMITS)
        except RequestError as error:
            return type(error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_scan, "SMALL_BYTES", 0)
        counted = outcome()
    read = outcome()
    if isinstance(read, list) and isinstance(read[0], list) and sum(map(len, read)) > LIMITS.max_tokens:
        assert counted is TooLarge
    elif read is InvalidRequest:
        assert counted in (InvalidRequest, TooLarge)
    else:
        assert counted == read


def test_large_messages_may_contain_lone_surrogates() -> None:
    limits = RequestLimits(10_000, 1_000_000)
    texts = ["\ud800" * 50_000] * 5
    assert read_texts(json.dumps(texts).encode(), limits) == texts


def test_the_error_names_the_first_invalid_byte() -> None:
    message = b'["' + b"x" * json_scan.SMALL_BYTES + b'", 17]'
    with pytest.raises(InvalidRequest, match=f"byte {len(message) - 3} of the message begins '17]'"):
        read_texts(message, RequestLimits(10, 2 * json_scan.SMALL_BYTES))
