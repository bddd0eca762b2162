"""Computes the BERT encoder in PyTorch over packed tokens.

Dense layers compute packed tokens, ``[t, hidden]``. Attention does the same if the device has a kernel for packed
sequences (flash attention, 16 bits, on a GPU). Otherwise it computes a padded grid, gathered from the tokens and packed
again. No layer above the highest pooling layer is computed. If the pooling strategy needs one token of a sequence, the
highest layer computes only that token. The encoder is that of Devlin et al., https://arxiv.org/abs/1810.04805.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..base import EngineSpec
from .weights import DTYPES

Tensor = Any
#: ``(inputs, residual, gamma, beta, eps)`` to the normalized sum of the first two.
AddNorm = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]
#: ``(query, key, value, ends, longest)``, each ``[t, heads, head size]``, to ``[t, heads, head size]``.
PackedAttention = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]


@dataclass(frozen=True, slots=True)
class Grid:
    """Indexes that convert packed tokens to a padded grid ``[n, T]`` and back.

    Attributes:
        unpack: index of the token at each position of the grid, int32 ``[n * T]``; None without padding.
        pack: position of each token in the grid, int32 ``[t]``; None without padding.
        attend: positions that attention may use, bool ``[n, 1, 1, T]``; None for all.
    """

    unpack: Tensor | None
    pack: Tensor | None
    attend: Tensor | None


@dataclass(frozen=True, slots=True)
class Feeds:
    """Inputs of the encoder on its device, for ``n`` sequences of at most ``longest`` tokens, ``t`` tokens in total.

    Attributes:
        input_ids, type_ids, positions: int32 ``[t]``.
        ends: 0 and the end of each sequence, int32 ``[n + 1]``.
        longest: number of tokens of the longest sequence.
        mask: 1 where pooling uses a token, else 0, int32 ``[t]``; None for all.
        grid: None for attention without padding.
    """

    input_ids: Tensor
    type_ids: Tensor
    positions: Tensor
    ends: Tensor
    longest: int
    mask: Tensor | None
    grid: Grid | None


def add_norm(inputs: Tensor, residual: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """Returns the layer normalization of ``inputs + residual``, ``[rows, hidden]``."""
    return F.layer_norm(inputs + residual, gamma.shape, gamma, beta, eps)


def varlen_attention(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int) -> Tensor:
    """Returns PyTorch's attention over packed sequences: CUDA, 16 bits.

    Raises:
        ImportError: PyTorch is older than 2.10.
        RuntimeError: the GPU or the head size is not supported.
    """
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn(query, key, value, ends, ends, longest, longest)


class DenseLayers:
    """The dense layers of the encoder, each with the operation after it.

    Attributes:
        add_norm: layer normalization of a sum; may be replaced by a compiled function.
        row_step: preferred multiple of the number of rows.
    """

    row_step = 1

    def __init__(self, spec: EngineSpec, weights: dict[str, Tensor]) -> None:
        self.add_norm: AddNorm = add_norm
        self._weights = weights
        self._eps = spec.model.layer_norm_eps
        self._activation = _activation(spec.model.hidden_act)

    def product(self, scope: str, inputs: Tensor) -> Tensor:
        """Returns the output of the layer ``scope``."""
        return F.linear(inputs, self._weights[f"{scope}/weight"], self._weights[f"{scope}/bias"])

    def activate(self, scope: str, inputs: Tensor) -> Tensor:
        """Returns the activation of the output of the layer ``scope``."""
        return self._activation(self.product(scope, inputs))

    def normalize(self, scope: str, inputs: Tensor, residual: Tensor) -> Tensor:
        """Returns ``scope/LayerNorm`` of the sum of the layer ``scope/dense`` and a residual."""
        # The compiler would compile a separate kernel for a single row.
        norm = self.add_norm if len(inputs) > 1 else add_norm
        gamma, beta = self._weights[f"{scope}/LayerNorm/gamma"], self._weights[f"{scope}/LayerNorm/beta"]
        return norm(self.product(f"{scope}/dense", inputs), residual, gamma, beta, self._eps)


class Encoder:
    """The weights of a model on one device, and the computation with them.

    Attributes:
        dense: computes the dense layers; may be replaced by a faster implementation for the device.
        packed_attention: attention without padding; None if the device has no kernel for it.
    """

    def __init__(self, spec: EngineSpec, weights: dict[str, Tensor]) -> None:
        self.dense = DenseLayers(spec, weights)
        self.packed_attention: PackedAttention | None = None
        self._spec = spec
        self._weights = weights
        self._dtype = getattr(torch, DTYPES[spec.dtype])
        self._wanted = spec.layers

    def __call__(self, feeds: Feeds) -> Tensor:
        """Returns vectors, ``[n, d]``, or ``[t, d]`` with pooling NONE; dtype ``spec.output_dtype``.

        Rows after these are undefined.
        """
        select = self._select(feeds)
        hidden = self._embeddings(feeds)
        outputs = {}
        for layer in range(max(self._wanted) + 1):
            is_last = layer == max(self._wanted)
            hidden = self._layer(f"encoder/layer_{layer}", hidden, feeds, select if is_last else None)
            if layer in self._wanted:
                outputs[layer] = hidden if select is None or is_last else hidden.index_select(0, select)
        selected = [outputs[layer] for layer in self._wanted]
        tokens = torch.cat(selected, -1) if len(selected) > 1 else selected[0]
        return self._pool(tokens.float(), feeds).to(getattr(torch, self._spec.output_dtype)).contiguous()

    def _select(self, feeds: Feeds) -> Tensor | None:
        """Returns the indexes of the tokens that the strategy needs, int32 ``[n]`` or longer; None for all."""
        if self._spec.pooling_strategy in ("CLS_TOKEN", "CLS_POOLED"):
            select = feeds.ends[:-1]
        elif self._spec.pooling_strategy == "SEP_TOKEN":
            select = feeds.ends[1:] - 1
        else:
            return None
        missing = -len(select) % self.dense.row_step
        return torch.cat([select, select.new_zeros(missing)]) if missing else select

    def _embeddings(self, feeds: Feeds) -> Tensor:
        """Returns the sum of word, type and position embeddings, normalized in float32: ``[t, hidden]``."""
        weights = self._weights
        total = F.embedding(feeds.input_ids, weights["embeddings/word_embeddings"])
        total += F.embedding(feeds.type_ids, weights["embeddings/token_type_embeddings"])
        if self._spec.use_position_embeddings:
            total += F.embedding(feeds.positions, weights["embeddings/position_embeddings"])
        gamma, beta = weights["embeddings/LayerNorm/gamma"], weights["embeddings/LayerNorm/beta"]
        return F.layer_norm(total, gamma.shape, gamma, beta, self._spec.model.layer_norm_eps).to(self._dtype)

    def _layer(self, scope: str, hidden: Tensor, feeds: Feeds, select: Tensor | None) -> Tensor:
        """Computes one layer, ``[t, hidden]`` to the same, or to ``[n, hidden]`` for the tokens in ``select``."""
        context = self._attention(self.dense.product(f"{scope}/attention/self/qkv", hidden), feeds)
        if select is not None:
            context, hidden = context.index_select(0, select), hidden.index_select(0, select)
        hidden = self.dense.normalize(f"{scope}/attention/output", context, hidden)
        inner = self.dense.activate(f"{scope}/intermediate/dense", hidden)
        return self.dense.normalize(f"{scope}/output", inner, hidden)

    def _attention(self, qkv: Tensor, feeds: Feeds) -> Tensor:
        """Computes self-attention, ``[t, 3 * hidden]`` to ``[t, hidden]``; scores and softmax are in float32."""
        model, grid = self._spec.model, feeds.grid
        heads, size = model.num_attention_heads, model.head_size
        if grid is None:
            assert self.packed_attention is not None
            query, key, value = qkv.view(-1, 3, heads, size).unbind(1)
            context = self.packed_attention(query, key, value, feeds.ends, feeds.longest)
            return context.reshape(-1, model.hidden_size)
        rows = qkv if grid.unpack is None else qkv.index_select(0, grid.unpack)
        query, key, value = rows.view(-1, feeds.longest, 3, heads, size).permute(2, 0, 3, 1, 4).unbind(0)
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=grid.attend)
        context = context.transpose(1, 2).reshape(-1, model.hidden_size)
        return context if grid.pack is None else context.index_select(0, grid.pack)

    def _pool(self, tokens: Tensor, feeds: Feeds) -> Tensor:
        """Pools float32 ``tokens`` to ``[t, d]``, or to ``[n, d]`` with one selected token per sequence.

        A sequence whose mask is all 0 has mean and maximum 0.
        """
        strategy = self._spec.pooling_strategy
        if strategy == "CLS_POOLED":
            weight, bias = self._weights["pooler/dense/weight"], self._weights["pooler/dense/bias"]
            return torch.tanh(F.linear(tokens, weight, bias))
        if strategy in ("CLS_TOKEN", "SEP_TOKEN"):
            return tokens
        mask = None if feeds.mask is None else feeds.mask[:, None].float()
        if strategy == "NONE":
            return tokens if mask is None else tokens * mask
        lengths = feeds.ends.diff().long()

        def reduce(data: Tensor, kind: str) -> Tensor:
            # ``unsafe`` skips a check of the lengths that would wait for the GPU; the lengths are correct.
            return torch.segment_reduce(data, kind, lengths=lengths, axis=0, unsafe=True)

        counts = lengths[:, None].float() if mask is None else reduce(mask, "sum")
        pooled = []
        if strategy in ("REDUCE_MEAN", "REDUCE_MEAN_MAX"):
            pooled.append(reduce(tokens if mask is None else tokens * mask, "sum") / (counts + 1e-10))
        if strategy in ("REDUCE_MAX", "REDUCE_MEAN_MAX"):
            highest = reduce(tokens if mask is None else tokens.masked_fill(mask == 0, -1e30), "max")
            pooled.append(highest.masked_fill(counts == 0, 0.0))
        return torch.cat(pooled, -1) if len(pooled) > 1 else pooled[0]


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    """Returns the activation of a name in ``model.config_values.HIDDEN_ACTS``."""
    activations: dict[str, Callable[[Tensor], Tensor]] = {
        "gelu": F.gelu,
        "gelu_new": lambda inputs: F.gelu(inputs, approximate="tanh"),
        "relu": torch.relu,
        "tanh": torch.tanh,
    }
    return activations[name]
