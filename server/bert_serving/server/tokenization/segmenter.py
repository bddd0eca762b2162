"""Describes what splits texts into tokens: BERT's WordPiece of the server, or the library `tokenizers`."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Segmenter(Protocol):
    """Converts texts to token ids without special tokens."""

    description: str

    def encode(self, segments: list[str], max_words: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ids of all segments, concatenated, int32, and the number of ids per segment, int32 ``[n]``."""
        ...

    def encode_one(self, text: str) -> list[int]:
        """Returns the ids of one text."""
        ...

    def decode(self, ids: list[int], tokens: list[str], skip_special: bool) -> str:
        """Returns the text of ids, whose tokens are given too.

        Args:
            skip_special: omits special tokens, ``[UNK]`` included.
        """
        ...
