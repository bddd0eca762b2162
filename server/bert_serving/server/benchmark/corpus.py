"""Generates the sentences that clients send: random words, or the lines of a file."""

from __future__ import annotations

from pathlib import Path

# Imported at the start: numpy loses a Ctrl-C that arrives during this import.
from numpy.random import default_rng

#: Common English words, each a single token of BERT's English vocabulary.
_COMMON = """
the of and to in is was he for it with as his on be at by had not are but from or have an they which one you were her
all she there would their we him has when who will more no if out so said what up its about into than them can
only other new some could time these two may then do first any my now such like our over man me even most made after
also did many before must through back years where much your way well down should because each just those people how
too little state good very make world still own see men work long get here between both life being under never day
same another know while last might us great old year off come since against go came used take three small house
place again without found away part school right water city night room side country money course fact home hand high
book door story car father mother child head eye voice town river light music film war law king company game team
"""
COMMON = _COMMON.split()


class SentenceSource:
    """Sentences to send; the same seed gives the same sentences.

    Args:
        lines: sentences to send unchanged, shuffled once and then in a cycle; None for random words.
        words: vocabulary of random sentences.
        seed: seed of the random choice.
    """

    def __init__(self, lines: list[str] | None, words: list[str], seed: int) -> None:
        self._lines = lines
        if lines is not None:  # the first lines of a file may differ from the others
            self._lines = [lines[index] for index in default_rng(seed).permutation(len(lines))]
        self._words = words
        self._seed = seed

    @classmethod
    def from_files(cls, texts: str | None, vocab: str | None, seed: int) -> SentenceSource:
        """Reads the files of ``-texts`` and ``-client_vocab_file``.

        Raises:
            OSError: a file cannot be read.
            ValueError: a file contains no text.
        """
        lines = None
        if texts:
            lines = [line.strip() for line in Path(texts).read_text("utf-8").splitlines() if line.strip()]
            if not lines:
                raise ValueError(f"-texts {texts} contains no text; use a text file with one sentence per line")
        words = COMMON
        if vocab:
            words = sorted(set(Path(vocab).read_text("utf-8").split()))
            if not words:
                raise ValueError(f"-client_vocab_file {vocab} contains no words; use a text file of words")
        return cls(lines, words, seed)

    def sentences(self, number: int, length: int, client: int = 0) -> list[str]:
        """Returns ``number`` sentences of a client: each of ``length`` words, or the next lines of the file."""
        random = default_rng((self._seed, client, length))
        if self._lines is not None:
            start = int(random.integers(len(self._lines))) if client else 0
            return [self._lines[(start + index) % len(self._lines)] for index in range(number)]
        # Indexes instead of an array of strings: numpy loses a Ctrl-C that arrives while it creates strings.
        chosen = random.integers(len(self._words), size=(number, length)).tolist()
        return [" ".join([self._words[index] for index in row]) for row in chosen]
