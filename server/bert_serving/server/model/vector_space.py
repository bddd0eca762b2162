"""Names the space of vectors: vectors of equal spaces may be compared, others may not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from bert_serving.client.protocol import EMBEDDING_TYPES

from .pipeline import Module, ScoreActivation, Truncate
from .vector_options import VectorOptions, apply_options

#: Hexadecimal digits of a vector space.
DIGITS = 16
#: Embedding types whose numbers are places between the least and the greatest number of each dimension.
RANGED_TYPES = ("int8", "uint8")


class VectorSpaces:
    """The spaces of one server: that of its vectors, and those of requests with options of their own.

    Args:
        digest: digest of all that shapes a vector before its last modules, but the prompt and the longest length.
        tail: the last modules, as of ``split_tail``.
        width: dimensions of a vector before them.
        ranges: least and greatest number of each dimension, by space, for the embedding types ``int8`` and ``uint8``.
    """

    def __init__(
        self,
        digest: str,
        tail: Sequence[Module],
        width: int,
        ranges: Mapping[str, Sequence[Sequence[float]]] | None = None,
    ) -> None:
        self._digest, self._tail, self._width, self._ranges = digest, tail, width, ranges or {}

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
        width, norm_width = self._width, None  # dimensions at the last normalization
        activations = []
        for module in apply_options(self._tail, options):
            if isinstance(module, Truncate):
                width = min(width, module.dimensions)
            elif isinstance(module, ScoreActivation):
                activations += [] if module.function == "Identity" else [module.function]
            else:
                norm_width = width
        return name_space([self._digest, width, norm_width, *activations])


def name_space(content: Sequence[object]) -> str:
    """Returns the name of a space: equal contents give equal names."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:DIGITS]
