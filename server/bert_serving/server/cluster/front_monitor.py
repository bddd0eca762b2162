"""Reads the status of a front once a second, in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from bert_serving.client import BertClient, BertServingError

#: Seconds between two statuses, and the longest wait for one.
INTERVAL, TIMEOUT = 1.0, 5.0


class FrontLoad(NamedTuple):
    """The load of the front at one time.

    Attributes:
        at: monotonic seconds.
        waiting: queued tokens.
        computed: tokens of all batches since the front started.
        busy, workers: workers that have a batch, and workers that can compute.
        machines: names of the machines that have joined and have workers that can compute.
    """

    at: float
    waiting: int
    computed: int
    busy: int
    workers: int
    machines: frozenset[str]


def read_load(status: dict[str, Any], at: float) -> FrontLoad:
    """Returns the load that a status reports."""
    joined = status["joined"]["machines"] if "joined" in status else []
    return FrontLoad(
        at,
        status["queue"]["tokens"],
        status["batches"]["tokens"],
        sum(each["in_flight"] > 0 for each in status["workers"]),
        len(status["workers"]),
        frozenset(each["name"] for each in joined if each["workers"] and not each["draining"]),
    )


class FrontMonitor:
    """Reads the status of a front until it is closed.

    Args:
        options: arguments of :class:`BertClient`.
        report: is called from the thread with the reason when the front is lost, and with None when it is back.

    Attributes:
        last: the last load that was read; None before the first.
    """

    def __init__(self, options: dict[str, Any], report: Callable[[BertServingError | None], None]) -> None:
        self._options, self._report = options, report
        self.last: FrontLoad | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="front-monitor", daemon=True)

    def connect(self) -> dict[str, Any]:
        """Connects to the front and returns its first status.

        Raises:
            BertServingError: the front does not answer.
        """
        self._client = BertClient(**self._options, timeout=TIMEOUT * 1000, connect_timeout=TIMEOUT * 1000)
        return self._client.server_status

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread and the connection."""
        self._over.set()
        self._client.close()

    def _run(self) -> None:
        is_lost = False
        while not self._over.wait(INTERVAL):
            try:
                self.last = read_load(self._client.server_status, time.monotonic())
                error: BertServingError | None = None
            except BertServingError as caught:
                error = caught
            if self._over.is_set():
                return
            if is_lost != (error is not None):
                is_lost = error is not None
                self._report(error)
