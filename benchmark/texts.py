"""Reads sentences of real length for the benchmarks."""

from __future__ import annotations

import csv
import gzip
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
