"""Splits texts that are longer than the model's sequences into parts.

A part is tokenized as a text of its own. So the tokens of a part are those of ``text[start:stop]`` with every
tokenizer, and no tokenizer has to report offsets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from .boundaries import cuts, sentence_spans, trim
from .segments import TEXTS_PER_BLOCK, Segments, is_pair
from .tokenizer import Tokenized, Tokenizer
from .wordpiece import LONG_TEXT

#: Part of a sequence's tokens up to which consecutive parts share sentences, and up to which long sentences are cut.
SHARE = 8
#: Columns of ``Tokenized.parts``.
TEXT, START, STOP, WEIGHT = range(4)


class _Unit(NamedTuple):
    """Holds a span of a text that no part divides, and its number of tokens.

    Attributes:
        is_sentence: the span is a whole sentence.
        is_piece: the span is a piece of a word that fits in no part.
    """

    start: int
    stop: int
    size: int
    is_sentence: bool = False
    is_piece: bool = False


class Part(NamedTuple):
    """Holds a part of a text.

    Attributes:
        ids: the ids of the prompt and the part, without special tokens.
        weight: twice its number of tokens, but tokens that two parts share count once.
    """

    start: int
    stop: int
    ids: np.ndarray
    weight: int


def tokenize_parts(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    prompt: str | None,
    may_be_pairs: bool,
    has_overlap: bool,
    first_row: int = 0,
) -> Tokenized:
    """Tokenizes texts; one that does not fit in a sequence becomes several parts, and every other one a single part.

    Args:
        prompt: put before every part; None for that of the tokenizer.
        may_be_pairs: a text ``A ||| B`` would be a pair.
        has_overlap: consecutive parts share the sentences at their boundary, up to an eighth of their tokens.
        first_row: row of the first text in its request.

    Returns:
        The sequences of all parts, with ``parts``.

    Raises:
        ValueError: a text is a pair, or has half of a surrogate pair; or the prompt leaves too little room.
    """
    check_texts(texts, may_be_pairs, first_row)
    splitter = Splitter(tokenizer, tokenizer.prompt if prompt is None else prompt, has_overlap)
    rows: list[tuple[int, int, int, int]] = []
    ids: list[np.ndarray] = []
    for start in range(0, len(texts), TEXTS_PER_BLOCK):
        block = list(texts[start : start + TEXTS_PER_BLOCK])
        for row, (text, whole) in enumerate(zip(block, splitter.measure_all(block), strict=True), first_row + start):
            parts = [Part(0, len(text), whole, 2)] if len(whole) <= splitter.room else splitter.split(text)
            rows += [(row, part.start, part.stop, part.weight) for part in parts]
            ids += [part.ids for part in parts]
    lengths = np.fromiter(map(len, ids), np.int32, len(ids))
    tokenized = tokenizer.assemble(Segments(np.concatenate(ids), lengths, np.zeros_like(lengths)))
    return replace(tokenized, parts=np.array(rows, np.int32))


def check_texts(texts: Sequence[str], may_be_pairs: bool, first_row: int) -> None:
    """Rejects texts that have no parts.

    Raises:
        ValueError: a text is a pair, or has half of a surrogate pair.
    """
    for row, text in enumerate(texts, first_row):
        if may_be_pairs and is_pair(text):
            raise ValueError(
                f"text {row} is a pair (A ||| B), which has no parts: send single texts, or set long to cut or error"
            )
        if not text.isascii() and (found := _surrogate(text)) is not None:
            raise ValueError(
                f"text {row} has half of a surrogate pair ({text[found]!a}) at character {found}, so offsets would "
                "be of another text: remove it"
            )


def _surrogate(text: str) -> int | None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


class Splitter:
    """Splits the texts of one request.

    Attributes:
        room: tokens of a sequence without the special ones.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: str, has_overlap: bool) -> None:
        self._tokenizer, self._prompt, self._has_overlap = tokenizer, prompt, has_overlap
        self.room = tokenizer.max_seq_len - tokenizer.frame.num_of_single
        self._prompt_tokens: int | None = None

    @property
    def _limit(self) -> int:
        """Tokens of a sequence for a part.

        Raises:
            ValueError: the prompt takes more than half of them: many parts would repeat it.
        """
        if self._prompt_tokens is None:
            self._prompt_tokens = self._count([self._prompt])[0] if self._prompt else 0
        if 2 * self._prompt_tokens > self.room:
            raise ValueError(
                f"the prompt has {self._prompt_tokens} tokens, more than half of the {self.room} that a part of a "
                "long text holds with it: shorten the prompt, or set long to cut or error"
            )
        return self.room - self._prompt_tokens

    def require_room(self) -> None:
        """Checks that the prompt leaves room for a part.

        Raises:
            ValueError: it does not.
        """
        _ = self._limit

    @property
    def _target(self) -> int:
        """Tokens of a span of a sentence that is too long."""
        return max(1, self._limit // SHARE)

    def measure_all(self, texts: list[str]) -> list[np.ndarray]:
        """Returns the ids of each text with the prompt. A text that does not fit may be read in part only."""
        return self._segment([self._prompt + text for text in texts], self.room + 1)

    def _segment(self, segments: list[str], max_words: int) -> list[np.ndarray]:
        found = []
        for start in range(0, len(segments), TEXTS_PER_BLOCK):
            ids, lengths = self._tokenizer.segment_all(segments[start : start + TEXTS_PER_BLOCK], max_words)
            found += np.split(ids, np.cumsum(lengths)[:-1])
        return found

    def _count(self, segments: list[str]) -> list[int]:
        return list(map(len, self._segment(segments, self.room + 1)))

    def split(self, text: str) -> list[Part]:
        """Splits a text that is too long for one sequence.

        A part ends at the end of a sentence if a sentence fits. A longer sentence is cut at white space, and a longer
        word between characters.
        """
        limit = self._limit
        spans = sentence_spans(text) or [(0, len(text))]
        counts = self._count([text[start:stop] for start, stop in spans])
        pending = deque(_Unit(*span, count, True) for span, count in zip(spans, counts, strict=True))
        parts: list[Part] = []
        shared: list[_Unit] = []  # units at the end of the last part, with which the next one begins
        while pending:
            self._refine(text, pending, limit)
            total = sum(unit.size for unit in shared)
            while shared and total + pending[0].size > limit:
                total -= shared.pop(0).size
            units = list(shared)
            while pending and (len(units) == len(shared) or total + pending[0].size <= limit):
                units.append(pending.popleft())
                total += units[-1].size
                if pending:
                    self._refine(text, pending, limit)
            ids = self._measure(text, units)
            while len(ids) > self.room and len(units) > 1:
                if len(units) == len(shared) + 1:
                    del shared[0], units[0]
                else:  # the tokens of a part are not exactly those of its units
                    kept = max(len(shared) + 1, min(len(units) - 1, len(units) * self.room // len(ids)))
                    pending.extendleft(reversed(units[kept:]))
                    del units[kept:]
                ids = self._measure(text, units)
            if len(ids) > self.room and (smaller := self._divide(text, units[0], is_forced=True)):
                pending.extendleft(reversed(smaller))  # the prompt and the unit have more tokens together
                continue
            before = sum(unit.size for unit in shared)
            total = sum(unit.size for unit in units)
            shared = self._shared(units[len(shared) :], limit) if self._has_overlap and pending else []
            after = sum(unit.size for unit in shared)
            weight = max(1, 2 * total - before - after)
            parts.append(Part(units[0].start, units[-1].stop, ids, weight))
        return parts

    def _shared(self, new: list[_Unit], limit: int) -> list[_Unit]:
        """Returns the last units that the next part repeats."""
        count, total = 0, 0
        for unit in reversed(new[1:]):
            total += unit.size
            if total > limit // SHARE:
                break
            count += 1
        return new[len(new) - count :]

    def _measure(self, text: str, units: list[_Unit]) -> np.ndarray:
        whole = self._prompt + text[units[0].start : units[-1].stop]
        return self._segment([whole], max(1, len(whole)))[0]

    def _refine(self, text: str, pending: deque[_Unit], limit: int) -> None:
        """Divides the first unit while it is too long."""
        while pending[0].size > (limit if pending[0].is_sentence else self._target):
            smaller = self._divide(text, pending[0])
            if not smaller:
                return
            pending.popleft()
            pending.extendleft(reversed(smaller))

    def _divide(self, text: str, unit: _Unit, is_forced: bool = False) -> list[_Unit]:
        """Returns a unit as several; an empty list if it is not to be divided.

        A word that fits is whole, and so is a character with many combining marks that fits.

        Args:
            is_forced: it does not fit in spite of its size.
        """
        start, stop, size = unit[:3]
        # Of a longer unit, only the first tokens may be counted.
        number = -(-(stop - start) * 2 // LONG_TEXT) if stop - start > LONG_TEXT else -(-size // self._target)
        found = cuts(text, start, stop, max(2, number))
        fits = size <= self._limit and not is_forced
        is_word = not found or not text[found[0]].isspace()
        if is_word and fits and not (found and unit.is_piece):
            return []
        if not found:
            if stop - start < 2:
                return []
            found = [(start + stop) // 2]
        spans = [span for span in (trim(text, *each) for each in pairwise([start, *found, stop])) if span[0] < span[1]]
        counts = self._count([text[first:last] for first, last in spans])
        return [_Unit(*span, count, is_piece=is_word) for span, count in zip(spans, counts, strict=True)]


def tokens_by_text(tokens: list[list[str]], tokenized: Tokenized) -> list[list[str]]:
    """Returns the tokens of each text, those of its parts one behind the other."""
    assert tokenized.parts is not None
    texts: list[list[str]] = [[] for _ in range(tokenized.num_texts)]
    first = int(tokenized.parts[0, 0])
    for row, part in zip(tokenized.parts[:, 0].tolist(), tokens, strict=True):
        texts[row - first] += part
    return texts
