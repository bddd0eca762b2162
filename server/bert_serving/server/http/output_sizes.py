"""Bounds the memory of sparse vectors and of vectors of tokens in the HTTP process, before they are computed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from unicodedata import normalize

from bert_serving.client.protocol import OUTPUTS_BATCH_SIZE

from ..model.pipeline import SentencePipeline

#: Most tokens of a byte of text: NFKC makes 18 characters of one with 3 bytes.
_TOKENS_OF_BYTE = 6
#: Special tokens of a text, and a marker.
_SPECIAL_TOKENS = 4
#: Memory (bytes) of the objects of a text.
_OBJECT_BYTES = 512


class OutputSizes:
    """Bounds the memory of the outputs of a model other than dense vectors.

    Args:
        pipeline: describes the outputs; None for dense vectors alone.
        max_length: longest sequence in tokens.
    """

    def __init__(self, pipeline: SentencePipeline | None, max_length: int) -> None:
        self._heads = {} if pipeline is None else pipeline.token_heads
        self._max_length = max_length
        self._added = _SPECIAL_TOKENS
        if pipeline is not None:
            self._added += max(map(_most_tokens, pipeline.prompts.values()), default=0)
            if pipeline.multi is not None:
                self._added += max((each.expansion_length for each in pipeline.multi.frames.values()), default=0)

    def of_body(self, num_texts: int, num_bytes: int, may_have_prompt: bool) -> int:
        """Returns the most bytes of all outputs of a body.

        Args:
            num_texts: most texts in it.
            num_bytes: its size.
            may_have_prompt: whether it may name a text that is put before each text.
        """
        if not self._heads:
            return 0
        tokens = num_texts * self._max_length
        if not may_have_prompt:
            tokens = min(tokens, num_texts * self._added + _TOKENS_OF_BYTE * num_bytes)
        return self._bytes(self._heads, num_texts, tokens)

    def of_texts(self, texts: list[Any], options: dict[str, Any]) -> int:
        """Returns the most bytes of the outputs of some texts.

        Args:
            texts: texts, pairs of texts, or lists of tokens.
            options: of the request, with ``outputs``.
        """
        most = self._max_length
        if "prompt" in options:
            tokens = most * len(texts)
        else:
            tokens = sum(min(most, self._added + _most_tokens(text)) for text in texts)
        return self._bytes((name for name in options["outputs"] if name in self._heads), len(texts), tokens)

    def batch_size(self, texts: list[Any], options: dict[str, Any], limit: int) -> int:
        """Returns how many texts a request to the service has, so that its outputs have about ``limit`` bytes at most.

        Args:
            texts, options: as for `of_texts`.
        """
        longest = max(texts, key=_most_tokens, default="")
        return max(1, min(OUTPUTS_BATCH_SIZE, limit // max(1, self.of_texts([longest], options))))

    def _bytes(self, names: Iterable[str], num_texts: int, num_tokens: int) -> int:
        # A sparse vector refers to its tokens too, which doubles its size.
        sizes = ((2 if name == "sparse" else 1) * self._heads[name].max_bytes(num_texts, num_tokens) for name in names)
        return sum(sizes) + num_texts * _OBJECT_BYTES


def _most_tokens(text: Any) -> int:
    """Returns the most tokens of a text: one for each byte, after the normalization of some tokenizers."""
    if isinstance(text, str):
        return len(text) if text.isascii() else len(normalize("NFKC", text).encode(errors="replace"))
    if isinstance(text, tuple):  # a pair
        return sum(map(_most_tokens, text))
    return len(text) if isinstance(text, list) else 0  # the client refuses another value
