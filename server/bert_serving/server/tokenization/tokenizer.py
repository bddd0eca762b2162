"""From texts to packed token ids, paired, truncated and framed by special tokens as bert-as-service 1.10.0 does it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, repeat

import numpy as np

from .vocabulary import Vocabulary, read_vocabulary
from .wordpiece import LONG_TEXT, WordPiece

#: Between the two texts of a pair.
PAIR_SEPARATOR = "|||"
#: Texts that are normalized as one string. Bounds the memory of the word list, and how long one C call holds the GIL.
TEXTS_AT_ONCE = 256
_NONE, _ZERO = np.zeros(0, np.int32), np.zeros(1, np.int32)


@dataclass(frozen=True, slots=True)
class Tokenized:
    """``n`` sequences, ``t`` tokens in all, packed one after the other without padding.

    Attributes:
        input_ids: vocabulary indexes, int32 ``[t]``.
        type_ids: 1 in the second text of a pair, else 0, int32 ``[t]``; None when all are 0.
        mask: 0 where ``mask_cls_sep`` hides a token, else 1, int32 ``[t]``; None when all are 1.
        lengths: tokens in each sequence, int32 ``[n]``, each >= 1.
        truncated: indexes of the sequences that lost tokens to ``max_seq_len``, int32.
        num_unknown: how many of the tokens are ``[UNK]``.
    """

    input_ids: np.ndarray
    type_ids: np.ndarray | None
    mask: np.ndarray | None
    lengths: np.ndarray
    truncated: np.ndarray
    num_unknown: int


@dataclass(frozen=True, slots=True)
class _Segments:
    """Ids without special tokens: of each sequence ``first[i]`` of its first text, then ``second[i]`` of the other."""

    ids: np.ndarray
    first: np.ndarray
    second: np.ndarray


class Tokenizer:
    """Turns texts into token ids by a WordPiece vocabulary. May be shared by threads.

    Attributes:
        vocab_size: one more than the largest id.
        lower_case: whether texts are lower-cased.
        max_seq_len: longest sequence in tokens, special ones included.
        warnings: what looks wrong about the settings, a sentence each.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        lower_case: bool | None = None,
        max_seq_len: int = 512,
        no_special_token: bool = False,
        mask_cls_sep: bool = False,
    ) -> None:
        """
        Args:
            vocabulary: must have ``[UNK]``, ``[CLS]`` and ``[SEP]``.
            lower_case: None does as the vocabulary says, and lower-cases where that is silent.
            max_seq_len: longest sequence in tokens; longer ones lose their last tokens.
            no_special_token: add no ``[CLS]`` and ``[SEP]`` to sequences that come tokenized, pairs excepted.
            mask_cls_sep: hide ``[CLS]`` and ``[SEP]`` from attention and pooling.

        Raises:
            ValueError: the vocabulary lacks a special token, or ``max_seq_len`` leaves no room for a word.
        """
        ids = vocabulary.ids
        missing = [token for token in ("[UNK]", "[CLS]", "[SEP]") if token not in ids]
        if missing:
            raise ValueError(f"the vocabulary of {len(ids)} tokens lacks {', '.join(missing)}; it is not BERT's")
        if max_seq_len < 4:
            raise ValueError(f"max_seq_len is {max_seq_len}; it must be 4 or more: [CLS], a token or two, and [SEP]")
        if lower_case is None:
            lower_case = vocabulary.lower_case is not False
        self.vocab_size = max(ids.values()) + 1
        self.lower_case = lower_case
        self.max_seq_len = max_seq_len
        self.warnings = _case_warnings(ids, lower_case)
        self._ids = ids
        self._tokens = [""] * self.vocab_size
        for token, index in ids.items():
            self._tokens[index] = token
        self._unk, self._cls, self._sep = ids["[UNK]"], ids["[CLS]"], ids["[SEP]"]
        self._no_special_token = no_special_token
        self._mask_cls_sep = mask_cls_sep
        strip = vocabulary.strip_accents
        self._wordpiece = WordPiece(
            ids,
            self._unk,
            lower_case=lower_case,
            strip_accents=lower_case if strip is None else strip,
            split_cjk=vocabulary.split_cjk,
        )

    @classmethod
    def from_file(
        cls,
        vocab_path: str | os.PathLike[str],
        *,
        lower_case: bool | None,
        max_seq_len: int | None,
        max_position_embeddings: int,
        no_special_token: bool = False,
        mask_cls_sep: bool = False,
    ) -> Tokenizer:
        """A tokenizer for ``vocab.txt`` or a WordPiece ``tokenizer.json``.

        Args:
            lower_case: None does as the model's own files say, and lower-cases where they are silent.
            max_seq_len: None is the longest that the model can take.
            max_position_embeddings: longest sequence that the model can take, in tokens.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it holds no WordPiece vocabulary of BERT's kind, or ``max_seq_len`` does not fit the model.
        """
        if max_seq_len is not None and max_seq_len > max_position_embeddings:
            raise ValueError(
                f"max_seq_len is {max_seq_len}, but the model has only {max_position_embeddings} positions; "
                f"use -max_seq_len {max_position_embeddings} or less"
            )
        return cls(
            read_vocabulary(vocab_path),
            lower_case=lower_case,
            max_seq_len=max_position_embeddings if max_seq_len is None else max_seq_len,
            no_special_token=no_special_token,
            mask_cls_sep=mask_cls_sep,
        )

    def encode(self, texts: Sequence[str] | Sequence[Sequence[str]]) -> Tokenized:
        """Tokenizes texts, or takes lists of tokens as they are; the first item tells which.

        ``A ||| B`` is a pair (at the last of several separators, and on one line only); in a list of tokens the first
        item that equals ``|||`` parts the pair. A listed token that the vocabulary lacks becomes ``[UNK]``.

        Raises:
            TypeError: an item is not what the first one is; the message names its index.
        """
        if len(texts) == 1 and isinstance(text := texts[0], str) and self._is_short(text):
            return self._encode_one(text)
        is_tokenized = len(texts) > 0 and not isinstance(texts[0], str)
        segments = self._listed(texts) if is_tokenized else self._read(texts)  # type: ignore[arg-type]
        return self._assemble(segments, bare=is_tokenized and self._no_special_token)

    def tokens(self, tokenized: Tokenized) -> list[list[str]]:
        """The tokens of each sequence, ``[CLS]`` and ``[SEP]`` among them."""
        names = [self._tokens[index] for index in tokenized.input_ids.tolist()]
        rows, end = [], 0
        for length in tokenized.lengths.tolist():
            rows.append(names[end : end + length])
            end += length
        if self._no_special_token and tokenized.mask is not None:
            # What stands in for a sequence without tokens is none of the client's.
            lasts = np.cumsum(tokenized.lengths) - 1
            for row in np.flatnonzero((tokenized.lengths == 1) & (tokenized.mask[lasts] == 0)):
                rows[row] = []
        return rows

    def _read(self, texts: Sequence[str]) -> _Segments:
        if not {str}.issuperset(map(type, texts)):
            for index, text in enumerate(texts):
                if not isinstance(text, str):
                    raise TypeError(f"item {index} is {_kind(text)}, but item 0 is a text; send texts only")
        parts = [self._read_some(texts[i : i + TEXTS_AT_ONCE]) for i in range(0, len(texts), TEXTS_AT_ONCE)]
        if len(parts) == 1:
            return parts[0]
        none = np.zeros(0, np.int32)
        return _Segments(
            np.concatenate([none, *(part.ids for part in parts)]),
            np.concatenate([none, *(part.first for part in parts)]),
            np.concatenate([none, *(part.second for part in parts)]),
        )

    def _read_some(self, texts: Sequence[str]) -> _Segments:
        separator = f" {PAIR_SEPARATOR} "
        # One search in C tells that there is no pair, which is so almost always.
        if separator not in "\n".join(texts):
            ids, lengths = self._wordpiece.encode(list(texts), self.max_seq_len)
            return _Segments(ids, lengths, np.zeros_like(lengths))
        segments: list[str] = []
        is_second: list[bool] = []
        for text in texts:
            line = text.strip()
            head, found, tail = line.rpartition(separator)
            if found and "\n" not in line:
                segments += (head, tail)
                is_second += (False, True)
            else:
                segments.append(line)
                is_second.append(False)
        ids, lengths = self._wordpiece.encode(segments, self.max_seq_len)
        belongs = np.array(is_second)
        second = np.zeros(len(texts), np.int32)
        second[np.cumsum(~belongs)[belongs] - 1] = lengths[belongs]
        return _Segments(ids, lengths[~belongs], second)

    def _listed(self, rows: Sequence[Sequence[str]]) -> _Segments:
        for index, row in enumerate(rows):
            if not isinstance(row, (list, tuple)):
                but = f", but item 0 is {_kind(rows[0])}" if index else ""
                raise TypeError(f"item {index} is {_kind(row)}{but}; send texts only, or lists of tokens only")
        items = list(chain.from_iterable(rows))
        if not {str}.issuperset(map(type, items)):
            for index, row in enumerate(rows):
                for token in row:
                    if not isinstance(token, str):
                        raise TypeError(f"item {index} holds {_kind(token)}; a token must be a text")
        first = np.fromiter(map(len, rows), np.int32, len(rows))
        second = np.zeros_like(first)
        if PAIR_SEPARATOR in items:
            items = []
            for index, row in enumerate(rows):
                parted = PAIR_SEPARATOR in row
                at = row.index(PAIR_SEPARATOR) if parted else len(row)
                first[index], second[index] = at, len(row) - at - parted
                items += row[:at]
                items += row[at + 1 :]
        return _Segments(np.fromiter(map(self._ids.get, items, repeat(self._unk)), np.int32), first, second)

    def _assemble(self, segments: _Segments, bare: bool) -> Tokenized:
        """Truncates, and puts ``[CLS]`` and ``[SEP]`` where they belong: in ``bare`` sequences only into pairs.

        A sequence without any token gets a hidden padding token, so that it has a row.
        """
        first, second = self._fit(segments.first, segments.second, bare)
        truncated = np.flatnonzero((first < segments.first) | (second < segments.second)).astype(np.int32)
        ids = segments.ids
        if len(truncated):
            have = np.stack([segments.first, segments.second], 1).ravel()
            keep = np.stack([first, second], 1).ravel()
            ids = ids[_places(have) < np.repeat(keep, have)]

        is_pair = second > 0
        framed = is_pair if bare else np.ones_like(is_pair)
        lengths = np.where(framed, first + second + 2 + is_pair, np.maximum(first, 1)).astype(np.int32)
        ends = np.cumsum(lengths)
        starts = ends - lengths
        cls_at = starts[framed]
        sep_at = np.concatenate([cls_at + first[framed] + 1, ends[is_pair] - 1])
        hidden_at = starts[~framed & (first == 0)]
        is_word = np.ones(int(lengths.sum()), bool)
        is_word[cls_at] = is_word[sep_at] = is_word[hidden_at] = False
        input_ids = np.empty(len(is_word), np.int32)
        input_ids[is_word] = ids
        input_ids[cls_at], input_ids[sep_at], input_ids[hidden_at] = self._cls, self._sep, 0

        type_ids = mask = None
        if is_pair.any():
            type_ids = ((_places(lengths) >= np.repeat(first + 2, lengths)) & np.repeat(is_pair, lengths)).astype(
                np.int32
            )
        if self._mask_cls_sep:
            mask = is_word.astype(np.int32)
        elif len(hidden_at):
            mask = np.ones_like(input_ids)
            mask[hidden_at] = 0
        num_unknown = int(np.count_nonzero(input_ids == self._unk))
        return Tokenized(input_ids, type_ids, mask, lengths, truncated, num_unknown)

    @staticmethod
    def _is_short(text: str) -> bool:
        return len(text) <= LONG_TEXT and f" {PAIR_SEPARATOR} " not in text

    def _encode_one(self, text: str) -> Tokenized:
        """``encode`` of a single text that is no pair: the same without arrays on the way, in a fifth of the time."""
        ids = self._wordpiece.encode_one(text)
        room = self.max_seq_len - 2
        truncated = _ZERO if len(ids) > room else _NONE
        ids = [self._cls, *ids[:room], self._sep]
        mask = None
        if self._mask_cls_sep:
            mask = np.ones(len(ids), np.int32)
            mask[0] = mask[-1] = 0
        return Tokenized(
            np.array(ids, np.int32), None, mask, np.array([len(ids)], np.int32), truncated, ids.count(self._unk)
        )

    def _fit(self, first: np.ndarray, second: np.ndarray, bare: bool) -> tuple[np.ndarray, np.ndarray]:
        """How many tokens of each text stay.

        A single text keeps its first ones. A pair gives up, again and again, the last token of its longer text (of the
        second, where both are as long): so either both end at half of the room, or the shorter one stays whole.
        """
        room = self.max_seq_len - 3
        of_single = np.minimum(first, self.max_seq_len if bare else self.max_seq_len - 2)
        of_pair = np.minimum(first, np.maximum(room - second, room - room // 2))
        first = np.where(second > 0, of_pair, of_single)
        return first, np.minimum(second, np.maximum(room - first, 0))


def _places(lengths: np.ndarray) -> np.ndarray:
    """``0..lengths[0]-1, 0..lengths[1]-1, ...``"""
    ends = np.cumsum(lengths)
    places: np.ndarray = np.arange(int(lengths.sum())) - np.repeat(ends - lengths, lengths)
    return places


def _kind(value: object) -> str:
    """What a client sent, in the words of JSON."""
    if isinstance(value, bool) or value is None:
        return "null" if value is None else "a truth value"
    kinds = {str: "a text", list: "a list", tuple: "a list", dict: "an object", int: "a number", float: "a number"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _case_warnings(ids: dict[str, int], lower_case: bool) -> list[str]:
    words = [token for token in ids if not token.startswith("[")]
    upper = sum(token != token.lower() for token in words)
    if lower_case and upper > len(words) / 100:
        return [
            f"{upper} of the vocabulary's {len(words)} words have upper-case letters, but texts are lower-cased; "
            "use -cased_tokenization"
        ]
    if not lower_case and words and not upper:
        return [
            f"none of the vocabulary's {len(words)} words has upper-case letters, but texts are not lower-cased; "
            "leave -cased_tokenization out"
        ]
    return []
