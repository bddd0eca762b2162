"""Tests the conversion of packed tokens to a padded grid and back, with examples and with hypothesis."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.server.engines.batch import Batch
from bert_serving.server.engines.layout import (
    MASKED,
    PADDING,
    Layout,
    attention_mask,
    make_layout,
    make_padded_layout,
    padded_rows,
    select_sequences,
    split_batch,
    split_groups,
)

lengths_lists = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def make_batch(lengths: list[int]) -> Batch:
    """Returns a batch with consecutive token ids; every third token is masked."""
    count = sum(lengths)
    ids = np.arange(count, dtype=np.int32)
    return Batch(ids, ids % 2, (ids % 3 != 0).astype(np.int32), np.array(lengths, np.int32))


def test_layout_of_an_example() -> None:
    batch = Batch(
        np.array([7, 8, 9], np.int32), np.array([0, 0, 1], np.int32), np.array([1, 0, 1], np.int32), np.array([2, 1])
    )
    layout = make_layout(batch)
    assert layout.positions.tolist() == [0, 1, 0]
    assert layout.unpack.tolist() == [[0, 1], [2, 0]]
    assert layout.pack.tolist() == [0, 1, 2]
    assert layout.bias.tolist() == [[0, MASKED], [0, PADDING]]
    assert layout.mask.tolist() == [[1, 0], [1, 0]]
    assert (layout.first.tolist(), layout.last.tolist()) == ([0, 2], [1, 2])


def test_bias_of_a_fully_masked_sequence_is_zero() -> None:
    """In the sum of -10000 and a score, float32 keeps only a thousandth of the score."""
    tokens = np.arange(5, dtype=np.int32)
    mask = np.array([0, 0, 0, 1, 0], np.int32)
    layout = make_layout(Batch(tokens, tokens * 0, mask, np.array([2, 3], np.int32)))
    assert layout.bias.tolist() == [[0, 0, PADDING], [MASKED, 0, MASKED]]
    assert attention_mask(layout).tolist() == [[True, True, False], [False, True, False]]


@given(st.lists(st.integers(0, 1), min_size=1, max_size=40))
def test_one_sequence_has_the_layout_that_it_has_beside_an_equal_one(mask: list[int]) -> None:
    """One sequence without padding takes a shorter way."""
    ids, length = np.arange(len(mask), dtype=np.int32), np.array([len(mask)], np.int32)
    one = Batch(ids, ids % 2, np.array(mask, np.int32), length)
    two = make_layout(Batch(*(np.tile(values, 2) for values in (one.input_ids, one.type_ids, one.mask, length))))
    layout = make_layout(one)
    for field in fields(Layout):
        values, expected = getattr(layout, field.name), getattr(two, field.name)
        assert values.dtype == expected.dtype
        assert np.array_equal(values, expected[: len(values)]), field.name


@given(lengths_lists)
def test_unpack_and_pack_restore_every_token(lengths: list[int]) -> None:
    batch = make_batch(lengths)
    layout = make_layout(batch)
    grid = layout.input_ids[layout.unpack]
    assert np.array_equal(grid.ravel()[layout.pack], batch.input_ids)
    valid = np.arange(max(lengths)) < np.array(lengths)[:, None]
    assert np.array_equal(layout.bias == PADDING, ~valid)
    assert layout.mask.sum() == batch.mask.sum()
    assert not layout.mask[~valid].any()


@given(lengths_lists, st.integers(0, 5), st.integers(0, 7))
def test_padded_layout_has_the_tokens_of_the_packed_layout(lengths: list[int], more_rows: int, more_width: int) -> None:
    batch = make_batch(lengths)
    rows, width = len(lengths) + more_rows, max(lengths) + more_width
    packed, grid = make_layout(batch), make_padded_layout(batch, rows, width)
    assert grid.input_ids.shape == (rows * width,)
    assert grid.bias.shape == grid.mask.shape == grid.unpack.shape == (rows, width)
    places = np.repeat(np.arange(len(lengths)) * width, lengths) + packed.positions
    for name in ("input_ids", "type_ids", "positions"):
        assert np.array_equal(getattr(grid, name)[places], getattr(packed, name))
    assert np.array_equal(grid.mask.ravel()[places], batch.mask)
    assert (np.delete(grid.bias.ravel(), places) == PADDING).all()
    for name in ("first", "last"):
        expected = packed.input_ids[getattr(packed, name)]
        assert np.array_equal(grid.input_ids[getattr(grid, name)[: len(lengths)]], expected)


@given(lengths_lists, st.integers(1, 5000))
def test_groups_contain_every_sequence_once_within_max_grid(lengths: list[int], max_grid: int) -> None:
    array = np.array(lengths)
    groups = split_batch(array, max_grid, min_tokens=20)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * array[group].max() ** 2 <= max_grid


def test_long_and_short_sequences_are_in_different_groups() -> None:
    lengths = np.array([500, *[10] * 100])
    groups = split_batch(lengths, 1 << 30)
    assert [len(group) for group in groups] == [100, 1]
    assert len(split_batch(np.full(64, 30), 1 << 30)) == 1
    assert len(split_batch(np.array([3, 60]), 1 << 30)) == 1  # too few tokens for two groups


def test_split_groups_have_equal_size() -> None:
    lengths = np.full(14, 64)
    assert [len(part) for part in split_groups([np.arange(14)], lengths, 448)] == [7, 7]


@given(lengths_lists, st.integers(1, 200))
def test_split_groups_keep_the_order_within_max_tokens(lengths: list[int], max_tokens: int) -> None:
    array = np.array(lengths)
    groups = split_batch(array, 10_000)
    cut = split_groups(groups, array, max_tokens)
    assert np.array_equal(np.concatenate(cut), np.concatenate(groups))
    for group in cut:
        assert len(group)
        assert len(group) == 1 or array[group].sum() <= max_tokens + array.max()


@given(st.integers(1, 100_000))
def test_few_numbers_of_rows_occur(tokens: int) -> None:
    rows = padded_rows(tokens)
    assert tokens <= rows < tokens + 64
    assert rows % 16 == 0
    assert padded_rows(rows) == rows
    assert rows < 1.1 * tokens + 16


@given(lengths_lists, st.randoms())
def test_select_sequences(lengths: list[int], random: object) -> None:
    batch = make_batch(lengths)
    chosen = np.array(random.sample(range(len(lengths)), random.randint(1, len(lengths))))  # type: ignore[attr-defined]
    part, tokens = select_sequences(batch, chosen)
    ends = np.cumsum(lengths)
    expected = np.concatenate([np.arange(ends[i] - lengths[i], ends[i]) for i in chosen])
    assert np.array_equal(tokens, expected)
    assert np.array_equal(part.input_ids, expected)
    assert np.array_equal(part.lengths, batch.lengths[chosen])
    assert np.array_equal(part.mask, batch.mask[expected])
