"""Describes how fast engines are on one processor with one model, and selects the fastest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Annotated

from msgspec import Meta

from ..model.architecture import Feature
from . import preference, why_not

#: Distributions of the library of each engine; the first one that is installed counts.
_DISTRIBUTIONS = {"onnx": ("onnxruntime",), "tensorflow": ("tensorflow", "tensorflow-cpu"), "torch": ("torch",)}


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine and a dtype that can compute the model."""

    engine: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.engine} {self.dtype}"


@dataclass(frozen=True, slots=True)
class Timing:
    """The speed of a candidate.

    Attributes:
        text_seconds: time of one text.
        batch_seconds: time of a batch.
        batch_texts: number of texts in the batch.
    """

    text_seconds: Annotated[float, Meta(gt=0)]
    batch_seconds: Annotated[float, Meta(gt=0)]
    batch_texts: Annotated[int, Meta(gt=0)]


@dataclass(frozen=True, slots=True)
class Result:
    """A candidate with its timing, or with the reason why it failed."""

    engine: str
    dtype: str
    timing: Timing | None = None
    failure: str = ""

    @property
    def candidate(self) -> Candidate:
        return Candidate(self.engine, self.dtype)


@dataclass(frozen=True, slots=True)
class Measurement:
    """The results of all candidates.

    Attributes:
        processor: ``describe_processor`` of the machine.
        threads: threads of each candidate.
        date: day of the measurement, as 2027-01-31.
        results: in the order of ``-engine auto``.
    """

    processor: str
    threads: int
    date: str
    results: tuple[Result, ...]

    @property
    def fastest(self) -> Result | None:
        """The candidate with the highest geometric mean of both speeds, of equal ones the first; None if all failed."""
        timed = [each for each in self.results if each.timing is not None]
        return min(timed, key=_mean_seconds, default=None)

    def describe(self) -> str:
        """Returns the choice and the speed of the others in proportion to it, on one line.

        Raises:
            ValueError: all candidates failed.
        """
        best = self.fastest
        if best is None or best.timing is None:
            raise ValueError("all candidates failed")
        others = [_compare(each, best.timing) for each in self.results if each is not best]
        return (
            f"engine {best.engine}, dtype {best.dtype}: the fastest measured on {self.processor}, {self.threads} "
            f"threads: one text in {best.timing.text_seconds * 1000:.2f} ms, "
            f"{best.timing.batch_texts / best.timing.batch_seconds:.0f} texts/s in a batch of "
            f"{best.timing.batch_texts}; speed of the others in proportion, one text and batch: {', '.join(others)}"
        )


def _mean_seconds(result: Result) -> float:
    assert result.timing is not None
    return math.sqrt(result.timing.text_seconds * result.timing.batch_seconds)


def _compare(result: Result, best: Timing) -> str:
    if result.timing is None:
        return f"{result.candidate} failed"
    one, batch = best.text_seconds / result.timing.text_seconds, best.batch_seconds / result.timing.batch_seconds
    return f"{result.candidate} {one:.2f} and {batch:.2f}"


def find_candidates(
    engine: str,
    dtypes: Sequence[str],
    features: frozenset[str] | None = None,
    needs: frozenset[Feature] = frozenset(),
    deterministic: bool = False,
) -> list[Candidate]:
    """Returns what can compute the model on the CPU, in the order of ``-engine auto``. Imports no library.

    Args:
        engine: name of an engine, or ``auto`` for all.
        dtypes: dtypes that may be chosen.
        features, needs, deterministic: those of ``engines.choose``.
    """
    return [
        Candidate(name, dtype)
        for dtype in dtypes
        for name in (preference("cpu", dtype, features) if engine == "auto" else (engine,))
        if why_not(name, "cpu", dtype, features, needs, deterministic) is None
    ]


def library_version(engine: str) -> str:
    """Returns name and version of the library of an engine of this package."""
    for name in _DISTRIBUTIONS.get(engine, ()):
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return ""
