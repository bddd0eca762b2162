"""What is known of the service's health: what it says of itself, and whether it computes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bert_serving.client import BertClient, BertServingError

#: For so many seconds after the service gave no answer, nobody else waits for one.
FAILED_SECONDS = 1.0
#: After so many seconds without a sign that vectors are computed, one is computed to see.
PROOF_SECONDS = 30.0
#: States in which the service answers. Degraded: a part is being replaced, the others work.
SERVING_STATES = ("ready", "degraded")


class HealthChecker:
    """Asks the service how it is, for any number of threads.

    Args:
        client: with short timeouts; nobody waits long for an answer about health.
        clock: monotonic seconds.
    """

    def __init__(self, client: BertClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._client, self._clock = client, clock
        self._asking = threading.Lock()
        self._proving = threading.Lock()
        self._status: dict[str, Any] = {}
        self._error: BertServingError | None = None
        self._asked_at = self._failed_at = float("-inf")
        self._proved_at = float("-inf")
        self._batches_seen = -1
        self._no_proof, self._no_proof_at = "", float("-inf")

    @property
    def last_status(self) -> dict[str, Any]:
        """The last status that the service gave; empty if it never did."""
        return self._status

    def saw_vectors(self) -> None:
        """Vectors have just come out of the service."""
        self._proved_at = self._clock()

    def status(self) -> dict[str, Any]:
        """The status of the service, not older than the call. Threads that wait for it share one answer.

        Raises:
            BertServingError: it gave none.
        """
        called_at = self._clock()
        with self._asking:
            if self._asked_at < called_at and self._clock() - self._failed_at >= FAILED_SECONDS:
                self._ask()
            if self._error is not None:
                raise self._error.with_traceback(None)
            return self._status

    def _ask(self) -> None:
        self._asked_at = self._clock()
        try:
            self._status, self._error = self._client.server_status, None
        except BertServingError as error:
            self._error, self._failed_at = error, self._clock()

    def why_not(self) -> str:
        """Why requests should not come here now; empty if they may.

        The service must answer, say that it serves, and have computed vectors lately: for someone, or now for us.
        """
        try:
            status = self.status()
        except BertServingError as error:
            return f"the service does not answer ({type(error).__name__})"
        state = status.get("state")
        if state not in SERVING_STATES:
            return f"the service is {state}"
        if not status.get("num_ready_worker", 1):
            return "no worker is ready"
        with self._proving:
            return self._prove(status)

    def _prove(self, status: dict[str, Any]) -> str:
        # Workers check what they compute, so batches that were finished since the last look are proof enough.
        batches = sum(worker.get("batches", 0) for worker in status.get("workers", ()))
        if batches != self._batches_seen:
            if batches > self._batches_seen >= 0:
                self.saw_vectors()
            self._batches_seen = batches
        if self._clock() - self._proved_at < PROOF_SECONDS:
            return ""
        if self._clock() - self._no_proof_at >= FAILED_SECONDS:
            self._no_proof = self._try()
            self._no_proof_at = self._clock()
        return self._no_proof

    def _try(self) -> str:
        try:
            vectors = self._client.encode(["ready"])
        except BertServingError as error:
            return f"the service computes no vectors ({type(error).__name__})"
        if not np.isfinite(vectors).all():
            return "the service computes vectors that are not numbers"
        self.saw_vectors()
        return ""
