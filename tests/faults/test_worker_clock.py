"""A worker's clock may show any time: only durations travel."""

from __future__ import annotations

import os

from fault_engines.faulty import SLOW, SLOW_SECONDS

from fault_helpers import HERE, Raw, connect
from servers import serving, wait_until


def test_times_are_right_although_the_clocks_of_workers_are_shifted() -> None:
    path = os.pathsep.join(map(str, (HERE, HERE / "shifted_clock")))
    options = (
        "-engine",
        "fault_engines.faulty",
        "-num_worker",
        "2",
        "-max_batch_size",
        "1",
        "-max_batch_tokens",
        "512",
    )
    with serving(*options, env={"PYTHONPATH": path}) as server, connect(server) as client:
        timings: list[dict[str, float]] = []
        client.encode([f"hello {SLOW}", f"world {SLOW}"], timings=timings)
        [timing] = timings
        assert SLOW_SECONDS <= timing["compute"] < 60
        assert 0 <= timing["queue"] < 60
        with Raw(server, b"status") as raw:
            wait_until(lambda: raw.status()["queue"]["batches_in_flight"] == 0)  # type: ignore[index]
            workers: list[dict[str, float]] = raw.status()["workers"]  # type: ignore[assignment]
            durations = [each["last_batch_seconds"] for each in workers if each["batches"]]
            assert durations, workers
            assert all(SLOW_SECONDS <= seconds < 60 for seconds in durations), workers
