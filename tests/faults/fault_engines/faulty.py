"""Engine with predictable vectors that injects the fault which a word of the text selects.

The words are ordinary ones of the tiny model's vocabulary, so they reach the engine as any other text does.
"""

from __future__ import annotations

import os
import signal
import time

import numpy as np

from bert_serving.server.engines.base import Batch, Device, DeviceLost, EngineInfo, EngineSpec, Log

WIDTH = 32
#: What the engine does where this word is among the tokens of a batch.
RAISE, NOT_FINITE, DIE, HANG, SLOW, LOSE = "jack", "hairy", "dog", "hey", "better", "right"
SLOW_SECONDS = 0.25

INFO = EngineInfo("faulty", padding_free=True, dtypes={"cpu": ("fp32",)})
_TABLE = np.random.default_rng(5).standard_normal((1000, WIDTH)).astype(np.float32)


def vector(ids: list[int] | np.ndarray) -> np.ndarray:
    """Vector of one sequence, ``[32]``: depends on each token and its place."""
    weights = np.arange(1, len(ids) + 1, dtype=np.float32) / len(ids)
    result: np.ndarray = weights @ _TABLE[np.asarray(ids)]
    return result


def vectors(batch: Batch) -> np.ndarray:
    """:func:`vector` of each sequence, ``[n, 32]``."""
    return np.stack([vector(ids) for ids in np.split(batch.input_ids, np.cumsum(batch.lengths)[:-1])])


def unavailable(device_kind: str, dtype: str) -> str | None:
    return None


def prepare(spec: EngineSpec, log: Log) -> None:
    log("nothing to prepare")


def create(spec: EngineSpec, device: Device) -> FaultyEngine:
    return FaultyEngine(spec)


class FaultyEngine:
    """Computes :func:`vector`, unless a word makes it fail."""

    def __init__(self, spec: EngineSpec) -> None:
        with open(spec.model.vocab_path, encoding="utf-8") as file:
            words = file.read().split("\n")
        self.word_ids = {word: words.index(word) for word in (RAISE, NOT_FINITE, DIE, HANG, SLOW, LOSE)}

    def encode(self, batch: Batch) -> np.ndarray:
        has = {word: bool((batch.input_ids == number).any()) for word, number in self.word_ids.items()}
        if has[DIE]:
            os.kill(os.getpid(), signal.SIGKILL)
        while has[HANG]:
            time.sleep(1)
        if has[SLOW]:
            time.sleep(SLOW_SECONDS)
        if has[LOSE]:
            raise DeviceLost("the device is gone")
        if has[RAISE]:
            raise RuntimeError("the engine met the word it cannot stand")
        result = vectors(batch)
        if has[NOT_FINITE]:
            sequences = np.split(batch.input_ids, np.cumsum(batch.lengths)[:-1])
            bad = [bool((ids == self.word_ids[NOT_FINITE]).any()) for ids in sequences]
            result[bad, 3] = np.nan
        return result

    def close(self) -> None:
        """There is nothing to give back."""
