"""Normalization and dimensions of single requests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.client.protocol import EMBEDDING_TYPES
from bert_serving.server.engines.batch import Batch
from bert_serving.server.ipc.messages import Result
from bert_serving.server.model.pipeline import Module, Normalize, SentencePipeline, Truncate
from bert_serving.server.model.pooling import PoolingStrategy
from bert_serving.server.model.vector_options import VectorOptions, apply_options, split_tail
from bert_serving.server.sink.sink import comparable
from bert_serving.server.worker.deduplicate import deduplicate, expand
from bert_serving.server.worker.sentence_head import SentenceHead, normalize

WIDTH = 6
options = st.builds(
    VectorOptions,
    st.sampled_from([None, True, False]),
    st.none() | st.integers(1, WIDTH),
    st.booleans(),
    st.none() | st.sampled_from(EMBEDDING_TYPES),
    st.none(),
    st.none(),
)
tails = st.lists(st.builds(Normalize) | st.builds(Truncate, st.integers(1, WIDTH)), max_size=4).map(tuple)


@given(options, st.none() | st.sampled_from([each for each in PoolingStrategy if each not in (0, 11)]))
def test_options_survive_their_code(wanted: VectorOptions, pooling: PoolingStrategy | None) -> None:
    wanted = wanted._replace(pooling=pooling)
    assert VectorOptions.from_code(wanted.code) == wanted
    assert (wanted.code == 0) == (wanted == VectorOptions())


def test_the_tail_begins_after_the_last_module_that_computes() -> None:
    unit, cut = Normalize(), Truncate(3)
    assert split_tail([unit, cut]) == ((), (unit, cut))
    assert split_tail([]) == ((), ())


@pytest.mark.parametrize(
    ("tail", "asked", "wanted"),
    [
        ((), (None, None), ()),
        ((), (True, None), (Normalize(),)),
        ((), (None, 3), (Truncate(3),)),
        ((), (True, 3), (Truncate(3), Normalize())),
        ((Normalize(),), (None, 3), (Truncate(3), Normalize())),
        ((Normalize(),), (False, None), ()),
        ((Normalize(),), (True, None), (Normalize(),)),
        ((Normalize(), Truncate(5)), (None, 3), (Normalize(), Truncate(5), Truncate(3))),
        ((Normalize(), Truncate(5)), (False, None), (Truncate(5),)),
        ((Truncate(5), Normalize()), (None, 3), (Truncate(5), Truncate(3), Normalize())),
    ],
)
def test_the_modules_that_options_give(
    tail: tuple[Module, ...], asked: tuple[bool | None, int | None], wanted: tuple[Module, ...]
) -> None:
    assert apply_options(tail, VectorOptions(*asked)) == wanted


@given(tails, st.lists(options, min_size=1, max_size=8), st.integers(0, 2**32 - 1), st.booleans())
def test_each_row_of_a_batch_is_that_of_its_own_request(
    tail: tuple[Module, ...], asked: list[VectorOptions], seed: int, repeats: bool
) -> None:
    random = np.random.default_rng(seed)
    count = len(asked)
    ids = random.integers(0, 2 if repeats else 10**6, count).astype(np.int32)
    batch = Batch(ids, np.zeros(count, np.int32), np.ones(count, np.int32), np.ones(count, np.int32))
    few, where = deduplicate(batch)
    array = random.normal(size=(few.num_sequences, WIDTH)).astype(np.float32)
    whole = array if where is None else expand(array, few, where, False)
    head = SentenceHead(SentencePipeline("", (), tail), WIDTH, {})
    codes = np.array([each.code for each in asked], np.int32)
    found = head.apply_with_options(array, few, where, codes)
    for row, each in enumerate(asked):
        wanted = whole[row : row + 1]
        for module in apply_options(tail, each):
            wanted = normalize(wanted) if isinstance(module, Normalize) else wanted[:, : module.dimensions]  # type: ignore[union-attr]
        np.testing.assert_allclose(found[row, : wanted.shape[1]], wanted[0], rtol=1e-6)
        assert not found[row, wanted.shape[1] :].any()


def test_vectors_with_options_of_their_own_do_not_count_as_drift() -> None:
    array, lengths = np.arange(6, dtype=np.float32).reshape(3, 2), np.array([4, 5, 6], np.int32)
    plain = Result(1, array, lengths, b"", False)
    assert comparable(plain, 2) == (array, lengths)
    # Vectors that the sink converts to an embedding type arrive as all others do.
    typed = VectorOptions(embedding_type="int8").code
    pooled = VectorOptions(pooling=PoolingStrategy.REDUCE_MEAN_MAX).code
    for other in (VectorOptions(True, 1).code, pooled):
        codes = np.array([0, other, typed], np.int32).tobytes()
        wide = np.pad(array, [(0, 0), (0, 2 if other == pooled else 0)])  # zeros beside a vector of another width
        vectors, found = comparable(Result(1, wide, lengths, b"", False, vector_codes=codes), 2)
        np.testing.assert_array_equal(vectors, array[[0, 2]])
        np.testing.assert_array_equal(found, [4, 6])
