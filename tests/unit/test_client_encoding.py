"""A call split into several requests has the same result as one request."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.client._encoding import EncodeCall, Response, concatenate, has_room
from bert_serving.client.errors import OptionError, ReplyError
from bert_serving.client.protocol import EncodeInfo, Reply, parse_reply


def reply_for(number: int, array: np.ndarray, **info: object) -> Reply:
    head = EncodeInfo(str(array.dtype), array.shape, **info)  # type: ignore[arg-type]
    return parse_reply([b"id", head.to_json(), array.tobytes(), b"%d" % number])


@given(
    num_texts=st.integers(1, 60),
    batch_size=st.none() | st.integers(1, 70),
    longest=st.integers(1, 5),
    pooled=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_rows_are_in_order_for_any_order_of_replies(
    num_texts: int, batch_size: int | None, longest: int, pooled: bool, seed: int
) -> None:
    chance = random.Random(seed)
    lengths = [chance.randint(1, longest) for _ in range(num_texts)]
    whole = np.random.default_rng(seed).random((num_texts, max(lengths), 3), dtype=np.float32)
    for row, length in enumerate(lengths):
        whole[row, length:] = 0
    call = EncodeCall([str(row) for row in range(num_texts)], batch_size)
    number, sent = 0, {}
    while not call.done:
        while (chunk := call.next_chunk()) is not None:
            number += 1
            call.sent(number, chunk)
            sent[number] = chunk
        assert has_room(len(sent) - 1, 0)
        replied = chance.choice(list(sent))
        rows = [int(text) for text in sent.pop(replied).texts]
        part = whole[rows, 0] if pooled else whole[rows, : max(lengths[row] for row in rows)]
        assert call.add_reply(replied, reply_for(replied, part, tokens=[[str(row)] for row in rows])) == len(rows)
    np.testing.assert_array_equal(call.embedding, whole[:, 0] if pooled else whole)
    assert call.embedding.flags.writeable
    assert call.tokens == [[str(row)] for row in range(num_texts)]
    assert call.num_done == num_texts


def test_texts_in_flight_are_limited() -> None:
    call = EncodeCall(["x"] * 100_000, 4096)
    sent = 0
    while (chunk := call.next_chunk()) is not None:
        sent += 1
        call.sent(sent, chunk)
    assert sent == 2
    assert call.in_flight == [1, 2]


def test_two_requests_of_any_size_are_in_flight() -> None:
    assert has_room(1, 10**9)
    assert not has_room(2, 10**9)
    assert not has_room(64, 64)


def test_truncated_texts_are_counted() -> None:
    call = EncodeCall(["a", "b"], 1)
    for number in (1, 2):
        chunk = call.next_chunk()
        assert chunk is not None
        call.sent(number, chunk)
        call.add_reply(number, reply_for(number, np.zeros((1, 2), np.float32), num_truncated=1, truncated=[0]))
    assert call.num_truncated == 2
    assert call.tokens is None


@pytest.mark.parametrize("array", [np.zeros((3, 2), np.float32), np.float32(1)])
def test_reply_with_wrong_number_of_rows_is_an_error(array: np.ndarray) -> None:
    call = EncodeCall(["a", "b"], None)
    chunk = call.next_chunk()
    assert chunk is not None
    call.sent(1, chunk)
    with pytest.raises(ReplyError, match="has 2 texts"):
        call.add_reply(1, reply_for(1, array))


@pytest.mark.parametrize(
    "second", [np.zeros((1, 3), np.float32), np.zeros((1, 2), np.float16), np.zeros((1, 1, 2), "f4")]
)
def test_change_of_model_within_one_call_is_an_error(second: np.ndarray) -> None:
    call = EncodeCall(["a", "b"], 1)
    for number in (1, 2):
        chunk = call.next_chunk()
        assert chunk is not None
        call.sent(number, chunk)
    call.add_reply(1, reply_for(1, np.zeros((1, 2), np.float32)))
    with pytest.raises(ReplyError, match="another model"):
        call.add_reply(2, reply_for(2, second))


@pytest.mark.parametrize(
    "info", [b'{"shape": [1]}', b'{"dtype": "float32", "shape": [7]}', b'{"dtype": "what", "shape": [1]}']
)
def test_reply_without_valid_array_is_an_error(info: bytes) -> None:
    call = EncodeCall(["a"], None)
    chunk = call.next_chunk()
    assert chunk is not None
    call.sent(1, chunk)
    with pytest.raises(ReplyError, match="cannot be read"):
        call.add_reply(1, parse_reply([b"id", info, b"\0\0\0\0", b"1"]))


def test_batch_size_must_be_positive() -> None:
    with pytest.raises(OptionError, match="batch_size must be at least 1"):
        EncodeCall(["a"], 0)


def test_response_shape_in_both_formats() -> None:
    array = np.zeros((2, 3))
    assert Response(1, array, "").shape == Response(1, array.tolist(), "").shape == (2, 3)
    number, embedding, tokens = Response(1, array, "")
    assert (number, tokens) == (1, "")
    assert embedding is array


def test_concatenate_pads_with_zeros() -> None:
    one, two = np.ones((1, 2, 3)), np.ones((2, 4, 3))
    whole = concatenate([one, two])
    assert whole.shape == (3, 4, 3)
    assert whole[0, 2:].sum() == 0
    np.testing.assert_array_equal(whole[1:], two)
    assert concatenate([np.ones((1, 3)), np.ones((2, 3))]).shape == (3, 3)
