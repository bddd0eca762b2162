"""Counts requests, with the keys and the meaning of ``statistic`` in the status JSON of 1.10.0.

Each of the four groups has ``avg_``, ``min_``, ``max_``, and the frequencies of the extremes, ``num_min_`` and
``num_max_``. A group without data is all zeros, so that dashboards have values from the start.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

from .histogram import SECONDS, Histogram

if TYPE_CHECKING:
    from .timing import Timing

#: Time (s) after its last data request for which a client counts as active.
ACTIVE_SECONDS = 180.0
#: Number of recent intervals between requests that are kept.
_MAX_INTERVALS = 200
#: Maximum number of clients, and of request sizes, that are counted individually.
_MAX_CLIENTS = 10_000


class Statistics:
    """Statistics of all requests, recorded by the ventilator. Times are seconds of a monotonic clock."""

    def __init__(self) -> None:
        self.num_data_request = 0
        self.num_sys_request = 0
        self.num_total_seq = 0
        self.num_truncated = 0
        self.num_unknown_tokens = 0
        self.num_tokens = 0
        self.num_errors: dict[str, int] = {}
        self._durations = {stage: Histogram(SECONDS) for stage in ("tokenize", "queue", "compute", "total")}
        self._clients: OrderedDict[bytes, tuple[int, float]] = OrderedDict()  # requests, last seen
        self._num_evicted_clients = 0
        self._sizes: dict[int, int] = {}
        self._last_seen: float | None = None
        self._intervals: deque[float] = deque(maxlen=_MAX_INTERVALS)

    def record_system_request(self) -> None:
        self.num_sys_request += 1

    def record_data_request(self, identity: bytes, size: int, now: float) -> None:
        """Records an accepted request of ``size`` texts."""
        self.num_data_request += 1
        self.num_total_seq += size
        self._sizes[size] = self._sizes.get(size, 0) + 1
        if len(self._sizes) > _MAX_CLIENTS:
            self._sizes.pop(next(iter(self._sizes)))
        count, _ = self._clients.pop(identity, (0, 0.0))
        self._clients[identity] = (count + 1, now)
        if len(self._clients) > _MAX_CLIENTS:
            self._clients.popitem(last=False)
            self._num_evicted_clients += 1
        if self._last_seen is not None:
            self._intervals.append(max(now - self._last_seen, 1e-9))
        self._last_seen = now

    def record_timing(self, timing: Timing) -> None:
        """Records the timing of a completed request."""
        durations = self._durations
        durations["tokenize"].observe(timing.tokenize)
        durations["queue"].observe(timing.queue)
        durations["compute"].observe(timing.compute)
        durations["total"].observe(timing.total)

    def record_error(self, error_type: str) -> None:
        self.num_errors[error_type] = self.num_errors.get(error_type, 0) + 1

    def times(self) -> dict[str, Any]:
        """Returns the histogram of each stage's duration (s) over all completed requests."""
        return {stage: histogram.to_dict() for stage, histogram in self._durations.items()}

    def to_dict(self, now: float) -> dict[str, object]:
        """Returns ``statistic`` of the status JSON."""
        counts = [count for count, _ in self._clients.values()]
        sizes = self._sizes
        active = 0
        for _, seen in reversed(self._clients.values()):  # in order of the last request
            if now - seen > ACTIVE_SECONDS:
                break
            active += 1
        result: dict[str, object] = {
            "num_data_request": self.num_data_request,
            "num_total_seq": self.num_total_seq,
            "num_sys_request": self.num_sys_request,
            "num_total_request": self.num_data_request + self.num_sys_request,
            "num_total_client": len(self._clients) + self._num_evicted_clients,
            "num_active_client": active,
            "num_total_token": self.num_tokens,
            "num_truncated": self.num_truncated,
            "num_unknown_token": self.num_unknown_tokens,
            "num_error": dict(self.num_errors),
        }
        result |= _group("request_per_client", counts)
        average = self.num_total_seq / self.num_data_request if self.num_data_request else 0
        result |= _group("size_per_request", list(sizes), average, sizes)
        result |= _group("last_two_interval", list(self._intervals))
        result |= _group("request_per_second", [1 / interval for interval in self._intervals])
        return result


def _group(
    name: str, values: list[float] | list[int], average: float | None = None, weights: dict[int, int] | None = None
) -> dict[str, float]:
    if not values:
        return {f"{prefix}_{name}": 0 for prefix in ("avg", "min", "max", "num_min", "num_max")}
    least, most = min(values), max(values)
    return {
        f"avg_{name}": sum(values) / len(values) if average is None else average,
        f"min_{name}": least,
        f"max_{name}": most,
        f"num_min_{name}": values.count(least) if weights is None else weights[int(least)],  # type: ignore[arg-type]
        f"num_max_{name}": values.count(most) if weights is None else weights[int(most)],  # type: ignore[arg-type]
    }
