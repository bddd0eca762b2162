"""Writes results as Markdown tables and as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .experiments import Experiment, Setting

_HEADS = ("sentences/s", "tokens/s", "p50 ms", "p95 ms", "p99 ms")
_KEYS = ("sentences_per_second", "tokens_per_second", "p50_ms", "p95_ms", "p99_ms")


@dataclass(slots=True)
class Row:
    """A setting with its metrics, or with the reason of its failure."""

    setting: Setting
    metrics: dict[str, float] | None = None
    failure: str = ""


@dataclass(slots=True)
class Table:
    """An experiment and its rows so far."""

    experiment: Experiment
    rows: list[Row] = field(default_factory=list)

    def markdown(self) -> str:
        """Returns the table with a heading and a sentence about it."""
        lines = [f"### {self.experiment.parameter}", "", self.experiment.about, ""]
        if len(self.workers()) > 1:
            return "\n".join([*lines, *self._by_workers()]) + "\n"
        lines.append(f"| {self.experiment.parameter} | " + " | ".join(_HEADS) + " |")
        lines.append("|---:" * (len(_HEADS) + 1) + "|")
        for row in self.rows:
            cells = [row.setting.value]
            if row.metrics is None:
                cells += ["failed", *[""] * (len(_HEADS) - 1)]
            else:
                cells += [format_number(row.metrics[key]) for key in _KEYS]
            lines.append("| " + " | ".join(cells) + " |")
        lines += [f"\n{row.setting.value} failed: {row.failure}" for row in self.rows if row.failure]
        return "\n".join(lines) + "\n"

    def workers(self) -> list[int | str]:
        """Returns the values of ``-num_worker`` in the rows, without duplicates."""
        return list(dict.fromkeys(row.setting.config.num_worker for row in self.rows))

    def _by_workers(self) -> list[str]:
        """Returns one row per value, with one column of sentences per second per number of workers."""
        workers = self.workers()
        heads = [f"{number} worker{'s' * (number != 1)}" for number in workers]
        lines = [
            f"| {self.experiment.parameter}, sentences/s | {' | '.join(heads)} |",
            "|---:" * (len(heads) + 1) + "|",
        ]
        cells_by_value: dict[str, dict[int | str, str]] = {}
        for row in self.rows:
            cell = "failed" if row.metrics is None else format_number(row.metrics["sentences_per_second"])
            cells_by_value.setdefault(row.setting.value, {})[row.setting.config.num_worker] = cell
        for value, cells in cells_by_value.items():
            lines.append(f"| {value} | {' | '.join(cells.get(number, '') for number in workers)} |")
        lines += [
            f"\n{row.setting.value}, -num_worker {row.setting.config.num_worker} failed: {row.failure}"
            for row in self.rows
            if row.failure
        ]
        return lines

    def to_dict(self) -> dict[str, Any]:
        return {
            "parameter": self.experiment.parameter,
            "about": self.experiment.about,
            "rows": [
                {
                    "value": row.setting.value,
                    "num_worker": row.setting.config.num_worker,
                    "num_client": row.setting.load.num_client,
                    "client_batch_size": row.setting.load.client_batch_size,
                    "rate": row.setting.load.rate,
                    **(row.metrics or {"failure": row.failure}),
                }
                for row in self.rows
            ],
        }


def format_number(value: float) -> str:
    """Formats with at least three significant digits and a thousands separator: ``0.512``, ``37.4``, ``1,234``."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def write(folder: Path, tables: list[Table], about: dict[str, Any]) -> None:
    """Writes ``result.md`` and ``result.json`` to ``folder``; replaces existing files."""
    document = {**about, "experiments": [table.to_dict() for table in tables]}
    (folder / "result.json").write_text(json.dumps(document, indent=1, default=str) + "\n", "utf-8")
    (folder / "result.md").write_text(markdown(tables, about), "utf-8")


def _workers(tables: list[Table], about: dict[str, Any]) -> str:
    found = dict.fromkeys(number for table in tables for number in table.workers())
    return ", ".join(map(str, found)) or str(about["options"]["num_worker"])


def markdown(tables: list[Table], about: dict[str, Any]) -> str:
    """Returns all tables under one heading with the command, the machine and the versions."""
    machine, versions = about["machine"], about["versions"]
    features = " ".join(machine.get("features", []))
    sections = [
        "## bert-serving-benchmark",
        f"    {about['command']}",
        f"{about['date']}; {machine['processor']}, {machine['cores']} cores{f' ({features})' if features else ''}"
        + "".join(f", {gpu}" for gpu in machine["gpus"]),
        f"engine {about['engine']}, dtype {about['dtype']}, num_worker {_workers(tables, about)}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]
    return "\n\n".join(sections + [table.markdown().rstrip("\n") for table in tables]) + "\n"
