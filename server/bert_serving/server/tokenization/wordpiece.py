"""Words and their pieces: what of BERT's tokenization looks at characters.

The rules are those of Google's BERT (https://github.com/google-research/bert, README, "Tokenization"): clean, set
Chinese characters apart, lower-case and drop accents, split at white space and punctuation, find the longest pieces.

What costs time is the search for pieces, and natural text repeats its words. So many texts are normalized as one
string, one regular expression finds its words, and a bounded table has the ids of the words seen before: on one core
faster than the `tokenizers` library on two (``benchmark/tokenization.py``), and with Python's own Unicode tables, as
the original had them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, islice

import numpy as np

#: A longer word is unknown as a whole, in characters.
MAX_WORD_LENGTH = 100
#: Words whose pieces are remembered, about 200 bytes each.
MAX_CACHED_WORDS = 100_000
#: A text of more characters is read piece by piece, and only as far as it is needed.
LONG_TEXT = 8192

#: Marks in a row, from so many on those that do not matter go before the others are put in order; and how many
#: characters are passed over in the search for such a run, which is slow.
MAX_MARKS, MARKS_STEP = 64, 16

#: Follows each segment in the list of words, and stands for it in the list of ids.
_END = "\n"
_END_ID = -1
_ASCII_SYMBOLS = r"!-/:-@\[-`{-~"
_WORDS = re.compile(rf"[^ \t\n\r{_ASCII_SYMBOLS}]+|[\n{_ASCII_SYMBOLS}]")
_ASCII_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+")
# Bounded, so that no single call holds the interpreter for long.
_NOT_ASCII = re.compile(r"[^\x00-\x7f]{1,4096}")
_CJK = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)


class WordPiece:
    """Finds the ids of texts' word pieces. May be shared by threads."""

    def __init__(
        self, vocab: dict[str, int], unknown: int, *, lower_case: bool, strip_accents: bool, split_cjk: bool
    ) -> None:
        self._lower_case = lower_case
        self._strip_accents = strip_accents
        self._cleaned = _Cleaned(split_cjk)
        self._spaced = _Spaced(strip_accents)
        self._pieces = _Pieces(vocab, unknown)
        _marks()  # worked out now, not while the first text waits

    def encode(self, segments: list[str], max_words: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all segments' pieces one after the other, int32, and how many each segment has, int32 ``[n]``.

        Of a segment longer than ``LONG_TEXT`` only the first ``max_words`` words are read.
        """
        words = self._words(segments, max_words)
        ids = np.fromiter(chain.from_iterable(map(self._pieces.__getitem__, words)), np.int32)
        is_end = ids == _END_ID
        lengths = np.diff(np.flatnonzero(is_end), prepend=-1).astype(np.int32) - 1
        return ids[~is_end], lengths

    def encode_one(self, text: str) -> list[int]:
        """Ids of the pieces of one text of at most ``LONG_TEXT`` characters: ``encode`` without its arrays."""
        words = _WORDS.findall(self._normalize(self._clean(text.replace(_END, " "))))
        return list(chain.from_iterable(map(self._pieces.__getitem__, words)))

    def _words(self, segments: list[str], max_words: int) -> list[str]:
        """The words of the segments, each segment closed by ``_END``."""
        words: list[str]
        if max(map(len, segments)) <= LONG_TEXT:
            text = _END.join(segments)
            if text.count(_END) >= len(segments):
                text = _END.join([segment.replace(_END, " ") for segment in segments])
            words = _WORDS.findall(self._normalize(self._clean(text)))
            words.append(_END)
            return words
        words = []
        for segment in segments:
            words.extend(islice(self._words_of_long(segment.replace(_END, " ")), max_words))
            words.append(_END)
        return words

    def _words_of_long(self, text: str) -> Iterator[str]:
        unread: list[str] = []
        for start in range(0, len(text), LONG_TEXT):
            # Only cleaning looks at single characters; no other rule looks across a space.
            head, space, tail = self._clean(text[start : start + LONG_TEXT]).rpartition(" ")
            if space:
                yield from self._short_words("".join([*unread, head]))
                unread = []
            unread.append(tail)
        yield from self._short_words("".join(unread))

    def _short_words(self, text: str) -> Iterator[str]:
        for match in _WORDS.finditer(self._normalize(text)):
            first, last = match.span()
            yield match.string[first : min(last, first + MAX_WORD_LENGTH + 1)]

    def _clean(self, text: str) -> str:
        if not text.isascii():
            text = _NOT_ASCII.sub(lambda run: run.group().translate(self._cleaned), text)
        return _ASCII_CONTROL.sub("", text)

    def _normalize(self, text: str) -> str:
        """Clean text in lower case, without accents; punctuation is set apart, except for ASCII symbols."""
        if self._lower_case:
            text = text.lower()
        if text.isascii():
            return text
        if self._strip_accents:
            text = _decompose(text)
        return _NOT_ASCII.sub(lambda run: run.group().translate(self._spaced), text)


def _decompose(text: str) -> str:
    """NFD, or a text that has the same word pieces once accents are dropped, in a time that grows with its length.

    NFD sorts the marks behind a letter by their class, by a method whose time grows with the square of their number.
    Accents (category ``Mn``) are dropped afterwards, and the sort is stable, so the order of the rest is the same
    without them. More of the rest than a word may have make a word that is unknown, whatever their order and number.
    """
    if unicodedata.is_normalized("NFD", text):
        return text
    samples, long_run, accents = _marks()
    if samples.search(text[::MARKS_STEP]):
        text = long_run.sub(lambda run: run.group().translate(accents)[: MAX_WORD_LENGTH + 1], text)
    return unicodedata.normalize("NFD", text)


@lru_cache(maxsize=1)
def _marks() -> tuple[re.Pattern[str], re.Pattern[str], dict[int, None]]:
    """What tells by every 16th character that a long run of marks may be there, what finds it, and its accents.

    Marks are here the characters whose place NFD may change: all that they are made of has a combining class. Unicode
    has them in the first two planes.
    """
    codes = []
    for code in range(0x300, 0x20000):
        char = chr(code)
        if unicodedata.category(char)[0] == "M" and all(map(unicodedata.combining, unicodedata.normalize("NFD", char))):
            codes.append(code)
    accents = {code: None for code in codes if unicodedata.category(chr(code)) == "Mn"}
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    marks = "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)
    samples = re.compile(f"[{marks}]{{{MAX_MARKS // MARKS_STEP}}}")
    return samples, re.compile(f"[{marks}]{{{MAX_MARKS},}}"), accents


class _Pieces(dict[str, tuple[int, ...]]):
    """Ids of each word's pieces: greedily the longest that the vocabulary has, or ``[UNK]`` for the whole word."""

    def __init__(self, vocab: dict[str, int], unknown: int) -> None:
        self._starts = {token: index for token, index in vocab.items() if token}
        self._rests = {token[2:]: index for token, index in vocab.items() if token.startswith("##") and len(token) > 2}
        self._longest_start = max(map(len, self._starts))
        self._longest_rest = max(map(len, self._rests), default=0)
        self._unknown = (unknown,)

    def __missing__(self, word: str) -> tuple[int, ...]:
        if len(word) > MAX_WORD_LENGTH:
            return self._unknown
        pieces = (_END_ID,) if word == _END else self._search(word)
        if len(self) >= MAX_CACHED_WORDS:
            self.clear()
        self[word] = pieces
        return pieces

    def _search(self, word: str) -> tuple[int, ...]:
        pieces: list[int] = []
        known, longest, start = self._starts, self._longest_start, 0
        while start < len(word):
            # No piece is longer than the vocabulary's longest, so a word costs what its length costs.
            for end in range(min(len(word), start + longest), start, -1):
                index = known.get(word[start:end])
                if index is not None:
                    break
            else:
                return self._unknown
            pieces.append(index)
            known, longest, start = self._rests, self._longest_rest, end
        return tuple(pieces)


class _Characters(dict[int, str]):
    """What becomes of each character, worked out when it is first met; a table for ``str.translate``."""

    def __missing__(self, code: int) -> str:
        text = self._replace(chr(code))
        if len(self) < 0x10000:
            self[code] = text
        return text

    def _replace(self, char: str) -> str:
        raise NotImplementedError


class _Cleaned(_Characters):
    """Drops control characters (lone surrogates and unassigned ones too), makes white space a space, sets CJK apart."""

    def __init__(self, split_cjk: bool) -> None:
        self._split_cjk = split_cjk

    def _replace(self, char: str) -> str:
        category = unicodedata.category(char)
        if char == "\ufffd" or category[0] == "C":
            return ""
        if category[0] == "Z":
            return " "
        if self._split_cjk and any(first <= ord(char) <= last for first, last in _CJK):
            return f" {char} "
        return char


class _Spaced(_Characters):
    """Sets punctuation apart, and drops accents."""

    def __init__(self, strip_accents: bool) -> None:
        self._strip_accents = strip_accents

    def _replace(self, char: str) -> str:
        category = unicodedata.category(char)
        if category == "Mn" and self._strip_accents:
            return ""
        return f" {char} " if category[0] == "P" else char
