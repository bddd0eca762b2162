"""Plots a table: throughput on the left, latency on the right. Needs matplotlib (extra ``plot``)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from .report import Table


def can_plot() -> bool:
    """Returns whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def plot(table: Table, path: Path) -> bool:
    """Plots a table to a PNG file; returns False if the table has no metrics."""
    from matplotlib.figure import Figure

    rows = [row for row in table.rows if row.metrics is not None]
    if not rows:
        return False
    values = list(dict.fromkeys(row.setting.value for row in rows))
    numbers = _numbers(values) if table.experiment.logarithmic else None
    positions = numbers or list(range(len(values)))

    figure = Figure(figsize=(10, 4), layout="constrained")
    rate_axes, latency_axes = figure.subplots(1, 2)
    position = dict(zip(values, positions, strict=True))
    workers = list(dict.fromkeys(row.setting.config.num_worker for row in rows))
    for number in workers:
        own_rows = [row for row in rows if row.setting.config.num_worker == number]
        rates = [row.metrics["sentences_per_second"] for row in own_rows if row.metrics]
        rate_axes.plot([position[row.setting.value] for row in own_rows], rates, "o-", label=f"-num_worker {number}")
    suffix = ""
    if len(workers) > 1:
        rate_axes.legend()
        rows = [row for row in rows if row.setting.config.num_worker == workers[0]]
        suffix = f", -num_worker {workers[0]}"
    rate_axes.set_ylabel("sentences/s")
    rate_axes.set_ylim(bottom=0)
    highest, lowest = 0.0, float("inf")
    for key, style in (("p50_ms", "o-"), ("p95_ms", "^--"), ("p99_ms", "s:")):
        latencies = [row.metrics[key] for row in rows if row.metrics]
        highest, lowest = max(highest, *latencies), min(lowest, *latencies)
        at = [position[row.setting.value] for row in rows]
        latency_axes.plot(at, latencies, style, color="tab:orange", label=key.removesuffix("_ms"))
    latency_axes.set_ylabel(f"latency of a request, ms{suffix}")
    if highest > 20 * lowest:
        latency_axes.set_yscale("log")
        latency_axes.yaxis.set_major_formatter("{x:g}")
    else:
        latency_axes.set_ylim(bottom=0)
    latency_axes.legend()
    for axes in (rate_axes, latency_axes):
        axes.set_xlabel(table.experiment.parameter)
        if numbers and min(numbers) > 0:
            axes.set_xscale("log", base=2)
        axes.set_xticks(positions, values)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    return True


def _numbers(values: list[str]) -> list[float] | None:
    """Returns the values as numbers, or None if a value is not a number."""
    try:
        return [float(value) for value in values]
    except ValueError:
        return None
