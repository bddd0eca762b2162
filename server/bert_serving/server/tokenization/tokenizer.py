"""Converts texts to packed token ids. Pairs, truncation and special tokens follow bert-as-service 1.10.0."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, repeat

import msgspec
import numpy as np

from ..model.errors import ModelConfigError
from .frame import Frame
from .segmenter import Segmenter
from .segments import PAIR_SEPARATOR, Segments, encode_pairs, encode_texts, may_be_pair
from .truncation import positions, truncate
from .wordpiece import LONG_TEXT

_NONE, _ZERO = np.zeros(0, np.int32), np.zeros(1, np.int32)


class Tokenized(msgspec.Struct, frozen=True):
    """Holds ``n`` sequences of ``t`` tokens in all, concatenated without padding.

    Attributes:
        input_ids: vocabulary ids, int32 ``[t]``.
        type_ids: 1 in the second text of a pair, else 0, int32 ``[t]``; None if all are 0.
        mask: 0 for tokens masked by ``mask_cls_sep``, else 1, int32 ``[t]``; None if all are 1.
        lengths: number of tokens in each sequence, int32 ``[n]``, each >= 1.
        truncated: indexes of the sequences truncated to ``max_seq_len``, int32.
        num_unknown: number of tokens for unknown text, such as ``[UNK]``.
        parts: for each sequence that is a part of a text, the row of the text in its request, the offsets from and to
            of the part in characters, and its weight in an average, int32 ``[n, 4]``; None if each is a whole text.
        segments: of each part, its sequence and its tokens from and to in it, int32 ``[p, 3]``; to is -1 if the part is
            the whole sequence. Then ``parts`` has ``p`` rows, and ``truncated`` holds indexes of parts. None if each
            sequence is a part.
    """

    input_ids: np.ndarray
    type_ids: np.ndarray | None
    mask: np.ndarray | None
    lengths: np.ndarray
    truncated: np.ndarray
    num_unknown: int
    parts: np.ndarray | None = None
    segments: np.ndarray | None = None

    @property
    def num_texts(self) -> int:
        return len(self.lengths) if self.parts is None else int(self.parts[-1, 0] - self.parts[0, 0]) + 1

    @property
    def truncated_texts(self) -> np.ndarray:
        """Indexes of the truncated texts."""
        if self.parts is None or not len(self.truncated):
            return self.truncated
        return np.unique(self.parts[self.truncated, 0] - self.parts[0, 0])


class Tokenizer:
    """Converts texts to token ids: a segmenter finds tokens, this class truncates and adds special tokens. Thread-safe.

    Attributes:
        ids: token -> id.
        frame: the special tokens of a sequence.
        vocab_size: largest id plus one.
        unknown_token: the token for unknown text, such as ``[UNK]``; None if the vocabulary has none.
        lower_case: texts are lower-cased; None if the library decides about it.
        max_seq_len: longest sequence in tokens, including special tokens.
        max_positions: longest sequence that the model holds.
        description: the kind of the tokenizer and what computes it.
        warnings: messages about settings that are probably wrong.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        ids: dict[str, int],
        frame: Frame,
        unknown: int | None,
        *,
        max_seq_len: int = 512,
        no_special_token: bool = False,
        mask_cls_sep: bool = False,
        prompt: str = "",
    ) -> None:
        """
        Args:
            unknown: id of a token that the vocabulary lacks; None if token lists with such a token are invalid.
            max_seq_len: longest sequence in tokens; longer sequences are truncated on the right.
            no_special_token: adds no special tokens to token lists, except to pairs.
            mask_cls_sep: masks special tokens in attention and pooling.
            prompt: put before every text, but not before token lists.

        Raises:
            ValueError: ``max_seq_len`` is below 4.
        """
        if max_seq_len < frame.num_of_pair + 1:
            raise ModelConfigError(
                f"max_seq_len is {max_seq_len}; it must be at least {frame.num_of_pair + 1}: special tokens and a word"
            )
        self.ids, self.frame = ids, frame
        self.lower_case: bool | None = None
        self.vocab_size = max(ids.values()) + 1
        special = (frame.start, *frame.separators, frame.end)
        if not all(0 <= index < self.vocab_size for index in special):
            raise ModelConfigError(
                f"the special tokens {special} are not in the vocabulary of {self.vocab_size} tokens; copy it again"
            )
        self.max_seq_len = self.max_positions = max_seq_len
        self.warnings: list[str] = []
        self._segmenter = segmenter
        self.description = segmenter.description
        self._tokens = [""] * self.vocab_size
        for token, index in ids.items():
            self._tokens[index] = token
        self._unknown = -1 if unknown is None else unknown
        self.unknown_token = None if unknown is None else self._tokens[unknown]
        self._no_special_token = no_special_token
        self._mask_cls_sep = mask_cls_sep
        self._prompt = prompt

    def encode(
        self, texts: Sequence[str] | Sequence[Sequence[str]], prompt: str | None = None, pairs: bool | None = None
    ) -> Tokenized:
        """Tokenizes texts, or converts token lists to ids without tokenizing. The type of the first item decides.

        A text ``A ||| B`` on one line is a pair, split at the last separator. In a token list, the first item equal to
        ``|||`` separates a pair. A token that the vocabulary lacks becomes the unknown token, such as ``[UNK]``.

        Args:
            prompt: put before every text, but not before token lists; None for the prompt of this tokenizer. In a pair
                it is put before the first text.
            pairs: true: each item is a list of two texts, which may have any characters; false: no text is a pair, and
                ``|||`` in it is plain text.

        Raises:
            TypeError: an item has another type than the first item; the message names its index.
            ValueError: the vocabulary lacks a token of a list, and has no unknown token; or an item is a pair, and the
                model computes none.
        """
        prompt = self._prompt if prompt is None else prompt
        if pairs:
            return self._assemble(self._encode_pairs(texts, prompt), omit_special=False)
        is_tokenized = len(texts) > 0 and not isinstance(texts[0], str)
        if is_tokenized:
            return self._assemble(self._encode_token_lists(texts), omit_special=self._no_special_token)
        if len(texts) == 1 and isinstance(text := texts[0], str) and (pairs is False or not may_be_pair(text)):
            whole = prompt + text
            if len(whole) <= LONG_TEXT:
                return self._encode_one(whole)
        _require_texts(texts)
        segments = encode_texts(self._segmenter, texts, prompt, pairs is False, self.max_seq_len)  # type: ignore[arg-type]
        return self._assemble(segments, omit_special=False)

    @property
    def prompt(self) -> str:
        """The text before every text of a request without a prompt."""
        return self._prompt

    def segment_all(self, texts: list[str], max_words: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids without special tokens and truncation; see ``Segmenter.encode``."""
        return self._segmenter.encode(texts, max_words)

    def assemble(self, segments: Segments, max_seq_len: int | None = None) -> Tokenized:
        """Truncates token ids, to ``max_seq_len`` in place of that of the tokenizer, and adds the special tokens."""
        return self._assemble(segments, omit_special=False, max_seq_len=max_seq_len)

    def prompt_length(self, prompt: str | None = None) -> int:
        """Returns the number of characters before every text; None is the prompt of this tokenizer."""
        return len(self._prompt if prompt is None else prompt)

    def count_pair(self, pair: Sequence[str], prompt: str | None = None) -> tuple[int, int]:
        """Returns the number of tokens of each text of a pair, without truncation and without special tokens."""
        prompt = self._prompt if prompt is None else prompt
        found = self._encode_pairs([pair], prompt, max_words=max(map(len, pair)) + len(prompt))
        return int(found.first[0]), int(found.second[0])

    def count(self, text: str | Sequence[str], prompt: str | None = None, pairs: bool | None = None) -> int:
        """Returns the number of tokens of a text, or token list, without truncation and with special tokens.

        Args:
            pairs: as for ``encode``, but not true.
        """
        if isinstance(text, str):
            prompt = self._prompt if prompt is None else prompt
            max_words = max(1, len(prompt) + len(text))
            segments = encode_texts(self._segmenter, [text], prompt, pairs is False, max_words)
        else:
            segments = self._encode_token_lists([text])
        first, second = int(segments.first[0]), int(segments.second[0])
        if second:
            return first + second + self.frame.num_of_pair
        omits_special = self._no_special_token and not isinstance(text, str)
        return first if omits_special else first + self.frame.num_of_single

    def segment(self, text: str, prompt: str | None = None) -> list[int]:
        """Returns the ids of a single text, without special tokens and truncation."""
        text = (self._prompt if prompt is None else prompt) + text
        ids: list[int] = self._segmenter.encode([text], max(1, len(text)))[0].tolist()
        return ids

    def token(self, index: int) -> str:
        """Returns the token of an id.

        Raises:
            ValueError: the vocabulary has no such id.
        """
        token = self._tokens[index] if 0 <= index < self.vocab_size else ""
        if not token:
            raise ValueError(f"the token id {index} is not in the model's vocabulary of {self.vocab_size} tokens")
        return token

    def decode(self, ids: list[int], skip_special: bool = True) -> str:
        """Returns the text of ids.

        Args:
            skip_special: omits special tokens, ``[UNK]`` included.

        Raises:
            ValueError: the vocabulary has no such id.
        """
        return self._segmenter.decode(ids, list(map(self.token, ids)), skip_special)

    def tokens(self, tokenized: Tokenized) -> list[list[str]]:
        """Returns the tokens of each sequence, special tokens included."""
        names = [self._tokens[index] for index in tokenized.input_ids.tolist()]
        rows, end = [], 0
        for length in tokenized.lengths.tolist():
            rows.append(names[end : end + length])
            end += length
        if self._no_special_token and tokenized.mask is not None:
            # Omit the placeholder of a sequence without tokens: it is not a token of the client.
            lasts = np.cumsum(tokenized.lengths) - 1
            for row in np.flatnonzero((tokenized.lengths == 1) & (tokenized.mask[lasts] == 0)):
                rows[row] = []
        return rows

    def _encode_pairs(self, pairs: Sequence[Sequence[str]], prompt: str, max_words: int | None = None) -> Segments:
        room = self.max_seq_len - self.frame.num_of_pair
        return encode_pairs(self._segmenter, pairs, prompt, room, max_words or self.max_seq_len)

    def _encode_token_lists(self, rows: Sequence[Sequence[str]]) -> Segments:
        for index, row in enumerate(rows):
            if not isinstance(row, (list, tuple)):
                but = f", but item 0 is {_json_type(rows[0])}" if index else ""
                raise TypeError(f"item {index} is {_json_type(row)}{but}; send texts only, or lists of tokens only")
        items = list(chain.from_iterable(rows))
        if not {str}.issuperset(map(type, items)):
            for index, row in enumerate(rows):
                for token in row:
                    if not isinstance(token, str):
                        raise TypeError(f"item {index} contains {_json_type(token)}; a token must be a string")
        first = np.fromiter(map(len, rows), np.int32, len(rows))
        second = np.zeros_like(first)
        if PAIR_SEPARATOR in items:
            items = []
            for index, row in enumerate(rows):
                is_pair = PAIR_SEPARATOR in row
                at = row.index(PAIR_SEPARATOR) if is_pair else len(row)
                first[index], second[index] = at, len(row) - at - is_pair
                items += row[:at]
                items += row[at + 1 :]
        if self._unknown < 0 and (lacking := next((token for token in items if token not in self.ids), None)):
            raise ValueError(
                f"the vocabulary of this model lacks the token {lacking[:100]!r}, and has no token for unknown text: "
                "send tokens of its vocabulary, or texts"
            )
        return Segments(np.fromiter(map(self.ids.get, items, repeat(self._unknown)), np.int32), first, second)

    def _assemble(self, segments: Segments, omit_special: bool, max_seq_len: int | None = None) -> Tokenized:
        """Truncates the segments and adds the special tokens; with ``omit_special`` only to pairs.

        A sequence without tokens gets one masked padding token as a placeholder, so that it has a row.
        """
        has_longer_first = segments.has_longer_first
        first, second = truncate(
            segments.first, segments.second, max_seq_len or self.max_seq_len, self.frame, omit_special, has_longer_first
        )
        truncated = np.flatnonzero((first < segments.first) | (second < segments.second)).astype(np.int32)
        ids = segments.ids
        if len(truncated):
            have = np.stack([segments.first, segments.second], 1).ravel()
            keep = np.stack([first, second], 1).ravel()
            ids = ids[positions(have) < np.repeat(keep, have)]

        is_pair = second > 0 if has_longer_first is None else np.ones(len(second), bool)
        if self.frame.pair_problem and is_pair.any():
            raise ValueError(f"the request has pairs of texts, but {self.frame.pair_problem}: send single texts")
        has_special = is_pair if omit_special else np.ones_like(is_pair)
        num_special = np.where(is_pair, self.frame.num_of_pair, self.frame.num_of_single)
        lengths = np.where(has_special, first + second + num_special, np.maximum(first, 1)).astype(np.int32)
        ends = np.cumsum(lengths)
        starts = ends - lengths
        start_at, end_at = starts[has_special], ends[has_special] - 1
        after_first = (starts + first + 1)[is_pair]  # where the separators of pairs begin
        placeholder_at = starts[~has_special & (first == 0)]
        is_word = np.ones(int(lengths.sum()), bool)
        input_ids = np.full(len(is_word), self.frame.padding or 0, np.int32)
        is_word[start_at] = is_word[end_at] = is_word[placeholder_at] = False
        input_ids[start_at], input_ids[end_at] = self.frame.start, self.frame.end
        for offset, separator in enumerate(self.frame.separators):
            is_word[after_first + offset] = False
            input_ids[after_first + offset] = separator
        input_ids[is_word] = ids

        type_ids = mask = None
        if is_pair.any():
            second_from = first + 1 + len(self.frame.separators)
            is_second = (positions(lengths) >= np.repeat(second_from, lengths)) & np.repeat(is_pair, lengths)
            type_ids = is_second.astype(np.int32) * self.frame.second_type
        if self._mask_cls_sep:
            mask = is_word.astype(np.int32)
        elif len(placeholder_at):
            mask = np.ones_like(input_ids)
            mask[placeholder_at] = 0
        num_unknown = int(np.count_nonzero(input_ids == self._unknown))
        return Tokenized(input_ids, type_ids, mask, lengths, truncated, num_unknown)

    def _encode_one(self, text: str) -> Tokenized:
        """Encodes a single text that is not a pair: the fast path of ``encode``, in a fifth of its time."""
        ids = self._segmenter.encode_one(text)
        room = self.max_seq_len - 2
        truncated = _ZERO if len(ids) > room else _NONE
        ids = [self.frame.start, *ids[:room], self.frame.end]
        mask = None
        if self._mask_cls_sep:
            mask = np.ones(len(ids), np.int32)
            mask[0] = mask[-1] = 0
        return Tokenized(
            np.array(ids, np.int32), None, mask, np.array([len(ids)], np.int32), truncated, ids.count(self._unknown)
        )


def _require_texts(texts: Sequence[object]) -> None:
    """Raises ``TypeError`` if an item is no text."""
    if not {str}.issuperset(map(type, texts)):
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"item {index} is {_json_type(text)}, but item 0 is a string; send texts only")


def _json_type(value: object) -> str:
    """Names the JSON type of a value, for an error message."""
    if isinstance(value, bool) or value is None:
        return "null" if value is None else "a boolean"
    kinds = {str: "a string", list: "a list", tuple: "a list", dict: "an object", int: "a number", float: "a number"}
    return kinds.get(type(value), f"a {type(value).__name__}")
