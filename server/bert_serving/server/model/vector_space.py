"""Names the space of vectors: vectors of equal spaces may be compared, others may not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from .pipeline import Module, ScoreActivation, Truncate
from .vector_options import VectorOptions, apply_options

#: Hexadecimal digits of a vector space.
DIGITS = 16


class VectorSpaces:
    """The spaces of one server: that of its vectors, and those of requests with options of their own.

    Args:
        digest: digest of all that shapes a vector before its last modules, but the prompt and the longest length.
        tail: the last modules, as of ``split_tail``.
        width: dimensions of a vector before them.
    """

    def __init__(self, digest: str, tail: Sequence[Module], width: int) -> None:
        self._digest, self._tail, self._width = digest, tail, width

    @property
    def default(self) -> str:
        """Returns the space of the vectors of a request without options."""
        return self.of(VectorOptions())

    def of(self, options: VectorOptions) -> str:
        """Returns the space of the vectors of a request with these options: 16 hexadecimal digits."""
        width, norm_width = self._width, None  # dimensions at the last normalization
        activations = []
        for module in apply_options(self._tail, options):
            if isinstance(module, Truncate):
                width = min(width, module.dimensions)
            elif isinstance(module, ScoreActivation):
                activations += [] if module.function == "Identity" else [module.function]
            else:
                norm_width = width
        content = json.dumps([self._digest, width, norm_width, *activations])
        return hashlib.sha256(content.encode()).hexdigest()[:DIGITS]
