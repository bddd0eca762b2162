"""Token ids as input: a client that tokenized by itself sends numbers, the service takes tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..tokenization.tokenizer import PAIR_SEPARATOR
from .errors import BadRequest


class TokenIds:
    """Turns rows of token ids into rows of tokens of a vocabulary.

    Args:
        ids: the vocabulary, token to id.
        keep_special: the service adds no ``[CLS]`` and ``[SEP]`` (``-no_special_token``), so those given stay.
    """

    def __init__(self, ids: Mapping[str, int], keep_special: bool = False) -> None:
        self._tokens = [""] * (max(ids.values()) + 1)
        for token, index in ids.items():
            self._tokens[index] = token
        self._keep_special = keep_special
        self._cls, self._sep, self._pad = ids.get("[CLS]"), ids.get("[SEP]"), ids.get("[PAD]")

    def tokens(self, rows: Sequence[Sequence[int]]) -> list[list[str]]:
        """The tokens of each row, as the service wants them: it adds ``[CLS]`` and ``[SEP]`` itself.

        Padding at the end goes; so do a ``[CLS]`` in front and a ``[SEP]`` behind; a ``[SEP]`` in between parts the
        two texts of a pair.

        Raises:
            BadInput: an id that the vocabulary does not have, or a row without any token.
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
            raise BadRequest(f"item {index} holds no token beside special ones; send at least one", "input")
        tokens = [self._token(token_id, index) for token_id in row[start:end]]
        if not self._keep_special and self._sep in row[start:end]:
            tokens[row.index(self._sep, start, end) - start] = PAIR_SEPARATOR
        return tokens

    def _token(self, token_id: int, index: int) -> str:
        if not 0 <= token_id < len(self._tokens) or not self._tokens[token_id]:
            raise BadRequest(
                f"item {index} holds the token id {token_id}, which the model's vocabulary of {len(self._tokens)} "
                "tokens does not have; ids of another model's tokenizer mean nothing here: send texts",
                "input",
            )
        return self._tokens[token_id]
