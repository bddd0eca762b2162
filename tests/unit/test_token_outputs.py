"""Outputs of texts from the worker to the reply: packed, sent, assembled in any order, and read by the client."""

from __future__ import annotations

import json
import logging
from typing import Any

import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_serving.client import EncodedOutputs, SparseVector
from bert_serving.client._encoding import EncodeCall
from bert_serving.client._outputs import join_outputs, name_dense, named_outputs
from bert_serving.client._outputs import outputs_of as read_outputs
from bert_serving.client.errors import OptionError, ReplyError
from bert_serving.client.protocol import Reply, parse_reply
from bert_serving.server.ipc import commands
from bert_serving.server.ipc.commands import u64
from bert_serving.server.ipc.messages import Result
from bert_serving.server.ipc.token_outputs import TokenOutputs, concatenate
from bert_serving.server.model.token_heads import MULTI_BIT, NO_DENSE_BIT, SPARSE_BIT
from bert_serving.server.sink.assembly import ResultAssembler
from bert_serving.server.sink.result_receiver import ResultCheck
from bert_serving.server.sink.token_outputs import OutputWriter

TOKENS = [f"token{number}" for number in range(50)]
DIMS = 3
COUNTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=12)
NAMES = st.permutations(["dense", "sparse", "multi"]).flatmap(
    lambda names: st.integers(1 + (names[0] == "dense"), 3).map(lambda count: names[:count])
)


def outputs_of(counts: list[tuple[int, int]], seed: int = 0) -> TokenOutputs:
    """Returns random outputs; the counts are those of weights and of vectors of each text."""
    random = np.random.default_rng(seed)
    sparse, multi = np.array(counts, np.int32).T
    ids = [np.sort(random.choice(50, count, replace=False)) for count in sparse.tolist()]
    return TokenOutputs(
        sparse.copy(),
        np.concatenate(ids).astype(np.int32),
        random.random(int(sparse.sum()), np.float32),
        multi.copy(),
        random.normal(size=(int(multi.sum()), DIMS)).astype(np.float32),
    )


def texts_of(outputs: TokenOutputs) -> list[tuple[Any, ...]]:
    """Returns the outputs of each text as lists."""
    sparse, multi = np.cumsum(outputs.sparse_counts)[:-1], np.cumsum(outputs.multi_counts)[:-1]
    columns = (
        np.split(outputs.sparse_ids, sparse),
        np.split(outputs.sparse_weights, sparse),
        np.split(outputs.multi, multi),
    )
    return [tuple(each.tolist() for each in row) for row in zip(*columns, strict=True)]


@settings(max_examples=40)
@given(COUNTS, st.data())
def test_texts_are_chosen_in_any_order(counts: list[tuple[int, int]], data: st.DataObject) -> None:
    outputs = outputs_of(counts)
    rows = data.draw(st.lists(st.integers(0, len(counts) - 1), max_size=20))
    chosen, all_texts = outputs.take(np.array(rows, np.int64)), texts_of(outputs)
    assert chosen.problem(len(rows), 50, DIMS, np.dtype(np.float32)) == ""
    assert (texts_of(chosen) if rows else []) == [all_texts[row] for row in rows]
    assert texts_of(concatenate([outputs, outputs])) == all_texts * 2
    size = 2 * len(counts)
    spread = texts_of(outputs.spread(size, np.arange(1, size, 2)))
    assert spread[1::2] == all_texts
    assert spread[::2] == [([], [], [])] * len(counts)


def result_of(outputs: TokenOutputs | None, dense: np.ndarray, rows: list[int], code: int) -> Result:
    manifest = np.array([[1, row] for row in rows], np.int64)
    lengths = np.full(len(rows), 3, np.int32)
    codes = np.full(len(rows), code, np.int32).tobytes()
    return Result(1, dense, lengths, manifest, token_level=False, vector_codes=codes, outputs=outputs)


def code_of(names: list[str]) -> int:
    bits = {"sparse": SPARSE_BIT, "multi": MULTI_BIT}
    return sum(bits.get(name, 0) for name in names) | (0 if "dense" in names else NO_DENSE_BIT)


@settings(max_examples=40)
@given(COUNTS, NAMES, st.randoms(use_true_random=False))
def test_the_client_reads_what_workers_sent_in_any_order(
    counts: list[tuple[int, int]], names: list[str], random: Any
) -> None:
    """Batches arrive in any order, also before their announcement, and some twice, as after the death of a worker."""
    published: list[Any] = []
    assembler = ResultAssembler(
        None,
        lambda _, frames: published.append(frames),
        logging.getLogger("test"),
        lambda: 0.0,
        lambda _, rows, __: rows,
        lambda _: 4,
        OutputWriter(TOKENS),
    )
    size, outputs = len(counts), outputs_of(counts)
    dense = np.random.default_rng(1).normal(size=(size, 4)).astype(np.float32)
    order = list(range(size))
    random.shuffle(order)
    cut = random.randint(0, size - 1)
    batches = [rows for rows in (order[:cut], order[cut:], order[:1]) if rows]
    announcement = json.dumps({"outputs": names}).encode()
    events: list[Any] = [[commands.JOB_CHUNK, u64(1), u64(size), b"me", b"7", u64(0), b"", b"", announcement]]
    for rows in batches:
        result = result_of(outputs.take(np.array(rows, np.int64)), dense[rows], rows, code_of(names))
        frames = [zmq.Frame(bytes(frame)) for frame in result.frames()]
        events.append(Result.from_frames(frames, 0.0))
        assert ResultCheck(False, 4, "float32", lambda _: 4, 50, DIMS).problem(events[-1]) == ""
    random.shuffle(events)
    for event in events:
        (assembler.add if isinstance(event, Result) else assembler.announce)(event)
    ((info, array, request_id),) = published
    assert assembler.num_bytes == 0
    call = EncodeCall(["x"] * size, None, options={"outputs": tuple(names)})
    chunk = call.next_chunk()
    assert chunk is not None
    call.sent(7, chunk)
    call.add_reply(7, parse_reply([b"me", info, array.tobytes(), request_id]))
    assert call.outputs is not None
    found = call.outputs.result(lambda each: each, "")
    assert (found.dense is not None, found.sparse is not None, found.multi is not None) == tuple(
        name in names for name in ("dense", "sparse", "multi")
    )
    if found.dense is not None:
        np.testing.assert_array_equal(found.dense, dense)
    for row, (ids, weights, vectors) in enumerate(texts_of(outputs)):
        if found.sparse is not None:
            assert found.sparse[row].ids.tolist() == ids
            assert found.sparse[row].to_dict() == dict(zip([TOKENS[each] for each in ids], weights, strict=True))
        if found.multi is not None:
            assert found.multi[row].tolist() == vectors
            assert found.multi[row].shape == (counts[row][1], DIMS)


def test_wrong_outputs_of_a_worker_are_named() -> None:
    good = outputs_of([(2, 1), (1, 2)])
    dense, check = np.zeros((2, 4), np.float32), ResultCheck(False, 4, "float32", lambda _: 4, 50, DIMS)

    def problem(code: int = SPARSE_BIT, **changes: Any) -> str:
        arrays = {name: getattr(good, name) for name in TokenOutputs.__slots__}
        return check.problem(result_of(TokenOutputs(**arrays | changes), dense, [0, 1], code))

    assert problem() == ""
    assert "3 counts" in problem(sparse_counts=np.array([1, 1, 1], np.int32))
    assert "2 counts for 2 texts and 3 values" in problem(multi_counts=np.array([-1, 4], np.int32))
    assert "1 weights of 3 tokens" in problem(sparse_weights=np.zeros(1, np.float32))
    assert "outside the vocabulary of 50 tokens" in problem(sparse_ids=np.array([0, 50, 1], np.int32))
    assert "4 float32, not 3 float32" in problem(multi=np.zeros((3, 4), np.float32))
    assert "3 float64" in problem(multi=np.zeros((3, 3), np.float64))
    assert "no sparse vectors" in check.problem(result_of(None, dense, [0, 1], SPARSE_BIT))
    assert check.problem(result_of(None, dense, [0, 1], 0)) == ""


@pytest.mark.parametrize(
    "info",
    [
        {"dtype": "float32", "shape": [1, 2]},
        {"outputs": []},
        {"outputs": [{"output": "sparse", "name": "counts", "dtype": "int32", "shape": [1]}]},
        {"outputs": [{"output": "sparse", "name": "counts", "dtype": "int32", "shape": [2]}], "vocabulary": {}},
        {"outputs": "x"},
        {"outputs": [{"output": "sparse", "name": "counts", "dtype": "no", "shape": [1]}]},
        {"outputs": [{"output": "sparse", "name": "counts", "dtype": "int32", "shape": [-1]}]},
    ],
)
def test_a_reply_without_the_outputs_is_an_error(info: dict[str, Any]) -> None:
    call = EncodeCall(["x"], None, options={"outputs": ("sparse",)})
    chunk = call.next_chunk()
    assert chunk is not None
    call.sent(7, chunk)
    with pytest.raises(ReplyError, match="request 7"):
        call.add_reply(7, parse_reply([b"me", json.dumps(info).encode(), bytes(8), b"7"]))


def test_inner_products_of_sparse_vectors() -> None:
    call = outputs_of([(4, 0), (4, 0)])
    rows = np.split(call.sparse_ids, 2), np.split(call.sparse_weights, 2)
    first, second = (
        SparseVector(ids, weights, [TOKENS[each] for each in ids]) for ids, weights in zip(*rows, strict=True)
    )
    dense = np.zeros((2, 50))
    dense[0, first.ids], dense[1, second.ids] = first.weights, second.weights
    assert first.dot(second) == pytest.approx(dense[0] @ dense[1])
    assert first.dot(first) == pytest.approx(dense[0] @ dense[0])
    assert len(first) == 4


def test_replies_name_their_outputs() -> None:
    values: list[Any] = [None, 7, [], ["dense"], [{"output": "other"}], [{}]]
    for value in values:
        assert named_outputs(Reply(1, {"outputs": value})) == ()
    arrays = [{"output": name} for name in ("sparse", "sparse", "dense", "other")]
    assert named_outputs(Reply(1, {"outputs": arrays})) == ("sparse", "dense")
    with pytest.raises(ReplyError, match="request 1 cannot be read"):
        read_outputs(Reply(1, {"outputs": arrays}))
    vectors = np.ones((2, 3), np.float32)
    plain = Reply(1, {"dtype": "float32", "shape": [2, 3]}, memoryview(vectors.tobytes()))
    named = name_dense(plain)
    assert isinstance(named, Reply)
    np.testing.assert_array_equal(read_outputs(named).dense, vectors)
    failed = OptionError("why")
    assert name_dense(failed) is failed


def test_outputs_of_several_requests_are_joined() -> None:
    first: EncodedOutputs[Any] = EncodedOutputs(np.ones((1, 2), np.float32), multi=[np.ones((3, 2))], tokens=[["a"]])
    second: EncodedOutputs[Any] = EncodedOutputs(
        np.zeros((2, 2), np.float32), multi=[np.ones((1, 2)), np.ones((0, 2))], tokens=[["b"], []]
    )
    joined = join_outputs([first, second], first.names, np.concatenate)
    assert joined.dense is not None
    assert joined.multi is not None
    assert (joined.dense.shape, joined.names, joined.tokens) == ((3, 2), ("dense", "multi"), [["a"], ["b"], []])
    assert [len(each) for each in joined.multi] == [3, 1, 0]
