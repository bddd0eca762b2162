"""Converts packed tokens to the padded grid of attention and back, in pure numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..model.architecture import BERT
from .base import EngineError, EngineSpec
from .batch import Batch

#: Added to the scores of a token with mask 0, as in Google's BERT.
MASKED = -10000.0
#: Added to the scores of padding: the softmax weight of padding is 0 for every sequence.
PADDING = -1e9


@dataclass(frozen=True, slots=True)
class Layout:
    """Inputs of the graph for ``n`` sequences of at most ``T`` tokens, ``t`` tokens in total.

    Attributes:
        input_ids: int32 ``[t]``.
        type_ids: int32 ``[t]``.
        positions: position of each token in its sequence, int32 ``[t]``.
        unpack: index of the token at each position of the grid, int32 ``[n, T]``; 0 at padding.
        pack: position of each token in the flat grid, int32 ``[t]``.
        bias: added to the attention scores, float32 ``[n, T]``; 0 for a sequence whose tokens are all masked.
        mask: 1 where pooling uses a token, else 0, float32 ``[n, T]``.
        first: index of the first token of each sequence, int32 ``[n]``.
        last: index of its last token, int32 ``[n]``.
    """

    input_ids: np.ndarray
    type_ids: np.ndarray
    positions: np.ndarray
    unpack: np.ndarray
    pack: np.ndarray
    bias: np.ndarray
    mask: np.ndarray
    first: np.ndarray
    last: np.ndarray


def make_layout(batch: Batch, multiple: int = 1) -> Layout:
    """Returns the layout of a batch with packed tokens, whose ``T`` is a multiple of ``multiple``.

    If all tokens of a sequence are masked, they attend to each other. Google's BERT adds the same bias to all their
    scores. Here the bias is 0, since the sum would round the scores to a thousandth.
    """
    if batch.num_sequences == 1 and batch.num_tokens % multiple == 0:
        return _layout_of_one(batch)
    lengths = batch.lengths.astype(np.int64)
    count, longest, tokens = len(lengths), int(round_up(lengths.max(), multiple)), batch.num_tokens
    starts = np.cumsum(lengths) - lengths
    rows = np.repeat(np.arange(count), lengths)
    positions = np.arange(tokens) - starts[rows]
    pack = rows * longest + positions
    unpack = np.zeros(count * longest, np.int32)
    unpack[pack] = np.arange(tokens)
    mask = np.zeros(count * longest, np.float32)
    mask[pack] = batch.mask
    bias = np.full(count * longest, PADDING, np.float32)
    attends = batch.mask != 0
    is_blank = mask.reshape(count, longest).max(axis=1) == 0
    bias[pack] = np.where(attends | is_blank[rows], 0.0, MASKED)
    return Layout(
        input_ids=batch.input_ids.astype(np.int32, copy=False),
        type_ids=batch.type_ids.astype(np.int32, copy=False),
        positions=positions.astype(np.int32),
        unpack=unpack.reshape(count, longest),
        pack=pack.astype(np.int32),
        bias=bias.reshape(count, longest),
        mask=mask.reshape(count, longest),
        first=starts.astype(np.int32),
        last=(starts + lengths - 1).astype(np.int32),
    )


def _layout_of_one(batch: Batch) -> Layout:
    """Returns the layout of one sequence without padding, in a third of the time."""
    positions = np.arange(batch.num_tokens, dtype=np.int32)
    mask = batch.mask.astype(np.float32)
    bias = np.where(batch.mask, np.float32(0), np.float32(MASKED)) if batch.mask.any() else np.zeros_like(mask)
    return Layout(
        input_ids=batch.input_ids.astype(np.int32, copy=False),
        type_ids=batch.type_ids.astype(np.int32, copy=False),
        positions=positions,
        unpack=positions[np.newaxis],
        pack=positions,
        bias=bias[np.newaxis],
        mask=mask[np.newaxis],
        first=positions[:1],
        last=positions[-1:],
    )


def token_positions(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the position of each token in its sequence, ``[t]``, and 0 and the end of each sequence, ``[n + 1]``."""
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return np.arange(ends[-1]) - np.repeat(ends[:-1], lengths), ends


def round_up(lengths: Any, multiple: int) -> Any:
    """Returns the least multiples of ``multiple`` that are not below ``lengths``."""
    return lengths + -lengths % multiple


def make_padded_layout(batch: Batch, count: int, longest: int) -> Layout:
    """Returns a layout with padding tokens, whose shapes depend on ``count`` and ``longest`` only.

    For compilers that compile each shape. ``count`` and ``longest`` are at least those of the batch. Added rows and
    positions hold token 0, masked. The caller discards their vectors.
    """
    packed = make_layout(batch)
    rows, width = packed.unpack.shape
    positions = (packed.pack // width) * longest + packed.pack % width
    size = count * longest

    def scatter(values: np.ndarray, fill: float, dtype: type) -> np.ndarray:
        grid: np.ndarray = np.full(size, fill, dtype)
        grid[positions] = values
        return grid

    first = np.zeros(count, np.int32)
    first[:rows] = np.arange(rows) * longest
    last = np.zeros(count, np.int32)
    last[:rows] = first[:rows] + batch.lengths - 1
    everywhere = np.arange(size, dtype=np.int32)
    return Layout(
        input_ids=scatter(packed.input_ids, 0, np.int32),
        type_ids=scatter(packed.type_ids, 0, np.int32),
        positions=scatter(packed.positions, 0, np.int32),
        unpack=everywhere.reshape(count, longest),
        pack=everywhere,
        bias=scatter(packed.bias.ravel()[packed.pack], PADDING, np.float32).reshape(count, longest),
        mask=scatter(packed.mask.ravel()[packed.pack], 0, np.float32).reshape(count, longest),
        first=first,
        last=last,
    )


def split_batch(lengths: np.ndarray, max_grid: int, max_waste: float = 2.0, min_tokens: int = 256) -> list[np.ndarray]:
    """Groups sequences of similar length, to limit the padding that attention computes.

    Args:
        lengths: number of tokens of each sequence, int ``[n]``.
        max_grid: maximum number of elements of the scores ``[n, T, T]`` of one head; a single sequence may exceed it.
        max_waste: maximum ratio of a group's padded grid to its tokens.
        min_tokens: a group with fewer tokens may exceed ``max_waste``: small dense layers are inefficient.

    Returns:
        indexes into ``lengths``, by group; every index is in exactly one group.
    """
    order = np.argsort(lengths, kind="stable")
    groups: list[np.ndarray] = []
    start = tokens = 0
    for end, index in enumerate(order):
        length = int(lengths[index])
        count = end - start + 1
        grid = count * length
        wasteful = grid > max_waste * (tokens + length) and tokens >= min_tokens
        if end > start and (grid * length > max_grid or wasteful):
            groups.append(order[start:end])
            start, tokens = end, 0
        tokens += length
    groups.append(order[start:])
    return groups


def padded_rows(tokens: int) -> int:
    """Returns the number of rows of the dense layers for a number of tokens: one of few, so that few sizes occur.

    oneDNN compiles a kernel for each new number of rows, which can take as long as a small batch. Its tiles have 16
    rows, so the added rows cost little.
    """
    step = 16 if tokens <= 256 else 32 if tokens <= 512 else 64
    return tokens + -tokens % step


def split_groups(groups: list[np.ndarray], lengths: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """Splits each group into the fewest subgroups of about equal size and about ``max_tokens`` tokens at most."""
    result = []
    for group in groups:
        ends = np.cumsum(lengths[group])
        count = -(-int(ends[-1]) // max_tokens)
        boundaries = np.searchsorted(ends, ends[-1] * np.arange(1, count) / count, side="right")
        result += [subgroup for subgroup in np.split(group, boundaries) if len(subgroup)]
    return result


def encode_in_groups(
    batch: Batch,
    groups: list[np.ndarray],
    is_token_level: bool,
    encode: Callable[[Batch], np.ndarray],
    map_fn: Callable[..., Iterable[np.ndarray]] = map,
) -> np.ndarray:
    """Encodes groups of a batch and writes their rows to their positions in the whole batch.

    Args:
        groups: result of ``split_batch``.
        encode: returns the vectors of a sub-batch, ``[n, d]`` or ``[t, d]``.
        map_fn: applies ``encode`` to all sub-batches, such as ``map`` or ``ThreadPool.map``.

    Returns:
        ``[n, d]``, or ``[t, d]`` if ``is_token_level``.
    """
    if len(groups) == 1:
        return encode(batch)
    batches, tokens = select_groups(batch, groups)
    return merge_groups(batch, groups, tokens, is_token_level, map_fn(encode, batches))


def select_groups(batch: Batch, groups: list[np.ndarray]) -> tuple[tuple[Batch, ...], tuple[np.ndarray, ...]]:
    """Returns each group of a batch as a batch, and the indexes of its tokens in the whole batch."""
    batches, tokens = zip(*(select_sequences(batch, sequences) for sequences in groups), strict=True)
    return batches, tokens


def merge_groups(
    batch: Batch,
    groups: list[np.ndarray],
    token_indexes: tuple[np.ndarray, ...],
    is_token_level: bool,
    encoded: Iterable[np.ndarray],
) -> np.ndarray:
    """Writes the rows of groups to their positions in the whole batch; the groups are those of ``select_groups``."""
    result: np.ndarray | None = None
    for sequences, tokens, vectors in zip(groups, token_indexes, encoded, strict=True):
        if result is None:
            total = batch.num_tokens if is_token_level else batch.num_sequences
            result = np.empty((total, vectors.shape[1]), vectors.dtype)
        result[tokens if is_token_level else sequences] = vectors
    assert result is not None
    return result


def check_batch(batch: Batch, spec: EngineSpec) -> None:
    """Rejects a batch with values outside the tables of the model.

    On a GPU, an index out of range would make the device unusable for the process.

    Raises:
        EngineError: the message names the value and the limit of the model.
    """
    model = spec.model
    if batch.num_sequences == 0 or batch.lengths.min() < 1:
        raise EngineError(
            "empty batch or sequence; a batch needs at least one sequence, and every sequence at least one token"
        )
    has_limit = spec.use_position_embeddings or model.architecture != BERT
    if has_limit and batch.lengths.max() > model.max_tokens:
        raise EngineError(
            f"sequence of {batch.lengths.max()} tokens exceeds the {model.max_tokens} positions of the "
            "model; truncate it"
        )
    if batch.input_ids.min() < 0 or batch.input_ids.max() >= model.vocab_size:
        raise EngineError(f"token ids must be in 0 to {model.vocab_size - 1}; use the vocabulary of the model")
    if batch.type_ids.min() < 0 or batch.type_ids.max() >= model.type_vocab_size:
        raise EngineError(f"token types must be in 0 to {model.type_vocab_size - 1}, the range of the model")


def attention_mask(layout: Layout) -> np.ndarray:
    """Returns a mask of the positions that attention may use, bool ``[n, T]``, as an alternative to ``bias``."""
    attend: np.ndarray = layout.bias == 0
    return attend


def select_sequences(batch: Batch, sequences: np.ndarray) -> tuple[Batch, np.ndarray]:
    """Returns some sequences of a batch as a batch, and the indexes of their tokens in the original batch."""
    lengths = batch.lengths[sequences].astype(np.int64)
    starts = (np.cumsum(batch.lengths) - batch.lengths)[sequences]
    ends = np.cumsum(lengths)
    tokens = np.arange(int(ends[-1])) - np.repeat(ends - lengths, lengths) + np.repeat(starts, lengths)
    selected = Batch(batch.input_ids[tokens], batch.type_ids[tokens], batch.mask[tokens], batch.lengths[sequences])
    return selected, tokens
