"""Pooling by request: what requests may ask for, and where it is in the rows that workers send.

A worker pools the vectors of tokens of all layers that its engine keeps. The sink selects the columns of the layers
that a request names, cuts and normalizes them, and converts them to the embedding type.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bert_serving.client.command_parser import did_you_mean

from ..errors import InvalidRequest
from ..model.config import ModelConfig
from ..model.pipeline import Module, Truncate
from ..model.pooling import PoolingStrategy, dimensions
from ..model.vector_options import POOLING_BITS, VectorOptions, apply_options, split_tail
from .server_config import ServerConfig

_STRATEGIES = (
    PoolingStrategy.REDUCE_MEAN,
    PoolingStrategy.REDUCE_MAX,
    PoolingStrategy.REDUCE_MEAN_MAX,
    PoolingStrategy.CLS_TOKEN,
    PoolingStrategy.SEP_TOKEN,
    PoolingStrategy.WEIGHTED_MEAN,
    PoolingStrategy.MEAN_SQRT_LEN,
)


class Pooling(NamedTuple):
    """The pooling of a request.

    Attributes:
        strategy: the strategy.
        layers: the layers whose vectors are joined, from 0.
        columns: columns from and to of each part of the vector in a row that a worker sends; empty for the whole row.
        width: dimensions of the vector.
        sent_width: dimensions of that row.
        code: ``VectorOptions.code`` for the worker.
    """

    strategy: PoolingStrategy
    layers: tuple[int, ...]
    columns: tuple[tuple[int, int], ...]
    width: int
    sent_width: int
    code: int


class RequestPooling:
    """What the requests of one server may ask for.

    Attributes:
        strategies: strategies, by the names of ``PoolingStrategy``; empty if every request has that of the server.
        layers: layers, as ``-pooling_layer`` names them.
    """

    def __init__(self, config: ServerConfig, model: ModelConfig) -> None:
        own = config.pooling_strategy
        has_pooler = own == PoolingStrategy.CLS_POOLED
        offered = (*_STRATEGIES, PoolingStrategy.CLS_POOLED) if has_pooler else _STRATEGIES
        self.strategies = tuple(each.name for each in offered) if config.has_text_vectors else ()
        self.layers = () if not self.strategies else (-1,) if has_pooler else config.pooling_layer
        self._own, self._size, self._count = own, model.hidden_size, model.num_hidden_layers
        self._kept = tuple(layer % self._count for layer in self.layers)
        self._row_size = config.vector_size(model)
        self._other_results = "one vector per token"
        if "dense" not in config.outputs:
            kinds = " and ".join(config.outputs)
            self._other_results = f"{kinds} vectors" if kinds else f"scores (-task {config.task})"
        modules = () if config.pipeline is None else config.pipeline.modules
        body, tail = split_tail(modules)
        # Without other modules, all columns of a vector of the server are those of layers.
        self._keeps_columns = not body and not any(isinstance(module, Truncate) for module in tail)
        self._own_tail: tuple[Module, ...] = tail

    def find(self, name: str | None, layers: Sequence[int] | None) -> Pooling | None:
        """Returns the pooling of a request; None if it is that of the server.

        Args:
            name: strategy; None for that of the server.
            layers: layers; None for all that the server keeps.

        Raises:
            InvalidRequest: the server does not have it; the message names what it has.
        """
        if name is None and layers is None:
            return None
        if not self.strategies:
            asked = "pooling" if layers is None else "pooling_layer"
            raise InvalidRequest(
                f"{asked} needs one vector per text, but this server returns {self._other_results}: omit {asked}"
            )
        strategy = self._own if name is None else self._strategy(name)
        chosen = self._kept if layers is None else self._layers(layers)
        if (strategy, chosen) == (self._own, self._kept):
            return None
        if strategy == PoolingStrategy.CLS_POOLED:
            raise InvalidRequest("pooling CLS_POOLED has the last layer only: omit pooling_layer")
        columns = () if chosen == self._kept else self._columns(strategy, chosen)
        width = dimensions(strategy, self._size, len(chosen))
        code = VectorOptions(pooling=strategy).code
        if strategy == self._own and self._keeps_columns:  # the vectors of the server have these columns
            plain = VectorOptions(normalize=False)
            code = 0 if apply_options(self._own_tail, plain) == self._own_tail else plain.code
        return Pooling(strategy, chosen, columns, width, dimensions(strategy, self._size, len(self._kept)), code)

    def sent_width(self, code: int) -> int:
        """Returns the dimensions of a row with this code, as workers send it."""
        if not code & POOLING_BITS:
            return self._row_size
        strategy = VectorOptions.from_code(code).pooling
        assert strategy is not None
        return dimensions(strategy, self._size, len(self._kept))

    def to_dict(self) -> dict[str, list[str] | list[int]]:
        """Returns the strategies and the layers for the status."""
        return {"strategies": list(self.strategies), "layers": list(self.layers)}

    @property
    def widest(self) -> int:
        """Dimensions of the widest vector that a request may ask for; 0 without any."""
        widths = [dimensions(PoolingStrategy[name], self._size, len(self._kept)) for name in self.strategies]
        return max(widths, default=0)

    def _strategy(self, name: str) -> PoolingStrategy:
        key = name.strip().upper()
        strategy = PoolingStrategy.selectable().get(key)
        if strategy is not None and strategy.name in self.strategies:
            return strategy
        hint = "" if strategy is not None else did_you_mean(key[:40], PoolingStrategy.selectable())
        reason = "is unknown"
        if strategy == PoolingStrategy.CLS_POOLED:
            reason = "needs a server with -pooling_strategy CLS_POOLED, which has the pooler of the model"
        elif strategy == PoolingStrategy.NONE:
            reason = "needs a server with -pooling_strategy NONE, which returns one vector per token"
        raise InvalidRequest(f"pooling {name[:100]!r} {reason}: set one of {', '.join(self.strategies)}{hint}")

    def _layers(self, layers: Sequence[int]) -> tuple[int, ...]:
        if not 0 < len(layers) <= len(self._kept):
            raise InvalidRequest(
                f"pooling_layer names {len(layers)} layers; this server keeps {self._shown_layers}: name 1 to "
                f"{len(self._kept)} of them"
            )
        for layer in layers:
            if not -self._count <= layer < self._count or layer % self._count not in self._kept:
                raise InvalidRequest(
                    f"pooling_layer {str(layer)[:100]} is not kept by this server: set layers of {self._shown_layers}, "
                    "or start the server with -pooling_layer and all layers that requests ask for"
                )
        return tuple(layer % self._count for layer in layers)

    @property
    def _shown_layers(self) -> str:
        return ", ".join(map(str, self.layers))

    def _columns(self, strategy: PoolingStrategy, chosen: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        starts = [self._kept.index(layer) * self._size for layer in chosen]
        if strategy == PoolingStrategy.REDUCE_MEAN_MAX:  # the means of all layers, then their maxima
            starts += [start + len(self._kept) * self._size for start in starts]
        return tuple((start, start + self._size) for start in starts)
