"""A progress bar: tqdm's if it is installed, otherwise a plain line on stderr."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Any, TextIO

_WIDTH = 30


class ProgressBar:
    """Shows the number of encoded texts.

    Args:
        total: number of texts, ``None`` if unknown.
        shown: whether to show the bar.
        stream: output of the plain line, ``sys.stderr`` by default.
        done: texts that were encoded earlier, which do not count for the rate.
        label: the activity.
        unit: what is counted.
    """

    def __init__(
        self,
        total: int | None,
        shown: bool,
        stream: TextIO | None = None,
        done: int = 0,
        label: str = "encode",
        unit: str = "texts",
    ) -> None:
        self._total = total
        self._before = done
        self._done = done
        self._shown = shown
        self._stream = stream or sys.stderr
        self._started = time.monotonic()
        self._label = label
        self._unit = unit
        self._bar: Any = _tqdm(total, label, unit) if shown and stream is None else None
        if self._bar is not None:
            self._bar.initial = self._bar.n = done
        self.update(0)

    def update(self, number: int) -> None:
        """Adds a number of encoded texts."""
        self._done += number
        if self._bar is not None:
            self._bar.update(number)
        elif self._shown:
            elapsed = time.monotonic() - self._started
            line = bar(self._done, self._total, elapsed, self._before, self._label, self._unit)
            self._stream.write("\r" + line)
            self._stream.flush()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._shown:
            self._stream.write("\n")
            self._stream.flush()


def bar(
    done: int, total: int | None, elapsed: float, before: int = 0, label: str = "encode", unit: str = "texts"
) -> str:
    """Returns the plain line, such as ``encode [=====     ]  50% 512/1024 texts, 256/s, 0:00:02 left``."""
    rate = (done - before) / elapsed if done > before and elapsed > 0 else 0.0
    shown = f", {rate:,.0f}/s" if rate else ""
    if not total:
        return f"{label} {done} {unit}{shown}"
    if rate and done < total:
        shown += f", {timedelta(seconds=round((total - done) / rate))} left"
    filled = _WIDTH * done // total
    return f"{label} [{'=' * filled:<{_WIDTH}}] {100 * done // total:3d}% {done}/{total} {unit}{shown}"


def _tqdm(total: int | None, label: str, unit: str) -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm(total=total, desc=label, unit=unit.removesuffix("s"), unit_scale=unit == "bytes")
