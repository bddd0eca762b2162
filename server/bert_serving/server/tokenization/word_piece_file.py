"""Recognizes a ``tokenizer.json`` with BERT's WordPiece by its whole structure.

A file with another component, another setting, or a value of another type is none: the library `tokenizers` reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

_Id = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class AddedToken(msgspec.Struct, forbid_unknown_fields=True):
    """A token that is found in texts before words are split."""

    id: _Id
    content: str
    single_word: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool


class Normalizer(msgspec.Struct, forbid_unknown_fields=True):
    """``BertNormalizer``."""

    type: Literal["BertNormalizer"]
    clean_text: bool
    handle_chinese_chars: bool
    lowercase: bool
    strip_accents: bool | None = None


class _PreTokenizer(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["BertPreTokenizer"]


class _Model(msgspec.Struct, forbid_unknown_fields=True):
    vocab: dict[str, _Id]
    unk_token: Literal["[UNK]"]
    continuing_subword_prefix: Literal["##"]
    max_input_chars_per_word: Literal[100]
    # Files of early versions lack the type.
    type: Literal["WordPiece"] = "WordPiece"


class _Padding(msgspec.Struct):
    pad_id: _Id


class WordPieceFile(msgspec.Struct, forbid_unknown_fields=True):
    """A ``tokenizer.json`` whose normalizer, pre-tokenizer, model and added tokens are those of BERT's WordPiece."""

    normalizer: Normalizer
    pre_tokenizer: _PreTokenizer
    model: _Model
    post_processor: dict[str, Any]
    added_tokens: list[AddedToken] = []
    version: Literal["1.0"] = "1.0"
    truncation: Any = None
    padding: _Padding | None = None
    decoder: Any = None


def parse_word_piece(content: dict[str, Any]) -> WordPieceFile | None:
    """Returns the content of a ``tokenizer.json``; None if it is not exactly BERT's WordPiece."""
    try:
        file = msgspec.convert(content, WordPieceFile)
    except msgspec.ValidationError:
        return None
    is_exact = (
        file.normalizer.clean_text
        and file.model.unk_token in file.model.vocab
        # The position of such a token depends on the text around it.
        and not any(token.single_word for token in file.added_tokens)
        and _has_own_ids(file.model.vocab, file.added_tokens)
    )
    return file if is_exact else None


def _has_own_ids(vocab: dict[str, int], added: Sequence[AddedToken]) -> bool:
    """Returns whether the library gives each added token its id in the file: that of the vocabulary, or the next."""
    largest = -1
    for token in added:
        following = len(vocab) if largest < len(vocab) else largest + 1
        if token.id != vocab.get(token.content, following):
            return False
        largest = max(largest, token.id)
    return True
