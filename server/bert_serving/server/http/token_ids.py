"""Converts token ids, sent by clients with their own tokenizer, into the tokens that the service expects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..tokenization.frame import Frame
from ..tokenization.segments import PAIR_SEPARATOR
from .errors import BadRequest


class TokenIds:
    """Converts rows of token ids into rows of tokens of a vocabulary.

    Args:
        ids: vocabulary, token to id.
        frame: the special tokens that the service adds.
        keep_special: keep these special tokens in the input, because the service adds none
            (``-no_special_token``).
        accept: value of ``-http_token_ids``: framed, any or off.
    """

    def __init__(self, ids: Mapping[str, int], frame: Frame, keep_special: bool = False, accept: str = "any") -> None:
        self._accept = accept
        self._tokens = [""] * (max(ids.values()) + 1)
        for token, index in ids.items():
            self._tokens[index] = token
        self._keep_special = keep_special
        self._frame = frame

    def tokens(self, rows: Sequence[Sequence[int]]) -> list[list[str]]:
        """Returns the tokens of each row, without the special tokens that the service adds.

        Trailing padding, the special token in front and the one behind are removed. Those in between become the
        separator of a pair of texts.

        Raises:
            BadRequest: the vocabulary has no such id, a row has no token, or ``-http_token_ids`` excludes it.
        """
        if self._accept == "off":
            raise BadRequest("this server accepts no token ids (-http_token_ids off): send texts", "input")
        return [self._row(row, index) for index, row in enumerate(rows)]

    def _row(self, row: Sequence[int], index: int) -> list[str]:
        start, end = 0, len(row)
        while end > start and row[end - 1] == self._frame.padding:
            end -= 1
        if self._accept == "framed":
            self._require_frame(row[start:end], index)
        if not self._keep_special:
            if end > start and row[start] == self._frame.start:
                start += 1
            if end > start and row[end - 1] == self._frame.end:
                end -= 1
        if start == end:
            raise BadRequest(f"item {index} has no token except special ones; send at least one", "input")
        tokens = [self._token(token_id, index) for token_id in row[start:end]]
        if PAIR_SEPARATOR in tokens:
            raise BadRequest(
                f"item {index} has the token {PAIR_SEPARATOR!r}, which separates the texts of a pair on this server; "
                "send the text instead of its token ids",
                "input",
            )
        if not self._keep_special:
            at = self._find_separators(row[start:end])
            if at is not None:
                tokens[at : at + len(self._frame.separators)] = [PAIR_SEPARATOR]
        return tokens

    def _require_frame(self, row: Sequence[int], index: int) -> None:
        """Rejects a row without the special tokens of this model: it is probably of another model's tokenizer."""
        first, last = self._frame.start, self._frame.end
        if row and (len(row) < 2 or (row[0], row[-1]) != (first, last)):
            expected = f"begin with {first} ({self._tokens[first]}) and end with {last} ({self._tokens[last]})"
            raise BadRequest(
                f"item {index} begins with {row[0]} and ends with {row[-1]}, but token ids of this model {expected}: "
                "send texts, or ids with these special tokens. The server accepts other rows with -http_token_ids any",
                "input",
            )

    def _find_separators(self, row: Sequence[int]) -> int | None:
        """Returns where the separators of a pair begin in a row without outer special tokens."""
        separators = list(self._frame.separators)
        size = len(separators)
        return next((at for at in range(len(row) - size + 1) if list(row[at : at + size]) == separators), None)

    def _token(self, token_id: int, index: int) -> str:
        if not 0 <= token_id < len(self._tokens) or not self._tokens[token_id]:
            raise BadRequest(
                f"item {index} has the token id {token_id}, which is not in the model's vocabulary of "
                f"{len(self._tokens)} tokens; ids of another model's tokenizer are not supported: send texts",
                "input",
            )
        return self._tokens[token_id]
