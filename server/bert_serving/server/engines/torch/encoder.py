"""Computes the encoder of BERT and its relatives in PyTorch over packed tokens.

Dense layers compute packed tokens, ``[t, hidden]``. Attention does the same if the device has a kernel for packed
sequences (flash attention, 16 bits, on a GPU). Otherwise it computes a padded grid, gathered from the tokens and packed
again. No layer above the highest pooling layer is computed. If the pooling strategy needs one token of a sequence, the
highest layer computes only that token. The encoder is that of Devlin et al., https://arxiv.org/abs/1810.04805.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from ..base import EngineSpec
from .attention import Attention, Feeds, PackedAttention
from .weights import DTYPES

Tensor = Any
#: ``(inputs, residual, gamma, beta, eps)`` to the normalized sum of the first two.
AddNorm = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]
#: Arguments and result of ``embed``.
Embed = Callable[..., Tensor]
#: ``(inputs, weight, bias)`` to the GELU of a dense layer.
LinearGelu = Callable[[Tensor, Tensor, Tensor], Tensor]


def add_norm(inputs: Tensor, residual: Tensor, gamma: Tensor, beta: Tensor | None, eps: float) -> Tensor:
    """Returns the layer normalization of ``inputs + residual``, ``[rows, hidden]``."""
    return F.layer_norm(inputs + residual, gamma.shape, gamma, beta, eps)


def embed(
    input_ids: Tensor,
    type_ids: Tensor,
    positions: Tensor,
    words: Tensor,
    types: Tensor,
    places: Tensor,
    gamma: Tensor,
    beta: Tensor | None,
    eps: float,
    dtype: Any,
) -> Tensor:
    """Returns the normalized sum of three embeddings by their tables, ``[t, hidden]``, computed in float32."""
    total = F.embedding(input_ids, words) + F.embedding(type_ids, types) + F.embedding(positions, places)
    return F.layer_norm(total, gamma.shape, gamma, beta, eps).to(dtype)


class DenseLayers:
    """The dense layers of the encoder, each with the operation after it.

    Attributes:
        add_norm: layer normalization of a sum; may be replaced by a compiled function.
        linear_gelu: a dense layer and its activation in one kernel; None if the device has none for this model.
        row_step: preferred multiple of the number of rows.
    """

    row_step = 1

    def __init__(self, spec: EngineSpec, weights: dict[str, Tensor]) -> None:
        self.add_norm: AddNorm = add_norm
        self.linear_gelu: LinearGelu | None = None
        self._weights = weights
        self._eps = spec.model.layer_norm_eps
        self._activation = activation(spec.model.hidden_act)

    def product(self, scope: str, inputs: Tensor) -> Tensor:
        """Returns the output of the layer ``scope``."""
        return F.linear(inputs, self._weights[f"{scope}/weight"], self._weights.get(f"{scope}/bias"))

    def activate(self, scope: str, inputs: Tensor) -> Tensor:
        """Returns the activation of the output of the layer ``scope``."""
        if self.linear_gelu is not None:
            return self.linear_gelu(inputs, self._weights[f"{scope}/weight"], self._weights[f"{scope}/bias"])
        return self._activation(self.product(scope, inputs))

    def gate(self, scope: str, inputs: Tensor) -> Tensor:
        """Returns the product of the activated first half of the output of the layer ``scope`` and its second half."""
        first, second = self.product(scope, inputs).chunk(2, -1)
        return self._activation(first) * second

    def add(self, scope: str, inputs: Tensor, residual: Tensor) -> Tensor:
        """Returns the sum of the output of the layer ``scope`` and a residual."""
        return self.product(scope, inputs) + residual

    def normalize(self, scope: str, inputs: Tensor, residual: Tensor) -> Tensor:
        """Returns ``scope/LayerNorm`` of the sum of the layer ``scope/dense`` and a residual."""
        # The compiler would compile a separate kernel for a single row.
        norm = self.add_norm if len(inputs) > 1 else add_norm
        gamma, beta = self._weights[f"{scope}/LayerNorm/gamma"], self._weights.get(f"{scope}/LayerNorm/beta")
        return norm(self.product(f"{scope}/dense", inputs), residual, gamma, beta, self._eps)


class Encoder:
    """The weights of a model on one device, and the computation with them.

    Attributes:
        dense: computes the dense layers; may be replaced by a faster implementation for the device.
        attention: computes self-attention.
        dtype: PyTorch's dtype of the encoder.
        embed: computes the embeddings of BERT in one kernel; None if they are computed one after the other.
    """

    def __init__(self, spec: EngineSpec, weights: dict[str, Tensor]) -> None:
        self.dense = DenseLayers(spec, weights)
        self.attention = Attention(spec, weights)
        self._spec = spec
        self._architecture = spec.model.architecture
        self._weights = weights
        self.dtype = getattr(torch, DTYPES[spec.dtype])
        self.embed: Embed | None = None
        self._wanted = spec.layers

    @property
    def embedding_tables(self) -> list[Tensor]:
        """The arguments of ``embed`` from ``words`` to ``beta``; empty if the embeddings of this model are others."""
        architecture = self._architecture
        if architecture.embedding_size or not (architecture.has_positions and self._spec.use_position_embeddings):
            return []
        parts = ("word", "token_type", "position")
        names = [*(f"{part}_embeddings" for part in parts), "LayerNorm/gamma", "LayerNorm/beta"]
        tables = [self._weights.get(f"embeddings/{name}") for name in names]
        return [] if any(table is None for table in tables) else tables

    @property
    def packed_attention(self) -> PackedAttention | None:
        """Attention without padding; None if the device has no kernel for it."""
        return self.attention.packed

    @packed_attention.setter
    def packed_attention(self, packed: PackedAttention | None) -> None:
        self.attention.packed = packed

    def __call__(self, feeds: Feeds, is_unpooled: bool = False) -> Tensor:
        """Returns vectors, ``[n, d]``, or ``[t, d]`` with pooling NONE; dtype ``spec.output_dtype``.

        With ``is_unpooled``, those of tokens before pooling, float32 ``[t, d]``.

        Rows after these are undefined.
        """
        select = None if is_unpooled else self._select(feeds)
        hidden = embedded = self._embeddings(feeds)
        outputs = {}
        for layer in range(max(self._wanted) + 1):
            is_last = layer == max(self._wanted)
            compute = self._pre_norm_layer if self._architecture.pre_norm else self._layer
            is_convolved = layer == 0 and self._architecture.convolution is not None
            hidden = compute(layer, hidden, feeds, select if is_last and not is_convolved else None)
            if is_convolved:
                hidden = self._convolve(embedded, hidden, feeds)
                hidden = hidden.index_select(0, select) if is_last and select is not None else hidden
            if self._architecture.final_norm and layer == self._spec.model.num_hidden_layers - 1:
                hidden = self._norm("encoder", hidden)
            if layer in self._wanted:
                outputs[layer] = hidden if select is None or is_last else hidden.index_select(0, select)
        selected = [outputs[layer] for layer in self._wanted]
        tokens = torch.cat(selected, -1) if len(selected) > 1 else selected[0]
        if is_unpooled:
            return tokens.float().contiguous()
        pooled = self._pool(tokens.float(), feeds, self._spec.pooling_strategy)
        return pooled.to(getattr(torch, self._spec.output_dtype)).contiguous()

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
        weights, architecture = self._weights, self._architecture
        if self.embed is not None and len(feeds.input_ids) > 1:  # see ``DenseLayers.normalize``
            names = ("word_embeddings", "token_type_embeddings", "position_embeddings", "LayerNorm/gamma")
            tables = [weights[f"embeddings/{name}"] for name in names]
            inputs = (feeds.input_ids, feeds.type_ids, feeds.positions, *tables)
            return self.embed(
                *inputs, weights["embeddings/LayerNorm/beta"], self._spec.model.layer_norm_eps, self.dtype
            )
        total = F.embedding(feeds.input_ids, weights["embeddings/word_embeddings"])
        if architecture.has_types:
            total += F.embedding(feeds.type_ids, weights["embeddings/token_type_embeddings"])
        if architecture.has_positions and self._spec.use_position_embeddings:
            total += F.embedding(feeds.positions, weights["embeddings/position_embeddings"])
        is_projected = architecture.embedding_size > 0
        if is_projected and not architecture.norm_before_projection:
            total = self._project(total)
        total = self._norm("embeddings", total)
        if is_projected and architecture.norm_before_projection:
            total = self._project(total)
        return total.to(self.dtype)

    def _project(self, embeddings: Tensor) -> Tensor:
        """Converts embeddings of ``architecture.embedding_size`` to the hidden size, in float32."""
        scope = "embeddings/projection"
        return F.linear(embeddings, self._weights[f"{scope}/weight"], self._weights.get(f"{scope}/bias"))

    def _norm(self, scope: str, inputs: Tensor) -> Tensor:
        """Returns ``scope/LayerNorm``."""
        gamma, beta = self._weights[f"{scope}/LayerNorm/gamma"], self._weights.get(f"{scope}/LayerNorm/beta")
        return F.layer_norm(inputs, gamma.shape, gamma, beta, self._spec.model.layer_norm_eps)

    def _layer(self, layer: int, hidden: Tensor, feeds: Feeds, select: Tensor | None) -> Tensor:
        """Computes one layer, ``[t, hidden]`` to the same, or to ``[n, hidden]`` for the tokens in ``select``."""
        scope = self._scope(layer)
        context = self.attention(layer, self.dense.product(f"{scope}/attention/self/qkv", hidden), feeds)
        if select is not None:
            context, hidden = context.index_select(0, select), hidden.index_select(0, select)
        hidden = self.dense.normalize(f"{scope}/attention/output", context, hidden)
        return self.dense.normalize(f"{scope}/output", self._inner(scope, hidden), hidden)

    def _pre_norm_layer(self, layer: int, hidden: Tensor, feeds: Feeds, select: Tensor | None) -> Tensor:
        """Computes one layer that normalizes the inputs of attention and feed-forward; see ``_layer``."""
        scope = self._scope(layer)
        has_norm = layer > 0 or self._architecture.first_norm
        normal = self._norm(f"{scope}/attention", hidden) if has_norm else hidden
        context = self.attention(layer, self.dense.product(f"{scope}/attention/self/qkv", normal), feeds)
        if select is not None:
            context, hidden = context.index_select(0, select), hidden.index_select(0, select)
        hidden = self.dense.add(f"{scope}/attention/output/dense", context, hidden)
        inner = self._inner(scope, self._norm(f"{scope}/intermediate", hidden))
        return self.dense.add(f"{scope}/output/dense", inner, hidden)

    def _scope(self, layer: int) -> str:
        return f"encoder/layer_{self._architecture.weights_of(layer)}"

    def _inner(self, scope: str, hidden: Tensor) -> Tensor:
        """Returns the inner activations of the feed-forward, ``[rows, intermediate]``."""
        if self._architecture.gated:
            return self.dense.gate(f"{scope}/intermediate/gated", hidden)
        return self.dense.activate(f"{scope}/intermediate/dense", hidden)

    def _convolve(self, embedded: Tensor, hidden: Tensor, feeds: Feeds) -> Tensor:
        """Returns the normalized sum of a layer and the activated convolution of the embeddings, ``[t, hidden]``."""
        convolution, scope = self._architecture.convolution, "encoder/convolution"
        assert convolution is not None
        reach = convolution.width // 2
        lengths = feeds.ends.diff()
        embedded = embedded[: feeds.num_tokens]
        rows = embedded.new_zeros(len(embedded) + len(lengths) * reach + reach, embedded.shape[1])
        # Zeros stand between sequences, as many as a token sees on one side.
        places = reach + torch.arange(len(embedded), device=embedded.device)
        places += reach * torch.repeat_interleave(torch.arange(len(lengths), device=embedded.device), lengths)
        rows[places] = embedded
        found = F.conv1d(
            rows.T[None], self._weights[f"{scope}/weight"], self._weights[f"{scope}/bias"], groups=convolution.groups
        )
        convolved = torch.zeros_like(hidden)
        convolved[: feeds.num_tokens] = activation(convolution.act)(found[0].T[places - reach])
        return self._norm(scope, hidden + convolved)

    def _pool(self, tokens: Tensor, feeds: Feeds, strategy: str) -> Tensor:
        """Pools float32 ``tokens`` to ``[t, d]``, or to ``[n, d]`` with one selected token per sequence.

        A sequence whose mask is all 0 has mean and maximum 0.
        """
        if strategy == "CLS_POOLED":
            weight, bias = self._weights["pooler/dense/weight"], self._weights["pooler/dense/bias"]
            return torch.tanh(F.linear(tokens, weight, bias))
        if strategy in ("CLS_TOKEN", "SEP_TOKEN"):
            return tokens
        tokens = tokens[: feeds.num_tokens]
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


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """Returns the activation of a name in ``model.config_values.HIDDEN_ACTS``."""
    activations: dict[str, Callable[[Tensor], Tensor]] = {
        "gelu": F.gelu,
        "gelu_new": lambda inputs: F.gelu(inputs, approximate="tanh"),
        "relu": torch.relu,
        "tanh": torch.tanh,
        "silu": F.silu,
    }
    return activations[name]
