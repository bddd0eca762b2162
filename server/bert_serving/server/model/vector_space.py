"""Names the space of vectors: vectors of equal spaces may be compared, others may not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bert_serving.client.protocol import EMBEDDING_TYPES

from .pipeline import Module, ScoreActivation, Truncate
from .pooling import PoolingStrategy, dimensions, worker_modes
from .vector_options import VectorOptions, apply_options

#: Hexadecimal digits of a vector space.
DIGITS = 16
#: Embedding types whose numbers are places between the least and the greatest number of each dimension.
RANGED_TYPES = ("int8", "uint8")


class PooledSpaces(NamedTuple):
    """What the spaces of vectors with a pooling of their own depend on.

    Attributes:
        content: all that shapes the vectors of the server, as JSON.
        tail: the last modules of these vectors.
        hidden_size: dimensions of a layer.
    """

    content: str
    tail: Sequence[Module]
    hidden_size: int

    def of(self, strategy: PoolingStrategy, layers: Sequence[int]) -> tuple[str, Sequence[Module], int]:
        """Returns the digest, the last modules and the width of vectors."""
        content = json.loads(self.content) | pooling_content(strategy, worker_modes(strategy), layers) | {"modules": []}
        return (
            digest_of(json.dumps(content, sort_keys=True)),
            self.tail,
            dimensions(strategy, self.hidden_size, len(layers)),
        )


def pooling_content(strategy: PoolingStrategy, modes: Sequence[str], layers: Sequence[int]) -> dict[str, Any]:
    """Returns what a digest of vectors has of their pooling. Layers count from 0."""
    has_layers = strategy != PoolingStrategy.CLS_POOLED
    return {"pooling": strategy.name, "modes": list(modes), "layers": list(layers) if has_layers else []}


def digest_of(content: str) -> str:
    """Returns the digest of all that shapes a vector, given as JSON with sorted keys."""
    return hashlib.sha256(content.encode()).hexdigest()


class VectorSpaces:
    """The spaces of one server: that of its vectors, and those of requests with options of their own.

    A request with a pooling of its own has the space of a server that is started with this pooling.

    Args:
        digest: digest of all that shapes a vector before its last modules, but the prompt and the longest length.
        tail: the last modules, as of ``split_tail``.
        width: dimensions of a vector before them.
        ranges: least and greatest number of each dimension, by space, for the embedding types ``int8`` and ``uint8``.
        pooled: gives digest, last modules and width of vectors with a pooling of their own.
    """

    def __init__(
        self,
        digest: str,
        tail: Sequence[Module],
        width: int,
        ranges: Mapping[str, Sequence[Sequence[float]]] | None = None,
        pooled: PooledSpaces | None = None,
    ) -> None:
        self._digest, self._tail, self._width, self._ranges = digest, tail, width, ranges or {}
        self._pooled = pooled

    @property
    def default(self) -> str:
        """Returns the space of the vectors of a request without options."""
        return self.of(VectorOptions())

    def of(self, options: VectorOptions) -> str:
        """Returns the space of the vectors of a request with these options: 16 hexadecimal digits.

        Vectors of integers have a space of their own; that of ``int8`` and ``uint8`` depends on the ranges too.
        """
        space = self.of_floats(options)
        if options.embedding_type in (None, "float", "float16"):
            return space
        ranges = self._ranges.get(space) if options.embedding_type in RANGED_TYPES else None
        return name_space([space, options.embedding_type, ranges])

    def has_ranges(self, options: VectorOptions) -> bool:
        """Returns whether the server knows the ranges of the vectors of a request with these options."""
        return self.of_floats(options) in self._ranges

    def by_type(self) -> dict[str, str]:
        """Returns the space of each embedding type that requests without other options may ask for."""
        found = [VectorOptions(embedding_type=each) for each in EMBEDDING_TYPES]
        return {
            str(each.embedding_type): self.of(each)
            for each in found
            if each.embedding_type not in RANGED_TYPES or self.has_ranges(each)
        }

    def of_floats(self, options: VectorOptions) -> str:
        """Returns the space of the vectors of a request with these options before they become integers."""
        digest, tail, width = self._digest, self._tail, self._width
        if options.pooling is not None and options.layers is not None:
            assert self._pooled is not None
            digest, tail, width = self._pooled.of(options.pooling, options.layers)
        norm_width = None  # dimensions at the last normalization
        activations = []
        for module in apply_options(tail, options):
            if isinstance(module, Truncate):
                width = min(width, module.dimensions)
            elif isinstance(module, ScoreActivation):
                activations += [] if module.function == "Identity" else [module.function]
            else:
                norm_width = width
        return name_space([digest, width, norm_width, *activations])


def name_space(content: Sequence[object]) -> str:
    """Returns the name of a space: equal contents give equal names."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:DIGITS]
