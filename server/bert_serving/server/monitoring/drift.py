"""How far texts and vectors have moved away from those of a sample that was taken before.

The sample is kept as a :class:`Reference`, a small JSON file made by ``bert-serving-drift``. The running server
compares with it what it sees: the sink the vectors and lengths, the ventilator the share of [UNK]. Both look back on
the last ``window`` to twice as many texts. Within that all count alike: batches are made of texts of like length, so a
mean in which later ones counted for more would drift with the order of work.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError

FORMAT = "bert-serving drift reference 1"
#: Options of a server without which vectors or lengths are others.
RELEVANT_OPTIONS = (
    "pooling_strategy",
    "pooling_layer",
    "max_seq_len",
    "do_lower_case",
    "mask_cls_sep",
    "no_special_token",
)
#: Lengths are sorted into at most so many bins, which hold equal shares of the sample.
LENGTH_BINS = 10
#: Texts from which a sample's mean says something.
MIN_TEXTS = 2


@dataclass(frozen=True, slots=True)
class Reference:
    """What a sample of texts is like.

    Attributes:
        options: those of :data:`RELEVANT_OPTIONS` with which the sample was encoded.
        num_texts: texts in it.
        mean: mean of its vectors, ``d`` numbers.
        spread: root of the mean squared distance of its vectors from that mean.
        length_bounds: most tokens of a text in each bin but the last, ascending.
        length_counts: texts in each bin, one more than bounds.
        unknown_share: of [UNK] in its tokens.
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
        """What :meth:`to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        if values["format"] != FORMAT:
            raise ValueError(f"its format is {values['format']!r}, not {FORMAT!r}")
        made = cls(
            dict(values["options"]),
            int(values["num_texts"]),
            [float(value) for value in values["mean"]],
            float(values["spread"]),
            [int(bound) for bound in values["length_bounds"]],
            [int(count) for count in values["length_counts"]],
            float(values["unknown_share"]),
        )
        numbers = np.array([*made.mean, made.spread, made.unknown_share])
        if not np.isfinite(numbers).all() or made.spread < 0 or made.num_texts < MIN_TEXTS:
            raise ValueError("its numbers cannot be those of a sample")
        if len(made.length_counts) != len(made.length_bounds) + 1 or made.length_bounds != sorted(made.length_bounds):
            raise ValueError("its bins of lengths do not fit together")
        return made

    @classmethod
    def load(cls, path: str) -> Reference:
        """Reads a file.

        Raises:
            ConfigError: it cannot be read, or is no reference.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise ConfigError(f"-drift_reference {path} cannot be read: {error.strerror}") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"-drift_reference {path} is no file of bert-serving-drift ({error}): make one from a sample of texts"
            ) from None


class Sample:
    """Gathers a :class:`Reference`, some texts at a time."""

    def __init__(self) -> None:
        self.num_texts = self.num_tokens = self.num_unknown = 0
        self._sum: np.ndarray | float = 0.0
        self._squares = 0.0
        self._lengths: list[np.ndarray] = []

    def add(self, vectors: np.ndarray, lengths: np.ndarray, num_unknown: int) -> None:
        """Takes in ``vectors`` ``[n, d]`` and ``lengths`` int ``[n]`` in tokens, of which so many were [UNK]."""
        exact = vectors.astype(np.float64)
        self._sum = self._sum + exact.sum(axis=0)
        self._squares += float((exact**2).sum())
        self._lengths.append(lengths)
        self.num_texts += len(vectors)
        self.num_tokens += int(lengths.sum())
        self.num_unknown += num_unknown

    def reference(self, options: dict[str, Any]) -> Reference:
        """The reference, for a server with these options.

        Raises:
            ValueError: there are too few texts.
        """
        if self.num_texts < MIN_TEXTS:
            raise ValueError(
                f"a sample has at least {MIN_TEXTS} texts, and better thousands; this has {self.num_texts}"
            )
        mean = np.asarray(self._sum) / self.num_texts
        lengths = np.concatenate(self._lengths)
        shares = np.arange(1, LENGTH_BINS) / LENGTH_BINS
        bounds = np.unique(np.quantile(lengths, shares, method="inverted_cdf")).astype(int)
        return Reference(
            {name: options[name] for name in RELEVANT_OPTIONS},
            self.num_texts,
            mean.tolist(),
            math.sqrt(max(self._squares / self.num_texts - float(mean @ mean), 0.0)),
            bounds.tolist(),
            _binned(lengths, bounds).astype(int).tolist(),
            self.num_unknown / max(self.num_tokens, 1),
        )


class RollingWindow:
    """Sums over the texts of the window that is being filled and of the one before.

    Args:
        window: texts in each.
        sizes: how many numbers each sum has.
    """

    def __init__(self, window: int, *sizes: int) -> None:
        self._window, self._sizes = window, sizes
        self._before, self._texts_before = self._zeros(), 0
        self._now, self._texts = self._zeros(), 0

    def _zeros(self) -> list[np.ndarray]:
        return [np.zeros(size) for size in self._sizes]

    def add(self, num_texts: int, *values: Any) -> None:
        for total, value in zip(self._now, values, strict=True):
            total += value
        self._texts += num_texts
        if self._texts >= self._window:
            self._before, self._texts_before = self._now, self._texts
            self._now, self._texts = self._zeros(), 0

    @property
    def num_texts(self) -> int:
        return self._texts_before + self._texts

    def sums(self) -> list[np.ndarray]:
        return [before + now for before, now in zip(self._before, self._now, strict=True)]


class VectorDrift:
    """Vectors and lengths that come by, beside those of the reference."""

    def __init__(self, reference: Reference, window: int) -> None:
        self._mean, self._spread = np.array(reference.mean), reference.spread
        self._bounds, self._counts = np.array(reference.length_bounds), np.array(reference.length_counts, float)
        self._window = RollingWindow(window, len(self._mean), len(self._counts))
        self._num_seen = 0

    def add(self, vectors: np.ndarray, lengths: np.ndarray) -> None:
        """Takes in a batch: ``vectors`` float ``[n, d]``, ``lengths`` int ``[n]``."""
        self._num_seen += len(vectors)
        total = np.add.reduce(vectors, axis=0, dtype=np.float32)
        self._window.add(len(vectors), total, _binned(lengths, self._bounds))

    def to_dict(self) -> dict[str, float | None]:
        """What is told; docs/monitoring.md says what each means. None: there is nothing to compare yet."""
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
    """The share of [UNK] in the tokens that come by, beside that of the reference."""

    def __init__(self, reference: Reference, window: int) -> None:
        self._share, self._window = reference.unknown_share, RollingWindow(window, 1, 1)

    def add(self, num_texts: int, num_tokens: int, num_unknown: int) -> None:
        self._window.add(num_texts, num_tokens, num_unknown)

    def to_dict(self) -> dict[str, float | None]:
        """The difference of the two shares; None while there were no tokens."""
        if not self._window.num_texts:
            return {"unknown_share_difference": None}
        tokens, unknown = (float(total[0]) for total in self._window.sums())
        return {"unknown_share_difference": unknown / tokens - self._share}


def stability_index(expected: np.ndarray, observed: np.ndarray) -> float:
    """Population stability index of two histograms with the same bins.

    The sum over bins of (q - p) ln(q / p), p and q being the shares that each has in the bin: the symmetric divergence
    of Kullback and Leibler (On Information and Sufficiency, 1951), known by this name from credit scoring. Half a count
    is added to each bin, so that an empty one does not make it infinite.
    """
    p = (expected + 0.5) / (expected.sum() + 0.5 * len(expected))
    q = (observed + 0.5) / (observed.sum() + 0.5 * len(observed))
    return float(((q - p) * np.log(q / p)).sum())


def _binned(lengths: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """How many lengths are in each bin: up to its bound and above the one before."""
    return np.bincount(np.searchsorted(bounds, lengths), minlength=len(bounds) + 1)
