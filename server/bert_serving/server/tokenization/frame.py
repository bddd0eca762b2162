"""Describes the special tokens around the texts of a sequence."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Frame:
    """The special tokens of a sequence: ``start A end``, and ``start A separators B end`` for a pair.

    Attributes:
        start: id of the first token, such as ``[CLS]`` or ``<s>``.
        separators: ids between the texts of a pair, such as ``[SEP]`` or ``</s></s>``.
        end: id of the last token.
        second_type: type id of the second text and of the last token of a pair.
        padding: id of the padding token, such as ``[PAD]`` or ``<pad>``; None if the vocabulary has none.
        favors_longer: if both texts of a pair are cut, the longer one keeps one more token of an odd number, as in the
            library `tokenizers`; else the first text, as in 1.10.
        pair_problem: why the model computes no pairs; empty if it does.
    """

    start: int
    separators: tuple[int, ...]
    end: int
    second_type: int = 1
    padding: int | None = None
    favors_longer: bool = False
    pair_problem: str = ""

    @property
    def num_of_single(self) -> int:
        """Special tokens of a single text."""
        return 2

    @property
    def num_of_pair(self) -> int:
        """Special tokens of a pair."""
        return 2 + len(self.separators)
