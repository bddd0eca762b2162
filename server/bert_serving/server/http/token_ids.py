"""Converts token ids, sent by clients with their own tokenizer, into the tokens that the service expects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..tokenization.tokenizer import PAIR_SEPARATOR
from .errors import BadRequest


class TokenIds:
    """Converts rows of token ids into rows of tokens of a vocabulary.

    Args:
        ids: vocabulary, token to id.
        keep_special: keep ``[CLS]`` and ``[SEP]`` in the input, because the service adds none
            (``-no_special_token``).
    """

    def __init__(self, ids: Mapping[str, int], keep_special: bool = False) -> None:
        self._tokens = [""] * (max(ids.values()) + 1)
        for token, index in ids.items():
            self._tokens[index] = token
        self._keep_special = keep_special
        self._cls, self._sep, self._pad = ids.get("[CLS]"), ids.get("[SEP]"), ids.get("[PAD]")

    def tokens(self, rows: Sequence[Sequence[int]]) -> list[list[str]]:
        """Returns the tokens of each row, without the ``[CLS]`` and ``[SEP]`` that the service adds.

        Trailing padding, a leading ``[CLS]`` and a trailing ``[SEP]`` are removed. A ``[SEP]`` in between becomes the
        separator of a pair of texts.

        Raises:
            BadRequest: the vocabulary has no such id, or a row has no token.
        """
        return [self._row(row, index) for index, row in enumerate(rows)]

    def _row(self, row: Sequence[int], index: int) -> list[str]:
        start, end = 0, len(row)
        while end > start and row[end - 1] == self._pad:
            end -= 1
        if not self._keep_special:
            if end > start and row[start] == self._cls:
                start += 1
            if end > start and row[end - 1] == self._sep:
                end -= 1
        if start == end:
            raise BadRequest(f"item {index} has no token except special ones; send at least one", "input")
        tokens = [self._token(token_id, index) for token_id in row[start:end]]
        if not self._keep_special and self._sep in row[start:end]:
            tokens[row.index(self._sep, start, end) - start] = PAIR_SEPARATOR
        return tokens

    def _token(self, token_id: int, index: int) -> str:
        if not 0 <= token_id < len(self._tokens) or not self._tokens[token_id]:
            raise BadRequest(
                f"item {index} has the token id {token_id}, which is not in the model's vocabulary of "
                f"{len(self._tokens)} tokens; ids of another model's tokenizer are not supported: send texts",
                "input",
            )
        return self._tokens[token_id]
