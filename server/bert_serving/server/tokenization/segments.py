"""Converts texts, and pairs of texts, to token ids without special tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .segmenter import Segmenter
from .truncation import positions

#: Separates the two texts of a pair.
PAIR_SEPARATOR = "|||"
#: Number of texts normalized as one string. Bounds the word list, and the time that one C call holds the GIL.
TEXTS_PER_BLOCK = 256
_SEPARATOR_IN_TEXT = f" {PAIR_SEPARATOR} "
_NONE = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True)
class Segments:
    """Holds token ids without special tokens.

    Sequence ``i`` has ``first[i]`` ids of its first text, followed by ``second[i]`` ids of its second text.

    ``has_longer_first`` is that of :func:`truncate`: not None if all items are pairs, also of empty texts.
    """

    ids: np.ndarray
    first: np.ndarray
    second: np.ndarray
    has_longer_first: np.ndarray | None = None


def may_be_pair(text: str) -> bool:
    """Returns whether a text may have the form ``A ||| B``; ``encode_texts`` decides."""
    return _SEPARATOR_IN_TEXT in text


def is_pair(text: str) -> bool:
    """Returns whether a text has the form ``A ||| B`` on one line."""
    return may_be_pair(text) and "\n" not in (line := text.strip()) and _SEPARATOR_IN_TEXT in line


def encode_texts(segmenter: Segmenter, texts: Sequence[str], prompt: str, are_single: bool, max_words: int) -> Segments:
    """Tokenizes texts. A text ``A ||| B`` on one line is a pair, split at the last separator.

    Args:
        prompt: put before each text. It is plain text: whether a text is a pair does not depend on it.
        are_single: no text is a pair.
        max_words: as for ``Segmenter.encode``.
    """
    blocks = [
        _encode_block(segmenter, texts[i : i + TEXTS_PER_BLOCK], prompt, are_single, max_words)
        for i in range(0, len(texts), TEXTS_PER_BLOCK)
    ]
    if len(blocks) == 1:
        return blocks[0]
    return Segments(
        np.concatenate([_NONE, *(block.ids for block in blocks)]),
        np.concatenate([_NONE, *(block.first for block in blocks)]),
        np.concatenate([_NONE, *(block.second for block in blocks)]),
    )


def _encode_block(
    segmenter: Segmenter, texts: Sequence[str], prompt: str, are_single: bool, max_words: int
) -> Segments:
    # Common case: one search in C finds no separator.
    if are_single or not may_be_pair("\n".join(texts)):
        ids, lengths = segmenter.encode([prompt + text for text in texts] if prompt else list(texts), max_words)
        return Segments(ids, lengths, np.zeros_like(lengths))
    segments: list[str] = []
    is_second: list[bool] = []
    for text in texts:
        line = text.strip()
        head, found, tail = line.rpartition(_SEPARATOR_IN_TEXT)
        if found and "\n" not in line:
            segments += (prompt + head, tail)
            is_second += (False, True)
        else:
            segments.append(prompt + text)
            is_second.append(False)
    ids, lengths = _encode_distinct(segmenter, segments, max_words)[:2]
    second_mask = np.array(is_second)
    second = np.zeros(len(texts), np.int32)
    second[np.cumsum(~second_mask)[second_mask] - 1] = lengths[second_mask]
    return Segments(ids, lengths[~second_mask], second)


def encode_pairs(
    segmenter: Segmenter, pairs: Sequence[Sequence[str]], prompt: str, room: int, max_words: int
) -> Segments:
    """Tokenizes pairs of texts, which may have any characters.

    Args:
        prompt: put before the first text of each pair.
        room: tokens of both texts that a sequence holds.
        max_words: as for ``Segmenter.encode``.
    """
    segments: list[str] = []
    for one, other in pairs:
        segments += (prompt + one, other)
    ids, lengths, numbers = _encode_distinct(segmenter, segments, max_words)
    first, second = lengths[::2], lengths[1::2]
    has_longer_first = first > second
    if room % 2:
        # Long texts are not read to their end, so which text of a pair is longer is not known yet.
        whole: dict[int, int] = {}
        for row in np.flatnonzero(np.minimum(first, second) >= max_words).tolist():
            for index in (2 * row, 2 * row + 1):
                if (number := int(numbers[index])) not in whole:
                    whole[number] = len(segmenter.encode([segments[index]], len(segments[index]))[0])
            has_longer_first[row] = whole[int(numbers[2 * row])] > whole[int(numbers[2 * row + 1])]
    return Segments(ids, first, second, has_longer_first)


def _encode_distinct(
    segmenter: Segmenter, segments: Sequence[str], max_words: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokenizes each of the distinct segments once: the query of a ranking is part of many pairs.

    Returns:
        The ids of all segments, concatenated, int32; the number of ids per segment, int32 ``[n]``; and the number of
        each segment among the distinct ones, ``[n]``.
    """
    known: dict[str, int] = {}
    numbers = np.fromiter((known.setdefault(segment, len(known)) for segment in segments), np.intp, len(segments))
    distinct = list(known)
    blocks = [
        segmenter.encode(distinct[i : i + TEXTS_PER_BLOCK], max_words) for i in range(0, len(distinct), TEXTS_PER_BLOCK)
    ]
    ids, lengths = (np.concatenate(arrays) for arrays in zip(*blocks, strict=True))
    if len(distinct) == len(segments):
        return ids, lengths, numbers
    starts = np.cumsum(lengths) - lengths
    counts = lengths[numbers]
    return ids[np.repeat(starts[numbers], counts) + positions(counts)], counts, numbers
