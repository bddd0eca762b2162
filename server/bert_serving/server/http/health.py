"""Checks the health of the service: its status, and whether it computes vectors."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bert_serving.client import BertClient, BertServingError

#: Time (s) for which a failed status request or probe is cached, so that further callers do not wait.
FAILURE_CACHE_SECONDS = 1.0
#: Time (s) without computed vectors after which the checker encodes a text as a probe.
PROBE_INTERVAL = 30.0
#: States in which the service replies. Degraded: a child process is being restarted, the others work.
SERVING_STATES = ("ready", "degraded")


class HealthChecker:
    """Checks the service on behalf of any number of threads.

    Args:
        client: client with short timeouts, which bound the duration of a check.
        clock: monotonic clock (s).
        sends_probes: whether a text is encoded as a probe; it would load an unloaded model.
    """

    def __init__(
        self, client: BertClient, clock: Callable[[], float] = time.monotonic, sends_probes: bool = True
    ) -> None:
        self._client, self._clock, self._sends_probes = client, clock, sends_probes
        self._status_lock = threading.Lock()
        self._probe_lock = threading.Lock()
        self._status: dict[str, Any] = {}
        self._error: BertServingError | None = None
        self._requested_at = self._failed_at = float("-inf")
        self._succeeded_at = float("-inf")
        self._last_num_batches = -1
        self._probe_error, self._probe_failed_at = "", float("-inf")

    @property
    def last_status(self) -> dict[str, Any]:
        """The last received status; empty before the first one."""
        return self._status

    def record_success(self) -> None:
        """Records that the service has just computed vectors."""
        self._succeeded_at = self._clock()

    def status(self) -> dict[str, Any]:
        """Returns a status not older than the call. Concurrent calls share one status request.

        Raises:
            BertServingError: the service did not reply.
        """
        called_at = self._clock()
        with self._status_lock:
            if self._requested_at < called_at and self._clock() - self._failed_at >= FAILURE_CACHE_SECONDS:
                self._request_status()
            if self._error is not None:
                raise self._error.with_traceback(None)
            return self._status

    def _request_status(self) -> None:
        self._requested_at = self._clock()
        try:
            self._status, self._error = self._client.server_status, None
        except BertServingError as error:
            self._error, self._failed_at = error, self._clock()

    def not_ready_reason(self) -> str:
        """Returns why the service is not ready, or an empty string if it is.

        The service is ready if it replies, is in a serving state, and has computed vectors within `PROBE_INTERVAL`. If
        no client sent texts in that time, a probe is encoded.
        """
        try:
            status = self.status()
        except BertServingError as error:
            return f"the service does not reply ({type(error).__name__})"
        state = status.get("state")
        if state not in SERVING_STATES:
            return f"the service is in the state {state}"
        if not status.get("num_ready_worker", 1):
            return "no worker is ready"
        with self._probe_lock:
            return self._probe_inference(status)

    def _probe_inference(self, status: dict[str, Any]) -> str:
        # Workers validate their results, so batches completed since the last check count as a success.
        batches = sum(worker.get("batches", 0) for worker in status.get("workers", ()))
        if batches != self._last_num_batches:
            if batches > self._last_num_batches >= 0:
                self.record_success()
            self._last_num_batches = batches
        if not self._sends_probes or self._clock() - self._succeeded_at < PROBE_INTERVAL:
            return ""
        if self._clock() - self._probe_failed_at >= FAILURE_CACHE_SECONDS:
            self._probe_error = self._encode_probe()
            self._probe_failed_at = self._clock()
        return self._probe_error

    def _encode_probe(self) -> str:
        try:
            outputs = self._status.get("outputs") or ["dense"]
            if "dense" not in outputs:  # workers check the numbers of other outputs
                self._client.encode(["ready"], outputs=outputs)
            elif not np.isfinite(self._client.encode(["ready"])).all():
                return "the service computes vectors that are not finite"
        except BertServingError as error:
            return f"the service computes no vectors ({type(error).__name__})"
        self.record_success()
        return ""
