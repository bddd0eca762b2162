"""Draws docs/images/peers.png, the chart of the README, from the table in docs/benchmark-peers.md.

python benchmark/picture.py
"""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "benchmark-peers.md"
PICTURE = DOCS / "images" / "peers.png"
#: Column of the table and title of the load.
LOADS = {3: "one request{size}", 7: "32 clients, one sentence each at a time"}
OURS, OTHERS = "#1d4ed8", "#9ca3af"


def rows(page: str, model: str) -> list[tuple[str, dict[int, float]]]:
    """Returns name and sentences per second of each system from the table under ``### model``; 0 is not measured.

    Bare loops are left out, since they do less work than the other systems.

    Raises:
        ValueError: the page has no such table.
    """
    found = []
    for line in _section(page, model).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        is_measured = len(cells) > max(LOADS) and cells[3] != "failed"
        if line.startswith("|") and is_measured and cells[1] in ("served", "in process"):
            name = f"{cells[0].replace('bert-serving-server 1.10.0, max_seq_len', '1.10.0, max_seq_len')}, {cells[2]}"
            name += "" if cells[1] == "served" else ", in process"
            found.append((name, {column: float(cells[column].replace(",", "") or 0) for column in LOADS}))
    return found


def _section(page: str, model: str) -> str:
    measured = re.search(rf"^### {re.escape(model)}[^\n]*\n(.*?)(?=^###|<!-- end)", page, re.M | re.S)
    if measured is None:
        raise ValueError(f"{PAGE.name} has no table for {model!r}")
    return measured[1]


def draw(page: str, model: str = "BERT-base shape", path: Path = PICTURE) -> None:
    """Draws one bar per system and load; bars of this project are coloured."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    systems = rows(page, model)[::-1]
    match = re.search(r"^bulk: one request of (\d+) sentences", _section(page, model), re.M)
    size = f" of {match[1]} sentences" if match else ""
    figure, axes = pyplot.subplots(1, len(LOADS), figsize=(10, 0.42 * len(systems) + 1.1), sharey=True)
    for axis, (column, load) in zip(axes, LOADS.items(), strict=True):
        values = [numbers[column] for _, numbers in systems]
        colours = [OURS if name.startswith("this") else OTHERS for name, _ in systems]
        bars = axis.barh([name for name, _ in systems], values, color=colours, height=0.68)
        axis.bar_label(bars, [_shown(value) for value in values], padding=4)
        axis.set_title(load.format(size=size), fontsize=11)
        axis.set_xlim(0, max(values) * 1.15)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.tick_params(bottom=False, labelbottom=False, left=False)
    figure.suptitle(f"Sentences per second, {model}", fontsize=12, fontweight="bold")
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Description": repr(systems)})  # a test compares it with the page
    pyplot.close(figure)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value else ""


if __name__ == "__main__":
    draw(PAGE.read_text("utf-8"))
