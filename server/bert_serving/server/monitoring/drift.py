"""Measures the drift of texts and vectors from a reference sample.

``bert-serving-drift`` encodes a sample and saves its statistics as a :class:`Reference`, a small JSON file. The running
server compares recent texts with it: the sink compares vectors and lengths, the ventilator the share of unknown
tokens. Both use the last ``window`` to ``2 * window`` texts.

All texts of the window have equal weight. A batch has texts of similar length, so an exponentially weighted mean would
depend on the order of the batches.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..option_file import read_option_file

FORMAT = "bert-serving drift reference 1"
#: Keys of the status that concern vectors or lengths; reference and server must agree on them.
RELEVANT_OPTIONS = (
    "pooling_strategy",
    "pooling_layer",
    "max_seq_len",
    "do_lower_case",
    "mask_cls_sep",
    "no_special_token",
    "vector_space",
)
#: Maximum number of length bins; each has an equal share of the sample.
LENGTH_BINS = 10
#: Minimum number of texts in a sample.
MIN_TEXTS = 2


@dataclass(frozen=True, slots=True)
class Reference:
    """Statistics of a sample of texts.

    Attributes:
        options: values of :data:`RELEVANT_OPTIONS` when the sample was encoded.
        num_texts: number of texts.
        mean: mean vector, ``d`` numbers.
        spread: root mean square distance of the vectors from the mean.
        length_bounds: maximum length (tokens) of each bin except the last, ascending.
        length_counts: number of texts in each bin; one more than bounds.
        unknown_share: share of tokens for unknown text, such as ``[UNK]``.
    """

    options: dict[str, Any]
    num_texts: int
    mean: list[float]
    spread: float
    length_bounds: list[int]
    length_counts: list[int]
    unknown_share: float

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Reference:
        """Restores a reference from the parsed result of :meth:`to_json`.

        Raises:
            KeyError, TypeError, ValueError: ``values`` is not a valid reference.
        """
        if values["format"] != FORMAT:
            raise ValueError(f"the format is {values['format']!r}, not {FORMAT!r}")
        reference = cls(
            dict(values["options"]),
            int(values["num_texts"]),
            [float(value) for value in values["mean"]],
            float(values["spread"]),
            [int(bound) for bound in values["length_bounds"]],
            [int(count) for count in values["length_counts"]],
            float(values["unknown_share"]),
        )
        numbers = np.array([*reference.mean, reference.spread, reference.unknown_share])
        if not np.isfinite(numbers).all() or reference.spread < 0 or reference.num_texts < MIN_TEXTS:
            raise ValueError("mean, spread, unknown_share or num_texts is out of range")
        bounds = reference.length_bounds
        if len(reference.length_counts) != len(bounds) + 1 or bounds != sorted(bounds):
            raise ValueError("length_bounds and length_counts are inconsistent")
        return reference

    @classmethod
    def load(cls, path: str) -> Reference:
        """Reads a reference from a file.

        Raises:
            ConfigError: the file cannot be read, or is not a reference.
        """
        problem, remedy = "is not a drift reference", "create one with bert-serving-drift"
        return read_option_file("-drift_reference", path, cls.from_dict, problem, remedy)


class Sample:
    """Accumulates the statistics of a :class:`Reference`."""

    def __init__(self) -> None:
        self.num_texts = self.num_tokens = self.num_unknown = 0
        self._sum: np.ndarray | float = 0.0
        self._sum_of_squares = 0.0
        self._lengths: list[np.ndarray] = []

    def add(self, vectors: np.ndarray, lengths: np.ndarray, num_unknown: int) -> None:
        """Adds texts.

        Args:
            vectors: float ``[n, d]``.
            lengths: int ``[n]``, in tokens.
            num_unknown: number of tokens for unknown text in all texts.
        """
        float64 = vectors.astype(np.float64)
        self._sum = self._sum + float64.sum(axis=0)
        self._sum_of_squares += float((float64**2).sum())
        self._lengths.append(lengths)
        self.num_texts += len(vectors)
        self.num_tokens += int(lengths.sum())
        self.num_unknown += num_unknown

    def reference(self, options: dict[str, Any]) -> Reference:
        """Returns the reference for a server with these options.

        Raises:
            ValueError: the sample has fewer than `MIN_TEXTS` texts.
        """
        if self.num_texts < MIN_TEXTS:
            raise ValueError(
                f"the sample has {self.num_texts} texts; the minimum is {MIN_TEXTS}, thousands are recommended"
            )
        mean = np.asarray(self._sum) / self.num_texts
        lengths = np.concatenate(self._lengths)
        shares = np.arange(1, LENGTH_BINS) / LENGTH_BINS
        bounds = np.unique(np.quantile(lengths, shares, method="inverted_cdf")).astype(int)
        return Reference(
            {name: options[name] for name in RELEVANT_OPTIONS},
            self.num_texts,
            mean.tolist(),
            math.sqrt(max(self._sum_of_squares / self.num_texts - float(mean @ mean), 0.0)),
            bounds.tolist(),
            _bin_counts(lengths, bounds).astype(int).tolist(),
            self.num_unknown / max(self.num_tokens, 1),
        )


class RollingWindow:
    """Sums values over two windows of texts: the previous one, which is full, and the current one.

    Args:
        size: number of texts in a window.
        shapes: length of each vector of sums.
    """

    def __init__(self, size: int, *shapes: int) -> None:
        self._size, self._shapes = size, shapes
        self._previous, self._num_previous = self._zeros(), 0
        self._current, self._num_current = self._zeros(), 0

    def _zeros(self) -> list[np.ndarray]:
        return [np.zeros(shape) for shape in self._shapes]

    def add(self, num_texts: int, *values: Any) -> None:
        for total, value in zip(self._current, values, strict=True):
            total += value
        self._num_current += num_texts
        if self._num_current >= self._size:
            self._previous, self._num_previous = self._current, self._num_current
            self._current, self._num_current = self._zeros(), 0

    @property
    def num_texts(self) -> int:
        return self._num_previous + self._num_current

    def sums(self) -> list[np.ndarray]:
        return [previous + current for previous, current in zip(self._previous, self._current, strict=True)]


class VectorDrift:
    """Compares the vectors and lengths of recent texts with the reference."""

    def __init__(self, reference: Reference, window: int) -> None:
        self._mean, self._spread = np.array(reference.mean), reference.spread
        self._bounds, self._counts = np.array(reference.length_bounds), np.array(reference.length_counts, float)
        self._window = RollingWindow(window, len(self._mean), len(self._counts))
        self._num_seen = 0

    def add(self, vectors: np.ndarray, lengths: np.ndarray) -> None:
        """Adds a batch: ``vectors`` float ``[n, d]``, ``lengths`` int ``[n]`` in tokens."""
        self._num_seen += len(vectors)
        total = np.add.reduce(vectors, axis=0, dtype=np.float32)
        self._window.add(len(vectors), total, _bin_counts(lengths, self._bounds))

    def to_dict(self) -> dict[str, float | None]:
        """Returns the values for the status, see docs/monitoring.md; None if the window is empty or a norm is 0."""
        num_texts = self._window.num_texts
        if not num_texts:
            return {"seen": 0, "texts": 0, "cosine_distance": None, "shift": None, "length_psi": None}
        total, lengths = self._window.sums()
        mean = total / num_texts
        norms = float(np.linalg.norm(mean) * np.linalg.norm(self._mean))
        distance = float(np.linalg.norm(mean - self._mean))
        return {
            "seen": self._num_seen,
            "texts": num_texts,
            "cosine_distance": max(0.0, 1.0 - float(mean @ self._mean) / norms) if norms else None,
            "shift": distance / self._spread if self._spread else None,
            "length_psi": stability_index(self._counts, lengths),
        }


class UnknownDrift:
    """Compares the share of tokens for unknown text in recent texts with the reference."""

    def __init__(self, reference: Reference, window: int) -> None:
        self._share, self._window = reference.unknown_share, RollingWindow(window, 1, 1)

    def add(self, num_texts: int, num_tokens: int, num_unknown: int) -> None:
        self._window.add(num_texts, num_tokens, num_unknown)

    def to_dict(self) -> dict[str, float | None]:
        """Returns the difference of the shares; None if the window is empty."""
        if not self._window.num_texts:
            return {"unknown_share_difference": None}
        tokens, unknown = (float(total[0]) for total in self._window.sums())
        return {"unknown_share_difference": unknown / tokens - self._share}


def stability_index(expected: np.ndarray, observed: np.ndarray) -> float:
    """Computes the population stability index of two histograms with the same bins.

    The index is the sum over all bins of (q - p) ln(q / p), where p and q are the shares of the bin. It equals the
    symmetric divergence of Kullback and Leibler (On Information and Sufficiency, 1951); the name comes from credit
    scoring. Half a count is added to each bin, because an empty bin makes the index infinite.
    """
    p = (expected + 0.5) / (expected.sum() + 0.5 * len(expected))
    q = (observed + 0.5) / (observed.sum() + 0.5 * len(observed))
    return float(((q - p) * np.log(q / p)).sum())


def _bin_counts(lengths: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Counts the lengths in each bin, from above the previous bound up to the bound of the bin."""
    return np.bincount(np.searchsorted(bounds, lengths), minlength=len(bounds) + 1)
