"""Computes self-attention in PyTorch: over packed sequences or a padded grid, with the relative positions of a model.

A bias of the scores stands for relative positions: learned ones (MPNet), ALiBi, windows (ModernBERT), or products of
tokens and positions (DeBERTa). Rotary embeddings turn queries and keys instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from ...model.architecture import Architecture
from ..base import EngineSpec
from ..layout import PADDING
from .weights import DTYPES, POSITION_ROWS, bias_name, rotation_names

Tensor = Any
#: Minimum number of queries of a block with a window.
MIN_BLOCK = 64
#: ``(query, key, value, ends, longest, window)``, each ``[t, heads, head size]``, to ``[t, heads, head size]``.
PackedAttention = Callable[[Tensor, Tensor, Tensor, Tensor, int, int], Tensor]


@dataclass(frozen=True, slots=True)
class Grid:
    """Indexes that convert packed tokens to a padded grid ``[n, T]`` and back.

    Attributes:
        unpack: index of the token at each position of the grid, int32 ``[n * T]``; None without padding.
        pack: position of each row in the grid, int32 ``[rows]``; None without padding.
        attend: positions that attention may use, bool ``[n, 1, 1, T]``; None for all.
        tables: what the layers of one batch share.
    """

    unpack: Tensor | None
    pack: Tensor | None
    attend: Tensor | None
    tables: dict[object, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Feeds:
    """Inputs of the encoder on its device, for ``n`` sequences of at most ``longest`` tokens, ``t`` tokens in total.

    Attributes:
        input_ids, type_ids, positions: int32 ``[rows]``. Rows behind the ``t`` tokens are in no sequence.
        ends: 0 and the end of each sequence, int32 ``[n + 1]``.
        num_tokens: ``t``.
        longest: number of tokens of the longest sequence.
        mask: 1 where pooling uses a token, else 0, int32 ``[t]``; None for all.
        grid: None for attention without padding.
    """

    input_ids: Tensor
    type_ids: Tensor
    positions: Tensor
    ends: Tensor
    num_tokens: int
    longest: int
    mask: Tensor | None
    grid: Grid | None


def varlen_attention(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, window: int = 0) -> Tensor:
    """Returns PyTorch's attention over packed sequences: CUDA, 16 bits.

    It takes windows, but no bias of the scores.

    Args:
        window: greatest distance of tokens that attend to each other; 0 for any.

    Raises:
        ImportError: PyTorch is older than 2.10.
        RuntimeError, TypeError: the GPU, the head size or the window is not supported.
    """
    from torch.nn.attention.varlen import varlen_attn

    if not window:
        return varlen_attn(query, key, value, ends, ends, longest, longest)
    return varlen_attn(query, key, value, ends, ends, longest, longest, window_size=(window, window))


def needs_bias(architecture: Architecture) -> bool:
    """Returns whether the scores have a bias, so that attention needs a padded grid on every device."""
    return architecture.relative_buckets > 0 or architecture.alibi or architecture.disentangled is not None


class Attention:
    """Self-attention of all layers of a model.

    Attributes:
        packed: attention without padding; None if the device or the model has none.
        max_scores: maximum number of scores with a bias that are computed at once, ``n * heads * queries * keys``.
    """

    def __init__(self, spec: EngineSpec, weights: dict[str, Tensor]) -> None:
        self.packed: PackedAttention | None = None
        self.max_scores = 16 << 20
        self._model, self._weights = spec.model, weights
        self._architecture = spec.model.architecture
        self._dtype = getattr(torch, DTYPES[spec.dtype])
        # float16 has no such number as PADDING.
        self._excluded = max(PADDING, torch.finfo(self._dtype).min / 4)
        if self._excluded > PADDING:
            for name in {bias_name(window) for window in (0, *self._architecture.windows)} & set(weights):
                weights[name] = weights[name].clamp(min=self._excluded)
        self._scale: float | None = None  # of queries; None: the root of the head size divides them
        if disentangled := self._architecture.disentangled:
            count = 1 + disentangled.content_to_position + disentangled.position_to_content
            self._scale = (spec.model.head_size * count) ** -0.5

    def __call__(self, layer: int, qkv: Tensor, feeds: Feeds) -> Tensor:
        """Computes self-attention, ``[rows, 3 * hidden]`` to ``[rows, hidden]``; scores and softmax are in float32."""
        model, grid, window = self._model, feeds.grid, self._architecture.window_of(layer)
        heads, size = model.num_attention_heads, model.head_size
        if self._architecture.rope:
            qkv = self._rotate(layer, qkv, feeds)
        if grid is None:
            assert self.packed is not None
            query, key, value = qkv.view(-1, 3, heads, size).unbind(1)
            context = self.packed(query, key, value, feeds.ends, feeds.longest, window)
            return context.reshape(-1, model.hidden_size)
        rows = qkv if grid.unpack is None else qkv.index_select(0, grid.unpack)
        query, key, value = rows.view(-1, feeds.longest, 3, heads, size).permute(2, 0, 3, 1, 4).unbind(0)
        if bias_name(window) in self._weights or self._architecture.disentangled:
            context = self._with_bias(layer, query, key, value, grid)
        else:
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=grid.attend)
        context = context.transpose(1, 2).reshape(-1, model.hidden_size)
        return context if grid.pack is None else context.index_select(0, grid.pack)

    def _rotate(self, layer: int, qkv: Tensor, feeds: Feeds) -> Tensor:
        """Returns ``qkv`` with rotary embeddings of queries and keys, which are computed in float32."""
        cosine, sine = (
            self._weights[name].index_select(0, feeds.positions)[:, None, None]
            for name in rotation_names(self._architecture, layer)
        )
        rows = qkv.view(-1, 3, self._model.num_attention_heads, self._model.head_size)
        first, second = rows[:, :2].float().chunk(2, -1)
        turned = torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)
        return torch.cat([turned.to(qkv.dtype), rows[:, 2:]], 1).view_as(qkv)

    def _with_bias(self, layer: int, query: Tensor, key: Tensor, value: Tensor, grid: Grid) -> Tensor:
        """Computes attention whose scores have a bias, ``[n, heads, T, size]``, in blocks of queries."""
        window = self._architecture.window_of(layer)
        blocks = self._blocks(query, window)
        contexts = []
        for block in blocks:
            queries, keys = block.queries, block.keys
            if self._architecture.disentangled:
                bias = self._disentangled(layer, query[:, :, queries], key[:, :, keys], block, grid)
            elif window or len(blocks) == 1:  # all layers share it; without a window, many would need much memory
                name = (bias_name(window), queries.start)
                if name not in grid.tables:
                    grid.tables[name] = self._bias(window, block, grid)
                bias = grid.tables[name]
            else:
                bias = self._bias(window, block, grid)
            contexts.append(
                F.scaled_dot_product_attention(
                    query[:, :, queries], key[:, :, keys], value[:, :, keys], attn_mask=bias, scale=self._scale
                )
            )
        return contexts[0] if len(contexts) == 1 else torch.cat(contexts, 2)

    def _blocks(self, query: Tensor, window: int) -> list[_Block]:
        """Divides queries into blocks, so that the scores of one fit in ``max_scores``; a window bounds its keys."""
        count, heads, longest, _ = query.shape
        size = max(1, self.max_scores // (count * heads * longest))
        if window:
            size = min(size, max(2 * window, MIN_BLOCK))
        blocks = []
        for start in range(0, longest, size):
            end = min(start + size, longest)
            keys = slice(max(0, start - window), min(longest, end + window)) if window else slice(0, longest)
            blocks.append(_Block(slice(start, end), keys))
        return blocks

    def _bias(self, window: int, block: _Block, grid: Grid) -> Tensor:
        """Returns what is added to the scores of a block, ``[1 or n, 1 or heads, queries, keys]``."""
        return self._with_padding(block.by_offset(self._weights[bias_name(window)])[None], block, grid)

    def _disentangled(self, layer: int, query: Tensor, key: Tensor, block: _Block, grid: Grid) -> Tensor:
        """Returns the scores between tokens and positions, ``[n, heads, queries, keys]``.

        Query ``q`` meets the key of the position ``q - k``, and key ``k`` its query. The products with all offsets of
        the block are computed; a view of them has those of each query and key.
        """
        rows = self._weights[POSITION_ROWS]
        rows = rows[block.columns(len(rows))]
        queries, keys, columns = query.shape[2], key.shape[2], len(rows)
        shape = (*query.shape[:2], queries, keys)
        scope = f"encoder/layer_{self._architecture.weights_of(layer)}/attention/self"
        total: Tensor | None = None
        if (table := self._weights.get(f"{scope}/position_key")) is not None:
            products = (query * self._scale) @ table.index_select(1, rows).transpose(-1, -2)
            outer = products.stride()[:2]
            # Column ``k - q + queries - 1`` of row ``q``.
            total = products.as_strided(shape, (*outer, columns - 1, 1), queries - 1)
        if (table := self._weights.get(f"{scope}/position_query")) is not None:
            products = (key * self._scale) @ table.index_select(1, rows.flip(0)).transpose(-1, -2)
            outer = products.stride()[:2]
            # Column ``q - k + keys - 1`` of row ``k``.
            scores = products.as_strided(shape, (*outer, 1, columns - 1), keys - 1)
            total = scores if total is None else total + scores
        assert total is not None
        if total.is_cuda:  # its kernels need aligned rows
            total = total.contiguous()
        return self._with_padding(total, block, grid)

    def _with_padding(self, bias: Tensor, block: _Block, grid: Grid) -> Tensor:
        """Excludes positions that attention may not use, and converts a bias to the dtype of the scores."""
        if grid.attend is not None:
            bias = torch.where(grid.attend[..., block.keys], bias, self._excluded)
        return bias.to(self._dtype)


@dataclass(frozen=True, slots=True)
class _Block:
    """Queries that are computed at once, and the keys that they meet: positions of the grid."""

    queries: slice
    keys: slice

    def columns(self, count: int) -> slice:
        """Returns the columns of ``key - query`` in a table of ``count`` columns, see ``model.relative_positions``."""
        middle = count // 2
        return slice(middle + self.keys.start - self.queries.stop + 1, middle + self.keys.stop - self.queries.start)

    def by_offset(self, table: Tensor) -> Tensor:
        """Returns the column of each query and key, ``[rows, columns]`` to ``[rows, queries, keys]``."""
        part = table[:, self.columns(table.shape[1])]
        return part.unfold(1, self.keys.stop - self.keys.start, 1).flip(1)
