"""Reads sentences of real length for the benchmarks, and joins them to longer texts."""

from __future__ import annotations

import csv
import gzip
import random
from pathlib import Path

STS = Path(__file__).resolve().parent / "data" / "stsbenchmark.tsv.gz"


def sts_rows(split: str = "test") -> list[dict[str, str]]:
    """Returns the rows of the STS benchmark: ``score`` (0 to 5), ``sentence1``, ``sentence2``."""
    with gzip.open(STS, "rt", encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [row for row in rows if row["split"] == split]


def sts_sentences(split: str = "test") -> list[str]:
    """Returns the sentences of a split without duplicates, in their order."""
    return list(dict.fromkeys(s for row in sts_rows(split) for s in (row["sentence1"], row["sentence2"])))


def shuffled_sentences() -> list[str]:
    """Returns the sentences of the test split in a fixed random order; the first ones in the file are short."""
    sentences = sts_sentences()
    random.Random(0).shuffle(sentences)
    return sentences


def joined_sentences(least: int, most: int, number: int) -> list[str]:
    """Returns texts of ``least`` to ``most`` sentences of the test split; the result is the same in each call."""
    source, sentences = random.Random(0), sts_sentences()
    return [" ".join(source.sample(sentences, source.randint(least, most))) for _ in range(number)]
