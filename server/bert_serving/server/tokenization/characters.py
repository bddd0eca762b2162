"""Classifies characters for BERT's text normalization: by Python's Unicode tables, or as the library `tokenizers` does.

Unicode assigns characters and changes their categories in each version, so the tables differ. bert-as-service 1.10.0
uses Python's. The author of a ``tokenizer.json`` trained with the library, whose tables are those of Unicode 8 and 9.
"""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache

from . import library_characters as library

#: Longest word in characters; a longer word becomes one ``[UNK]``.
MAX_WORD_LENGTH = 100
#: Smallest run of combining marks from which accents are removed before NFD sorts the run. The search for such runs
#: looks at every ``MARKS_STEP``-th character.
MAX_MARKS, MARKS_STEP = 64, 16

#: The planes of Unicode with combining marks. Decompositions are in them too, or as old as Python's oldest tables.
_MARK_CODES = range(0x300, 0x20000)


class CharacterRules(ABC):
    """Decides how BERT's text normalization treats each character. Thread-safe."""

    def __init__(self) -> None:
        marks = self._marks()
        self._accents = {code: None for code in marks if self.is_accent(chr(code))}
        mark = _character_class(marks)
        self._run_samples = re.compile(f"{mark}{{{MAX_MARKS // MARKS_STEP}}}")
        self._long_runs = re.compile(f"{mark}{{{MAX_MARKS},}}")

    @abstractmethod
    def is_removed(self, char: str) -> bool:
        """Returns whether the character is removed: control characters, for example."""

    @abstractmethod
    def is_space(self, char: str) -> bool:
        """Returns whether the character, which is not removed, ends a word and is part of none."""

    @abstractmethod
    def is_chinese(self, char: str) -> bool:
        """Returns whether the character is a word of its own where Chinese characters are separated."""

    @abstractmethod
    def is_accent(self, char: str) -> bool:
        """Returns whether the character is removed with the accents."""

    @abstractmethod
    def is_punctuation(self, char: str) -> bool:
        """Returns whether the character, which is not ASCII, is a word of its own."""

    @abstractmethod
    def before_lower(self, char: str) -> str:
        """Returns the character that ``str.lower`` must see in its place for the right lower case."""

    @abstractmethod
    def _marks(self) -> list[int]:
        """Returns the characters that NFD may reorder: every character of their decomposition has a combining class."""

    def decompose(self, text: str) -> str:
        """Returns the NFD of a text, or a text with the same word pieces once accents are removed, in linear time.

        NFD sorts the combining marks after a letter by their class, in quadratic time. The sort is stable, so removing
        the accents first keeps the order of the other marks. A run of more than ``MAX_WORD_LENGTH`` other marks is part
        of an unknown word, in any order and of any length.
        """
        if unicodedata.is_normalized("NFD", text):
            return text
        if self._run_samples.search(text[::MARKS_STEP]):
            text = self._long_runs.sub(self._shorten, text)
        return self._nfd(text)

    def _nfd(self, text: str) -> str:
        return unicodedata.normalize("NFD", text)

    def _shorten(self, run: re.Match[str]) -> str:
        return run.group().translate(self._accents)[: MAX_WORD_LENGTH + 1]


class PythonRules(CharacterRules):
    """Classifies by Python's Unicode tables, as bert-as-service 1.10.0 does."""

    _CHINESE = (
        (0x3400, 0x4DBF),
        (0x4E00, 0x9FFF),
        (0xF900, 0xFAFF),
        (0x20000, 0x2A6DF),
        (0x2A700, 0x2B73F),
        (0x2B740, 0x2B81F),
        (0x2B820, 0x2CEAF),
        (0x2F800, 0x2FA1F),
    )

    def is_removed(self, char: str) -> bool:
        return char == "\ufffd" or unicodedata.category(char)[0] == "C"

    def is_space(self, char: str) -> bool:
        return unicodedata.category(char)[0] == "Z"

    def is_chinese(self, char: str) -> bool:
        return any(first <= ord(char) <= last for first, last in self._CHINESE)

    def is_accent(self, char: str) -> bool:
        return unicodedata.category(char) == "Mn"

    def is_punctuation(self, char: str) -> bool:
        return unicodedata.category(char)[0] == "P"

    def before_lower(self, char: str) -> str:
        return char

    def _marks(self) -> list[int]:
        return [code for code in _MARK_CODES if _is_mark(chr(code))]


class LibraryRules(CharacterRules):
    """Classifies as the library `tokenizers` does."""

    def __init__(self) -> None:
        self._removed = _Ranges(library.REMOVED)
        self._spaces = _Ranges(library.SPACES)
        self._chinese = _Ranges(library.CHINESE)
        self._accent_codes = _Ranges(library.ACCENTS)
        self._punctuation = _Ranges(library.PUNCTUATION)
        # The library lower-cases each character alone, while str.lower has another sigma for the end of a word.
        self._lower = {"\N{GREEK CAPITAL LETTER SIGMA}": "\N{GREEK SMALL LETTER SIGMA}"}
        for item in library.LOWER_CASE.split():
            first, last, target = (int(number, 16) for number in re.split("[-:]", item))
            self._lower |= {chr(code): chr(target + code - first) for code in range(first, last + 1)}
        self._normal_form = _Ranges(library.NORMAL_FORM)
        # The library neither decomposes nor sorts characters that are newer than its tables.
        newer = [code for code in _MARK_CODES if code not in self._normal_form and _has_normal_form(chr(code))]
        self._newer = re.compile(f"({_character_class(newer)})") if newer else None
        super().__init__()

    def is_removed(self, char: str) -> bool:
        # The library gets no surrogates.
        return ord(char) in self._removed or "\ud800" <= char <= "\udfff"

    def is_space(self, char: str) -> bool:
        return ord(char) in self._spaces

    def is_chinese(self, char: str) -> bool:
        return ord(char) in self._chinese

    def is_accent(self, char: str) -> bool:
        return ord(char) in self._accent_codes

    def is_punctuation(self, char: str) -> bool:
        return ord(char) in self._punctuation

    def before_lower(self, char: str) -> str:
        return self._lower.get(char, char)

    def _marks(self) -> list[int]:
        return [code for code in _MARK_CODES if code in self._normal_form and _is_mark(chr(code))]

    def _nfd(self, text: str) -> str:
        if self._newer is None or not self._newer.search(text):
            return super()._nfd(text)
        parts = self._newer.split(text)
        parts[::2] = map(super()._nfd, parts[::2])  # the others are the newer characters
        return "".join(parts)


@lru_cache(maxsize=1)
def python_rules() -> CharacterRules:
    """Returns the rules by Python's Unicode tables."""
    return PythonRules()


@lru_cache(maxsize=1)
def library_rules() -> CharacterRules:
    """Returns the rules of the library `tokenizers`."""
    return LibraryRules()


class _Ranges:
    """Holds a set of code points as sorted ranges."""

    def __init__(self, text: str) -> None:
        """Reads hexadecimal ranges: ``first-last`` or ``first``, separated by spaces."""
        pairs = [item.partition("-") for item in text.split()]
        self._firsts = [int(first, 16) for first, _, _ in pairs]
        self._lasts = [int(last or first, 16) for first, _, last in pairs]

    def __contains__(self, code: int) -> bool:
        index = bisect_right(self._firsts, code) - 1
        return index >= 0 and code <= self._lasts[index]


def _is_mark(char: str) -> bool:
    return all(map(unicodedata.combining, unicodedata.normalize("NFD", char)))


def _has_normal_form(char: str) -> bool:
    return unicodedata.combining(char) > 0 or not unicodedata.is_normalized("NFD", char)


def _character_class(codes: Iterable[int]) -> str:
    """Returns a class of a regular expression that matches one of the characters."""
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return f"[{''.join(f'{chr(first)}-{chr(last)}' for first, last in ranges)}]"
