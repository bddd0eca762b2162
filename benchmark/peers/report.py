"""Reports the comparison as Markdown and JSON; ratios are taken between measurements of the same round."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from peers import Peer

#: Size of each request of the load ``groups``, as in ``drivers/loop.py``.
GROUP = 16
#: Loads and their names.
NAMES = {"bulk": "bulk", "single": "single", "many": "32 clients", "groups": f"requests of {GROUP}"}
LOADS = tuple(NAMES)


@dataclass(slots=True)
class Result:
    """Measurements of one peer.

    ``seconds[load]`` has one entry per round: of a call; for ``single`` and ``groups`` the median of the calls.
    ``processor_ms[load]`` has the processor time of each text: of the server, or of the process that computes.
    """

    peer: Peer
    numbers: dict[str, int]
    cosine: float | None = None
    memory_mib: float | None = None
    seconds: dict[str, list[float]] = field(default_factory=dict)
    processor_ms: dict[str, list[float]] = field(default_factory=dict)
    failure: str = ""

    def speeds(self, load: str) -> list[float]:
        """Returns the texts per second of each round."""
        number = {"single": 1, "groups": GROUP}.get(load, self.numbers[load])
        return [number / seconds for seconds in self.seconds.get(load, [])]

    def value(self, load: str) -> float | None:
        """Returns the median of the rounds: texts per second; for ``single`` milliseconds."""
        speeds = self.speeds(load)
        if not speeds:
            return None
        return 1e3 / statistics.median(speeds) if load == "single" else statistics.median(speeds)


def times_faster(fast: Result, slow: Result, load: str, other_load: str | None = None) -> float | None:
    """Returns the speed ratio of the first to the second: the median of the ratios per round."""
    pairs = zip(fast.speeds(load), slow.speeds(other_load or load), strict=False)
    ratios = [a / b for a, b in pairs]
    return statistics.median(ratios) if ratios else None


def fastest(results: list[Result], load: str, **wanted: Any) -> Result | None:
    """Returns the fastest result whose peer has these attributes."""
    able = [
        result
        for result in results
        if result.seconds.get(load) and all(getattr(result.peer, key) == value for key, value in wanted.items())
    ]
    return max(able, key=lambda result: statistics.median(result.speeds(load)), default=None)


def least_processor_time(results: list[Result], load: str, full: bool, is_ours: bool) -> Result | None:
    """Returns the result with the least processor time for each text, of servers and of libraries in a process."""
    able = [
        result
        for result in results
        if result.processor_ms.get(load)
        and (result.peer.is_ours, result.peer.is_full_precision) == (is_ours, full)
        and result.peer.how in ("served", "in process")
    ]
    return min(able, key=lambda result: statistics.median(result.processor_ms[load]), default=None)


def table(results: list[Result], unit: str = "sentences") -> str:
    """Returns one row per peer, and a description with the ``unit`` of the texts.

    The column after each figure is the speed of the server of this project relative to the peer, in the same precision
    class (fp32, or less).
    """
    lines = [
        "| system | how | dtype | bulk seq/s | | single p50 ms | | 32 clients seq/s | | requests of 16 seq/s | "
        "| bulk CPU ms/seq | 32 clients CPU ms/seq | memory MiB | worst cosine |",
        f"|---|---|---{'|---:' * 12}|",
    ]
    for result in results:
        peer = result.peer
        cells = [peer.label, peer.how, peer.dtype]
        if result.failure:
            lines.append("| " + " | ".join([*cells, "failed", *[""] * 11]) + " |")
            continue
        for load in LOADS:
            value = result.value(load)
            ours = fastest(results, load, is_ours=True, how="served", is_full_precision=peer.is_full_precision)
            ratio = times_faster(ours, result, load) if ours and value is not None else None
            cells.append("" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}")
            cells.append("" if ratio is None else f"{ratio:.2f} ×")  # noqa: RUF001, the sign of multiplication
        for load in ("bulk", "many"):
            spent = result.processor_ms.get(load)
            cells.append(f"{statistics.median(spent):.2f}" if spent else "")
        cells.append("" if result.memory_mib is None else f"{result.memory_mib:,.0f}")
        cells.append("" if result.cosine is None else f"{result.cosine:.4f}")
        lines.append("| " + " | ".join(cells) + " |")
    for result in results:
        if result.failure:  # last line only; the JSON has all
            last = result.failure.strip().splitlines()[-1].strip()
            lines.append(f"\n{result.peer.label}, {result.peer.dtype} failed: {last}")
    return "\n".join([*caption(results, unit), *lines]) + "\n"


def caption(results: list[Result], unit: str) -> list[str]:
    """Returns the numbers of texts: those of most systems, and those of systems with fewer."""
    if not results:
        return []
    usual = max((result.numbers for result in results), key=lambda numbers: numbers["bulk"])
    text = (
        f"bulk: one request of {usual['bulk']} {unit}; single: {usual['single']} {unit}, one at a time, p50; "
        f"32 clients: one of the {unit} at a time each, {usual['many']} in all; "
        f"requests of {GROUP}: {usual['groups']} {unit}, one request at a time; "
        f"{max(len(result.seconds.get('bulk', [])) for result in results)} rounds."
    )
    for result in results:
        own = result.numbers
        if own != usual:
            text += f" {result.peer.label}: {', '.join(str(own[load]) for load in LOADS)}."
    return [text, ""]


def summary(results: list[Result]) -> str:
    """Compares this project with the fastest other system, and with its own engine without a server."""
    lines = []

    def add(text: str, ratio: float | None) -> None:
        if ratio is not None:
            lines.append(f"- {text}: {ratio:.2f}")

    for full, text in ((True, "fp32"), (False, "less than fp32")):
        ours = {load: fastest(results, load, is_ours=True, how="served", is_full_precision=full) for load in LOADS}
        for load, name in NAMES.items():
            own = ours[load]
            others = fastest(results, load, is_ours=False, is_full_precision=full)
            served = fastest(results, load, is_ours=False, how="served", is_full_precision=full)
            if own and others:
                add(f"{text}, {name}: this / fastest other ({others.peer.label})", times_faster(own, others, load))
            if own and served and served is not others:
                add(f"{text}, {name}: this / fastest other served", times_faster(own, served, load))
        for load in ("bulk", "many"):
            best = [least_processor_time(results, load, full, is_ours) for is_ours in (True, False)]
            if all(best):
                mine, other = ((one, statistics.median(one.processor_ms[load])) for one in best if one)
                label = f"processor time of {other[0].peer.label} / this"
                add(f"{text}, {NAMES[load]}: {label}", other[1] / max(mine[1], 1e-9))
        limit = fastest(results, "bulk", how="limit", is_full_precision=full)
        served = fastest(results, "bulk", is_ours=False, how="served", is_full_precision=full)
        own = ours["bulk"]
        for other, name in ((own, "this"), (served, "fastest other served")):
            if limit and other:
                add(f"{text}, bulk: matrix products alone / {name}", times_faster(limit, other, "bulk"))
        if own and own.seconds.get("many"):
            add(f"{text}: this, 32 clients / bulk", times_faster(own, own, "many", "bulk"))
    for result in results:
        alone = fastest(results, "bulk", is_ours=True, how="loop", dtype=result.peer.dtype)
        if alone and result.peer.is_ours and result.peer.how == "served":
            dtype = result.peer.dtype
            add(f"{dtype}, bulk: this / its engine alone", times_faster(result, alone, "bulk"))
            mine_ms, alone_ms = result.value("single"), alone.value("single")
            if mine_ms is not None and alone_ms is not None:
                lines.append(f"- {dtype}, single: this minus its engine alone: {mine_ms - alone_ms:+.2f} ms")
    if any(result.peer.is_ours and result.peer.how == "served" for result in results):
        lines.append(f"- Where this is not ahead: {'; '.join(not_ahead(results)) or 'nowhere'}.")
    return "\n".join(lines) + "\n"


def not_ahead(results: list[Result]) -> list[str]:
    """Names each other system that was faster than the server of this project in the same precision class."""
    found = []
    for result in results:
        peer = result.peer
        for load in LOADS if not peer.is_ours else ():
            ours = fastest(results, load, is_ours=True, how="served", is_full_precision=peer.is_full_precision)
            ratio = times_faster(ours, result, load) if ours else None
            if ratio is not None and ratio < 1:
                found.append(f"{NAMES[load]}, {peer.label} {peer.how} in {peer.dtype} ({ratio:.2f})")
    return found


def to_dict(result: Result) -> dict[str, Any]:
    peer = result.peer
    return {
        "system": peer.name,
        "backend": peer.backend,
        "how": peer.how,
        "dtype": peer.dtype,
        "max_seq_len": peer.max_seq_len,
        "texts": result.numbers,
        "worst_cosine": result.cosine,
        "memory_mib": result.memory_mib,
        "processor_ms": result.processor_ms,
        "seconds": result.seconds,
        **{load: result.value(load) for load in LOADS},
        **({"failure": result.failure} if result.failure else {}),
    }
