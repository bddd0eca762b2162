"""Tokenizes the texts of a request by its option ``long``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .long_texts import tokenize_parts, tokens_by_text
from .text_options import TextOptions
from .tokenizer import Tokenized, Tokenizer
from .windows import tokenize_windows, tokens_of_parts


def tokenize_long(tokenizer: Tokenizer, texts: Sequence[Any], options: TextOptions, first_row: int) -> Tokenized:
    """Tokenizes texts of which those that are too long become parts.

    Raises:
        ValueError: the request has token lists, or a text has no parts; see ``long_texts.tokenize_parts``.
    """
    if not isinstance(texts[0], str):
        raise ValueError(
            f"long is {options.long!r}, but token lists have no parts: send texts, or set long to cut or error"
        )
    return tokenize_mode(tokenizer, texts, options.long, options.prompt, options.pairs is None, first_row)


def tokenize_mode(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    long: str,
    prompt: str | None,
    may_be_pairs: bool,
    first_row: int = 0,
) -> Tokenized:
    """Tokenizes texts for a value of ``long``: ``mean``, ``chunks`` or ``late``; see ``tokenize_parts``."""
    if long == "late":
        return tokenize_windows(tokenizer, texts, prompt, may_be_pairs, first_row)
    return tokenize_parts(tokenizer, texts, prompt, may_be_pairs, long == "mean", first_row)


def shown_tokens(tokenizer: Tokenizer, tokenized: Tokenized, long: str) -> list[list[str]]:
    """Returns the tokens of each row of a reply: of each part, or of each text with ``mean``."""
    tokens = tokenizer.tokens(tokenized)
    if long == "mean":
        return tokens_by_text(tokens, tokenized)
    return tokens_of_parts(tokens, tokenized) if long == "late" else tokens
