"""Splits texts into words, and words into word pieces.

The rules are those of Google's BERT (https://github.com/google-research/bert, README, "Tokenization"): remove control
characters, separate Chinese characters, lower-case, strip accents, split at white space and punctuation, then find the
longest pieces.

The search for pieces dominates the cost, and natural text repeats its words. So many texts are normalized as one
string, one regular expression finds the words, and a bounded table caches the ids of each word. On one core this is
faster than the `tokenizers` library on two (``benchmark/tokenization.py``). ``characters.py`` decides about each
character.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain, islice

import numpy as np

from .characters import MAX_WORD_LENGTH, CharacterRules
from .vocabulary import BERT_SPECIAL

#: Largest number of cached words, about 200 bytes each.
MAX_CACHED_WORDS = 100_000
#: A text of more characters is read block by block, and only up to ``max_words``.
LONG_TEXT = 8192

#: Marks the end of each segment in the list of words and in the list of ids.
_END = "\n"
_END_ID = -1
#: Prefix of a token that continues a word.
_CONTINUES = "##"
#: Tokens without a space in front of them in decoded text.
_NO_SPACE_BEFORE = frozenset(".?!,")
_ASCII_SYMBOLS = r"!-/:-@\[-`{-~"
_WORDS = rf"[^ \t\n\r{_ASCII_SYMBOLS}]+|[\n{_ASCII_SYMBOLS}]"
_ASCII_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+")
# Bounded, so that no single call holds the GIL for long.
_NOT_ASCII = re.compile(r"[^\x00-\x7f]{1,4096}")


class WordPiece:
    """Converts texts to the ids of their word pieces. Thread-safe."""

    description = "WordPiece, computed by the server"

    def __init__(
        self,
        vocab: dict[str, int],
        unknown: int,
        *,
        rules: CharacterRules,
        lower_case: bool,
        strip_accents: bool,
        split_cjk: bool,
        added: frozenset[str] = frozenset(),
        added_normalized: frozenset[str] = frozenset(),
        special: frozenset[str] = BERT_SPECIAL,
    ) -> None:
        """
        Args:
            added: tokens that are one id wherever they stand in a text.
            added_normalized: such tokens that are found in normalized text. Each begins with an ASCII symbol, which no
                word contains, so the search for words finds them.
            special: tokens that decoded text omits.
        """
        self._lower_case = lower_case
        self._special = special
        self._strip_accents = strip_accents
        self._rules = rules
        self._clean_table = _CleanTable(rules, split_cjk, lower_case)
        self._punctuation_table = _PunctuationTable(rules, strip_accents)
        self._pieces = _PieceCache(vocab, unknown)
        self._added_ids = {token: vocab[token] for token in added}
        self._added = re.compile(f"({_any_of(added)})") if added else None
        self._find = re.compile(f"{_any_of(added_normalized)}|{_WORDS}" if added_normalized else _WORDS)

    def encode(self, segments: list[str], max_words: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ids of all segments, concatenated, int32, and the number of ids per segment, int32 ``[n]``.

        A segment longer than ``LONG_TEXT`` is read up to its first ``max_words`` words.
        """
        if self._added is not None and self._added.search("\n".join(segments)):
            rows = [self._encode_parts(segment, max_words) for segment in segments]
            return np.concatenate([np.array(row, np.int32) for row in rows]), np.array(list(map(len, rows)), np.int32)
        words = self._words(segments, max_words)
        ids = np.fromiter(chain.from_iterable(map(self._pieces.__getitem__, words)), np.int32)
        is_end = ids == _END_ID
        lengths = np.diff(np.flatnonzero(is_end), prepend=-1).astype(np.int32) - 1
        return ids[~is_end], lengths

    def encode_one(self, text: str) -> list[int]:
        """Returns the ids of one text of at most ``LONG_TEXT`` characters: ``encode`` without arrays."""
        if self._added is not None and self._added.search(text):
            return self._encode_parts(text, len(text))
        words = self._find.findall(self._normalize(self._clean(text.replace(_END, " "))))
        return list(chain.from_iterable(map(self._pieces.__getitem__, words)))

    def decode(self, ids: list[int], tokens: list[str], skip_special: bool) -> str:
        """Returns the text of tokens, as the library `tokenizers` does: a space before each that begins a word."""
        parts: list[str] = []
        for token in tokens:
            if token in self._special and skip_special:
                continue
            if parts and token.startswith(_CONTINUES):
                parts.append(token[len(_CONTINUES) :])
            else:
                parts += [token] if not parts or token in _NO_SPACE_BEFORE else [" ", token]
        return "".join(parts)

    def _encode_parts(self, text: str, max_words: int) -> list[int]:
        """Returns the ids of a text with added tokens: each is one id, and the text between them is split as usual."""
        assert self._added is not None
        ids: list[int] = []
        for part in self._added.split(text):
            if part in self._added_ids:
                ids.append(self._added_ids[part])
            elif part:
                words = self._words([part], max_words)[:-1]
                ids.extend(chain.from_iterable(map(self._pieces.__getitem__, words)))
            if len(ids) > max_words:
                break
        return ids

    def _words(self, segments: list[str], max_words: int) -> list[str]:
        """Returns the words of the segments, with ``_END`` after each segment."""
        words: list[str]
        if max(map(len, segments)) <= LONG_TEXT:
            text = _END.join(segments)
            if text.count(_END) >= len(segments):
                text = _END.join([segment.replace(_END, " ") for segment in segments])
            words = self._find.findall(self._normalize(self._clean(text)))
            words.append(_END)
            return words
        words = []
        for segment in segments:
            words.extend(islice(self._words_of_long(segment.replace(_END, " ")), max_words))
            words.append(_END)
        return words

    def _words_of_long(self, text: str) -> Iterator[str]:
        """Yields the words of a long text, one block of ``LONG_TEXT`` characters at a time."""
        unread: list[str] = []
        for start in range(0, len(text), LONG_TEXT):
            # Cleaning works on single characters. No other rule looks across a space, so blocks end at a space.
            head, space, tail = self._clean(text[start : start + LONG_TEXT]).rpartition(" ")
            if space:
                yield from self._short_words("".join([*unread, head]))
                unread = []
            unread.append(tail)
        yield from self._short_words("".join(unread))

    def _short_words(self, text: str) -> Iterator[str]:
        """Yields the words of normalized ``text``, each cut just above ``MAX_WORD_LENGTH``."""
        for match in self._find.finditer(self._normalize(text)):
            first, last = match.span()
            yield match.string[first : min(last, first + MAX_WORD_LENGTH + 1)]

    def _clean(self, text: str) -> str:
        if text.isascii():
            if text.isprintable():  # a fraction of the search below
                return text
        else:
            text = _NOT_ASCII.sub(lambda run: run.group().translate(self._clean_table), text)
        return _ASCII_CONTROL.sub("", text)

    def _normalize(self, text: str) -> str:
        """Lower-cases clean text, strips accents, and separates punctuation, except for ASCII symbols."""
        if self._lower_case:
            text = text.lower()
        if text.isascii():
            return text
        if self._strip_accents:
            text = self._rules.decompose(text)
        return _NOT_ASCII.sub(lambda run: run.group().translate(self._punctuation_table), text)


def _any_of(tokens: frozenset[str]) -> str:
    """Returns a pattern: the leftmost token counts, and of several the longest, as in the library `tokenizers`."""
    return "|".join(map(re.escape, sorted(tokens, key=len, reverse=True)))


class _PieceCache(dict[str, tuple[int, ...]]):
    """Caches the ids of each word: greedily the longest pieces in the vocabulary, or ``[UNK]`` for the whole word."""

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
            # The longest piece of the vocabulary bounds the search, so the cost is linear in the word's length.
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
    """Maps each character to its replacement, computed at first use; a table for ``str.translate``."""

    def __missing__(self, code: int) -> str:
        text = self._replace(chr(code))
        if len(self) < 0x10000:
            self[code] = text
        return text

    def _replace(self, char: str) -> str:
        raise NotImplementedError


class _CleanTable(_Characters):
    """Removes control characters, unifies white space, separates Chinese characters, prepares for ``str.lower``."""

    def __init__(self, rules: CharacterRules, split_cjk: bool, lower_case: bool) -> None:
        self._rules, self._split_cjk, self._lower_case = rules, split_cjk, lower_case

    def _replace(self, char: str) -> str:
        if self._rules.is_removed(char):
            return ""
        if self._rules.is_space(char):
            return " "
        if self._split_cjk and self._rules.is_chinese(char):
            return f" {char} "
        return self._rules.before_lower(char) if self._lower_case else char


class _PunctuationTable(_Characters):
    """Separates punctuation and removes accents."""

    def __init__(self, rules: CharacterRules, strip_accents: bool) -> None:
        self._rules, self._strip_accents = rules, strip_accents

    def _replace(self, char: str) -> str:
        if self._strip_accents and self._rules.is_accent(char):
            return ""
        return f" {char} " if self._rules.is_punctuation(char) else char
