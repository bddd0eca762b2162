"""Packed tokens as the attention wants them: a padded grid, the way there and the way back. Pure numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from .base import EngineError, EngineSpec
from .batch import Batch

#: Added to the scores of a token with mask 0, as in Google's BERT.
MASKED = -10000.0
#: Added to the scores of padding: nothing of it is left, whatever else the sequence holds.
PADDING = -1e9


@dataclass(frozen=True, slots=True)
class Layout:
    """Feeds of the graph for ``n`` sequences of at most ``T`` tokens, ``t`` in all.

    Attributes:
        input_ids: int32 ``[t]``.
        type_ids: int32 ``[t]``.
        positions: place of each token in its sequence, int32 ``[t]``.
        unpack: token at each place of the grid, int32 ``[n, T]``; 0 at padding.
        pack: place in the flat grid of each token, int32 ``[t]``.
        bias: added to the attention scores, float32 ``[n, T]``; 0 throughout a sequence that is masked altogether.
        mask: 1 where a token counts in pooling, else 0, float32 ``[n, T]``.
        first: the first token of each sequence, int32 ``[n]``.
        last: its last token, int32 ``[n]``.
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


def make_layout(batch: Batch) -> Layout:
    """Layout of a batch, the tokens packed.

    Tokens of a sequence that is masked altogether attend to each other: in Google's BERT all their scores have the same
    number added. Here nothing is added, since the sum would round the scores to a thousandth.
    """
    lengths = batch.lengths.astype(np.int64)
    count, longest, tokens = len(lengths), int(lengths.max()), batch.num_tokens
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


def make_padded_layout(batch: Batch, count: int, longest: int) -> Layout:
    """Layout with padding tokens in their places, so that its shapes depend on ``count`` and ``longest`` alone.

    For compilers that want few shapes. ``count`` and ``longest`` are at least those of the batch; the rows and places
    beyond it hold token 0, masked. What the graph answers for them is to be cut off.
    """
    packed = make_layout(batch)
    rows, width = packed.unpack.shape
    places = (packed.pack // width) * longest + packed.pack % width
    size = count * longest

    def spread(values: np.ndarray, fill: float, dtype: type) -> np.ndarray:
        grid: np.ndarray = np.full(size, fill, dtype)
        grid[places] = values
        return grid

    first = np.zeros(count, np.int32)
    first[:rows] = np.arange(rows) * longest
    last = np.zeros(count, np.int32)
    last[:rows] = first[:rows] + batch.lengths - 1
    everywhere = np.arange(size, dtype=np.int32)
    return Layout(
        input_ids=spread(packed.input_ids, 0, np.int32),
        type_ids=spread(packed.type_ids, 0, np.int32),
        positions=spread(packed.positions, 0, np.int32),
        unpack=everywhere.reshape(count, longest),
        pack=everywhere,
        bias=spread(packed.bias.ravel()[packed.pack], PADDING, np.float32).reshape(count, longest),
        mask=spread(packed.mask.ravel()[packed.pack], 0, np.float32).reshape(count, longest),
        first=first,
        last=last,
    )


def split_batch(lengths: np.ndarray, max_grid: int, max_waste: float = 2.0, min_tokens: int = 256) -> list[np.ndarray]:
    """Groups of sequences of similar length, so that attention does not drown in padding.

    Args:
        lengths: tokens in each sequence, int ``[n]``.
        max_grid: most elements that one head's scores ``[n, T, T]`` may have; a single sequence may exceed it.
        max_waste: a group's padded grid may be this many times its tokens, unless it has few tokens.
        min_tokens: a group with fewer tokens than this is not closed because of waste: the dense layers need work.

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


def pad_rows(batch: Batch) -> Batch:
    """A batch, and after it sequences that are none, so that an engine sees few numbers of tokens.

    oneDNN writes a kernel for each number of rows when it first sees it, which may take as long as a small batch does.
    The tiles that it multiplies have 16 rows in any case. None is added that is longer than all others: attention would
    have to pad for it.
    """
    tokens, longest = batch.num_tokens, int(batch.lengths.max())
    step = 16 if tokens <= 256 else 32 if tokens <= 512 else 64
    missing = -tokens % step
    if not missing:
        return batch
    lengths = np.full(-(-missing // longest), longest, np.int32)
    lengths[-1] -= lengths.sum() - missing
    zeros, ones = np.zeros(missing, np.int32), np.ones(missing, np.int32)
    return Batch(
        np.concatenate([batch.input_ids, zeros]),
        np.concatenate([batch.type_ids, zeros]),
        np.concatenate([batch.mask, ones]),
        np.concatenate([batch.lengths, lengths]),
    )


def split_groups(groups: list[np.ndarray], lengths: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """Groups, each cut into as few parts as have about ``max_tokens`` at most, all of about the same size."""
    cut = []
    for group in groups:
        ends = np.cumsum(lengths[group])
        parts = -(-int(ends[-1]) // max_tokens)
        places = np.searchsorted(ends, ends[-1] * np.arange(1, parts) / parts, side="right")
        cut += [part for part in np.split(group, places) if len(part)]
    return cut


def encode_in_groups(
    batch: Batch,
    groups: list[np.ndarray],
    is_token_level: bool,
    encode: Callable[[Batch], np.ndarray],
    map_fn: Callable[..., Iterable[np.ndarray]] = map,
) -> np.ndarray:
    """Encodes groups of a batch, and puts the rows where they belong in the whole.

    Args:
        groups: as of ``split_batch``.
        encode: vectors of a part, ``[n, d]`` or ``[t, d]``.
        map_fn: applies ``encode`` to all parts: one after the other, or otherwise.

    Returns:
        ``[n, d]``, or ``[t, d]`` if ``is_token_level``.
    """
    if len(groups) == 1:
        return encode(batch)
    parts, places = zip(*(select_sequences(batch, sequences) for sequences in groups), strict=True)
    result: np.ndarray | None = None
    for sequences, tokens, vectors in zip(groups, places, map_fn(encode, parts), strict=True):
        if result is None:
            total = batch.num_tokens if is_token_level else batch.num_sequences
            result = np.empty((total, vectors.shape[1]), vectors.dtype)
        result[tokens if is_token_level else sequences] = vectors
    assert result is not None
    return result


def check_batch(batch: Batch, spec: EngineSpec) -> None:
    """Refuses what the model has no tables for; on a GPU an index out of range would cost the process its device.

    Raises:
        EngineError: the message names the value and the model's limit.
    """
    model = spec.model
    if batch.num_sequences == 0 or batch.lengths.min() < 1:
        raise EngineError("a batch needs at least one sequence, and every sequence at least one token")
    if spec.use_position_embeddings and batch.lengths.max() > model.max_position_embeddings:
        raise EngineError(
            f"a sequence has {batch.lengths.max()} tokens, the model {model.max_position_embeddings} positions; "
            "truncate it"
        )
    if batch.input_ids.min() < 0 or batch.input_ids.max() >= model.vocab_size:
        raise EngineError(f"token ids must lie in 0 to {model.vocab_size - 1}; is this the model's own vocabulary?")
    if batch.type_ids.min() < 0 or batch.type_ids.max() >= model.type_vocab_size:
        raise EngineError(f"token types must lie in 0 to {model.type_vocab_size - 1}, as the model has them")


def attention_mask(layout: Layout) -> np.ndarray:
    """Where a token may be attended to, bool ``[n, T]``, for engines that mask instead of adding ``bias``."""
    attend: np.ndarray = layout.bias == 0
    return attend


def select_sequences(batch: Batch, sequences: np.ndarray) -> tuple[Batch, np.ndarray]:
    """Some sequences of a batch as a batch, and the indexes of their tokens in the old one."""
    lengths = batch.lengths[sequences].astype(np.int64)
    starts = (np.cumsum(batch.lengths) - batch.lengths)[sequences]
    ends = np.cumsum(lengths)
    tokens = np.arange(int(ends[-1])) - np.repeat(ends - lengths, lengths) + np.repeat(starts, lengths)
    part = Batch(batch.input_ids[tokens], batch.type_ids[tokens], batch.mask[tokens], batch.lengths[sequences])
    return part, tokens
