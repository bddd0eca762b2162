"""Messages between the server's processes: what goes in comes out, small or large, and how many frames it takes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.server.engines.batch import Batch
from bert_serving.server.ipc.messages import (
    NO_COPY_BYTES,
    SMALL_BYTES,
    BatchMessage,
    Result,
    decode_commands,
    encode_commands,
    is_large,
)

#: Numbers of addresses: a socket that was closed keeps its address for a moment.
_numbers = itertools.count()


def received(frames: list[object]) -> list[zmq.Frame]:
    """The frames as they come out of a socket, without a copy."""
    context = zmq.Context.instance()
    push, pull = context.socket(zmq.PUSH), context.socket(zmq.PULL)
    with push, pull:
        address = f"inproc://test-messages-{next(_numbers)}"
        pull.bind(address)
        push.connect(address)
        push.send_multipart(frames, copy=not is_large(frames))
        assert pull.poll(30_000)
        return pull.recv_multipart(copy=False)


def batch_of(lengths: list[int]) -> Batch:
    count = sum(lengths)
    ids = np.arange(count, dtype=np.int32)
    return Batch(ids, ids % 2, 1 - ids % 2, np.array(lengths, np.int32))


def manifest_of(count: int) -> np.ndarray:
    return np.arange(2 * count, dtype=np.int64).reshape(count, 2)


@given(st.lists(st.lists(st.binary(max_size=50), max_size=9), max_size=20))
def test_commands_survive_a_round_trip(commands: list[list[bytes]]) -> None:
    assert decode_commands(encode_commands(commands)) == commands


@pytest.mark.parametrize("lengths", [[1], [7], [3, 1, 12], [512] * 40])
@pytest.mark.parametrize("has_types", [True, False])
@pytest.mark.parametrize("has_mask", [True, False])
def test_a_batch_comes_out_as_it_went_in(lengths: list[int], has_types: bool, has_mask: bool) -> None:
    batch, manifest = batch_of(lengths), manifest_of(len(lengths))
    codes = np.arange(len(lengths), dtype=np.int32).tobytes()
    sent = BatchMessage(2**50, batch, manifest, b"announcements", has_types, has_mask, codes)
    found = BatchMessage.from_frames(received(sent.frames()))
    assert (found.id, found.announcements, found.has_types, found.has_mask) == (
        2**50,
        b"announcements",
        has_types,
        has_mask,
    )
    assert np.array_equal(found.batch.input_ids, batch.input_ids)
    assert np.array_equal(found.batch.lengths, batch.lengths)
    assert np.array_equal(found.batch.type_ids, batch.type_ids if has_types else np.zeros_like(batch.type_ids))
    assert np.array_equal(found.batch.mask, batch.mask if has_mask else np.ones_like(batch.mask))
    assert bytes(found.manifest) == manifest.tobytes()
    assert found.vector_codes == codes


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("rows", [1, 300])
@pytest.mark.parametrize("token_level", [True, False])
def test_a_result_comes_out_as_it_went_in(dtype: str, rows: int, token_level: bool) -> None:
    count = 1 if token_level else rows
    array = np.random.default_rng(0).normal(size=(rows, 64)).astype(dtype)
    lengths = np.array([rows // count] * count, np.int32)
    sent = Result(3, array, lengths, memoryview(manifest_of(count)), token_level, 12345, b"announcements")
    found = Result.from_frames(received(sent.frames()), 100.0)
    assert (found.batch_id, found.token_level, found.duration, found.announcements) == (
        3,
        token_level,
        12345,
        b"announcements",
    )
    assert found.began_at == 100.0 - 12345e-9
    assert found.array.dtype == dtype
    assert np.array_equal(found.array, array)
    assert np.array_equal(found.lengths, lengths)
    assert np.array_equal(found.manifest, manifest_of(count))


def test_a_column_of_a_larger_array_comes_out_as_it_is() -> None:
    array = np.arange(60, dtype=np.float32).reshape(6, 10)[:, 3:5]
    found = Result.from_frames(received(Result(1, array, np.ones(6, np.int32), manifest_of(6), False).frames()), 0.0)
    assert np.array_equal(found.array, array)


def test_a_short_sentence_is_one_frame_and_large_arrays_are_not_copied() -> None:
    one = BatchMessage(1, batch_of([12]), manifest_of(1)).frames()
    assert len(one) == 1
    assert not is_large(one)
    vector = Result(1, np.zeros((1, 1024), np.float32), np.ones(1, np.int32), manifest_of(1), False).frames()
    assert len(vector) == 1
    many = np.zeros((NO_COPY_BYTES // 4096, 1024), np.float32)
    large = Result(1, many, np.ones(len(many), np.int32), manifest_of(len(many)), False).frames()
    assert large[1] is many
    assert is_large(large)
    assert SMALL_BYTES < NO_COPY_BYTES
